"""Orbit diagram: what an observable does on the attractor, over a scanned parameter (May 1976, doi:10.1038/261459a0).

Each member runs from its own initial state, or the attractor is followed: the end of one grid point's orbit starts the
next, in the order given. Scanned up and down, followed diagrams show hysteresis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import Analysis, Array, Ensemble, Recording, Refusal, Result, at_least, first, multiple_of
from nnflow_plugins.tools.observed import floor_of, told_of, turn_of
from nnflow_plugins.tools.periods import detect_period
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class OrbitDiagram(Analysis):
    """Samples of an observable after a transient, and the period of the orbit they show.

    Returns:
        value (…, sample): NaN after an escape.
        period (…): int64, the smallest number of samples after which the observable repeats to within the tolerance, or
            rounding (0 = none found, 1 = a fixed point), angles the shorter way round; times the spacing `every`, it is
            the period in iterations. A period seen on one observable can be shorter than that of the state.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, an axis to follow that is not there, or steps that are no
            multiple of every.
    """

    observable: str | None = None
    """A coordinate or observable of the map (default: the loss if it has one, else the first coordinate)."""
    steps: int = 200
    """Steps recorded, after the transient."""
    transient: int = 1000
    """Steps dropped first, at every grid point."""
    every: int = 1
    """Steps between two samples."""
    follow: str | None = None
    """Axis along which the attractor is carried, in the order given (default: every member from its own state)."""
    tolerance: float = 1e-6
    """Largest difference between repeats, as a share of the range of the samples (rounding apart)."""

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient)
        at_least(1, steps=self.steps, every=self.every)
        multiple_of("every", self.every, steps=self.steps)
        if not 0 < self.tolerance < 1:
            raise Refusal(f"tolerance = {self.tolerance}: give a share of the range, above 0 and below 1")

    def couples(self, ensemble: Ensemble | Recording) -> tuple[str, ...]:
        """The followed axis: each of its grid points starts where the last one ended."""
        return () if self.follow is None else (self.follow,)

    @property
    def ends(self) -> bool:  # type: ignore[override]
        """Each member follows an orbit of its own, unless the attractor is carried from one to the next."""
        return self.follow is None

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        name = first(ensemble, self.observable)
        values, escaped, after = self._followed(ensemble, name) if self.follow else self._each(ensemble, name)
        samples = np.arange(0, self.steps, self.every)
        floor, turn = floor_of(ensemble, name, values), turn_of(ensemble, name)
        period = detect_period(values, self.tolerance, turn=turn, floor=floor)
        return {
            "sample": ("sample", samples, {"long_name": "step of the sample after the transient"}),
            "value": (("member", "sample"), values, {"long_name": name}),
            "period": ("member", period, {"long_name": "period, 0 = none found", **told_of(ensemble)}),
            **put_to_rest(ensemble, after),
            "escaped": ("member", escaped),
            **({"after": ("member", after)} if self.ends else {}),
        }

    def _each(self, ensemble: Any, name: str) -> tuple[Array, npt.NDArray[np.int64], Any]:
        records, after = ensemble.advance(self.transient).orbit(self.steps, self.every, name)
        return records[:, :, 0], after.escaped, after

    def _followed(self, ensemble: Any, name: str) -> tuple[Array, npt.NDArray[np.int64], Any]:
        """Along the followed axis; an escaped member starts again from its own initial state.

        Returns:
            Values, escapes, and an ensemble of where all ended, the escaped ones where they start again.
        """
        rows = ensemble.index(self.follow)
        values = np.empty((len(ensemble), self.steps // self.every))
        escaped = np.empty(len(ensemble), dtype=np.int64)
        carried, states, t = np.full((rows.shape[1], ensemble.map.dim), np.nan), ensemble.states, ensemble.t
        for members in rows:
            point = ensemble.take(members)
            start = np.where(np.isfinite(carried).all(axis=1, keepdims=True), carried, point.states)
            records, after = (
                point.with_states(ensemble.map.native(start))
                .advance(self.transient)
                .orbit(self.steps, self.every, name)
            )
            values[members], escaped[members], carried, t = records[:, :, 0], after.escaped, after.states, after.t
            ended = after.escaped < 0
            states[members[ended]] = carried[ended]
        return values, escaped, ensemble.with_states(states, t)

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """Every sample as a dot over the scanned axis (over the sample index if nothing was scanned)."""
        from nnflow_plugins.tools.drawing import COLOURS, scanned

        value = dataset["value"]
        axis = scanned(value, "sample") or "sample"
        points = value.transpose(axis, ...).values.reshape(value.sizes[axis], -1)
        x = np.repeat(value[axis].values, points.shape[1])
        size = 0.3 if points.size > 5000 else 2.0
        axes.plot(x, points.ravel(), ".", color=COLOURS[0], markersize=size, markeredgewidth=0, rasterized=True)
        axes.set_xlabel(axis)
        axes.set_ylabel(str(value.attrs["long_name"]))
