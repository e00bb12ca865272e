"""Whether the curvature and the tangent of a tensor map of descent are derivatives of its own gradient and step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnflow.differences import Misfit, misfit
from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES
from nnflow.typing import Array

if TYPE_CHECKING:
    from nnflow.tensor import TensorMap


def differentiate(map: TensorMap, w: Array, named: Callable[[int], str]) -> None:
    """Refuse a curvature, or a tangent, that is not the derivative of the map's own gradient, or step, at w."""
    eps, size = map.resolution, map.weights

    def slopes(w: Array) -> Array:
        return map.to_numpy(map.slopes(w, 0))

    slopes(w[None])  # here it has to have a value
    p = easy(map)
    x = np.concatenate([w, np.zeros(map.memory)])

    def bent(w: Array, v: Array) -> Array:
        return np.asarray(map.to_numpy(map.unchecked_curvature(w, 0, v[None])[0])[0])

    def step(x: Array) -> Array:
        return map.to_numpy(map.step(x, p.repeat(len(x), 0), 0))

    def moved(x: Array, v: Array) -> Array:
        return np.asarray(map.to_numpy(map.unchecked_tangent(x, p, 0, v[None])[0])[0])

    pairs = [
        (partial(misfit, slopes, bent, w, eps), "curvature"),
        (partial(misfit, step, moved, x, eps, free=size), "tangent"),
    ]
    for compared, kind in pairs:
        found = _unless_undefined(compared)
        if found is not None:
            raise Refusal(
                f"the {kind} of {named(found.component % size)} is {found.claimed:.6g} by automatic "
                f"differentiation, and {found.found:.6g} by differences of the map's own "
                f"{'gradient' if kind == 'curvature' else 'step'}: torch's forward mode does not see through detach(), "
                ".data, or an autograd.Function without the right jvp (check=False goes on anyway)"
            )


def _unless_undefined(compared: Callable[[], Misfit | None]) -> Misfit | None:
    """A comparison with differences; nothing where a point beside has no value (that of the point itself was tried)."""
    try:
        return compared()
    except FAILURES:
        return None


def easy(map: Any) -> Array:
    """Parameters ``(1, parameter)`` that let a step show its gradient: eta 1, and epsilon 1, which tames a quotient."""
    return np.array([[{"eta": 1.0, "epsilon": 1.0}.get(name, value) for name, value in map.parameters.items()]])
