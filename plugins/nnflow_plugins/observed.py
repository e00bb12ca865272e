"""What an observed series is measured in: its unit, its rounding, and the turn of an angle.

No analysis of a series depends on the unit of the series, nor on where its zero is, but for one thing: numbers are
rounded relative to their size, so that differences below ROUNDING of the largest value are no differences.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nnflow.ensemble import Ensemble, Recording

Array = npt.NDArray[np.float64]

ROUNDING = 1e-12
"""Differences below this share of the largest value are rounding: some thousands of units in the last place."""


def rounding_of(ensemble: Ensemble | Recording) -> float:
    """The share of the largest value that is rounding, for a map's own numbers: more than ROUNDING in single precision.

    What was recorded counts as float64.
    """
    return ROUNDING if isinstance(ensemble, Recording) else max(ROUNDING, 16 * ensemble.map.resolution)


def turn_of(ensemble: Ensemble | Recording, name: str) -> float | None:
    """The period of an angle, for a coordinate that the map says is one (`Map.periods`); else None."""
    return None if isinstance(ensemble, Recording) else ensemble.map.periods.get(name)


def exponent_of(series: Array) -> int:
    """e with 2^(e−1) ≤ max |x| < 2^e, of the finite values; 0 if there is none but 0.

    Divided by 2^e (`np.ldexp(x, −e)`, exact), squares neither overflow nor vanish.
    """
    largest = np.max(np.abs(series), where=np.isfinite(series), initial=0.0)
    return int(np.frexp(largest)[1])


def in_unit(series: Array) -> Array:
    """The series divided by the power of two next above its largest finite value."""
    return np.asarray(np.ldexp(series, -exponent_of(series)))


def on_circle(angles: Array, turn: float) -> Array:
    """Cosine and sine of angles of this period, side by side along a new last axis: no jump where they wrap round."""
    with np.errstate(invalid="ignore"):
        phase = angles * (2 * np.pi / turn)
        return np.stack([np.cos(phase), np.sin(phase)], axis=-1)
