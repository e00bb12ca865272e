"""Whether the curvature and the tangent of a tensor map of descent are derivatives of its own gradient and step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nnflow.differences import Misfit, misfit
from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES
from nnflow.systems.optimisers.groups import kind_of
from nnflow.typing import Array

if TYPE_CHECKING:
    from nnflow.tensor import TensorMap


def differentiate(map: TensorMap, w: Array) -> None:
    """Refuse a curvature, or a tangent, that is not the derivative of the map's own gradient, or step, at w."""
    eps, size = map.resolution, map.weights

    def slopes(w: Array) -> Array:
        return map.to_numpy(map.slopes(w, 0))

    p = easy(map, slopes(w[None])[0])  # here it has to have a value
    x = np.concatenate([w, resting(map)])

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
            name = map.coordinates[found.component].partition("[")[0]
            function = "gradient" if kind == "curvature" else "step"
            raise Refusal(
                f"the {kind} of {name} is {found.claimed:.6g} by automatic differentiation, and {found.found:.6g} by "
                f"differences of the map's own {function}: torch's forward mode does not see through detach(), "
                ".data, or an autograd.Function without the right jvp (check=False goes on anyway)"
            )


def _unless_undefined(compared: Callable[[], Misfit | None]) -> Misfit | None:
    """A comparison with differences; nothing where a point beside has no value (that of the point itself was tried)."""
    try:
        return compared()
    except FAILURES:
        return None


def easy(map: Any, gradient: Array | None = None) -> Array:
    """Parameters ``(1, parameter)`` that let a step show its gradient.

    eta is 1, and epsilon, which tames a quotient, too; groups have rates of their own, below 1, so that one is not
    taken for another; and with a `gradient`, clips are such that they clip it.

    Args:
        map: A map of descent.
        gradient: ``(weights,)``.

    Returns:
        The parameters in their order.
    """
    chosen = {"eta": 1.0, "epsilon": 1.0}
    if gradient is not None:
        chosen |= {
            "clip_norm": 0.5 * float(np.linalg.norm(gradient)),
            "clip_value": 0.5 * float(np.abs(gradient).max()),
        }
    values = {name: chosen.get(kind_of(name), value) for name, value in map.parameters.items()}
    rates = [name for name in values if kind_of(name) == "eta"]
    return np.array([list((values | {name: 1.0 / (1 + i) for i, name in enumerate(rates)}).values())])


def resting(map: Any) -> Array:
    """The memory ``(memory,)`` with which training starts."""
    return np.zeros(map.memory) if map.start is None else np.array(map.start[map.weights :])
