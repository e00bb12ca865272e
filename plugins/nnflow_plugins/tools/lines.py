"""The lines of a recurrence plot, counted without the plot: kernels of `recurrence`, in memory O(N).

Diagonals and columns are compared one at a time, each row loop in its own function over contiguous views, which LLVM
vectorizes; where lines begin and end is then found without a branch. Serial, and without the interpreter's lock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnflow.authors import Array, kernel, loop

Counts = NDArray[np.int64]


@loop()
def lines_of_points(
    points: Array, turns: Array, power: int, threshold: float, theiler: int
) -> tuple[Counts, Counts, Counts, Counts]:
    """Histograms of diagonal, vertical and white lines and of recurrence times.

    Args:
        points: ``(channel, time)``.
        turns: ``(channel,)``: a channel that is an angle lies in [0, turn]; of others the turn is infinite.
        power: To which the terms of the norm are summed; 0 = not summed.
        threshold: In units of the points.
        theiler: Cells |i − j| < theiler are left out.

    Returns:
        The four histograms, ``(length,)`` each.
    """
    size = points.shape[1]
    diagonal, vertical, white, time = _histograms(size), _histograms(size), _histograms(size), _histograms(size)
    near, total, changes = np.empty(size, np.uint8), np.empty(size), np.empty(size + 1, np.int32)
    here = np.empty_like(points)
    for k in range(theiler, size):
        _compare_shifted(points, turns, k, power, threshold, total, near)
        _tally_diagonal(near[: size - k], changes, 2 if k else 1, diagonal)
    for j in range(size):
        _compare_with(points, turns, j, power, threshold, here, total, near)
        _tally_column(near, j, theiler, changes, vertical, white, time)
    return diagonal, vertical, white, time


@loop()
def lines_of_cells(matrix: NDArray[np.uint8], theiler: int) -> tuple[Counts, Counts, Counts, Counts]:
    """The same histograms of a given matrix, square or not."""
    rows, columns = matrix.shape
    size = max(rows, columns)
    diagonal, vertical, white, time = _histograms(size), _histograms(size), _histograms(size), _histograms(size)
    near, changes = np.empty(size, np.uint8), np.empty(size + 1, np.int32)
    for k in range(1 - rows, columns):
        start, stop = max(0, -k), min(rows, columns - k)
        for i in range(start, stop):
            near[i - start] = matrix[i, i + k]
        if abs(k) >= theiler:
            _tally_diagonal(near[: stop - start], changes, 1, diagonal)
    for j in range(columns):
        for i in range(rows):
            near[i] = matrix[i, j]
        _tally_column(near[:rows], j, theiler, changes, vertical, white, time)
    return diagonal, vertical, white, time


@loop()
def matrix_of_points(points: Array, turns: Array, power: int, threshold: float) -> NDArray[np.uint8]:
    """The matrix itself: 1 where two points are within the threshold."""
    size = points.shape[1]
    matrix, total, here = np.empty((size, size), np.uint8), np.empty(size), np.empty_like(points)
    for i in range(size):
        _compare_with(points, turns, i, power, threshold, here, total, matrix[i])
    return matrix


@loop()
def count_recurrences(points: Array, turns: Array, power: int, threshold: float, theiler: int) -> int:
    """How many cells outside the Theiler window recur."""
    size, count = points.shape[1], 0
    near, total = np.empty(size, np.uint8), np.empty(size)
    for k in range(theiler, size):
        _compare_shifted(points, turns, k, power, threshold, total, near)
        count += (2 if k else 1) * _sum(near[: size - k])
    return count


@kernel
def _histograms(size: int) -> Counts:
    return np.zeros(size + 1, np.int64)


@kernel
def _compare_shifted(
    points: Array, turns: Array, shift: int, power: int, threshold: float, total: Array, near: NDArray[np.uint8]
) -> None:
    """Write into near whether points i and i + shift are within the threshold: one diagonal."""
    size = points.shape[1] - shift
    _begin(size, power, total, near)
    for d in range(points.shape[0]):
        _add(points[d, :size], points[d, shift:], turns[d], power, threshold, total, near)
    if power:
        _within(total[:size], threshold**power, near)


@kernel
def _compare_with(
    points: Array,
    turns: Array,
    j: int,
    power: int,
    threshold: float,
    here: Array,
    total: Array,
    near: NDArray[np.uint8],
) -> None:
    """Write into near whether each point is within the threshold of point j: one column."""
    _begin(points.shape[1], power, total, near)
    for d in range(points.shape[0]):
        here[d] = points[d, j]
        _add(points[d], here[d], turns[d], power, threshold, total, near)
    if power:
        _within(total, threshold**power, near)


@kernel
def _begin(size: int, power: int, total: Array, near: NDArray[np.uint8]) -> None:
    if power:
        total[:size] = 0.0
    else:
        near[:size] = 1


@kernel
def _add(x: Array, y: Array, turn: float, power: int, threshold: float, total: Array, near: NDArray[np.uint8]) -> None:
    """Add one coordinate to the comparison; the difference of angles is the shorter way round."""
    if power == 0:
        far = turn - threshold
        for i in range(x.size):
            gap = abs(x[i] - y[i])
            near[i] &= (gap <= threshold) | (gap >= far)
    elif power == 1:
        for i in range(x.size):
            gap = abs(x[i] - y[i])
            total[i] += min(gap, turn - gap)
    else:
        for i in range(x.size):
            gap = abs(x[i] - y[i])
            total[i] += min(gap, turn - gap) ** 2


@kernel
def _within(total: Array, limit: float, near: NDArray[np.uint8]) -> None:
    for i in range(total.size):
        near[i] = total[i] <= limit


@kernel
def _sum(near: NDArray[np.uint8]) -> int:
    count = 0
    for i in range(near.size):
        count += near[i]
    return count


@kernel
def _changes(near: NDArray[np.uint8], changes: NDArray[np.int32]) -> int:
    """Write where lines begin and end, alternately, and return how many numbers that are. No branch to mispredict."""
    count, before = 0, 0
    for i in range(near.size):
        changes[count] = i
        count += near[i] ^ before
        before = near[i]
    changes[count] = near.size
    return count + before


@kernel
def _tally_diagonal(near: NDArray[np.uint8], changes: NDArray[np.int32], weight: int, lines: Counts) -> None:
    for i in range(0, _changes(near, changes), 2):
        lines[changes[i + 1] - changes[i]] += weight


@kernel
def _tally_column(
    near: NDArray[np.uint8],
    j: int,
    theiler: int,
    changes: NDArray[np.int32],
    lines: Counts,
    white: Counts,
    time: Counts,
) -> None:
    """Count the lines of column j above and below the Theiler window, or of the whole column if there is none."""
    if theiler == 0:
        _tally_segment(near, changes, lines, white, time)
    else:
        _tally_segment(near[: max(0, j - theiler + 1)], changes, lines, white, time)
        _tally_segment(near[j + theiler :], changes, lines, white, time)


@kernel
def _tally_segment(
    near: NDArray[np.uint8], changes: NDArray[np.int32], lines: Counts, white: Counts, time: Counts
) -> None:
    end, start = 0, -1
    for i in range(0, _changes(near, changes), 2):
        if start >= 0:
            time[changes[i] - start] += 1
        start = changes[i]
        white[start - end] += 1  # length 0, at the border, falls into the unused entry
        end = changes[i + 1]
        lines[end - start] += 1
    white[near.size - end] += 1
