"""The period of a recorded orbit: the fewest values that the recording takes in turn, again and again.

The samples i, i + p, i + 2p, … are one phase of the period p. A recording has period p when every phase is the same
value throughout: max − min within each phase is at most tolerance × max |x|. That asks more than |x(i+p) − x(i)|
small for every i: a slow drift takes small steps and still leaves no phase where it was, so a loss that creeps
downhill is a fixed point only when all of the recording lies within the tolerance.

The definition is the usual one of a periodic orbit (e.g. Strogatz, Nonlinear Dynamics and Chaos, section 10.3); the
measure of equality and the number of turns asked for are choices, stated in `detect_period`.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from nnflow.values import real

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
MAGNITUDE = 0x7FFF_FFFF_FFFF_FFFF  # all bits of a float64 but its sign

TURNS = 3
"""A period must be seen this many times: twice could be chance."""

FLOOR = 1e-14
"""Absolute: values this close are equal, whatever the scale. Rounding noise around 0 has no scale of its own."""


def detect_period(values: ArrayLike, tolerance: float = 1e-6, maximum: int | None = None) -> Integers:
    """Return the smallest period of every recording, `(member,)` int64: 1 for a fixed point, 0 for none found.

    period = min p: max − min of {x(i), x(i+p), x(i+2p), …} ≤ max(tolerance · max |x|, 1e-14) for every i

    So the tolerance is relative to the largest magnitude in the recording, not to its range: the rounding noise of a
    converged fixed point is equal (period 1), and a 2-cycle just past its bifurcation is a 2-cycle as long as its two
    values differ by more than the tolerance; below that it is a fixed point to the digits asked for. A transient that
    has not died out to the tolerance gives 0: record later. Chaos, quasi-periodicity and escaped members (a value that
    is not finite) give 0. A recording shows at least three full turns of what is found.

    Arguments:
        values: `(member, sample)`; fewer than three samples show no period.
        tolerance: relative, positive; about 1e-6. Rounding makes values below about 1e-12 pointless.
        maximum: the largest period looked for; a third of the samples when None, and never more.

    Raises ValueError for another shape, no samples, a tolerance that is not positive or a maximum below 1.

    >>> detect_period([[1, 2, 1, 2, 1, 2, 1, 2]])
    array([2])
    """
    rows = np.ascontiguousarray(real(values, "the values"))
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"values must have the shape (member, sample), at least one sample, not {rows.shape}")
    if not 0.0 < tolerance < np.inf:
        raise ValueError(f"tolerance must be positive and finite, not {tolerance}")
    if maximum is not None and maximum < 1:
        raise ValueError(f"maximum must be at least 1, not {maximum}")
    longest = rows.shape[1] // TURNS
    return _periods(rows, rows.view(np.int64), tolerance, longest if maximum is None else min(maximum, longest))


@njit(nogil=True, cache=True)
def _periods(rows: Array, bits: Integers, tolerance: float, maximum: int) -> Integers:
    found = np.zeros(rows.shape[0], np.int64)
    for member in range(rows.shape[0]):
        largest = np.int64(_largest(bits[member])).view(np.float64)
        if np.isfinite(largest):
            found[member] = _smallest_period(rows[member], max(tolerance * largest, FLOOR), maximum)
    return found


@njit(nogil=True, cache=True)
def _largest(bits: Integers) -> int:
    """max |x| of float64 as integers, whose order is the same without the sign; NaN is more than infinity."""
    largest = 0
    for i in range(bits.size):
        largest = max(largest, bits[i] & MAGNITUDE)
    return largest


@njit(nogil=True, cache=True)
def _smallest_period(row: Array, width: float, maximum: int) -> int:
    for period in range(1, maximum + 1):
        if _repeats(row, period, width):
            return period
    return 0


@njit(nogil=True, cache=True)
def _repeats(row: Array, period: int, width: float) -> bool:
    """Say whether every phase of the period stays within the width."""
    for phase in range(period):
        low = high = row[phase]
        for i in range(phase + period, row.size, period):
            low, high = min(low, row[i]), max(high, row[i])
            if high - low > width:
                return False
    return True
