"""The verbs as compiled loops over members, built for one rule: ordinary functions that close over it.

Each factory below is called with a map's compiled functions and its `Shape`, whose numbers are constants of the machine
code, and returns one entry point; `machine` finds its code on disk again by the `mark`, the fingerprint of all that
goes in. Where a rule runs straight through, `lanes` has another orbit, with members side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnflow.compiled.frames import gram_schmidt
from nnflow.compiled.memory import sealed, stack
from nnflow.compiled.ways import Rule, part, rule
from nnflow.machine import loop
from nnflow.typing import Array, Integers

Constants = tuple[Any, ...]
ROOT = 6.055454452393343e-06  # the third root of the rounding unit: where central differences are most exact
LEAST, FLOOR = 1e-8, 1e-4  # as in `differences`: constants of machine code stand here, and so in its fingerprint


class Shape(NamedTuple):
    """What the machine code of a map's loops depends on beside its functions."""

    dim: int
    parameters: int
    periods: tuple[float, ...]  # of each component, 0 = not an angle
    small: bool  # whether a state, and so a frame, lies on the stack …
    width: int  # … and then the vectors of a frame; elsewhere 1
    constants: bool = False  # whether the map's functions are given its constants
    units: tuple[float, ...] = ()  # of each component, for differences in place of a tangent (see `Map.units`)

    def ignoring(self, arguments: int) -> int | None:
        """So many arguments, if the map's functions know of no constants."""
        return None if self.constants else arguments


# -- pieces ----------------------------------------------------------------------------------------------------------


@part
def put(a: Array, b: Array) -> None:
    """a = b, component by component (a slice assignment costs ten times as much on a small state)."""
    for i in range(a.shape[0]):
        a[i] = b[i]


@part
def copy(a: Array, b: Array) -> None:
    """The same for two matrices."""
    for i in range(a.shape[0]):
        put(a[i], b[i])


@part
def blank(a: Array) -> None:
    """a = NaN."""
    for i in range(a.shape[0]):
        a[i] = np.nan


@part
def blank_rows(a: Array) -> None:
    """The same of a matrix."""
    for i in range(a.shape[0]):
        blank(a[i])


@part
def choose(x: Array, columns: Integers, out: Array) -> None:
    """Record some of the coordinates."""
    for c in range(columns.shape[0]):
        out[c] = x[columns[c]]


@lru_cache(maxsize=64)
def is_finite(dim: int) -> Callable[[Array], bool]:
    """Build what tells whether all components are finite."""

    @part
    def finite(x: Array) -> bool:
        good = True
        for i in range(dim):
            good &= abs(x[i]) < np.inf
        return good

    return finite


@lru_cache(maxsize=64)
def beginning(dim: int) -> Callable[[Array, int, Integers], None]:
    """Build what lets members that are not finite to begin with have escaped at t."""
    finite = is_finite(dim)

    @part
    def start(x: Array, t: int, escaped: Integers) -> None:
        for m in range(x.shape[0]):
            if escaped[m] < 0 and not finite(x[m]):
                blank(x[m])
                escaped[m] = t

    return start


@lru_cache(maxsize=64)
def rooms(small: bool, rows: int, columns: int) -> Callable[[Array], Array]:
    """Build what gives room for a matrix: on the stack if the map is small, else the scratch that comes in."""

    @part
    def room(scratch: Array) -> Array:
        if small:
            return stack(rows, columns)
        return scratch

    return room


@lru_cache(maxsize=256)
def following(step: Rule, dim: int) -> Callable[..., int]:
    """Build what advances one state.

    Args:
        step: The rule.
        dim: Components of a state.

    Returns:
        A function that returns the step index of the first state that is not finite, which turns it NaN, or -1.
    """
    finite = is_finite(dim)

    @part
    def follow(x: Array, p: Array, t: int, c: Constants, steps: int, y: Array) -> int:
        for s in range(t, t + steps):
            step(sealed(x), p, s, c, y)
            if not finite(y):
                blank(x)
                return s + 1
            put(x, y)
        return -1

    return follow


@lru_cache(maxsize=256)
def recording(step: Rule, dim: int) -> Callable[..., int]:
    """Build what advances one state, recording each `every` steps into records[first:last], NaN from its escape on.

    Args:
        step: The rule.
        dim: Components of a state.

    Returns:
        A function that returns when the state escaped, before or now; -1 if it did not.
    """
    follow = following(step, dim)

    @part
    def record(
        x: Array, p: Array, t: int, c: Constants, steps: int, every: int, columns: Integers, records: Array,
        first: int, last: int, escaped: int, y: Array,
    ) -> int:  # fmt: skip
        for block in range(steps // every):
            s = t + block * every
            if first + block < last:
                if escaped < 0:
                    choose(x, columns, records[first + block])
                else:
                    blank(records[first + block])
            if escaped < 0:
                escaped = follow(x, p, s, c, every, y)
        return escaped

    return record


# -- entry points ------------------------------------------------------------------------------------------------------


def orbit_loop(mark: str, step: Rule, shape: Shape) -> Rule:
    """Build what advances states in place, recording coordinates each `every` steps into records[:, at:]."""
    record, start, room = recording(step, shape.dim), beginning(shape.dim), rooms(shape.small, 1, shape.dim)

    @loop(mark, _nrt=False)
    def orbit(
        x: Array, p: Array, t: int, c: Constants, steps: int, every: int, columns: Integers, records: Array, at: int,
        escaped: Integers, scratch: Array, spare: Array,
    ) -> None:  # fmt: skip
        here, y = room(scratch)[0], room(spare)[0]
        start(x, t, escaped)
        for m in range(x.shape[0]):
            put(here, x[m])
            end = records.shape[1]
            escaped[m] = record(here, p[m], t, c, steps, every, columns, records[m], at, end, escaped[m], y)
            put(x[m], here)

    return orbit


def tangent_loop(mark: str, joint: Rule, shape: Shape) -> Rule:
    """Build what carries each member's frame along its orbit; frames and factors of zero length are not kept."""
    dim, width = shape.dim, shape.width
    finite, start, orthonormalise = is_finite(dim), beginning(dim), gram_schmidt(dim)
    room, room_for_frame, room_for_factor = (
        rooms(shape.small, rows, columns) for rows, columns in ((1, dim), (width, dim), (width, width))
    )

    @part
    def carry(x: Array, p: Array, t: int, c: Constants, steps: int, v: Array, w: Array, y: Array) -> int:
        """Advance a state and its frame; returns the step index of the first state that is not finite, or -1."""
        for s in range(t, t + steps):
            joint(sealed(x), p, s, c, sealed(v), y, w)
            if not finite(y):
                blank(x)
                return s + 1
            put(x, y)
            copy(v, w)
        return -1

    @part
    def usable(v: Array) -> bool:
        good = True
        for j in range(v.shape[0]):
            good &= finite(v[j])
        return good

    @loop(mark, _nrt=False)
    def tangent_orbit(
        x: Array, p: Array, t: int, c: Constants, frame: Array, steps: int, every: int, stretches: Array,
        frames: Array, factors: Array, escaped: Integers, here_: Array, y_: Array, v_: Array, w_: Array, r_: Array,
        spare: Array,
    ) -> None:  # fmt: skip
        here, y = room(here_)[0], room(y_)[0]
        v, w, r = room_for_frame(v_), room_for_frame(w_), room_for_factor(r_)
        start(x, t, escaped)
        for m in range(x.shape[0]):
            put(here, x[m])
            copy(v, frame[m])
            for block in range(steps // every):
                if frames.shape[1] > 0:
                    copy(frames[m, block], v)
                if escaped[m] < 0:
                    escaped[m] = carry(here, p[m], t + block * every, c, every, v, w, y)
                if escaped[m] < 0 and usable(v):
                    orthonormalise(v, r, spare)
                else:  # a frame that is no longer finite, or whose member escaped
                    for j in range(v.shape[0]):
                        blank(v[j])
                        blank(r[j])
                for j in range(r.shape[0]):
                    stretches[m, block, j] = np.log(r[j, j])
                if factors.shape[1] > 0:
                    copy(factors[m, block], r)
            put(x[m], here)
            copy(frame[m], v)

    return tangent_orbit


def separation_loop(mark: str, step: Rule, shape: Shape) -> Rule:
    """Build what advances x and its perturbed copies y (member, perturbation, dim) in place, recording distances."""
    dim, periods = shape.dim, np.array(shape.periods)
    follow, finite, start, room = following(step, dim), is_finite(dim), beginning(dim), rooms(shape.small, 1, dim)

    @part
    def distance(x: Array, y: Array, norm: int) -> float:
        """Of two states, angles the short way round; norm 0 = L1, 1 = L2, 2 = max."""
        total = 0.0
        for i in range(dim):
            d = y[i] - x[i]
            if periods[i] > 0.0:
                d -= periods[i] * np.round(d / periods[i])
            if norm == 0:
                total += abs(d)
            elif norm == 1:
                total += d * d
            elif abs(d) > total or d != d:
                total = abs(d)
        return np.sqrt(total) if norm == 1 else total

    @loop(mark, _nrt=False)
    def separation_orbit(
        x: Array, y: Array, p: Array, t: int, c: Constants, steps: int, every: int, norm: int, distances: Array,
        escaped: Integers, scratch: Array,
    ) -> None:  # fmt: skip
        z = room(scratch)[0]
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
                        follow(y[m, j], p[m], s, c, every, z)
                if escaped[m] < 0:
                    escaped[m] = follow(x[m], p[m], s, c, every, z)

    return separation_orbit


def curvature_loop(mark: str, hessian: Rule) -> Rule:
    """Build the loss Hessian of each member on its vectors v (member, k, weights)."""

    @loop(mark, _nrt=True)
    def curvature(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array) -> None:
        for m in range(x.shape[0]):
            hessian(sealed(x[m]), p[m], t, c, sealed(v[m]), out[m])

    return curvature


# -- constants, tangents -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def without_constants(function: Rule, arguments: int) -> Rule:
    """Build what leaves the constants out for a function of (x, p, t) and so many arguments."""

    @part
    def value(x: Array, p: Array, t: int, c: Constants) -> Any:
        return function(x, p, t)

    @part
    def one(x: Array, p: Array, t: int, c: Constants, a: Array) -> None:
        function(x, p, t, a)

    @part
    def two(x: Array, p: Array, t: int, c: Constants, a: Array, b: Array) -> None:
        function(x, p, t, a, b)

    @part
    def three(x: Array, p: Array, t: int, c: Constants, a: Array, b: Array, d: Array) -> None:
        function(x, p, t, a, b, d)

    return (value, one, two, three)[arguments]


@lru_cache(maxsize=256)
def from_nothing(function: Rule, arguments: int, rows: bool) -> Rule:
    """Build what puts NaN into what a function is to write: what it leaves out then shows.

    Args:
        function: Its last argument is written; of three, the middle one, too.
        arguments: How many stand behind (x, p, t, c).
        rows: Whether the last one is a matrix.

    Returns:
        A function of the same arguments.
    """

    @part
    def one(x: Array, p: Array, t: int, c: Constants, out: Array) -> None:
        blank(out)
        function(x, p, t, c, out)

    @part
    def two(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array) -> None:
        blank(out)
        function(x, p, t, c, v, out)

    @part
    def two_of_rows(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array) -> None:
        blank_rows(out)
        function(x, p, t, c, v, out)

    @part
    def three(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array, w: Array) -> None:
        blank(out)
        blank_rows(w)
        function(x, p, t, c, v, out, w)

    made: dict[int, Rule] = {1: one, 2: two_of_rows if rows else two, 3: three}
    return made[arguments]


@lru_cache(maxsize=256)
def one_by_one(tangent: Rule) -> Rule:
    """Build the tangent map on a frame, vector by vector."""

    @part
    def frame_tangent(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array) -> None:
        for j in range(v.shape[0]):
            tangent(x, p, t, c, v[j], out[j])

    return frame_tangent


@lru_cache(maxsize=256)
def one_after_the_other(step: Rule, frame_tangent: Rule) -> Rule:
    """Build the step and the tangent map of a rule that shares nothing between them."""

    @part
    def joint(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array, w: Array) -> None:
        frame_tangent(x, p, t, c, v, w)
        step(x, p, t, c, out)

    return joint


@lru_cache(maxsize=256)
def by_differences(step: Rule, shape: Shape) -> Rule:
    """Build the tangent map on a frame by central differences of the rule, as wide as `Map.tangent` has them."""
    dim, periods, units = shape.dim, np.array(shape.periods), np.array(shape.units or (0.0,) * shape.dim)

    @rule
    def frame_tangent(x: Array, p: Array, t: int, c: Constants, v: Array, out: Array) -> None:
        ahead, behind, width = np.empty(dim), np.empty(dim), np.empty(dim)
        step(x, p, t, c, ahead)
        largest = 0.0
        for i in range(dim):
            width[i] = max(abs(x[i]), abs(ahead[i]))
            largest = max(largest, width[i])
        for i in range(dim):
            unit, least = (units[i], units[i]) if units[i] > 0.0 else (1.0, max(LEAST * largest, FLOOR))
            size = max(width[i], least)
            width[i] = max(ROOT * unit * np.sqrt(size / unit), ROOT * ROOT * size)
        for j in range(v.shape[0]):
            longest, square = 0.0, 0.0
            for i in range(dim):
                longest = max(longest, abs(v[j, i] / width[i]))
            longest = longest if longest > 0.0 else 1.0
            for i in range(dim):
                square += (v[j, i] / width[i] / longest) ** 2
            h = 1.0 / (longest * np.sqrt(square)) if square > 0.0 else 1.0
            step(sealed(x + h * v[j]), p, t, c, ahead)
            step(sealed(x - h * v[j]), p, t, c, behind)
            for i in range(dim):
                d = ahead[i] - behind[i]
                if periods[i] > 0.0:
                    d -= periods[i] * np.round(d / periods[i])
                out[j, i] = d / (2.0 * h)

    return frame_tangent
