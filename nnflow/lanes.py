"""Members of a small map side by side: a template, never imported, that `compiled.py` puts behind `loops.py`.

LANES members lie in arrays with one row for each component, so that one instruction works on several members. They
advance without a look at where they go: for 64 to 1024 steps (a stretch), only a sum is kept, which is NaN if any state
on the way was not finite; where that lasts (see `straight.py`), the last states alone are summed. If it is NaN, the
stretch is made again from its beginning, one member after the other.

That is for rules that run straight through (see `straight.py`): others could index, or never end, with such states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:  # what stands before it in the copy
    from nnflow.loops import (
        COORDINATES,
        DIM,
        LASTING,
        PARAMETERS,
        PART,
        SPAN,
        blank,
        copy,
        loop,
        observe,
        orbit_of_one,
        put,
        rule,
        stack,
        start,
    )

LANES = 256  # members side by side: enough of them to hide the latency of a step
FEW = 24  # fewer members than this are faster one by one
STRETCH = 1024  # steps of a stretch at most: each may have twice as many as the one before …
START = 64  # … but only so many in the beginning and after an escape …
SEEN = 64  # rows of a tile of states that are to be recorded …
ROWS = SEEN // SPAN  # … and so the records that a stretch makes at most: some cache lines of each member

ANY_ORDER = {"reassoc", "contract", "nsz", "arcp"}  # only for sums that tell whether something is NaN
INNER: dict[str, Any] = {"error_model": "numpy", "_nrt": False, "forceinline": True}  # by LLVM, which vectorises it


@njit(**INNER, fastmath=ANY_ORDER)
def add(total, value, factor):  # type: ignore[no-untyped-def]
    """total + factor · value; sums over components and lanes may be re-ordered."""
    return total + value * factor


def lanes_by(steps):  # type: ignore[no-untyped-def]
    """Build what advances all lanes by so many steps: (lanes, p, t) -> NaN if a state that may heal was not finite."""

    @njit(**INNER)
    def advance_lane(lanes, p, t, j):  # type: ignore[no-untyped-def]
        x, y, q, total = stack(1, SPAN)[0], stack(1, SPAN)[0], stack(1, PARAMETERS)[0], 0.0
        for i in range(DIM):
            x[i] = lanes[i, j]
        for i in range(PARAMETERS):
            q[i] = p[i, j]
        for s in range(t, t + steps):
            rule(x, q, s, y)
            for i in range(0, 0 if LASTING else DIM, 2):
                total = add(total, y[i], y[i + 1] if i + 1 < DIM else 1.0)  # overflows early: that costs but time
            put(x, y)
        for i in range(DIM):
            lanes[i, j] = x[i]
        return total

    @njit(**INNER)
    def advance(lanes, p, t):  # type: ignore[no-untyped-def]
        lost, j = 0.0, t - t  # for a 0, numba would compile once more
        while j < LANES:  # of a range, LLVM peels the first pass off, and all others are out of alignment
            lost = add(lost, advance_lane(lanes, p, t, j), 0.0)  # NaN if the sum is not finite
            j += 1
        return lost

    return advance


one_step, two_steps = map(lanes_by, (1, 2))  # two at once halve loads and stores


@njit(**PART)
def advance_lanes(lanes, p, t, steps):  # type: ignore[no-untyped-def]
    """The same for any number of steps."""
    lost = 0.0
    for s in range(t, t + steps - 1, 2):
        lost += two_steps(lanes, p, s)
    if steps % 2 == 1:
        lost += one_step(lanes, p, t + steps - 1)
    return lost


@njit(**PART)
def sum_of(lanes):  # type: ignore[no-untyped-def]
    """NaN if a state is not finite, else 0."""
    total = 0.0
    for i in range(DIM):
        for j in range(LANES):
            total = add(total, lanes[i, j], 0.0)
    return total


@njit(**PART)
def stretch(s, steps, every, most):  # type: ignore[no-untyped-def]
    """How many steps to make in one go after s of them: a part of one block of records, or a few whole ones."""
    part = min(most, every - s % every)
    blocks = min(ROWS, max(1, most // every))
    return min(every * blocks, steps - s) if part == every else part


@njit(**PART)
def fill(lanes, p, escaped):  # type: ignore[no-untyped-def]
    """Put a member that lives on into each lane without one. Returns whether there is one."""
    living = -1
    for j in range(escaped.shape[0]):
        if escaped[j] < 0:
            living = j
    for j in range(LANES if living >= 0 else 0):
        if j >= escaped.shape[0] or escaped[j] >= 0:
            for i in range(DIM):
                lanes[i, j] = lanes[i, living]
            for i in range(PARAMETERS):
                p[i, j] = p[i, living]
    return living >= 0


@njit(**PART)
def observe_each(seen, p, t, every, columns, records, first, last):  # type: ignore[no-untyped-def]
    """Records of all members from the states seen at the beginnings of blocks first … last − 1."""
    x = stack(1, SPAN)[0]
    for j in range(records.shape[0]):
        for block in range(first, last):
            for i in range(DIM):
                x[i] = seen[(block - first) * DIM + i, j]
            observe(x, p[j], t + (block - first) * every, columns, records[j, block])


@njit(**PART)
def observe_columns(seen, p, t, every, columns, records, first, last):  # type: ignore[no-untyped-def]
    """The same where only coordinates are observed."""
    for c in range(columns.shape[0]):
        for j in range(records.shape[0]):
            for block in range(first, last):
                records[j, block, c] = seen[(block - first) * DIM + columns[c], j]


write_seen = observe_columns if COORDINATES else observe_each


@njit(**PART)
def make_again(lanes, kept, p, t, steps, every, columns, records, first, last, escaped):  # type: ignore[no-untyped-def]
    """The stretch of all members from where they were kept, one after the other; an escaped one leaves NaN."""
    x, y = stack(1, SPAN)[0], stack(1, SPAN)[0]
    for j in range(escaped.shape[0]):
        for i in range(DIM):
            x[i] = kept[i, j]
        escaped[j] = orbit_of_one(x, p[j], t, steps, every, columns, records[j], first, last, escaped[j], y)
        for i in range(DIM):
            lanes[i, j] = x[i] if escaped[j] < 0 else np.nan


@loop(_nrt=False)
def orbit(states, parameters, t, steps, every, columns, all_records, at, all_escaped, here, y):  # type: ignore[no-untyped-def]
    """Advance states in place, recording each `every` steps, from records[:, at] on, unless it has zero length."""
    lanes, kept, q, seen = stack(SPAN, LANES), stack(SPAN, LANES), stack(PARAMETERS, LANES), stack(SEEN, LANES)
    start(states, t, all_escaped)
    for m in range(0, states.shape[0], LANES):
        x, p, s, lost, side = states[m : m + LANES], parameters[m : m + LANES], 0, True, False
        records, escaped, count, most = all_records[m : m + LANES], all_escaped[m : m + LANES], x.shape[0], 0
        for j in range(count):
            for i in range(DIM):
                lanes[i, j] = x[j, i]
            for i in range(PARAMETERS):
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
                for i in range(DIM if first + block < last else 0):
                    put(seen[block * DIM + i], lanes[i])
                total += advance_lanes(lanes, q, t + s + block * hop, hop)
            lost = total + (sum_of(lanes) if LASTING else 0.0) != 0.0
            if lost:
                make_again(lanes, kept, p, t + s, size, hop, columns, records, first, last, escaped)
            else:
                write_seen(seen, p, t + s, every, columns, records, first, last)
                for j in range(count):
                    for block in range(first, last if escaped[j] >= 0 else first):
                        blank(records[j, block])
            s += size
        for j in range(count):
            for i in range(DIM):
                x[j, i] = lanes[i, j] if escaped[j] < 0 else np.nan
