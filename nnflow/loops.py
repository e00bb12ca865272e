"""The verbs as compiled loops over members: a template, never imported.

`compiled.py` copies this text into the cache once per (rule, dimension, k), with the names below bound to the map's
own functions and constants, so that numba compiles them as constants and finds the machine code on disk next time.

Two things make it fast to run and to compile. The loops own no array (scratch comes in as an argument), so they are
compiled without reference counting (numba's `_nrt`), which would cost more than a step of a small map. And their parts
are inlined before compilation: each compiled function in a chain of calls would optimise the whole rule once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

rule: Callable[..., None]  # (x, p, t, out): one step of one member
frame_tangent: Callable[..., None]  # (x, p, t, V, out): the tangent map on the rows of V (k, dim)
tangent: Callable[..., None]  # (x, p, t, v, out): the same on one vector
hessian: Callable[..., None]  # (x, p, t, V, out): the loss Hessian on the rows of V (k, weights)
observe: Callable[..., None]  # (x, p, t, out): what is recorded
DIM: int
K: int
PERIODS: Any  # (dim,) float64, 0 = not an angle
LANES: int  # members in lockstep: their independent operations overlap in the processor

LOOP: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "_nrt": False}  # owns no array
OWNER: dict[str, Any] = {**LOOP, "_nrt": True}  # may allocate
PART: dict[str, Any] = {"inline": "always", "error_model": "numpy"}
ASSOCIATIVE = {"reassoc", "contract", "nsz", "arcp"}  # lets sums vectorise; NaN and inf keep their meaning


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


@njit(**PART)
def move(x, p, t, steps, escaped, m, lanes, y):  # type: ignore[no-untyped-def]
    """Advance members m … m + lanes − 1 in lockstep; an escaped member turns NaN and stays."""
    for s in range(t, t + steps):
        for j in range(lanes):
            if escaped[m + j] < 0:
                rule(x[m + j], p[m + j], s, y[j])
                if finite(y[j]):
                    put(x[m + j], y[j])
                else:
                    blank(x[m + j])
                    escaped[m + j] = s + 1


@njit(**PART)
def start(x, t, escaped):  # type: ignore[no-untyped-def]
    """Members that are not finite to begin with have escaped at t."""
    for m in range(x.shape[0]):
        if not finite(x[m]):
            blank(x[m])
            escaped[m] = t


@njit(**PART)
def record(x, p, t, escaped, m, lanes, block, records):  # type: ignore[no-untyped-def]
    """Write what is observed of members m … m + lanes − 1; NaN for an escaped one."""
    for j in range(lanes):
        if escaped[m + j] < 0:
            observe(x[m + j], p[m + j], t, records[m + j, block])
        else:
            blank(records[m + j, block])


@njit(**PART)
def orbit_of(x, p, t, steps, every, records, escaped, m, lanes, y):  # type: ignore[no-untyped-def]
    """The orbit of members m … m + lanes − 1; records of zero length record nothing."""
    for block in range(steps // every):
        s = t + block * every
        if records.shape[1] > 0:
            record(x, p, s, escaped, m, lanes, block, records)
        move(x, p, s, every, escaped, m, lanes, y)


@njit(**LOOP)
def orbit(x, p, t, steps, every, records, escaped, y):  # type: ignore[no-untyped-def]
    """Advance x in place, recording each `every` steps unless records has zero length."""
    start(x, t, escaped)
    whole = x.shape[0] - x.shape[0] % LANES
    for m in range(0, whole, LANES):
        orbit_of(x, p, t, steps, every, records, escaped, m, LANES, y)
    for m in range(whole, x.shape[0]):
        orbit_of(x, p, t, steps, every, records, escaped, m, 1, y)


@njit(**LOOP, forceinline=True, fastmath=ASSOCIATIVE)
def dot(v, i, j):  # type: ignore[no-untyped-def]
    """The inner product of rows i and j."""
    total = 0.0
    for c in range(DIM):
        total += v[i, c] * v[j, c]
    return total


@njit(**LOOP, forceinline=True, fastmath=ASSOCIATIVE)
def project(v, j, r):  # type: ignore[no-untyped-def]
    """Take from row j its components along the rows before it, adding them to R; returns the squared length left.

    Four rows at a time: their sums do not wait for one another, and row j is read and written a quarter as often.
    """
    i = 0
    while i + 4 <= j:
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        for n in range(DIM):
            a += v[i, n] * v[j, n]
            b += v[i + 1, n] * v[j, n]
            c += v[i + 2, n] * v[j, n]
            d += v[i + 3, n] * v[j, n]
        for n in range(DIM):
            v[j, n] -= (a * v[i, n] + b * v[i + 1, n]) + (c * v[i + 2, n] + d * v[i + 3, n])
        r[i, j] += a
        r[i + 1, j] += b
        r[i + 2, j] += c
        r[i + 3, j] += d
        i += 4
    while i < j:
        a = dot(v, i, j)
        for n in range(DIM):
            v[j, n] -= a * v[i, n]
        r[i, j] += a
        i += 1
    return dot(v, j, j)


@njit(**LOOP, forceinline=True)
def divide(v, j, divisor):  # type: ignore[no-untyped-def]
    """Row j, divided."""
    for c in range(DIM):
        v[j, c] /= divisor


@njit(**LOOP)
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


@njit(**LOOP, forceinline=True)
def orthonormalise(v, r, spare):  # type: ignore[no-untyped-def]
    """Gram–Schmidt on the rows of v (k, dim), repeated where cancellation asks for it; r (k, k) is the factor R."""
    if DIM == 2 and K == 2 and orthonormalise_plane(v, r):
        return
    for j in range(K):
        for i in range(K):
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
    for j in range(K):
        for c in range(DIM):
            good &= abs(v[j, c]) < np.inf
    return good


@njit(**PART)
def lose(v, r):  # type: ignore[no-untyped-def]
    """A frame that is no longer finite, or whose member escaped."""
    for j in range(K):
        blank(v[j])
        blank(r[j])


@njit(**PART)
def carry(x, p, t, steps, v, w, y):  # type: ignore[no-untyped-def]
    """Advance one state and its frame; returns the step index of the first state that is not finite, or -1."""
    for s in range(t, t + steps):
        frame_tangent(x, p, s, v, w)
        rule(x, p, s, y)
        if not finite(y):
            blank(x)
            return s + 1
        put(x, y)
        copy(v, w)
    return -1


@njit(**LOOP)
def tangent_orbit(x, p, t, frame, steps, every, stretches, frames, factors, escaped, y, w, r, spare):  # type: ignore[no-untyped-def]
    """Carry each member's frame along its orbit; frames and factors of zero length are not kept."""
    start(x, t, escaped)
    for m in range(x.shape[0]):
        state, parameters, v = x[m], p[m], frame[m]
        for block in range(steps // every):
            if frames.shape[1] > 0:
                copy(frames[m, block], v)
            if escaped[m] < 0:
                escaped[m] = carry(state, parameters, t + block * every, every, v, w, y)
            if escaped[m] < 0 and usable(v):
                orthonormalise(v, r, spare)
            else:
                lose(v, r)
            for j in range(K):
                stretches[m, block, j] = np.log(r[j, j])
            if factors.shape[1] > 0:
                copy(factors[m, block], r)


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


@njit(**OWNER)
def separation_orbit(x, y, p, t, steps, every, norm, distances, escaped):  # type: ignore[no-untyped-def]
    """Advance x and its perturbed copies y (member, perturbation, dim) in place, recording their distances."""
    z, gone = np.empty((1, DIM)), np.empty(1, np.int64)
    start(x, t, escaped)
    for m in range(x.shape[0]):
        for j in range(y.shape[1]):
            gone[0] = -1
            start(y[m, j : j + 1], t, gone)
        for block in range(steps // every):
            s = t + block * every
            for j in range(y.shape[1]):
                distances[m, j, block] = distance(x[m], y[m, j], norm)
                gone[0] = 0 if np.isnan(y[m, j, 0]) else -1
                move(y[m, j : j + 1], p[m : m + 1], s, every, gone, 0, 1, z)
            move(x, p, s, every, escaped, m, 1, z)


@njit(**OWNER)
def curvature(x, p, t, v, out):  # type: ignore[no-untyped-def]
    """The loss Hessian of each member on its vectors v (member, k, weights)."""
    for m in range(x.shape[0]):
        hessian(x[m], p[m], t, v[m], out[m])


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
