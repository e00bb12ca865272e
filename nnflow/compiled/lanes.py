"""Members of a small map side by side: another orbit loop, for rules that run straight through.

LANES members lie in arrays with one row for each component, so that one instruction works on several members. They
advance without a look at where they go: for 64 to 1024 steps (a stretch), only a sum is kept, which is NaN if any state
on the way was not finite; where that lasts (see `straight.py`), the last states alone are summed. If it is NaN, the
stretch is made again from its beginning, one member after the other.

That is for rules that run straight through (see `straight.py`): others could index, or never end, with such states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from nnflow.compiled.loops import Constants, Shape, beginning, blank, copy, put, recording
from nnflow.compiled.memory import sealed, stack
from nnflow.compiled.ways import Rule, part, part_by_llvm
from nnflow.machine import loop
from nnflow.typing import Array, Integers

LANES = 256  # members side by side: enough of them to hide the latency of a step
FEW = 24  # fewer members than this are faster one by one
STRETCH = 1024  # steps of a stretch at most: each may have twice as many as the one before …
START = 64  # … but only so many in the beginning and after an escape …
SEEN = 64  # rows of a tile of states that are to be recorded

ANY_ORDER = {"reassoc", "contract", "nsz", "arcp"}  # only for sums that tell whether something is NaN


def _add(total: float, value: float, factor: float) -> float:
    """total + factor · value; sums over components and lanes may be re-ordered."""
    return total + value * factor


add = part_by_llvm(_add, fastmath=ANY_ORDER)


def by_steps(step: Rule, shape: Shape, lasting: bool, steps: int) -> Rule:
    """Build what advances all lanes by so many steps: (lanes, p, t) -> NaN if a state that may heal was not finite."""
    dim, parameters = shape.dim, shape.parameters
    summed = 0 if lasting else dim

    @part_by_llvm
    def advance_lane(lanes: Array, p: Array, t: int, c: Constants, j: int) -> float:
        x, y, q, total = stack(1, dim)[0], stack(1, dim)[0], stack(1, parameters)[0], 0.0
        for i in range(dim):
            x[i] = lanes[i, j]
        for i in range(parameters):
            q[i] = p[i, j]
        for s in range(t, t + steps):
            step(sealed(x), q, s, c, y)
            for i in range(0, summed, 2):
                total = add(total, y[i], y[i + 1] if i + 1 < dim else 1.0)  # overflows early: that costs but time
            put(x, y)
        for i in range(dim):
            lanes[i, j] = x[i]
        return total

    @part_by_llvm
    def advance(lanes: Array, p: Array, t: int, c: Constants) -> float:
        lost, j = 0.0, t - t  # for a 0, numba would compile once more
        while j < LANES:  # of a range, LLVM peels the first pass off, and all others are out of alignment
            lost = add(lost, advance_lane(lanes, p, t, c, j), 0.0)  # NaN if the sum is not finite
            j += 1
        return lost

    return advance


def advancing(step: Rule, shape: Shape, lasting: bool) -> Rule:
    """The same for any number of steps; two at once halve loads and stores."""
    one_step, two_steps = (by_steps(step, shape, lasting, steps) for steps in (1, 2))

    @part
    def advance_lanes(lanes: Array, p: Array, t: int, c: Constants, steps: int) -> float:
        lost = 0.0
        for s in range(t, t + steps - 1, 2):
            lost += two_steps(lanes, p, s, c)
        if steps % 2 == 1:
            lost += one_step(lanes, p, t + steps - 1, c)
        return lost

    return advance_lanes


@part
def sum_of(lanes: Array) -> float:
    """NaN if a state is not finite, else 0."""
    total = 0.0
    for i in range(lanes.shape[0]):
        for j in range(LANES):
            total = add(total, lanes[i, j], 0.0)
    return total


@lru_cache(maxsize=64)
def stretching(dim: int) -> Callable[[int, int, int, int], int]:
    """Build what tells how many steps to make in one go after s of them.

    Args:
        dim: Components of a state.

    Returns:
        A function that gives a part of one block of records, or a few whole ones: so many as a tile holds the states
        of.
    """
    rows = SEEN // dim

    @part
    def stretch(s: int, steps: int, every: int, most: int) -> int:
        part = min(most, every - s % every)
        blocks = min(rows, max(1, most // every))
        return min(every * blocks, steps - s) if part == every else part

    return stretch


@lru_cache(maxsize=64)
def filling(dim: int, parameters: int) -> Callable[[Array, Array, Integers], bool]:
    """Build what puts a member that lives on into each lane without one. It returns whether there is one."""

    @part
    def fill(lanes: Array, p: Array, escaped: Integers) -> bool:
        living = -1
        for j in range(escaped.shape[0]):
            if escaped[j] < 0:
                living = j
        for j in range(LANES if living >= 0 else 0):
            if j >= escaped.shape[0] or escaped[j] >= 0:
                for i in range(dim):
                    lanes[i, j] = lanes[i, living]
                for i in range(parameters):
                    p[i, j] = p[i, living]
        return living >= 0

    return fill


@lru_cache(maxsize=64)
def writing(dim: int) -> Callable[..., None]:
    """Build what records coordinates of the states seen at the beginnings of blocks first … last − 1."""

    @part
    def write_seen(
        seen: Array, columns: Integers, records: Array, first: int, last: int, escaped: Integers
    ) -> None:  # fmt: skip
        for c in range(columns.shape[0]):
            for j in range(records.shape[0]):
                for block in range(first, last):
                    records[j, block, c] = seen[(block - first) * dim + columns[c], j]
        for j in range(records.shape[0]):
            for block in range(first, last if escaped[j] >= 0 else first):
                blank(records[j, block])

    return write_seen


def repeating(step: Rule, dim: int) -> Callable[..., None]:
    """Build what makes a stretch of all members again, one after the other; an escaped one leaves NaN."""
    record = recording(step, dim)

    @part
    def make_again(
        lanes: Array, kept: Array, p: Array, t: int, c: Constants, steps: int, every: int, columns: Integers,
        records: Array, first: int, last: int, escaped: Integers,
    ) -> None:  # fmt: skip
        x, y = stack(1, dim)[0], stack(1, dim)[0]
        for j in range(escaped.shape[0]):
            for i in range(dim):
                x[i] = kept[i, j]
            escaped[j] = record(x, p[j], t, c, steps, every, columns, records[j], first, last, escaped[j], y)
            for i in range(dim):
                lanes[i, j] = x[i] if escaped[j] < 0 else np.nan

    return make_again


def side_by_side_loop(mark: str, step: Rule, shape: Shape, lasting: bool) -> Rule:
    """Build the orbit loop, as `loops.orbit_loop` does, with members side by side."""
    dim, parameters = shape.dim, shape.parameters
    start, advance_lanes, stretch = beginning(dim), advancing(step, shape, lasting), stretching(dim)
    fill, write_seen, make_again = filling(dim, parameters), writing(dim), repeating(step, dim)

    @loop(mark, _nrt=False)
    def orbit(
        states: Array, all_p: Array, t: int, c: Constants, steps: int, every: int, columns: Integers,
        all_records: Array, at: int, all_escaped: Integers, scratch: Array, spare: Array,
    ) -> None:  # fmt: skip
        lanes, kept, q, seen = stack(dim, LANES), stack(dim, LANES), stack(parameters, LANES), stack(SEEN, LANES)
        start(states, t, all_escaped)
        for m in range(0, states.shape[0], LANES):
            x, p, s, lost, side = states[m : m + LANES], all_p[m : m + LANES], 0, True, False
            records, escaped, count, most = all_records[m : m + LANES], all_escaped[m : m + LANES], x.shape[0], 0
            for j in range(count):
                for i in range(dim):
                    lanes[i, j] = x[j, i]
                for i in range(parameters):
                    q[i, j] = p[j, i]
            while s < steps:
                most = START if lost else min(2 * most, STRETCH)
                if lost:
                    side = fill(lanes, q, escaped) and count >= FEW
                size = stretch(s, steps, every, most) if count >= FEW else steps
                hop, first, total = min(every, size), at + s // every, 0.0 if side else np.nan
                last = min(records.shape[1], first + size // hop) if s % every == 0 else first
                copy(kept, lanes)
                for block in range(size // hop if side else 0):
                    for i in range(dim if first + block < last else 0):
                        put(seen[block * dim + i], lanes[i])
                    total += advance_lanes(lanes, q, t + s + block * hop, c, hop)
                lost = total + (sum_of(lanes) if lasting else 0.0) != 0.0
                if lost:
                    make_again(lanes, kept, p, t + s, c, size, hop, columns, records, first, last, escaped)
                else:
                    write_seen(seen, columns, records, first, last, escaped)
                s += size
            for j in range(count):
                for i in range(dim):
                    x[j, i] = lanes[i, j] if escaped[j] < 0 else np.nan

    return orbit
