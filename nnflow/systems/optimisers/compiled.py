"""The optimizers on compiled losses, with their tangents.

Where Adam's s' is exactly 0 (a gradient that was never anything but 0: a dead ReLU, a constant pixel), the derivative
of √s' is taken as 0: only then is the tangent finite, and as g and m' are 0 there too, it is what the limit of small
gradients gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnflow.compiled import Functions, Rule, glue
from nnflow.compiled.ways import kernel, part
from nnflow.typing import Array


class _Loss(NamedTuple):
    """A loss as the compiled rules see it: weight decay and schedule included."""

    size: int
    eta: Callable[[Array, int, Any], float]  # (p, t, c)
    slope: Callable[[Array, Array, int, Any, Array], None]  # (w, p, t, c, g)
    both: Callable[..., None]  # (w, p, t, c, g, V, out): that, and the Hessian on V
    shrink: Callable[[Array, int, Any], float]  # (p, t, c): what decoupled weight decay multiplies w by


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

    @part
    def slope(w: Array, p: Array, t: int, c: Any, g: Array) -> None:
        gradient(w, t, c, g)
        if coupled >= 0:
            for i in range(size):
                g[i] += p[coupled] * w[i]

    @part
    def both(w: Array, p: Array, t: int, c: Any, g: Array, V: Array, out: Array) -> None:
        gradient_and_products(w, t, c, g, V, out)
        if coupled >= 0:
            for i in range(size):
                g[i] += p[coupled] * w[i]
            for j in range(V.shape[0]):
                for i in range(size):
                    out[j, i] += p[coupled] * V[j, i]

    @part
    def shrink(p: Array, t: int, c: Any) -> float:
        return 1.0 - eta(p, t, c) * p[decoupled] if decoupled >= 0 else 1.0

    def hessian(x: Array, p: Array, t: int, c: Any, V: Array, out: Array) -> None:
        gradient_and_products(x[:size], t, c, np.empty(size), V, out)

    rule, joint = _COMPILED[name](_Loss(size, eta, slope, both, shrink))
    both_at_once = kernel(joint)

    def frame_tangent(x: Array, p: Array, t: int, c: Any, V: Array, out: Array) -> None:
        both_at_once(x, p, t, c, V, np.empty(x.size), out)

    return Functions(rule, frame_tangent=frame_tangent, hessian=hessian, joint=joint)


@part
def _constant(p: Array, t: int, c: Any) -> float:
    return p[0]  # type: ignore[no-any-return]


@part
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

        @part
        def move(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
            rate = eta(p, t, c)
            for i in range(size):
                g = out[i]
                out[size + i] = p[1] * x[size + i] + g
                out[i] = x[i] - rate * (g + p[1] * out[size + i] if nesterov else out[size + i])

        @part
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

    @part
    def move(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        rate, keep, left = eta(p, t, c) / (1.0 - p[1] ** (t + 1)), shrink(p, t, c), 1.0 - p[2] ** (t + 1)
        for i in range(size):
            g = out[i]
            m = p[1] * x[size + i] + (1.0 - p[1]) * g
            s = p[2] * x[2 * size + i] + (1.0 - p[2]) * g * g
            out[i] = keep * x[i] - rate * m / (np.sqrt(s / left) + p[3])
            out[size + i], out[2 * size + i] = m, s

    @part
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

    @part
    def move(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        rate = eta(p, t, c)
        for i in range(size):
            g = out[i]
            out[size + i] = p[1] * x[size + i] + (1.0 - p[1]) * g * g
            out[i] = x[i] - rate * g / (np.sqrt(out[size + i]) + p[2])

    @part
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
