"""What a result says of itself where a number alone would mislead: remarks that several analyses of growth share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import Array, Ensemble, ResolutionWarning, heard_by

LOOK = 32
"""Steps over which an orbit at rest stays where it is."""

FLICKER = 64
"""A stable fixed point is left and met again by rounding: its digits move by some tens of units in the last place."""


def at_rest(
    before: Ensemble, after: Ensemble, growth: Array, go: Callable[[Ensemble, int], Ensemble]
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
    resting, resolution = _rests(after, before, go), after.map.resolution
    put = resting & (growth > -np.log(resolution))
    if put.any() and (put := put & ~_rests(before, before, go)).any():
        warnings.warn(
            "orbits have come to rest on an unstable point (see at_rest): rounding has put them there, or their start, "
            "and their exponents are not those of chaos; take fewer steps, or a parameter a little aside (the logistic "
            "map's r = 3.9999 for 4)",
            ResolutionWarning,
            stacklevel=2,
        )
    note = "an orbit at rest whose exponent is positive was put on an unstable fixed point, by rounding or its start"
    return "member", resting, {"long_name": "whether the orbit ended at rest", "note": note}


def _rests(now: Ensemble, before: Ensemble, go: Callable[[Ensemble, int], Ensemble]) -> npt.NDArray[np.bool_]:
    turns = [now.map.periods.get(name, 0.0) for name in now.map.coordinates]  # an angle has the scale of its turn
    scale = np.max([np.abs(now.states), np.abs(before.states), np.broadcast_to(turns, now.states.shape)], axis=(0, 2))
    with heard_by(None):  # it is no step of the run
        ahead = go(now, LOOK)  # what drifts goes on, what flickers does not
    return np.asarray(
        np.abs(now.difference(ahead.states, now.states)).max(axis=1) <= FLICKER * now.map.resolution * scale
    )


def start_counts(transient: int) -> dict[str, str]:
    """The attribute `note` of an exponent without a transient."""
    if transient:
        return {}
    return {
        "note": "transient = 0: the first steps count, in which the frame turns from random directions, the orbit "
        "settles, and an optimiser's memory fills (the first step of Adam from empty memory can stretch by 1/epsilon)"
    }
