"""The optimizers on torch losses; their tangents are differentiated automatically."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nnflow.compiled import glue
from nnflow.schedules import Schedule
from nnflow.systems.optimisers.table import OPTIMISERS

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.tensor import Named


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
