"""Optimizers as maps on the extended state: the weights w, then what the optimizer remembers of each weight.

With g = ∇L(w), to which every optimizer but "adamw" adds weight_decay · w, and η = eta times the schedule's factor:

    gd           w' = w − ηg
    heavy_ball   v' = βv + g,  w' = w − ηv'                   (Polyak 1964, doi:10.1016/0041-5553(64)90137-5)
    nesterov     v' = βv + g,  w' = w − η(g + βv')            (Sutskever et al. 2013, PMLR 28, 1139)
    adam         m' = β₁m + (1−β₁)g,  s' = β₂s + (1−β₂)g²,
                 w' = w − η m̂/(√ŝ + ε),  m̂ = m'/(1−β₁ᵗ⁺¹),  ŝ = s'/(1−β₂ᵗ⁺¹)    (Kingma, Ba 2015, arXiv:1412.6980)
    adamw        the same, on w (1 − η weight_decay) instead of w    (Loshchilov, Hutter 2019, arXiv:1711.05101)
    rmsprop      s' = β₂s + (1−β₂)g²,  w' = w − ηg/(√s' + ε)         (Tieleman, Hinton 2012)

as torch.optim has them; the step index t is Adam's clock. Written twice: for compiled gradients and for torch. Where s'
is exactly 0 (a gradient that was never anything but 0: a dead ReLU, a constant pixel), the derivative of √s' is taken
as 0: only then is the tangent finite, and as g and m' are 0 there too, it is what the limit of small gradients gives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numba import njit

from nnflow.compiled import Rule, glue
from nnflow.compiled.ways import Function
from nnflow.map import Map
from nnflow.names import unknown
from nnflow.systems.schedules import Schedule
from nnflow.typing import Array

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.tensor import Named


Values = dict[str, Any]  # parameter name -> number, array or tensor


@dataclass(frozen=True)
class Optimiser:
    """An optimizer: its parameters with their defaults, and the kinds of memory it keeps of each weight."""

    parameters: dict[str, float]
    memory: tuple[str, ...] = ()

    @property
    def preconditioned(self) -> bool:
        """Whether each weight has a learning rate of its own, so that the curvature that counts is another one."""
        return "epsilon" in self.parameters


_MOMENTUM = {"eta": 0.1, "beta": 0.9, "weight_decay": 0.0}
_ADAM = {"eta": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
OPTIMISERS = {
    "gd": Optimiser({"eta": 0.1, "weight_decay": 0.0}),
    "heavy_ball": Optimiser(_MOMENTUM, ("velocity",)),
    "nesterov": Optimiser(_MOMENTUM, ("velocity",)),
    "adam": Optimiser({**_ADAM, "weight_decay": 0.0}, ("moment1", "moment2")),
    "adamw": Optimiser({**_ADAM, "weight_decay": 0.01}, ("moment1", "moment2")),
    "rmsprop": Optimiser({"eta": 0.01, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}, ("moment2",)),
}
OTHERS = {
    "lr": "eta", "learning_rate": "eta", "momentum": "beta", "eps": "epsilon", "alpha": "beta2", "beta_1": "beta1",
    "beta_2": "beta2",
}  # fmt: skip
LIMITS = {"eta": (0.0, np.inf)}  # any other value is a map to study, sensible or not: negative momentum is Hénon's


def optimiser(name: str, defaults: Mapping[str, float], decay: bool = True) -> dict[str, float]:
    """The parameters of an optimizer with their defaults.

    Args:
        name: The optimizer.
        defaults: Parameter → another default.
        decay: Without it, weight_decay is a parameter only if it is not 0.

    Returns:
        Parameter → default, in the order of a map's parameters.

    Raises:
        ValueError: for an unknown optimizer or parameter, or a negative learning rate.
    """
    if name not in OPTIMISERS:
        raise ValueError(unknown("optimizer", name, OPTIMISERS))
    known = OPTIMISERS[name].parameters
    for key in defaults:
        if key not in known:
            raise ValueError(unknown(f"parameter of {name}", key, known, meant(key, known)))
    if not defaults.get("eta", 0.0) >= 0:
        raise ValueError(f"eta = {defaults['eta']}: a learning rate is 0 or more")
    kept = {key: value for key, value in known.items() if decay or key != "weight_decay" or value}
    return {**kept, **defaults}


def meant(name: str, known: Collection[str]) -> str:
    """Our name of what torch or Keras call otherwise, and who has it if it is not `known` here."""
    ours = OTHERS.get(name)
    if ours is None:
        return ""
    owners = ", ".join(key for key, each in OPTIMISERS.items() if ours in each.parameters)
    return f"Did you mean {ours!r}?" if ours in known else f"Did you mean {ours!r}, which {owners} have?"


def memory_names(name: str, weights: tuple[str, ...]) -> tuple[str, ...]:
    """The coordinates of an optimizer's memory, in order; none for gradient descent."""
    return tuple(f"{kind}.{weight}" for kind in OPTIMISERS[name].memory for weight in weights)


class Descent(Map):
    """What every map of an optimizer on a loss knows beside the verbs: when a curvature is too large for it.

    Attributes:
        optimizer: Its name.
        schedule: A function of t that multiplies the learning rate (None: 1).
    """

    optimizer: str
    schedule: Schedule | None

    def structure_hint(self, name: str) -> str:
        """What to say when `name` is structure, or what others call a parameter."""
        return super().structure_hint(name) or meant(name, self.parameters)

    def _values(self, p: Any, t: int) -> Values:
        """The parameters by name, ``(member,)`` each, the learning rate as scheduled at t."""
        values = {"weight_decay": 0.0, **dict(zip(self.parameters, self.to_numpy(p).T, strict=True))}
        values["eta"] = values["eta"] * (1.0 if self.schedule is None else float(self.schedule(t)))
        return values

    @property
    def preconditioned(self) -> bool:  # type: ignore[override]
        """Whether each weight has a learning rate of its own."""
        return OPTIMISERS[self.optimizer].preconditioned

    def threshold(self, p: Any, t: int) -> Array:
        """The (effective) curvature h beyond which a direction of a minimum is unstable.

        gd 2/η − wd; heavy_ball 2(1+β)/η − wd; nesterov (2+2β)/(η(1+2β)) − wd; of the preconditioned Hessian, rmsprop
        2/η, adam 2(1+β₁)/((1−β₁)η), adamw (2 − η wd)(1+β₁)/((1−β₁)η); inf where η = 0.

        Args:
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member,)`` float64.

        Source:
            Cohen et al. 2021, arXiv:2103.00065; 2022, arXiv:2207.14484.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(_THRESHOLDS[self.optimizer](**self._values(p, t)), dtype=np.float64)

    def preconditioner(self, x: Any, p: Any, t: int) -> Array:
        """The D of a step w' = w − η D⁻¹ (momentum of g) from x_t; 1 without preconditioning.

        rmsprop D = √s' + ε; adam (1 − β₁ᵗ⁺¹)(√ŝ + ε), with the s' that this step makes.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member, weights)`` float64.
        """
        if not self.preconditioned:
            return np.ones((len(x), self.weights))
        values = {name: np.reshape(value, (-1, 1)) for name, value in self._values(p, t).items()}
        square = self.to_numpy(self.advance(x, p, t, 1).states)[:, -self.weights :]
        if self.optimizer == "rmsprop":
            return np.asarray(np.sqrt(square) + values["epsilon"])
        first, second = (1 - values[name] ** (t + 1) for name in ("beta1", "beta2"))
        return np.asarray(first * (np.sqrt(square / second) + values["epsilon"]))

    def effective_curvature(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """D^(−½) (H + weight_decay) D^(−½) times each row of ``v (member, k, weights)``; without a D, H v.

        Its eigenvalues are those of D⁻¹(H + weight_decay); decoupled weight decay is in the threshold instead.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Vectors of weights ``(member, k, weights)``, one a row.

        Returns:
            ``(member, k, weights)``, numpy; without a D, in the backend's own array.
        """
        if not self.preconditioned:
            return self.curvature(x, p, t, v)
        scale = 1.0 / np.sqrt(self.preconditioner(x, p, t))[:, None]
        scaled = scale * self.to_numpy(v)
        decay = 0.0 if self.optimizer == "adamw" else np.reshape(self._values(p, t)["weight_decay"], (-1, 1, 1))
        return scale * (self.to_numpy(self.curvature(x, p, t, self.native(scaled))) + decay * scaled)


_THRESHOLDS: dict[str, Callable[..., Any]] = {
    "gd": lambda eta, weight_decay: 2 / eta - weight_decay,
    "heavy_ball": lambda eta, beta, weight_decay: 2 * (1 + beta) / eta - weight_decay,
    "nesterov": lambda eta, beta, weight_decay: (2 + 2 * beta) / (eta * (1 + 2 * beta)) - weight_decay,
    "adam": lambda eta, beta1, **rest: 2 * (1 + beta1) / ((1 - beta1) * eta),
    "adamw": lambda eta, beta1, weight_decay, **rest: (2 - eta * weight_decay) * (1 + beta1) / ((1 - beta1) * eta),
    "rmsprop": lambda eta, **rest: 2 / eta,
}


# -- on compiled losses ------------------------------------------------------------------------------------------


class Functions(NamedTuple):
    """The compiled functions of an optimizer on one loss, as `CompiledMap` takes them."""

    rule: Rule
    tangent: None
    frame_tangent: Rule
    hessian: Rule
    joint: Rule


class _Loss(NamedTuple):
    """A loss as the compiled rules see it: weight decay and schedule included."""

    size: int
    eta: Callable[[Array, int, Any], float]  # (p, t, c)
    slope: Callable[[Array, Array, int, Any, Array], None]  # (w, p, t, c, g)
    both: Callable[..., None]  # (w, p, t, c, g, V, out): that, and the Hessian on V
    shrink: Callable[[Array, int, Any], float]  # (p, t, c): what decoupled weight decay multiplies w by


def _inline(function: Function) -> Function:
    """Put in place by numba where it is called."""
    return cast(Function, njit(error_model="numpy", inline="always")(function))


def compiled_descent(
    gradient: Any, gradient_and_products: Any, size: int, name: str, parameters: Any, scheduled: bool = False
) -> Functions:
    """An optimizer on a compiled loss.

    Args:
        gradient: `gradient(w, t, c, g)` writes ∇L into g, `c` being what the map hands on.
        gradient_and_products: `gradient_and_products(w, t, c, g, V, out)` also writes H V[j] into out[j], V and out
            being (k, size).
        size: How many weights.
        name: The optimizer.
        parameters: Their names in the order of p.
        scheduled: Whether the last two of c are a step index and the schedule's factors from there on.

    Returns:
        The functions of a compiled map.
    """
    at = list(parameters).index("weight_decay") if "weight_decay" in parameters else -1
    coupled, decoupled = (at, -1) if name != "adamw" else (-1, at)
    eta = _scheduled if scheduled else _constant

    @_inline
    def slope(w: Array, p: Array, t: int, c: Any, g: Array) -> None:
        gradient(w, t, c, g)
        if coupled >= 0:
            for i in range(size):
                g[i] += p[coupled] * w[i]

    @_inline
    def both(w: Array, p: Array, t: int, c: Any, g: Array, V: Array, out: Array) -> None:
        gradient_and_products(w, t, c, g, V, out)
        if coupled >= 0:
            for i in range(size):
                g[i] += p[coupled] * w[i]
            for j in range(V.shape[0]):
                for i in range(size):
                    out[j, i] += p[coupled] * V[j, i]

    @_inline
    def shrink(p: Array, t: int, c: Any) -> float:
        return 1.0 - eta(p, t, c) * p[decoupled] if decoupled >= 0 else 1.0

    def hessian(x: Array, p: Array, t: int, c: Any, V: Array, out: Array) -> None:
        gradient_and_products(x[:size], t, c, np.empty(size), V, out)

    rule, joint = _COMPILED[name](_Loss(size, eta, slope, both, shrink))
    both_at_once = cast(Any, njit(error_model="numpy"))(joint)

    def frame_tangent(x: Array, p: Array, t: int, c: Any, V: Array, out: Array) -> None:
        both_at_once(x, p, t, c, V, np.empty(x.size), out)

    return Functions(rule, None, frame_tangent, hessian, joint)


@_inline
def _constant(p: Array, t: int, c: Any) -> float:
    return p[0]  # type: ignore[no-any-return]


@_inline
def _scheduled(p: Array, t: int, c: Any) -> float:
    return p[0] * c[-1][t - c[-2]]  # type: ignore[no-any-return]


def _gd(loss: _Loss) -> tuple[Rule, Rule]:
    size, eta, slope, both, _ = loss

    @glue
    def rule(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        slope(x, p, t, c, out)
        rate = eta(p, t, c)
        for i in range(size):
            out[i] = x[i] - rate * out[i]

    @glue
    def joint(x: Array, p: Array, t: int, c: Any, V: Array, out: Array, W: Array) -> None:
        both(x, p, t, c, out, V, W)
        rate = eta(p, t, c)
        for i in range(size):
            out[i] = x[i] - rate * out[i]
        for j in range(V.shape[0]):
            for i in range(size):
                W[j, i] = V[j, i] - rate * W[j, i]

    return rule, joint


def _remembering(loss: _Loss, move: Rule, carry: Rule) -> tuple[Rule, Rule]:
    """The rules of an optimizer with memory.

    `move(x, p, t, c, out)` turns the slope in out[:size] into the next state; `carry(x, p, t, c, V, bent, g, W)` writes
    the tangent map on V into W, from the slope g and the Hessian's products with the weights of V.

    Returns:
        The rule, and the joint of step and tangent.
    """
    size, slope, both = loss.size, loss.slope, loss.both

    @glue
    def rule(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        slope(x[:size], p, t, c, out[:size])
        move(x, p, t, c, out)

    def joint(x: Array, p: Array, t: int, c: Any, V: Array, out: Array, W: Array) -> None:
        bent = np.empty((V.shape[0], size))
        both(x[:size], p, t, c, out[:size], np.ascontiguousarray(V[:, :size]), bent)
        carry(x, p, t, c, V, bent, out[:size], W)
        move(x, p, t, c, out)

    return rule, joint


def _momentum(nesterov: bool) -> Callable[[_Loss], tuple[Rule, Rule]]:
    def made(loss: _Loss) -> tuple[Rule, Rule]:
        size, eta = loss.size, loss.eta

        @_inline
        def move(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
            rate = eta(p, t, c)
            for i in range(size):
                g = out[i]
                out[size + i] = p[1] * x[size + i] + g
                out[i] = x[i] - rate * (g + p[1] * out[size + i] if nesterov else out[size + i])

        @_inline
        def carry(x: Array, p: Array, t: int, c: Any, V: Array, bent: Array, g: Array, W: Array) -> None:
            rate = eta(p, t, c)
            for j in range(V.shape[0]):
                for i in range(size):
                    W[j, size + i] = p[1] * V[j, size + i] + bent[j, i]
                    change = bent[j, i] + p[1] * W[j, size + i] if nesterov else W[j, size + i]
                    W[j, i] = V[j, i] - rate * change

        return _remembering(loss, move, carry)

    return made


def _adam(loss: _Loss) -> tuple[Rule, Rule]:
    size, eta, shrink = loss.size, loss.eta, loss.shrink

    @_inline
    def move(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        rate, keep, left = eta(p, t, c) / (1.0 - p[1] ** (t + 1)), shrink(p, t, c), 1.0 - p[2] ** (t + 1)
        for i in range(size):
            g = out[i]
            m = p[1] * x[size + i] + (1.0 - p[1]) * g
            s = p[2] * x[2 * size + i] + (1.0 - p[2]) * g * g
            out[i] = keep * x[i] - rate * m / (np.sqrt(s / left) + p[3])
            out[size + i], out[2 * size + i] = m, s

    @_inline
    def carry(x: Array, p: Array, t: int, c: Any, V: Array, bent: Array, g: Array, W: Array) -> None:
        rate, keep, left = eta(p, t, c) / (1.0 - p[1] ** (t + 1)), shrink(p, t, c), 1.0 - p[2] ** (t + 1)
        for i in range(size):
            m = p[1] * x[size + i] + (1.0 - p[1]) * g[i]
            s = p[2] * x[2 * size + i] + (1.0 - p[2]) * g[i] * g[i]
            root = np.sqrt(s / left)
            per_s = 0.5 / (left * root) if s > 0.0 else 0.0
            divisor = root + p[3]
            for j in range(V.shape[0]):
                dm = p[1] * V[j, size + i] + (1.0 - p[1]) * bent[j, i]
                ds = p[2] * V[j, 2 * size + i] + 2.0 * (1.0 - p[2]) * g[i] * bent[j, i]
                W[j, i] = keep * V[j, i] - rate * (dm - m / divisor * per_s * ds) / divisor
                W[j, size + i], W[j, 2 * size + i] = dm, ds

    return _remembering(loss, move, carry)


def _rmsprop(loss: _Loss) -> tuple[Rule, Rule]:
    size, eta = loss.size, loss.eta

    @_inline
    def move(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        rate = eta(p, t, c)
        for i in range(size):
            g = out[i]
            out[size + i] = p[1] * x[size + i] + (1.0 - p[1]) * g * g
            out[i] = x[i] - rate * g / (np.sqrt(out[size + i]) + p[2])

    @_inline
    def carry(x: Array, p: Array, t: int, c: Any, V: Array, bent: Array, g: Array, W: Array) -> None:
        rate = eta(p, t, c)
        for i in range(size):
            s = p[1] * x[size + i] + (1.0 - p[1]) * g[i] * g[i]
            per_s = 0.5 / np.sqrt(s) if s > 0.0 else 0.0
            divisor = np.sqrt(s) + p[2]
            for j in range(V.shape[0]):
                ds = p[1] * V[j, size + i] + 2.0 * (1.0 - p[1]) * g[i] * bent[j, i]
                W[j, i] = V[j, i] - rate * (bent[j, i] - g[i] / divisor * per_s * ds) / divisor
                W[j, size + i] = ds

    return _remembering(loss, move, carry)


_COMPILED: dict[str, Callable[[_Loss], tuple[Rule, Rule]]] = {
    "gd": _gd,
    "heavy_ball": _momentum(nesterov=False),
    "nesterov": _momentum(nesterov=True),
    "adam": _adam,
    "adamw": _adam,
    "rmsprop": _rmsprop,
}


# -- on torch losses ---------------------------------------------------------------------------------------------


def tensor_descent(
    gradient: Callable[[Any, int], Any], name: str, schedule: Schedule | None = None
) -> Callable[[Any, Any, int], Any]:
    """The rule of an optimizer on torch tensors, from `gradient(w, t)`."""
    from torch import cat

    count = 1 + len(OPTIMISERS[name].memory)
    coupled, factor = name != "adamw", schedule or (lambda t: 1.0)

    @glue
    def rule(x: Tensor, p: Named, t: int) -> Tensor:
        w, *memory = x.chunk(count)
        g = gradient(w, t)
        if coupled:
            g = g + p["weight_decay"] * w
        parts = _TENSOR[name](w, g, p["eta"] * float(factor(t)), p, t, *memory)
        return cat(parts) if count > 1 else parts[0]

    return rule


def _tensor_gd(w: Tensor, g: Tensor, eta: Tensor, p: Named, t: int) -> tuple[Tensor, ...]:
    return (w - eta * g,)


def _tensor_heavy_ball(w: Tensor, g: Tensor, eta: Tensor, p: Named, t: int, v: Tensor) -> tuple[Tensor, ...]:
    v = p["beta"] * v + g
    return w - eta * v, v


def _tensor_nesterov(w: Tensor, g: Tensor, eta: Tensor, p: Named, t: int, v: Tensor) -> tuple[Tensor, ...]:
    v = p["beta"] * v + g
    return w - eta * (g + p["beta"] * v), v


def _tensor_adam(w: Tensor, g: Tensor, eta: Tensor, p: Named, t: int, m: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    beta1, beta2 = p["beta1"], p["beta2"]
    m, s = beta1 * m + (1 - beta1) * g, beta2 * s + (1 - beta2) * g * g
    root = _root(s / (1 - beta2 ** (t + 1)))
    return w - eta / (1 - beta1 ** (t + 1)) * m / (root + p["epsilon"]), m, s


def _tensor_adamw(w: Tensor, g: Tensor, eta: Tensor, p: Named, t: int, m: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    return _tensor_adam(w * (1 - eta * p["weight_decay"]), g, eta, p, t, m, s)


def _tensor_rmsprop(w: Tensor, g: Tensor, eta: Tensor, p: Named, t: int, s: Tensor) -> tuple[Tensor, ...]:
    s = p["beta2"] * s + (1 - p["beta2"]) * g * g
    return w - eta * g / (_root(s) + p["epsilon"]), s


def _root(s: Tensor) -> Tensor:
    """√s, with derivative 0 where s is 0."""
    return s.where(s != 0, 1.0).sqrt().where(s != 0, 0.0)


_TENSOR: dict[str, Callable[..., tuple[Any, ...]]] = {
    "gd": _tensor_gd,
    "heavy_ball": _tensor_heavy_ball,
    "nesterov": _tensor_nesterov,
    "adam": _tensor_adam,
    "adamw": _tensor_adamw,
    "rmsprop": _tensor_rmsprop,
}
