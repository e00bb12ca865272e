"""The largest Lyapunov exponent from two orbits: a neighbour is pulled back to a small distance again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.analysis import Analysis, Result, at_least
from nnflow.ensemble import Ensemble
from nnflow.map import length

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TwoOrbitLyapunov(Analysis):
    """λ = ⟨ln (d after n steps / d before)⟩ / n, the neighbour being put back at distance `size` every n steps.

    No tangent is needed, no window is chosen, and the distance never saturates. What is left is an error of order
    `size` from the second derivative, and of order resolution/size from rounding: sizes near the root of the
    resolution, 1e-8, are best. The pull-backs rescale the difference of the two states, angles the short way round.
    Variables: `exponent`, nats per iteration. −inf where the orbits merge; NaN for an escaped member.
    (G. Benettin, L. Galgani, J.-M. Strelcyn, Phys. Rev. A 14, 2338 (1976), doi:10.1103/PhysRevA.14.2338.)
    """

    size: float = 1e-8
    """Distance (Euclidean) at which the neighbour starts again, in units of the state."""
    every: int = 5
    """Steps between two pull-backs."""
    steps: int = 5000
    """Steps averaged over, after the transient."""
    transient: int = 500
    """Steps dropped first, by the state and by the neighbour, which turns towards what grows most."""
    where: str = "weights"
    """Which coordinates the first difference is drawn on: weights (all but optimiser memory), or a pattern of names."""
    seed: int = 0
    """Seed of the first difference (one per initial state)."""

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every)
        if self.steps % self.every or self.transient % self.every:
            raise ValueError(
                f"steps = {self.steps}, transient = {self.transient}, every = {self.every}: steps and transient must "
                "be multiples of every"
            )

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables; raises ValueError for a size that is not positive, or a pattern of no coordinate."""
        drawn = ensemble.neighbours(self.size, where=self.where, kind="normal", seed=self.seed)
        apart = ensemble.map.difference(ensemble.map.to_numpy(drawn), ensemble.states[:, None])
        now, _ = self._pulled(replace(ensemble, frame=drawn), apart)
        for _ in range(self.transient // self.every):
            now, _ = self._pulled(self._ahead(now), apart)
        total = np.zeros(len(ensemble))
        for _ in range(self.steps // self.every):
            now, distance = self._pulled(self._ahead(now), apart)
            with np.errstate(divide="ignore"):
                total += np.log(distance / self.size)
        unit = {"long_name": "largest Lyapunov exponent", "units": "nats per iteration"}
        lost = now.escaped >= 0
        return {
            "exponent": ("member", np.where(lost, np.nan, total / self.steps), unit),
            "escaped": ("member", now.escaped),
        }

    def _ahead(self, now: Ensemble) -> Ensemble:
        return now.separation_orbit(now.frame, self.every, self.every)[1]

    def _pulled(self, now: Ensemble, first: Array) -> tuple[Ensemble, Array]:
        """The neighbour back at `size` along its direction, or if it merged the first one; and how far it was."""
        x = now.states[:, None]
        apart = now.map.difference(now.map.to_numpy(now.frame), x)
        distance = np.asarray(length(apart, "l2")[:, 0])
        direction = np.where(distance[:, None, None] == 0, first, apart)
        pulled = x + direction * (self.size / length(direction, "l2"))[..., None]
        return replace(now, frame=now.map.native(pulled)), distance

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The exponent over the scanned axis (median over the others)."""
        from nnflow_plugins.drawing import over_axis

        data: Any = dataset["exponent"]
        over_axis(data, axes)
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_ylabel("Lyapunov exponent (nats per iteration)")
