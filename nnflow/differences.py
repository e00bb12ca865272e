"""Differences of a function: in place of a derivative, and to see whether what is called a derivative is one.

Where a function is smooth, differences from ahead and from behind agree as the width shrinks, and so do two widths; at
a kink (ReLU at 0) they do not, and nothing can be said there. So each component is given as much room as its own
differences disagree, and what rounding does to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.typing import Array

EPS = float(np.finfo(float).eps)
DIRECTIONS = 2
NARROWER = 8  # the second width is the first over this
LEAST, FLOOR = (
    1e-8,
    1e-4,
)  # of the largest coordinate, and in all: so large is each taken to be
FINE, LARGE = 2.0**16, 2.0**38  # units in the last place by which a state is moved little, and much
FEW = 4  # values at nine points; one more at a kink that is flat to one side
UNLIKE = 1e-3  # a coordinate that is a smaller share of the largest may have a scale of its own
SETTLED = 0.25  # two widths that differ by a larger share say nothing: the function bends on a scale of its own


class Misfit(NamedTuple):
    """Where a derivative and the differences are furthest apart: the component, and what each says there."""

    component: int
    claimed: float
    found: float

    def said(self, derivative: str, function: str, coordinates: Sequence[str], x: Array) -> str:
        """The same in words: of which derivative, by differences of which function, at x."""
        return (
            f"{derivative} says that {coordinates[self.component]} changes by {self.claimed:g} along a direction in "
            f"which differences of the {function} say {self.found:g}, at x = {np.array2string(x, threshold=8)}: mend "
            "it, or leave it out"
        )


def misfit(
    function: Callable[[Array], Array],
    derivative: Callable[[Array, Array], Array],
    x: Array,
    eps: float,
    difference: Callable[[Array, Array], Array] = np.subtract,
    free: int | None = None,
) -> Misfit | None:
    """Compare a derivative with central differences, in `DIRECTIONS` random directions.

    The widths are eps^⅓ of the size of x (of 1 where x is 0), where the error of central differences is least, and an
    eighth of it; a third one, as much narrower, is to agree roughly. Where coordinates are of unlike sizes, a map may
    bend on the scale of the small ones: what differs is then compared once more, each moved by its own size (those that
    are 0 by the largest).

    Args:
        function: `function(x (m, dim)) (m, n)`.
        derivative: `derivative(x (1, dim), v (k, dim)) (k, n)`.
        x: Where they are compared, ``(dim,)``.
        eps: The distance of neighboring numbers.
        difference: The difference of two values.
        free: Only so many components are moved, the first ones (default: all).

    Returns:
        The worst disagreement; None if they agree.
    """
    directions = np.random.default_rng([0, *b"differences"]).standard_normal((DIRECTIONS, len(x)))
    directions[:, len(x) if free is None else free :] = 0.0
    directions /= np.abs(directions).max(axis=1, keepdims=True)
    found = _misfit(function, derivative, x, eps, difference, directions)
    share = np.where(x != 0, np.abs(x) / (np.abs(x).max() or 1.0), 1.0)
    if found is None or share.min() > UNLIKE:
        return found
    return _misfit(function, derivative, x, eps, difference, directions * share)


def _misfit(
    function: Callable[[Array], Array],
    derivative: Callable[[Array, Array], Array],
    x: Array,
    eps: float,
    difference: Callable[[Array, Array], Array],
    directions: Array,
) -> Misfit | None:
    """The same in given directions ``(direction, dim)``."""
    width = float(np.cbrt(eps) * (np.abs(x).max() or 1.0))
    widths = np.array([width, width / NARROWER, width / NARROWER**2])
    moves = np.array([1.0, -1.0])[:, None, None, None] * widths[:, None, None] * directions
    values = function(np.concatenate([x[None], (x + moves).reshape(-1, len(x))]))
    ahead, behind = values[1:].reshape(2, len(widths), DIRECTIONS, -1)
    claimed = derivative(x[None], directions)
    with np.errstate(all="ignore"):
        wide, narrow, finest = difference(ahead, behind) / (2 * widths[:, None, None])
        bend = (difference(ahead[1], values[0]) - difference(values[0], behind[1])) / widths[1]
        doubt = 8 * np.abs(wide - narrow) + 4 * np.abs(bend)
        rounding = 64 * eps * (np.abs(values).max() + np.abs(x).max() * np.abs(narrow)) / widths[1]  # of f and of x
        room = doubt + np.sqrt((doubt**2).mean(axis=1, keepdims=True)) + rounding
        own = 64 * eps * (np.abs(values).max(axis=0) + np.abs(x).max() * np.abs(narrow)) / widths[1]
        apart = np.maximum(np.abs(wide - narrow), np.abs(finest - narrow) - NARROWER * own)
        settled = apart <= SETTLED * np.abs(narrow) + own
        excess = np.nan_to_num(np.where(settled, np.abs(claimed - narrow) - room, -np.inf), nan=-np.inf)
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    return Misfit(int(worst[1]), float(claimed[worst]), float(narrow[worst])) if excess[worst] > 0 else None


def coarse(function: Callable[[Array], Array], x: Array, eps: float) -> int | None:
    """Whether a function is computed in coarser numbers than it is given, single precision say.

    A smooth function that changes by more than eps^½ of its size where x is moved much, by `LARGE` units in the last
    place, has another value at each of eight little moves, to one side at least: at a kink the other may be flat. Here,
    of one component, little moves give no more than `FEW` values at half of the states, and large ones others: it has
    steps in between. Steps that are larger than the large moves are not told, nor much smaller ones than little moves.

    Args:
        function: `function(x (m, dim)) (m, n)`.
        x: Where it is looked at, ``(states, dim)``.
        eps: The distance of neighboring numbers.

    Returns:
        The first such component; None if there is none.
    """
    direction = np.random.default_rng([0, *b"coarse"]).uniform(0.5, 1.0, x.shape[1])
    moves = eps * np.concatenate(
        [[0.0], FINE * np.array([-4, -3, -2, -1, 1, 2, 3, 4]), LARGE * np.array([-1.0, 0.6, 1.0])]
    )
    size = np.abs(x).max(axis=1, keepdims=True)
    moved = x[:, None] + moves[:, None] * np.where(size > 0, size, 1.0)[:, None] * direction
    values = function(moved.reshape(-1, x.shape[1])).reshape(*moved.shape[:2], -1)
    with np.errstate(all="ignore"):
        change = np.abs(values - values[:, :1])
        still = (np.diff(np.sort(values[:, :9], axis=1), axis=1) != 0).sum(axis=1) < FEW
        moving = (change[:, 9:] > np.sqrt(eps) * np.abs(values[:, :1])).any(axis=1)
    often = (still & moving).mean(axis=0) >= 0.5
    found = np.flatnonzero(often & np.isfinite(values).all(axis=(0, 1)))
    return int(found[0]) if len(found) else None


def widths(size: Array, units: Sequence[float]) -> Array:
    """How far each coordinate is moved to either side, where a map's tangent is not known (see `Map.tangent`).

    Args:
        size: Of the coordinates, ``(member, dim)``.
        units: On what scale they live, ``(dim,)``; 0 where nothing is known.

    Returns:
        ``(member, dim)``.
    """
    known = np.array(units)
    largest = np.fmax.reduce(size, axis=1, keepdims=True)
    size = np.maximum(size, np.where(known > 0, known, np.maximum(LEAST * largest, FLOOR)))
    unit = np.where(known > 0, known, 1.0)
    return np.asarray(np.maximum(np.cbrt(EPS) * unit * np.sqrt(size / unit), np.cbrt(EPS) ** 2 * size))


def quotients(
    step: Callable[[Array], Array],
    difference: Callable[[Array, Array], Array],
    x: Array,
    v: Array,
    units: Sequence[float],
    narrower: float = 1.0,
) -> tuple[Array, Array]:
    """Central differences along vectors.

    Args:
        step: `step(x (member, dim)) (member, dim)`.
        difference: The difference of two states.
        x: ``(member, dim)``.
        v: ``(member, k, dim)``.
        units: See `widths`.
        narrower: So many times narrower than these.

    Returns:
        The quotients ``(member, k, dim)``, and by how many of its lengths each vector was gone, ``(member, k, 1)``.
    """
    x, v = np.asarray(x, dtype=np.float64), np.asarray(v, dtype=np.float64)
    way = v / (widths(np.maximum(np.abs(x), np.abs(step(x))), units) / narrower)[:, None]
    longest = np.abs(way).max(axis=2, keepdims=True)
    longest = np.where(longest > 0, longest, 1.0)
    length = longest * np.sqrt(((way / longest) ** 2).sum(axis=2, keepdims=True))
    out, h = np.empty_like(v), 1.0 / np.where(length > 0, length, 1.0)
    for j in range(v.shape[1]):
        out[:, j] = difference(step(x + h[:, j] * v[:, j]), step(x - h[:, j] * v[:, j])) / (2 * h[:, j])
    return out, h


def unsettled(
    step: Callable[[Array], Array],
    difference: Callable[[Array, Array], Array],
    x: Array,
    v: Array,
    units: Sequence[float],
) -> npt.NDArray[np.bool_]:
    """Where such differences depend on how wide they are, so that the map bends on a finer scale.

    Args:
        step: As for `quotients`, and so are the others.
        difference: Of two states.
        x: ``(member, dim)``.
        v: ``(member, k, dim)``.
        units: See `widths`.

    Returns:
        ``(member,)``: whether those an eighth as wide are others, by more than a thousandth and than rounding.
    """
    with np.errstate(all="ignore"):
        (wide, _), (narrow, h) = (quotients(step, difference, x, v, units, share) for share in (1.0, 8.0))
        scale = np.maximum(np.abs(x).max(axis=1), max(unit or 1.0 for unit in units))[:, None, None]
        close = np.abs(wide - narrow) <= 1e-3 * np.abs(narrow).max(axis=1, keepdims=True) + 64 * EPS * scale / h
    return np.asarray(~close.all(axis=(1, 2)))
