"""Separation: the distances of perturbed neighbours from an orbit, as they grow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.analysis import Analysis, Result, at_least, one_of
from nnflow.ensemble import Ensemble, Recording
from nnflow.map import NORMS, length, project_out

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Separation(Analysis):
    """Distances d(t) of perturbed copies from each member's orbit; no orbit is kept.

    Variables: `distance (…, [size,] perturbation, time)` in the chosen norm, `unresolved (…, [size])`, the share of
    perturbations near or below the floating-point resolution of the state (also a warning): what grows from those is
    rounding. One init has the same perturbations at every grid point. An escaped member gives NaN from then on.
    """

    perturbation: float | tuple[float, ...] = 1e-8
    """Size of the perturbation, or several sizes: each component moves by size · U(−1, 1)."""
    perturbations: int = 5
    """Perturbed copies of each member, per size."""
    where: str = "weights"
    """Which coordinates are perturbed: weights (all but optimiser memory), or a pattern of names ("*": all)."""
    gauge: bool = True
    """Whether directions that are neutral by a symmetry of the map count; if not, they are projected out."""
    norm: str = "l1"
    """Norm of the distance: l1, l2 or max."""
    steps: int = 200
    """Steps followed, after the transient."""
    transient: int = 0
    """Steps before the perturbation."""
    every: int = 1
    """Steps between records."""
    seed: int = 0
    """Seed of the perturbations (the same for all members of one initial state)."""

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every, perturbations=self.perturbations)
        one_of(NORMS, norm=self.norm)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now, sizes = ensemble.advance(self.transient), np.atleast_1d(np.asarray(self.perturbation, dtype=float))
        unresolved, seen, after = [], [], now
        for size in sizes:
            neighbours = now.neighbours(
                size, self.perturbations, where=self.where, without_gauge=not self.gauge, seed=self.seed
            )
            unresolved.append(now.unresolved(neighbours).mean(axis=1))
            distances, after = self._followed(now, neighbours)
            seen.append(distances)
        several = np.ndim(self.perturbation) > 0
        dims = ("member", "size") if several else ("member",)
        times = np.arange(0, self.steps, self.every)
        return {
            **({"size": ("size", sizes)} if several else {}),
            "time": ("time", times, {"long_name": "steps since the perturbation", "units": "iterations"}),
            "distance": (
                (*dims, "perturbation", "time"),
                np.stack(seen, axis=1) if several else seen[0],
                {"long_name": f"distance ({self.norm})"},
            ),
            "unresolved": (dims, np.stack(unresolved, axis=1) if several else unresolved[0]),
            "escaped": ("member", after.escaped),
        }

    def _followed(self, now: Ensemble, neighbours: Any) -> tuple[Array, Ensemble]:
        """The distances, and the ensemble at the end; without gauge, what lies along it is taken out of each."""
        if self.gauge:
            return now.separation_orbit(neighbours, self.steps, self.every, self.norm)
        seen, ahead = [], replace(now, frame=neighbours)
        for _ in range(self.steps // self.every):
            basis = ahead.map.gauge(ahead.state, ahead.parameters)
            apart = ahead.map.difference(ahead.map.to_numpy(ahead.frame), ahead.states[:, None])
            seen.append(length(project_out(apart, basis), self.norm))
            ahead = ahead.separation_orbit(ahead.frame, self.every, self.every, self.norm)[1]
        return np.stack(seen, axis=2), ahead

    def work(self, ensemble: Ensemble | Recording) -> int:
        """How many member-steps it will take."""
        return len(ensemble) * (self.transient + self.steps * np.size(self.perturbation))

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The mean distance over time on a logarithmic axis, one curve a size; shaded between quartiles of members."""
        from nnflow_plugins.drawing import band

        data = dataset["distance"].mean("perturbation")
        curves = [(f"{size:.0e}", data.sel(size=size)) for size in data["size"].values] if "size" in data.dims else []
        for i, (label, curve) in enumerate(curves or [("", data)]):
            rows = curve.transpose(..., "time").values.reshape(-1, curve.sizes["time"])
            band(axes, dataset["time"], rows, i, label=label, marker=None)
        axes.set(yscale="log", xlabel="steps since the perturbation", ylabel=f"distance ({self.norm})")
        if curves:
            axes.legend(title="size", frameon=False, fontsize="small")
