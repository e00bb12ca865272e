"""The largest Lyapunov exponent from two orbits: a neighbor is pulled back to a small distance again and again."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import Analysis, Array, Ensemble, Refusal, ResolutionWarning, Result, at_least, length, multiple_of
from nnflow_plugins.tools.remarks import at_rest, start_counts

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


BENT = 0.05
"""Where what becomes of the two neighbors differs by more than this share, on average, `size` is not small."""


@dataclass(frozen=True)
class TwoOrbitLyapunov(Analysis):
    """λ = ⟨ln (d after n steps / d before)⟩ / n, the neighbor being put back at distance `size` every n steps.

    No tangent is needed, no window is chosen, and the distance never saturates. What is left is an error of order
    `size` from the second derivative, and of order resolution/size from rounding: sizes near the root of the
    resolution, 1e-8, are best. The pull-backs rescale the difference of the two states, angles the short way round.

    Returns:
        exponent (…): Nats per iteration. −inf where the orbits merge at each single step; NaN for an escaped member,
            and (with a warning) where the asymmetry is above 0.05: there `size` is too large, so large that the
            neighbor leaves the basin perhaps, or too small for the resolution, or n is too large for the growth.
        asymmetry (…): ⟨|u − u'| / (|u| + |u'|)⟩, of the difference u after the n steps over `size`, and the same u' of
            a second neighbor that is much nearer, and the rounding of the latter: 0 as long as differences are carried
            along linearly.
        at_rest (…): Whether the orbit ended on a fixed point (one of chaos is put there by rounding, which warns).
        put_to_rest (…): Whether rounding has put it there, or some of its coordinates on an unstable point.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for a size that is not positive, a pattern of no coordinate, or steps or a transient
            that are no multiple of every.

    Source:
        G. Benettin, L. Galgani, J.-M. Strelcyn, Phys. Rev. A 14, 2338 (1976), doi:10.1103/PhysRevA.14.2338.
    """

    size: float = 1e-8
    """Distance (Euclidean) at which the neighbor starts again, in units of the state."""
    every: int = 1
    """Steps between two pull-backs, each of which is a call: of a small map, with ten it takes a tenth of the time."""
    steps: int = 5000
    """Steps averaged over, after the transient."""
    transient: int = 500
    """Steps dropped first, by the state and by the neighbor, which turns towards what grows most."""
    where: str = "weights"
    """Which coordinates the first difference is drawn on: weights (all but optimizer memory), or a pattern of names."""
    seed: int = 0
    """Seed of the first difference (one per initial state)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every)
        if not self.size > 0:
            raise Refusal(f"size = {self.size}: give a positive distance")
        multiple_of("every", self.every, steps=self.steps, transient=self.transient)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        drawn = ensemble.perturbed(self.size, where=self.where, distribution="normal", seed=self.seed)
        first = ensemble.with_neighbors(drawn).displacements
        now = self._placed(ensemble, first)
        for _ in range(self.transient // self.every):
            now = self._pulled(now, first)[0]
        total, bent = np.zeros((2, len(ensemble)))
        for _ in range(self.steps // self.every):
            now, distance, asymmetry = self._pulled(now, first)
            with np.errstate(divide="ignore"):
                total += np.log(distance / self.size)
            bent += asymmetry * self.every / self.steps
        small = bent <= BENT
        if (lost := ~small & (now.escaped < 0)).any():
            warnings.warn(
                f"{lost.sum()} of {lost.size} exponents are NaN: with size = {self.size:g} and every = {self.every} "
                "differences are not carried along linearly; take a size near the root of the resolution, or a smaller "
                "every",
                ResolutionWarning,
                stacklevel=2,
            )
        unit = {"long_name": "largest Lyapunov exponent", "units": "nats per iteration", **start_counts(self.transient)}
        exponent = np.where(small & (now.escaped < 0), total / self.steps, np.nan)
        resting = at_rest(
            ensemble, now, exponent * self.steps, lambda at, n: at.separation_orbit(now.neighbors, n, n)[1]
        )
        note = f"an exponent is NaN where this is above {BENT}: a size or an every for which distances are not small"
        return {
            "exponent": ("member", exponent, unit),
            "asymmetry": ("member", bent, {"long_name": "asymmetry of two neighbours", "note": note}),
            **resting,
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def _placed(self, now: Ensemble, direction: Array) -> Ensemble:
        """The ensemble with a neighbor at `size` and a second one much nearer, in a direction ``(member, 1, dim)``."""
        unit = direction / length(direction, "l2")[..., None]
        apart = np.concatenate([self.size * unit, self._near(now)[:, None, None] * unit], axis=1)
        return now.with_neighbors(now.states[:, None] + apart)

    def _near(self, now: Ensemble) -> Array:
        """How near the second neighbor is, ``(member,)``: a quarter of the decades from `size` to the resolution."""
        least = now.map.resolution * np.maximum(np.abs(now.states).max(axis=1), self.size)
        return np.asarray(self.size * np.minimum(least / self.size, 1.0) ** 0.25)

    def _pulled(self, now: Ensemble, first: Array) -> tuple[Ensemble, Array, Array]:
        """Go n steps on, and put the neighbors back along the difference, or if it vanished along the first one.

        Returns:
            The ensemble, how far the neighbor was, and the asymmetry of the two.
        """
        near, rounding = self._near(now), now.map.resolution * np.abs(now.states).max(axis=1)
        now = now.separation_orbit(now.neighbors, self.every, self.every)[1]
        apart = now.displacements
        distance = np.asarray(length(apart[:, 0], "l2"))
        ways = apart / np.stack([np.full(len(now), self.size), near], axis=1)[..., None]
        lengths = length(ways, "l2").sum(axis=1)
        unlike = length(ways[:, 0] - ways[:, 1], "l2") / np.where(lengths == 0, 1.0, lengths)
        # after one step it is the map that merged them, after several it may have been rounding
        asymmetry = np.where(lengths == 0, float(self.every > 1), unlike) + rounding / near
        direction = np.where(distance[:, None, None] == 0, first, apart[:, :1])
        return self._placed(now, direction), distance, asymmetry

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The exponent over the scanned axis (median over the others)."""
        from nnflow_plugins.tools.drawing import over_axis

        data: Any = dataset["exponent"]
        over_axis(data, axes)
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_ylabel("Lyapunov exponent (nats per iteration)")
