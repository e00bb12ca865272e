"""Autocorrelation of a trajectory in its whole state space: of a network, in the space of weighted graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import Analysis, Ensemble, Recording, Refusal, Result, at_least, multiple_of
from nnflow_plugins.tools.correlation import trajectory_correlation
from nnflow_plugins.tools.observed import rounding_of, straightened, told_of
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class TrajectoryAutocorrelation(Analysis):
    """The autocorrelation C(τ) of a trajectory of states: of a network, how alike its weights are τ steps later.

    C(τ) = Σ_t ⟨W_t − W̄, W_{t+τ} − W̄⟩ / Σ_t |W_t − W̄|², over all weights (optimizer memory left out), or over the
    coordinates asked for; an angle is the point on the circle. The trajectory is kept: steps/every × weights × 8 bytes
    a member.

    Returns:
        autocorrelation (…, lag): NaN for a trajectory that does not move (but for rounding), or escapes; lags in
            iterations.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, lags that are as long as the trajectory, or steps that are
            no multiple of every.

    Source:
        L. Lacasa, J. P. Rodriguez, V. M. Eguiluz, Phys. Rev. Research 4, L042008 (2022),
        doi:10.1103/PhysRevResearch.4.L042008.
    """

    lags: int = 50
    """Longest lag, in records."""
    steps: int = 1000
    """Steps of the trajectory, after the transient."""
    transient: int = 0
    """Steps dropped first."""
    every: int = 1
    """Steps between records."""
    observe: tuple[str, ...] = ()
    """Coordinates or observables (default: all weights)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, lags=self.lags)
        at_least(1, steps=self.steps, every=self.every)
        multiple_of("every", self.every, steps=self.steps)
        if self.lags >= self.steps // self.every:
            raise Refusal(f"lags = {self.lags}: {self.steps // self.every} records need a smaller one")

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        whole = ensemble.names if isinstance(ensemble, Recording) else ensemble.map.coordinates[: ensemble.map.weights]
        names = self.observe or tuple(whole)
        now: Any = ensemble.advance(self.transient)
        records, after = now.orbit(self.steps, self.every, names)
        points = straightened(ensemble, names, records)
        floors = rounding_of(ensemble, points.transpose(0, 2, 1)).max(axis=1)
        found = [trajectory_correlation(x, self.lags, floor) for x, floor in zip(points, floors, strict=True)]
        return {
            "lag": ("lag", np.arange(self.lags + 1) * self.every, {"units": "iterations"}),
            "autocorrelation": (
                ("member", "lag"),
                np.array(found),
                {"long_name": "autocorrelation of the trajectory", **told_of(ensemble)},
            ),
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """C over the lag: the median over members, shaded between quartiles."""
        from nnflow_plugins.tools.drawing import band

        rows = dataset["autocorrelation"].transpose(..., "lag").values.reshape(-1, dataset.sizes["lag"])
        band(axes, dataset["lag"], rows)
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set(xlabel="lag (iterations)", ylabel="autocorrelation of the trajectory")
