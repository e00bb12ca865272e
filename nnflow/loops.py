"""The verbs as compiled loops over members: a template, never imported.

`compiled.py` executes this text once per rule (and number of vectors, where a frame lies on the stack), with the names
below bound to the map's own functions and constants, so that numba compiles them as constants; `machine.py` finds the
machine code on disk next time. Where `lanes.py` stands behind it, the ensembles of a small map run side by side.

Two things make it fast to run and to compile. The loops own no array (scratch comes in as an argument, or lies on the
stack where the map is small, so that the processor holds it in registers), so they are compiled without reference
counting (numba's `_nrt`), which would cost more than a step of a small map. And their parts are inlined before
compilation: each compiled function in a chain of calls would optimise the whole rule once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from nnflow.arithmetic import add_product, eight, eight_at, fma, sum_of_lanes

rule: Callable[..., None]  # (x, p, t, out): one step of one member
frame_tangent: Callable[..., None]  # (x, p, t, V, out): the tangent map on the rows of V (k, dim)
tangent: Callable[..., None]  # (x, p, t, v, out): the same on one vector
joint: Callable[..., None]  # (x, p, t, V, out, W): the step into out, the tangent map on V into W
hessian: Callable[..., None]  # (x, p, t, V, out): the loss Hessian on the rows of V (k, weights)
observe: Callable[..., None]  # (x, p, t, columns, out): what is recorded
DIM: int
WHOLE: int  # the multiple of 8 up to DIM: so many components go in lanes of eight
PERIODS: Any  # (dim,) float64, 0 = not an angle
PARAMETERS: int
COORDINATES: bool  # whether nothing but coordinates is observed
SMALL: bool  # whether a state and a frame lie on the stack
LASTING: bool  # whether a state that is not finite is followed by such states only
SPAN: int  # dim where they do …
WIDTH: int  # … and k, the vectors of a frame; elsewhere 1

loop: Callable[..., Any]  # (**options): compile an entry point by itself, to be found again on disk
INSIDE: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}  # a function of its own; owns no array
OWNER: dict[str, Any] = {**INSIDE, "_nrt": True}  # may allocate
PART: dict[str, Any] = {"inline": "always", "error_model": "numpy"}


@njit(**PART)
def finite(x):  # type: ignore[no-untyped-def]
    """Whether all components are finite."""
    good = True
    for i in range(DIM):
        good &= abs(x[i]) < np.inf
    return good


@njit(**PART)
def put(a, b):  # type: ignore[no-untyped-def]
    """a = b, component by component (a slice assignment costs ten times as much on a small state)."""
    for i in range(a.shape[0]):
        a[i] = b[i]


@njit(**PART)
def copy(a, b):  # type: ignore[no-untyped-def]
    """The same for two matrices."""
    for i in range(a.shape[0]):
        put(a[i], b[i])


@njit(**PART)
def blank(a):  # type: ignore[no-untyped-def]
    """a = NaN."""
    for i in range(a.shape[0]):
        a[i] = np.nan


def _stack(context, rows, columns):  # type: ignore[no-untyped-def]
    """A float64 array (rows, columns), both constants, on the stack and on a cache line."""
    shape = rows.literal_value, columns.literal_value

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.DoubleType(), shape[0] * shape[1]))
        memory.align = 64
        array = context.make_array(signature.return_type)(context, builder)
        integers = [context.get_constant(types.intp, value) for value in (*shape, 8 * shape[1], 8)]
        pointer = builder.bitcast(memory, array.data.type)
        populate_array(array, pointer, integers[:2], integers[2:], integers[3], None)
        return array._getvalue()

    return types.Array(types.float64, 2, "C")(rows, columns), build


stack: Any = intrinsic(prefer_literal=True)(_stack)


@njit(**PART)
def room(scratch):  # type: ignore[no-untyped-def]
    """Room for one state."""
    if SMALL:
        return stack(1, SPAN)[0]
    return scratch


@njit(**PART)
def room_for_frame(scratch):  # type: ignore[no-untyped-def]
    """Room for one frame."""
    if SMALL:
        return stack(WIDTH, SPAN)
    return scratch


@njit(**PART)
def room_for_factor(scratch):  # type: ignore[no-untyped-def]
    """Room for one factor R."""
    if SMALL:
        return stack(WIDTH, WIDTH)
    return scratch


@njit(**PART)
def start(x, t, escaped):  # type: ignore[no-untyped-def]
    """Members that are not finite to begin with have escaped at t."""
    for m in range(x.shape[0]):
        if not finite(x[m]):
            blank(x[m])
            escaped[m] = t


@njit(**PART)
def follow(x, p, t, steps, y):  # type: ignore[no-untyped-def]
    """Advance one state; returns the step index of the first that is not finite, which turns it NaN, or -1."""
    for s in range(t, t + steps):
        rule(x, p, s, y)
        if not finite(y):
            blank(x)
            return s + 1
        put(x, y)
    return -1


@njit(**PART)
def write(x, p, t, escaped, columns, out):  # type: ignore[no-untyped-def]
    """Write what is observed of one member; NaN if it has escaped."""
    if escaped < 0:
        observe(x, p, t, columns, out)
    else:
        blank(out)


@njit(**PART)
def orbit_of_one(x, p, t, steps, every, columns, records, first, last, escaped, y):  # type: ignore[no-untyped-def]
    """Advance one state, recording each `every` steps into records[first:last], NaN from its escape on.

    Returns when it escaped, before or now; -1 if it did not.
    """
    for block in range(steps // every):
        s = t + block * every
        if first + block < last:
            write(x, p, s, escaped, columns, records[first + block])
        if escaped < 0:
            escaped = follow(x, p, s, every, y)
    return escaped


@njit(**PART)
def observe_coordinates(x, p, t, columns, out):  # type: ignore[no-untyped-def]
    """Record some of the coordinates."""
    for c in range(columns.shape[0]):
        out[c] = x[columns[c]]


@loop(_nrt=False)
def orbit(x, p, t, steps, every, columns, records, at, escaped, here, y):  # type: ignore[no-untyped-def]
    """Advance x in place, recording each `every` steps, from records[:, at] on, unless records has zero length."""
    here, y = room(here), room(y)
    start(x, t, escaped)
    for m in range(x.shape[0]):
        put(here, x[m])
        escaped[m] = orbit_of_one(here, p[m], t, steps, every, columns, records[m], at, records.shape[1], escaped[m], y)
        put(x[m], here)


@njit(**INSIDE, forceinline=True)
def dot(v, i, j):  # type: ignore[no-untyped-def]
    """The inner product of rows i and j."""
    lanes = eight()
    for c in range(0, WHOLE, 8):
        lanes = add_product(lanes, eight_at(v, i, c), eight_at(v, j, c))
    total = sum_of_lanes(lanes)
    for c in range(WHOLE, DIM):
        total = fma(v[i, c], v[j, c], total)
    return total


@njit(**INSIDE, forceinline=True)
def project(v, j, r):  # type: ignore[no-untyped-def]
    """Take from row j its components along the rows before it, adding them to R; returns the squared length left.

    Four rows at a time: their sums do not wait for one another, and row j is read and written a quarter as often.
    """
    i = 0
    while i + 4 <= j:
        first, second, third, fourth = eight(), eight(), eight(), eight()
        for n in range(0, WHOLE, 8):
            x = eight_at(v, j, n)
            first = add_product(first, eight_at(v, i, n), x)
            second = add_product(second, eight_at(v, i + 1, n), x)
            third = add_product(third, eight_at(v, i + 2, n), x)
            fourth = add_product(fourth, eight_at(v, i + 3, n), x)
        a, b, c, d = sum_of_lanes(first), sum_of_lanes(second), sum_of_lanes(third), sum_of_lanes(fourth)
        for n in range(WHOLE, DIM):
            a, b = fma(v[i, n], v[j, n], a), fma(v[i + 1, n], v[j, n], b)
            c, d = fma(v[i + 2, n], v[j, n], c), fma(v[i + 3, n], v[j, n], d)
        for n in range(DIM):
            v[j, n] = fma(-a, v[i, n], fma(-b, v[i + 1, n], fma(-c, v[i + 2, n], fma(-d, v[i + 3, n], v[j, n]))))
        r[i, j] += a
        r[i + 1, j] += b
        r[i + 2, j] += c
        r[i + 3, j] += d
        i += 4
    while i < j:
        a = dot(v, i, j)
        for n in range(DIM):
            v[j, n] = fma(-a, v[i, n], v[j, n])
        r[i, j] += a
        i += 1
    return dot(v, j, j)


@njit(**INSIDE, forceinline=True)
def divide(v, j, divisor):  # type: ignore[no-untyped-def]
    """Row j, divided."""
    for c in range(DIM):
        v[j, c] /= divisor


@njit(**INSIDE)
def replace(v, j, spare):  # type: ignore[no-untyped-def]
    """Row j vanished: put in its place the unit vector farthest from the rows before it, made orthonormal to them."""
    for c in range(DIM):
        for i in range(DIM):
            v[j, i] = 1.0 if i == c else 0.0
        left = project(v, j, spare)
        if left * (2 * DIM) >= 1.0:  # of all unit vectors, the squares of what is left add up to at least 1
            project(v, j, spare)
            break
    divide(v, j, np.sqrt(dot(v, j, j)))


@njit(**PART)
def orthonormalise_plane(v, r):  # type: ignore[no-untyped-def]
    """Two vectors in the plane: the second becomes the first, turned by a right angle. False if the first is zero."""
    a, b, c, d = v[0, 0], v[0, 1], v[1, 0], v[1, 1]
    length = np.sqrt(a * a + b * b)
    a, b = a / length, b / length
    area = a * d - b * c
    r[0, 0], r[0, 1], r[1, 0], r[1, 1] = length, a * c + b * d, 0.0, abs(area)
    if not length > 0.0:
        return False
    turn = -1.0 if area < 0.0 else 1.0
    v[0, 0], v[0, 1], v[1, 0], v[1, 1] = a, b, -turn * b, turn * a
    return True


@njit(**INSIDE, forceinline=True)
def orthonormalise(v, r, spare):  # type: ignore[no-untyped-def]
    """Gram–Schmidt on the rows of v (k, dim), repeated where cancellation asks for it; r (k, k) is the factor R."""
    if DIM == 2 and v.shape[0] == 2 and orthonormalise_plane(v, r):
        return
    for j in range(v.shape[0]):
        for i in range(v.shape[0]):
            r[i, j] = 0.0
        before = dot(v, j, j)
        after = project(v, j, r) if j > 0 else before
        for _ in range(3):
            if after >= 0.25 * before or after == 0.0:
                break
            before = after
            after = project(v, j, r)
        r[j, j] = np.sqrt(after)
        if r[j, j] > 0.0:
            divide(v, j, r[j, j])
        else:
            replace(v, j, spare)


@njit(**PART)
def usable(v):  # type: ignore[no-untyped-def]
    """Whether every component of a frame is finite."""
    good = True
    for j in range(v.shape[0]):
        for c in range(DIM):
            good &= abs(v[j, c]) < np.inf
    return good


@njit(**PART)
def lose(v, r):  # type: ignore[no-untyped-def]
    """A frame that is no longer finite, or whose member escaped."""
    for j in range(v.shape[0]):
        blank(v[j])
        blank(r[j])


@njit(**PART)
def carry(x, p, t, steps, v, w, y):  # type: ignore[no-untyped-def]
    """Advance one state and its frame; returns the step index of the first state that is not finite, or -1."""
    for s in range(t, t + steps):
        joint(x, p, s, v, y, w)
        if not finite(y):
            blank(x)
            return s + 1
        put(x, y)
        copy(v, w)
    return -1


@loop(_nrt=False)
def tangent_orbit(x, p, t, frame, steps, every, stretches, frames, factors, escaped, here, y, v, w, r, spare):  # type: ignore[no-untyped-def]
    """Carry each member's frame along its orbit; frames and factors of zero length are not kept."""
    here, y, v, w, r = room(here), room(y), room_for_frame(v), room_for_frame(w), room_for_factor(r)
    start(x, t, escaped)
    for m in range(x.shape[0]):
        put(here, x[m])
        copy(v, frame[m])
        for block in range(steps // every):
            if frames.shape[1] > 0:
                copy(frames[m, block], v)
            if escaped[m] < 0:
                escaped[m] = carry(here, p[m], t + block * every, every, v, w, y)
            if escaped[m] < 0 and usable(v):
                orthonormalise(v, r, spare)
            else:
                lose(v, r)
            for j in range(r.shape[0]):
                stretches[m, block, j] = np.log(r[j, j])
            if factors.shape[1] > 0:
                copy(factors[m, block], r)
        put(x[m], here)
        copy(frame[m], v)


@njit(**PART)
def distance(x, y, norm):  # type: ignore[no-untyped-def]
    """The distance of two states, angles the short way round; norm 0 = L1, 1 = L2, 2 = max."""
    total = 0.0
    for i in range(DIM):
        d = y[i] - x[i]
        if PERIODS[i] > 0.0:
            d -= PERIODS[i] * np.round(d / PERIODS[i])
        if norm == 0:
            total += abs(d)
        elif norm == 1:
            total += d * d
        elif abs(d) > total or d != d:
            total = abs(d)
    return np.sqrt(total) if norm == 1 else total


@loop(_nrt=False)
def separation_orbit(x, y, p, t, steps, every, norm, distances, escaped, z):  # type: ignore[no-untyped-def]
    """Advance x and its perturbed copies y (member, perturbation, dim) in place, recording their distances."""
    z = room(z)
    start(x, t, escaped)
    for m in range(x.shape[0]):
        for j in range(y.shape[1]):
            if not finite(y[m, j]):
                blank(y[m, j])
        for block in range(steps // every):
            s = t + block * every
            for j in range(y.shape[1]):
                distances[m, j, block] = distance(x[m], y[m, j], norm)
                if not np.isnan(y[m, j, 0]):
                    follow(y[m, j], p[m], s, every, z)
            if escaped[m] < 0:
                escaped[m] = follow(x[m], p[m], s, every, z)


@loop(_nrt=True)
def curvature(x, p, t, v, out):  # type: ignore[no-untyped-def]
    """The loss Hessian of each member on its vectors v (member, k, weights)."""
    for m in range(x.shape[0]):
        hessian(x[m], p[m], t, v[m], out[m])


@njit(**PART)
def one_after_the_other(x, p, t, v, out, w):  # type: ignore[no-untyped-def]
    """The step and the tangent map of a rule that shares nothing between them."""
    frame_tangent(x, p, t, v, w)
    rule(x, p, t, out)


@njit(**PART)
def one_by_one(x, p, t, v, out):  # type: ignore[no-untyped-def]
    """The tangent map on a frame, vector by vector."""
    for j in range(v.shape[0]):
        tangent(x, p, t, v[j], out[j])


@njit(**OWNER)
def by_differences(x, p, t, v, out):  # type: ignore[no-untyped-def]
    """The tangent map on a frame by central differences of the rule."""
    reach = 1.0
    for i in range(DIM):
        reach = max(reach, abs(x[i]))
    ahead, behind = np.empty(DIM), np.empty(DIM)
    for j in range(v.shape[0]):
        size = np.sqrt(dot(v, j, j))
        h = 6.055454452393343e-06 * reach / (size if size > 0.0 else 1.0)
        rule(x + h * v[j], p, t, ahead)
        rule(x - h * v[j], p, t, behind)
        for i in range(DIM):
            d = ahead[i] - behind[i]
            if PERIODS[i] > 0.0:
                d -= PERIODS[i] * np.round(d / PERIODS[i])
            out[j, i] = d / (2.0 * h)
