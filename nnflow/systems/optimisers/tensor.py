"""The optimizers on torch losses; their tangents are differentiated automatically."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnflow.systems.optimisers.table import OPTIMISERS

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.systems.moments import Moment
    from nnflow.tensor import Named


def tensor_descent(gradient: Callable[[Any, Any], Any], name: str) -> Callable[[Any, Any, Any], Any]:
    """The rule of an optimizer on torch tensors, from `gradient(w, moment)`; it takes a `Moment` in place of t."""
    from torch import cat

    count, coupled = 1 + len(OPTIMISERS[name].memory), name != "adamw"

    def rule(x: Tensor, p: Named, now: Moment) -> Tensor:
        w, *memory = x.chunk(count)
        g = gradient(w, now)
        if coupled:
            g = g + p["weight_decay"] * w
        parts = _TENSOR[name](w, g, p["eta"] * now.factor, p, now.clock, *memory)
        return cat(parts) if count > 1 else parts[0]

    return rule


def _tensor_gd(w: Tensor, g: Tensor, eta: Tensor, p: Named, clock: Tensor) -> tuple[Tensor, ...]:
    return (w - eta * g,)


def _tensor_heavy_ball(w: Tensor, g: Tensor, eta: Tensor, p: Named, clock: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    v = p["beta"] * v + g
    return w - eta * v, v


def _tensor_nesterov(w: Tensor, g: Tensor, eta: Tensor, p: Named, clock: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    v = p["beta"] * v + g
    return w - eta * (g + p["beta"] * v), v


def _tensor_adam(
    w: Tensor, g: Tensor, eta: Tensor, p: Named, clock: Tensor, m: Tensor, s: Tensor
) -> tuple[Tensor, ...]:
    beta1, beta2 = p["beta1"], p["beta2"]
    m, s = beta1 * m + (1 - beta1) * g, beta2 * s + (1 - beta2) * g * g
    root = _root(s / (1 - beta2**clock))
    return w - eta / (1 - beta1**clock) * m / (root + p["epsilon"]), m, s


def _tensor_adamw(
    w: Tensor, g: Tensor, eta: Tensor, p: Named, clock: Tensor, m: Tensor, s: Tensor
) -> tuple[Tensor, ...]:
    return _tensor_adam(w * (1 - eta * p["weight_decay"]), g, eta, p, clock, m, s)


def _tensor_rmsprop(w: Tensor, g: Tensor, eta: Tensor, p: Named, clock: Tensor, s: Tensor) -> tuple[Tensor, ...]:
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
