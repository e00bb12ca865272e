"""What a result says of itself where a number alone would mislead: remarks that several analyses share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import Array, Ensemble, Recording, ResolutionWarning, heard_by
from nnflow_plugins.tools.observed import gap, share_of, turn_of

Go = Callable[[Ensemble, int], Ensemble]

LOOK = 32
"""Steps over which an orbit at rest stays where it is."""

UNSTABLE = np.log(1000.0) / LOOK
"""Nats a step at which a perturbation must grow over LOOK steps for a point to be unstable: what is neutral may grow
by a shear, LOOK times or a few times that."""

FLICKER = 64
"""A stable fixed point is left and met again by rounding: its digits move by some tens of units in the last place."""


def at_rest(
    before: Ensemble, after: Ensemble, growth: Array, go: Go
) -> tuple[str, npt.NDArray[np.bool_], dict[str, Any]]:
    """The variable `at_rest`: whether the orbit ended on a point that more steps do not move.

    Not moved means by no more than rounding, of the present state or of that of `before`. Where the growth is more than
    the digits of a number, −ln resolution, an orbit that got to rest was put there by rounding (at r = 4 the logistic
    map falls on 0 sooner or later, the doubling map after 55 steps): the growth is then that of a fixed point and not
    of chaos.

    Args:
        before: Where the orbit started.
        after: Where it ended.
        growth: ``(member,)``, in nats: how much the fastest perturbation grew on the way.
        go: So many steps of an ensemble, by the verb that the analysis uses, for which there is machine code already.

    Returns:
        Dims, values ``(member,)`` and attributes.

    Warns:
        ResolutionWarning: of orbits that rounding put to rest, unless they were at rest from the beginning.
    """
    resting = _rests(after, before, go)
    _put(before, resting & (growth > -np.log(after.map.resolution)), go, "at_rest", "exponents")
    note = "an orbit at rest whose exponent is positive was put on an unstable fixed point, by rounding or its start"
    return "member", resting, {"long_name": "whether the orbit ended at rest", "note": note}


def put_to_rest(
    before: Ensemble | Recording, after: Ensemble | Recording, names: Sequence[str], records: Array
) -> dict[str, Any]:
    """The variable `put_to_rest`: whether rounding, or its start, put the orbit of a map on an unstable point.

    Then the series is that of the point, constant, however chaotic the map. The point is unstable if a copy a little
    aside of it parts by UNSTABLE or more; it was reached by rounding if growth at this rate, all the way, is more than
    the digits of a number. Where all series vary at their ends no step is taken.

    Args:
        before: Where the orbit started.
        after: Where it ended.
        names: What was observed.
        records: ``(member, sample, channel)``.

    Returns:
        Name → dims, values ``(member,)`` and attributes; nothing for a recording.

    Warns:
        ResolutionWarning: of such orbits, unless they were at rest from the beginning.
    """
    if isinstance(before, Recording) or isinstance(after, Recording):
        return {}
    put = still = _still(before, after, names, records)
    if still.any():
        whole, seen = np.ones(after.map.dim, dtype=bool), _seen(after, names)
        put = still & _leaves(before, after, whole)
        if not seen.all():
            put = put | (still & _leaves(before, after, seen))
        put = _put(before, put, Ensemble.advance, "put_to_rest", "series", seen)
    note = "where this is true the orbit ended on an unstable point, by rounding or its start: nothing here is of chaos"
    return {"put_to_rest": ("member", put, {"long_name": "whether rounding put the orbit to rest", "note": note})}


def _leaves(before: Ensemble, after: Ensemble, seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether the coordinates that are seen rest, and a little aside would leave, by more than the digits of a number.

    Returns:
        ``(member,)``.
    """
    resting = _rests(after, before, Ensemble.advance, seen)
    if not resting.any():
        return resting
    rates = _parting(after, before, seen)
    found = resting & (rates > UNSTABLE) & (rates * (after.t - before.t) > -np.log(after.map.resolution))
    return np.asarray(found)


def _seen(now: Ensemble, names: Sequence[str]) -> npt.NDArray[np.bool_]:
    """The coordinates that matter, ``(dim,)``: those observed, or all where something else is; others may move on."""
    own = now.map.coordinates
    return np.isin(own, names) if set(names) <= set(own) else np.ones(len(own), dtype=bool)


def _put(
    before: Ensemble,
    put: npt.NDArray[np.bool_],
    go: Go,
    variable: str,
    what: str,
    seen: npt.NDArray[np.bool_] | slice = slice(None),
) -> npt.NDArray[np.bool_]:
    """Those that were not at rest from the beginning. Warns of them."""
    if put.any() and (put := put & ~_rests(before, before, go, seen)).any():
        warnings.warn(
            f"orbits have come to rest on an unstable point (see {variable}): rounding has put them there, or their "
            f"start, and their {what} are not those of chaos; take fewer steps, or a parameter a little aside (the "
            "logistic map's r = 3.9999 for 4)",
            ResolutionWarning,
            stacklevel=3,
        )
    return put


def _still(before: Ensemble, after: Ensemble, names: Sequence[str], records: Array) -> npt.NDArray[np.bool_]:
    """Whether what was observed does not move at its end, but for rounding; true if there is one sample."""
    last, former = records[:, -1], records[:, -2:][:, 0]
    apart, size = np.abs(last - former), np.maximum(np.abs(last), _scale(after, before)[:, None])
    for i, name in enumerate(names):
        if (turn := turn_of(after, name)) is not None:
            apart[:, i] = gap(last[:, i], former[:, i], turn)
    return np.asarray((apart <= share_of(after) * size).all(axis=1))


def _scale(now: Ensemble, before: Ensemble) -> Array:
    """The size of the states, ``(member,)``; an angle has the scale of its turn."""
    turns = [now.map.periods.get(name, 0.0) for name in now.map.coordinates]
    states = now.states, before.states, np.broadcast_to(turns, now.states.shape)
    return np.asarray(np.abs(states).max(axis=(0, 2)))


def _rests(
    now: Ensemble, before: Ensemble, go: Go, seen: npt.NDArray[np.bool_] | slice = slice(None)
) -> npt.NDArray[np.bool_]:
    """Whether neither a step moves the states nor LOOK more: what drifts goes on, what flickers does not.

    A cycle whose period divides LOOK is back after LOOK steps, but not after one.

    Returns:
        ``(member,)``.
    """
    least = FLICKER * now.map.resolution * _scale(now, before)
    resting, ahead = np.ones(len(now), dtype=bool), now
    for steps in (1, LOOK):
        if resting.any():
            with heard_by(None):  # it is no step of the run
                ahead = go(ahead, steps)
            resting &= np.abs(now.difference(ahead.states, now.states))[:, seen].max(axis=1) <= least
    return resting


def _parting(now: Ensemble, before: Ensemble, seen: npt.NDArray[np.bool_]) -> Array:
    """How fast copies a little aside of the states part: ln (distance after LOOK steps / distance before) / LOOK.

    Those coordinates that are seen are moved and measured, for others may move on. The distance before is resolution^¾
    of the scale: well above rounding, and room for growth above it. The direction is the same for all, and none that a
    symmetry might prefer; optimizer memory stays, for it may have to be positive. Both ways are gone, since the map may
    not be defined on one side.

    Returns:
        ``(member,)``, the larger one, in nats a step; −inf if neither is finite.
    """
    moved = seen & now.map.chosen("weights")
    way = np.where(moved if moved.any() else seen, np.cos(1.0 + np.arange(now.map.dim)), 0.0)
    aside = now.map.resolution**0.75 * _scale(now, before)[:, None] * way / np.abs(way).max()
    rates = np.full(len(now), -np.inf)
    with heard_by(None), np.errstate(divide="ignore", invalid="ignore"):
        ahead = now.advance(LOOK).states
        for sign in (1.0, -1.0):
            beside = now.with_states(now.states + sign * aside).advance(LOOK).states
            apart = np.abs(now.difference(beside, ahead))[:, seen].max(axis=1) / np.abs(aside).max(axis=1)
            rates = np.fmax(rates, np.log(apart) / LOOK)
    return rates


def start_counts(transient: int) -> dict[str, str]:
    """The attribute `note` of an exponent without a transient."""
    if transient:
        return {}
    return {
        "note": "transient = 0: the first steps count, in which the frame turns from random directions, the orbit "
        "settles, and an optimiser's memory fills (the first step of Adam from empty memory can stretch by 1/epsilon)"
    }
