"""The optimizers on torch losses; their tangents are differentiated automatically."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnflow.systems.optimisers.groups import Groups
from nnflow.systems.optimisers.table import OPTIMISERS

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.systems.moments import Moment
    from nnflow.tensor import Named

    Values = dict[str, Tensor]  # parameter -> one number, or one for each weight


def tensor_descent(
    gradient: Callable[[Any, Any], Any], name: str, groups: Groups | None = None, device: Any = None
) -> Callable[[Any, Any, Any], Any]:
    """The rule of an optimizer on torch tensors, from `gradient(w, moment)`; it takes a `Moment` in place of t."""
    step = tensor_step(name, groups, device)
    return lambda x, p, now: step(x, lambda w: gradient(w, now), p, now)


def tensor_step(name: str, groups: Groups | None = None, device: Any = None) -> Callable[..., Any]:
    """What an optimizer makes of weights and its memory: `step(x, gradient, p, moment)`, with `gradient(w)`."""
    from torch import as_tensor, cat

    count, coupled = 1 + len(OPTIMISERS[name].memory), name != "adamw"
    which = as_tensor(groups.which, device=device) if groups and groups.held else None

    def step(x: Tensor, gradient: Callable[[Tensor], Tensor], p: Named, now: Moment) -> Tensor:
        w, *memory = x.chunk(count)
        g, each = _clipped(gradient(w), p), p if which is None or groups is None else _spread(p, groups, which)
        if coupled:
            g = g + each["weight_decay"] * w
        parts = _TENSOR[name](w, g, each["eta"] * now.factor, each, now.clock, *memory)
        return cat(parts) if count > 1 else parts[0]

    return step


def _spread(p: Named, groups: Groups, which: Tensor) -> dict[str, Tensor]:
    """The parameters, with one value for each weight where groups have values of their own."""
    from torch import stack

    return {**p, **{key: stack(groups.values(p, key))[which] for key in groups.own(p)}}


def _clipped(g: Tensor, p: Named) -> Tensor:
    """The gradient as torch.nn.utils.clip_grad_norm_ or clip_grad_value_ leaves it; without a clip, as it is."""
    from torch.linalg import vector_norm

    if "clip_norm" in p:
        factor: Tensor = p["clip_norm"] / (vector_norm(g) + 1e-6)
        return g * factor.clamp(max=1.0)
    return g.clamp(-p["clip_value"], p["clip_value"]) if "clip_value" in p else g


def _tensor_gd(w: Tensor, g: Tensor, eta: Tensor, p: Values, clock: Tensor) -> tuple[Tensor, ...]:
    return (w - eta * g,)


def _tensor_heavy_ball(w: Tensor, g: Tensor, eta: Tensor, p: Values, clock: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    v = p["beta"] * v + g
    return w - eta * v, v


def _tensor_nesterov(w: Tensor, g: Tensor, eta: Tensor, p: Values, clock: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    v = p["beta"] * v + g
    return w - eta * (g + p["beta"] * v), v


def _tensor_adam(
    w: Tensor, g: Tensor, eta: Tensor, p: Values, clock: Tensor, m: Tensor, s: Tensor
) -> tuple[Tensor, ...]:
    beta1, beta2 = p["beta1"], p["beta2"]
    m, s = beta1 * m + (1 - beta1) * g, beta2 * s + (1 - beta2) * g * g
    root = _root(s / (1 - beta2**clock))
    return w - eta / (1 - beta1**clock) * m / (root + p["epsilon"]), m, s


def _tensor_adamw(
    w: Tensor, g: Tensor, eta: Tensor, p: Values, clock: Tensor, m: Tensor, s: Tensor
) -> tuple[Tensor, ...]:
    return _tensor_adam(w * (1 - eta * p["weight_decay"]), g, eta, p, clock, m, s)


def _tensor_rmsprop(w: Tensor, g: Tensor, eta: Tensor, p: Values, clock: Tensor, s: Tensor) -> tuple[Tensor, ...]:
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
