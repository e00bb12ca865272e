"""What an observed series is measured in: its unit, its rounding, and the turn of an angle.

No analysis of a series depends on the unit of the series, nor on where its zero is, but for one thing: numbers are
rounded relative to their size, so that differences below ROUNDING of the largest value are no differences. What was
recorded may be a small signal on a high level, though, which has its digits below that: there, differences are none
below RECORDED, or where they are below OWN of the signal, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnflow.authors import Array, Ensemble, Recording, heard_by

ROUNDING = 1e-12
"""Differences below this share of the largest value are rounding: some thousands of units in the last place.

So much adds up along the orbit of a map near a bifurcation."""

RECORDED = 32 * 2.0**-52
"""The same of what was recorded: some tens of units in the last place, for a small signal may lie on a high level."""

OWN = 1e-9
"""What was recorded along the orbit of a map is rounded as the map: below ROUNDING and this share of its own range."""

FADED = 1e-2
"""This share of ROUNDING is about the last digit of a number."""


def share_of(ensemble: Ensemble | Recording) -> float:
    """The share of the largest value that is rounding in any case.

    Args:
        ensemble: An ensemble of a map, or a recording.

    Returns:
        RECORDED for a recording, which counts as double precision; ROUNDING for a map, more for one in single
        precision.
    """
    return RECORDED if isinstance(ensemble, Recording) else max(ROUNDING, 16 * ensemble.map.resolution)


def told_of(ensemble: Ensemble | Recording) -> dict[str, Any]:
    """What results tell of it: the attribute `rounding`, and for a recording `rounding_note`."""
    told: dict[str, Any] = {"rounding": share_of(ensemble)}
    if isinstance(ensemble, Recording):
        told["rounding_note"] = f"or {ROUNDING:g} of the largest value, where that is below {OWN:g} of the range"
    return told


def rounding_of(ensemble: Ensemble | Recording, values: Array) -> Array:
    """Up to which size differences along the last axis are rounding, by the values alone.

    max(RECORDED · largest, min(ROUNDING · largest, OWN · range)) for a recording, `share_of` · largest for a map.

    Args:
        ensemble: Where the values are from.
        values: ``(…, sample)``.

    Returns:
        ``(…)``.
    """
    sure = share_of(ensemble) * largest_of(values)
    if not isinstance(ensemble, Recording):
        return np.asarray(sure)
    with np.errstate(invalid="ignore"):  # of what is not finite
        own = OWN * values.max(axis=-1) - OWN * values.min(axis=-1)
    return np.asarray(np.maximum(sure, np.fmin(ROUNDING * largest_of(values), own)))


def floor_of(ensemble: Ensemble | Recording, name: str, values: Array) -> Array:
    """Up to which size differences of an observable are rounding.

    That is what `rounding_of` tells, or a share of the turn of an angle. And as to what decays to 0: its numbers get
    ever finer, with noise among them at last, but it has died out where it is about the last digit of what it was at
    first.

    Args:
        ensemble: Where it started.
        name: The observable.
        values: ``(member, sample)``.

    Returns:
        ``(member,)``.
    """
    share = share_of(ensemble)
    if (turn := turn_of(ensemble, name)) is not None:
        return np.full(len(values), share * turn)
    with heard_by(None):  # it is no step of the run
        start = ensemble.orbit(1, 1, name)[0][:, :, 0]
    return np.maximum(rounding_of(ensemble, values), max(FADED * share, RECORDED) * largest_of(start))


def turn_of(ensemble: Ensemble | Recording, name: str) -> float | None:
    """The period of an angle, for a coordinate that the map says is one (`Map.periods`); else None."""
    return None if isinstance(ensemble, Recording) else ensemble.map.periods.get(name)


def largest_of(series: Array) -> Array:
    """max |x| along the last axis, of the finite values; 0 if there is none."""
    largest = np.maximum(series.max(axis=-1, initial=0.0), 0.0 - series.min(axis=-1, initial=0.0))  # 0, not −0
    if np.isfinite(largest).all():  # as nearly always: nothing is masked
        return np.asarray(largest)
    return np.asarray(np.max(np.abs(series), axis=-1, where=np.isfinite(series), initial=0.0))


def exponent_of(series: Array) -> int:
    """e with 2^(e−1) ≤ max |x| < 2^e, of all finite values; 0 if there is none but 0.

    Divided by 2^e (`np.ldexp(x, −e)`, exact), squares neither overflow nor vanish.

    Args:
        series: Of any shape.

    Returns:
        The exponent e.
    """
    return int(np.frexp(largest_of(series.ravel()))[1])


def gap(x: Array, y: Array, turn: float | None) -> Array:
    """|x − y|, of angles the shorter way round."""
    apart = np.abs(x - y)
    if turn is None:
        return np.asarray(apart)
    with np.errstate(invalid="ignore"):
        apart = apart % turn
    return np.asarray(np.minimum(apart, turn - apart))


def on_circle(angles: Array, turn: float) -> Array:
    """The points of a circle of this circumference ``(…, 2)`` for angles ``(…)``: no jump where they wrap round."""
    with np.errstate(invalid="ignore"):
        phase = angles * (2 * np.pi / turn)
        return np.stack([np.cos(phase), np.sin(phase)], axis=-1) * (turn / (2 * np.pi))


def straightened(ensemble: Ensemble | Recording, names: Sequence[str], values: Array) -> Array:
    """``values (member, sample, channel)`` with each channel that is an angle replaced by the two of `on_circle`."""
    turns = [turn_of(ensemble, name) for name in names]
    parts = (values[..., i, None] if turn is None else on_circle(values[..., i], turn) for i, turn in enumerate(turns))
    return np.concatenate(list(parts), axis=-1) if any(turns) else values
