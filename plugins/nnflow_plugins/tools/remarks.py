"""What a result says of itself where a number alone would mislead: remarks that several analyses share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import Array, Ensemble, Recording, ResolutionWarning, heard_by

Go = Callable[[Ensemble, int], Ensemble]

LOOK = 32
"""Steps over which an orbit at rest stays where it is."""

UNSTABLE = np.log(1000.0) / LOOK
"""Nats a step at which a perturbation must grow over LOOK steps for a point to be unstable: what is neutral may grow
by a shear, LOOK times or a few times that."""

KEPT = 1e-3
"""What the first step leaves of a perturbation of coordinates that are unstable by themselves, at least."""

FLICKER = 64
"""A stable fixed point is left and met again by rounding: its digits move by some tens of units in the last place."""


def at_rest(before: Ensemble, after: Ensemble, growth: Array, go: Go) -> dict[str, Any]:
    """The variables `at_rest`, whether the orbit ended on a point that more steps do not move, and `put_to_rest`.

    Not moved means by no more than rounding, of the present state or of that of `before`. Where the growth is more than
    the digits of a number, −ln resolution, an orbit that got to rest was put there by rounding (at r = 4 the logistic
    map falls on 0 sooner or later, the doubling map after 55 steps): the growth is then that of a fixed point and not
    of chaos. So is, in part, that of an orbit of which some coordinates were put to rest (see `put_to_rest`).

    Args:
        before: Where the orbit started.
        after: Where it ended.
        growth: ``(member,)``, in nats: how much the fastest perturbation grew on the way.
        go: So many steps of an ensemble, by the verb that the analysis uses, for which there is machine code already.

    Returns:
        Name → dims, values ``(member,)`` and attributes.

    Warns:
        ResolutionWarning: of orbits that rounding put to rest, unless they were at rest from the beginning.
    """
    fallen, whole = _fallen(before, after, go)
    told = whole & ~np.isinf(growth)  # −inf: a step on the way was taken where the derivative is 0
    put = told & fallen.any(axis=1) & (growth > -np.log(after.map.resolution))
    if (rest := fallen & ~told[:, None]).any():
        put = put | _leaves(before, after, rest)
    note = "an orbit at rest whose exponent is positive was put on an unstable fixed point, by rounding or its start"
    return {
        "at_rest": ("member", whole, {"long_name": "whether the orbit ended at rest", "note": note}),
        "put_to_rest": _told(put, "exponents"),
    }


def put_to_rest(before: Ensemble | Recording, after: Ensemble | Recording) -> dict[str, Any]:
    """The variable `put_to_rest`: whether rounding, or its start, put the orbit of a map on an unstable point.

    Then the series is that of the point, constant, however chaotic the map. The same is asked of the coordinates that
    stand still where others move on: a chaotic driver that has died drives no more. The point is unstable if a copy a
    little aside of it parts by UNSTABLE or more; it was reached by rounding if growth at this rate, all the way, is
    more than the digits of a number. Where all coordinates move at the end, it takes one step to see that.

    Args:
        before: Where the orbit started.
        after: Where it ended.

    Returns:
        Name → dims, values ``(member,)`` and attributes; nothing for a recording.

    Warns:
        ResolutionWarning: of such orbits, unless they were at rest from the beginning.
    """
    if isinstance(before, Recording) or isinstance(after, Recording):
        return {}
    fallen = _fallen(before, after, Ensemble.advance)[0]
    return {"put_to_rest": _told(_leaves(before, after, fallen), "series")}


def _told(put: npt.NDArray[np.bool_], what: str) -> tuple[str, npt.NDArray[np.bool_], dict[str, Any]]:
    """The variable `put_to_rest`. Warns of the members of which it is true."""
    if put.any():
        warnings.warn(
            "orbits have come to rest on an unstable point, or some of their coordinates have (see put_to_rest): "
            f"rounding has put them there, or their start, and their {what} are not those of chaos; take fewer steps, "
            "or a parameter a little aside (the logistic map's r = 3.9999 for 4)",
            ResolutionWarning,
            stacklevel=3,
        )
    note = "where this is true the orbit, or some of its coordinates, ended on an unstable point: no chaos there"
    return "member", put, {"long_name": "whether rounding put the orbit to rest", "note": note}


def _fallen(before: Ensemble, after: Ensemble, go: Go) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which coordinates have come to rest ``(member, dim)``, and whether all of them are at rest ``(member,)``."""
    parts, whole = _resting(after, before, go)
    if not (parts.any() or whole.any()):
        return parts, whole
    begun, begun_whole = _resting(before, before, go)
    return np.where(whole[:, None], ~begun_whole[:, None], parts & ~begun), whole


def _leaves(before: Ensemble, after: Ensemble, fallen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether coordinates at rest, ``(member, dim)``, would leave a little aside, by more than the digits of a number.

    Returns:
        ``(member,)``.
    """
    found = fallen.any(axis=1)
    if found.any():
        rates = _parting(after, before, fallen)
        found = found & (rates > UNSTABLE) & (rates * (after.t - before.t) > -np.log(after.map.resolution))
    return np.asarray(found)


def _scale(now: Ensemble, before: Ensemble) -> Array:
    """The size of the states, ``(member,)``; an angle has the scale of its turn."""
    turns = [now.map.periods.get(name, 0.0) for name in now.map.coordinates]
    states = now.states, before.states, np.broadcast_to(turns, now.states.shape)
    return np.asarray(np.abs(states).max(axis=(0, 2)))


def _resting(now: Ensemble, before: Ensemble, go: Go) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """What stands still in each of LOOK steps: what drifts goes on, what flickers does not.

    Returns:
        Each coordinate ``(member, dim)``, by its own size, however small it is beside others; and the whole states
        ``(member,)``, by theirs.
    """
    eps, states = FLICKER * now.map.resolution, now.states
    own, all_of_it = eps * np.abs(states), eps * _scale(now, before)
    parts, whole, ahead = np.ones(states.shape, dtype=bool), np.ones(len(now), dtype=bool), now
    for _ in range(LOOK):
        with heard_by(None):  # it is no step of the run
            ahead = go(ahead, 1)
        moved = np.abs(now.difference(ahead.states, states))
        parts &= moved <= own
        whole &= moved.max(axis=1) <= all_of_it
        if not (parts.any() or whole.any()):
            break
    return parts, whole


def _parting(now: Ensemble, before: Ensemble, fallen: npt.NDArray[np.bool_]) -> Array:
    """How fast copies a little aside of the states part: ln (distance after LOOK steps / distance before) / LOOK.

    Those coordinates that have fallen ``(member, dim)`` are moved and measured, for others may move on. The distance
    before is resolution^¾ of the scale: well above rounding, and room for growth above it. The direction is the same
    for all, and none that a symmetry might prefer; optimizer memory stays, for it may have to be positive. Both ways
    are gone, since the map may not be defined on one side. Where others do move on, the first step is not to lose what
    was moved: a unit that is off comes on again by what moves it, whatever was done to itself.

    Returns:
        ``(member,)``, the larger one, in nats a step; −inf if neither is finite.
    """
    moved = fallen & now.map.chosen("weights")
    moved = np.where(moved.any(axis=1, keepdims=True), moved, fallen)
    way = np.where(moved, np.cos(1.0 + np.arange(now.map.dim)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        aside = now.map.resolution**0.75 * _scale(now, before)[:, None] * way / np.abs(way).max(axis=1, keepdims=True)
    aside, rates = np.nan_to_num(aside), np.full(len(now), -np.inf)
    with heard_by(None), np.errstate(divide="ignore", invalid="ignore"):
        size, ahead = np.abs(aside).max(axis=1), [now.advance(steps) for steps in (1, LOOK)]
        for sign in (1.0, -1.0):
            beside = now.with_states(now.states + sign * aside)
            apart = (now.difference(beside.advance(at.t - now.t).states, at.states) for at in ahead)
            first, last = (np.where(fallen, np.abs(each), 0.0).max(axis=1) / size for each in apart)
            kept = fallen.all(axis=1) | (first > KEPT)
            rates = np.fmax(rates, np.where(kept, np.log(last) / LOOK, -np.inf))
    return rates


def start_counts(transient: int) -> dict[str, str]:
    """The attribute `note` of an exponent without a transient."""
    if transient:
        return {}
    return {
        "note": "transient = 0: the first steps count, in which the frame turns from random directions, the orbit "
        "settles, and an optimiser's memory fills (the first step of Adam from empty memory can stretch by 1/epsilon)"
    }
