"""Maps written in numpy: what the methods of their authors are given, what they may give back, and a trial of them.

A method gets copies, so that it may work in place; what it returns has a shape and is of numbers. At its first use it
is tried on a few drawn states: whether members see one another, whether it gives the same twice, and whether a tangent
is what differences of the step show.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from nnflow.differences import coarse, misfit
from nnflow.names import Refusal, shown
from nnflow.typing import Array

if TYPE_CHECKING:
    from nnflow.map import Map

TRIED = 32  # states: of a rule that branches, some on each side
UNTRIED = "(check=False leaves this out)"


def careful(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """A method of a map in numpy as everybody calls it: on copies, and tried when it is first used.

    Args:
        function: As its author wrote it, (map, x, p, t) or (map, x, p, t, v).
        kind: "step" or "tangent".

    Returns:
        The method; it raises Refusal for what it cannot be (see `called` and `try_method`).
    """

    @wraps(function)
    def method(map: Map, x: Any, p: Any, t: int, *v: Any) -> Any:
        map.once(kind, lambda: try_method(map, kind))
        return called(f"the {kind} of {map.name!r}", partial(function, map), np.shape(v[0] if v else x), x, p, t, *v)

    return method


class Failed(Refusal):
    """An arithmetic error of Python's numbers in what a map's author wrote: perhaps at this state alone."""


def called(of: str, function: Callable[..., Any], shape: tuple[int, ...], *given: Any) -> Any:
    """Call a function of arrays, on copies of its own.

    Args:
        of: What it is, as in "the step of 'henon'".
        function: A method or an observable.
        shape: What its result is to have, where it is given numpy arrays.
        *given: Its arguments.

    Returns:
        What it gives, of numpy arrays a new float64 array.

    Raises:
        Refusal: if that is no numpy array of real numbers, is coarser than float64, or has another shape.
        Failed: (a Refusal) for an arithmetic error of Python's numbers.
    """
    try:
        found = function(*(np.array(value) if isinstance(value, np.ndarray) else value for value in given))
    except ArithmeticError as error:
        raise Failed(
            f"{of} fails: {type(error).__name__}: {error} (compute with numpy's numbers: they give inf and nan, and a "
            "member that escapes is a value)"
        ) from error
    if not isinstance(given[0], np.ndarray):
        return found
    try:
        array = np.asarray(found) if isinstance(found, (list, tuple)) else found
    except ValueError:  # rows of unequal length
        array = found
    plain = type(array) is np.ndarray and array.dtype.kind in "fiub"
    if not (plain and array.shape == shape):
        what = f"an array of shape {array.shape}, {array.dtype}" if plain else shown(found)
        raise Refusal(f"{of} returns {what}: give a numpy array of numbers of shape {shape}")
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        raise Refusal(
            f"{of} returns {array.dtype}, whose resolution is {np.finfo(array.dtype).eps:.1e}: states are float64; "
            "compute in float64 (a torch module: .double(), or take nnflow.TensorMap with its dtype)"
        )
    return np.array(array, dtype=np.float64)


def try_method(map: Map, kind: str, name: str = "") -> None:
    """Try what a map's author wrote on a few drawn states, with other parameters each.

    Args:
        map: A map in numpy.
        kind: "step", "tangent" or "observable".
        name: Of an observable.

    Raises:
        Refusal: if it mixes members up, gives something else each time or in another shape, or is no derivative.
    """
    count = max(2, min(TRIED, 2**22 // map.dim))
    count += count == map.dim  # of another number than components, to tell rows from columns
    p = np.tile(list(map.parameters.values()), (count, 1)).astype(np.float64)
    p += 1e-3 * np.arange(count)[:, None] * np.maximum(np.abs(p), 1.0)
    for column, parameter in zip(p.T, map.parameters, strict=True):
        column[:] = column.clip(*map.limits.get(parameter, (-np.inf, np.inf)))
    try:
        x = map.initial_states(count, 0)
    except Exception:  # where nothing can be drawn, nothing is said
        return
    try:
        with np.errstate(all="ignore"):
            _try_members(map, kind, name, x, p)
            if kind == "step":
                refuse_coarse(map, lambda x: np.asarray(map.step(x, p[:1].repeat(len(x), axis=0), 0)), x)
            if kind == "tangent":
                _try_derivative(map, x, p)
    except Failed:
        return
    except Refusal:
        raise
    except Exception:  # not at these states: what is wrong elsewhere shows there
        return


def refuse_coarse(map: Map, step: Callable[[Array], Array], x: Array) -> None:
    """Refuse a rule that computes in single precision: differences of it, and distances, would be those of its steps.

    Args:
        map: The map.
        step: The next states of ``(m, dim)``.
        x: States where it is looked at, ``(states, dim)``.

    Raises:
        Refusal: if some component changes in steps.
    """
    if (component := coarse(step, x, map.resolution)) is not None:
        raise Refusal(
            f"the rule of {map.name!r} computes {map.coordinates[component]} in coarser numbers than float64: where x "
            "changes little, it does not change at all; leave float32, and roundings to some digits, out of it "
            f"{UNTRIED}"
        )


def _try_members(map: Map, kind: str, name: str, x: Array, p: Array) -> None:
    """Refuse a method that mixes members up, or gives something else each time."""
    v = np.random.default_rng(0).standard_normal((len(x), 3 if map.dim != 3 else 4, map.dim))
    rest = (v,) if kind == "tangent" else ()
    of = " ".join(filter(None, ("the", kind, name, f"of {map.name!r}")))
    function = partial(map.observable, name) if kind == "observable" else getattr(map, kind)
    together, again = (function(x, p, 0, *rest) for _ in range(2))
    scale = np.abs(together).max(initial=0.0, where=np.isfinite(together))
    if not np.array_equal(together, again, equal_nan=True):
        raise Refusal(f"{of} gives another result each time: draw random numbers by (seed, t) {UNTRIED}")
    for i in range(len(x)):
        one = slice(i, i + 1)
        alone = function(x[one], p[one], 0, *(v[one] for v in rest))
        if not np.allclose(together[one], alone, rtol=1e-6, atol=1e-9 * scale, equal_nan=True):
            raise Refusal(
                f"{of} gives {shown(together[i])} for a member beside others and {shown(alone[0])} for it alone: "
                f"members are rows of x (member, dim) and p (member, parameter), and do not see one another {UNTRIED}"
            )


def _try_derivative(map: Map, x: Array, p: Array) -> None:
    """Refuse a tangent that differs from differences of the step."""
    for i, state in enumerate(x[:3]):

        def step(x: Array, p: Array = p[[i]]) -> Array:
            return np.asarray(map.step(x, p.repeat(len(x), axis=0), 0))

        def tangent(x: Array, v: Array, p: Array = p[[i]]) -> Array:
            return np.asarray(map.tangent(x, p, 0, v[None])[0])

        if found := misfit(step, tangent, state, map.resolution, map.difference):
            where = found.said(f"the tangent of {map.name!r}", "step", map.coordinates, state)
            raise Refusal(f"{where} {UNTRIED}")
