"""The period of a recorded orbit: the fewest values that the recording takes in turn, again and again.

The samples i, i + p, i + 2p, … are one phase of the period p. A recording has period p when every phase is the same
value throughout: max − min within each phase is at most tolerance × (max − min of the whole recording), or rounding.
That asks more than |x(i+p) − x(i)| small for every i: a slow drift takes small steps and still leaves no phase where it
was, so a loss that creeps downhill is no fixed point, however slowly it creeps.

The definition is the usual one of a periodic orbit (e.g. Strogatz, Nonlinear Dynamics and Chaos, section 10.3); the
measure of equality and the number of turns asked for are choices, stated in `detect_period`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nnflow.authors import Array, Integers, Refusal, kernel, loop, real
from nnflow_plugins.tools.observed import RECORDED, ROUNDING

MARKS = 16  # samples at which periods failed that are remembered

TURNS = 3
"""A period must be seen this many times: twice could be chance."""


def detect_period(
    values: ArrayLike,
    tolerance: float = 1e-6,
    maximum: int | None = None,
    turn: float | None = None,
    floor: ArrayLike | None = None,
) -> Integers:
    """The smallest period of every recording: 1 for a fixed point, 0 for none found.

    period = min p: max − min of {x(i), x(i+p), x(i+2p), …} ≤ max(tolerance · range, floor), all i

    The tolerance is relative to the range max − min of the recording: chaos of a small amplitude on a high level is
    chaos, a 2-cycle just past its bifurcation is a 2-cycle, and the unit does not matter. What varies by rounding only
    is a fixed point (period 1). A transient that has not died out to the tolerance gives 0: record later. Chaos,
    quasi-periodicity and escaped members (a value that is not finite) give 0. A recording shows at least three full
    turns of what is found.

    Args:
        values: ``(member, sample)``; fewer than three samples show no period.
        tolerance: relative, positive and below 1; about 1e-6.
        maximum: the largest period looked for; a third of the samples when None, and never more.
        turn: the period of the values themselves, if they are angles: differences are taken the shorter way round, and
            the range is what is left of the turn beside the largest gap.
        floor: ``(member,)`` or one for all: differences up to this size are none, either; 1e-12 · max |x| when None.

    Returns:
        ``(member,)`` int64.

    Raises:
        Refusal: (a ValueError) for another shape, no samples, a tolerance that is not between 0 and 1, a maximum below
            1, or a turn that is not positive.

    >>> detect_period([[1, 2, 1, 2, 1, 2, 1, 2]])
    array([2])
    """
    rows = np.ascontiguousarray(real(values, "the values"))
    if rows.ndim != 2 or not rows.shape[1]:
        raise Refusal(f"values must have the shape (member, sample), at least one sample, not {rows.shape}")
    if not 0.0 < tolerance < 1.0:
        raise Refusal(f"tolerance = {tolerance}: give a share of the range, above 0 and below 1")
    if maximum is not None and maximum < 1:
        raise Refusal(f"maximum must be at least 1, not {maximum}")
    if turn is not None and not 0.0 < turn < np.inf:
        raise Refusal(f"turn = {turn}: give the period of the angle, a positive number")
    longest = rows.shape[1] // TURNS if maximum is None else min(maximum, rows.shape[1] // TURNS)
    lowest, highest = rows.min(axis=1), rows.max(axis=1)
    known = np.flatnonzero(np.isfinite(lowest) & np.isfinite(highest))
    with np.errstate(invalid="ignore"):  # of rows that are not finite
        size = np.maximum(highest, -lowest) if turn is None else np.full(len(rows), turn)
        scale = np.where(size > 0, size, 1.0)  # no difference overflows in this unit
        ranges = highest / scale - lowest / scale if turn is None else _left_of_turn(rows / turn)
        floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), len(rows))  # NaN if there is none
        least = ROUNDING if floor is None else floors / scale
        widths = np.maximum(tolerance * ranges, np.maximum(least, RECORDED))
    return _periods(rows, known, scale, widths, 0.0 if turn is None else 1.0, longest)


def _left_of_turn(rows: Array) -> Array:
    """What angles, in turns, leave of the circle beside the largest gap between neighbors on it."""
    sorted_ = np.sort(rows % 1.0, axis=1)
    gaps = np.diff(sorted_, axis=1, append=sorted_[:, :1] + 1.0)
    return np.asarray(1.0 - gaps.max(axis=1))


@loop()
def _periods(rows: Array, known: Integers, scale: Array, widths: Array, turn: float, maximum: int) -> Integers:
    """The period of each of the known rows, in units of its scale; 0 for the others."""
    found = np.zeros(rows.shape[0], np.int64)
    for member in known:
        found[member] = _smallest_period(rows[member] / scale[member], widths[member], turn, maximum)
    return found


@kernel
def _smallest_period(row: Array, width: float, turn: float, maximum: int) -> int:
    """Try one period after another; 0 if there is none.

    Chaos breaks nearly all of them at once. Then where earlier ones failed is looked at: a jump or a lone sample breaks
    most periods, and to find it anew for each of them would take time as the square of the samples.

    Returns:
        The period.
    """
    marks, failures = np.zeros(MARKS, np.int64), 0
    for period in range(1, maximum + 1):
        if _broken(row, 0, period, width, turn)[0] >= 0 or _known(
            row, marks[: min(failures, MARKS)], period, width, turn
        ):
            continue
        low, high = _first_broken(row, period, width, turn)
        if low < 0:
            return period
        marks[failures % MARKS], marks[(failures + 1) % MARKS] = low, high
        failures += 2
    return 0


@kernel
def _known(row: Array, marks: Integers, period: int, width: float, turn: float) -> bool:
    """Whether a period fails where an earlier one did."""
    known = False
    for mark in marks:
        known = known or _broken(row, int(mark) % period, period, width, turn)[0] >= 0
    return known


@kernel
def _first_broken(row: Array, period: int, width: float, turn: float) -> tuple[int, int]:
    """Two samples, a multiple of the period apart, that differ by more than the width; −1 twice if there are none."""
    for phase in range(period):
        low, high = _broken(row, phase, period, width, turn)
        if low >= 0:
            return low, high
    return -1, -1


@kernel
def _broken(row: Array, phase: int, period: int, width: float, turn: float) -> tuple[int, int]:
    """The same within one phase."""
    low, high, lowest, highest = phase, phase, 0.0, 0.0
    for i in range(phase + period, row.size, period):
        away = row[i] - row[phase]
        if turn > 0.0:
            away -= turn * np.round(away / turn)
        if away < lowest:
            lowest, low = away, i
        if away > highest:
            highest, high = away, i
        if highest - lowest > width:
            return low, high
    return -1, -1
