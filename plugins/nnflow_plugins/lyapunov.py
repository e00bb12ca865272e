"""Lyapunov spectrum: the mean logarithmic stretches of a re-orthonormalised frame (Benettin et al. 1980).

The frame starts Haar-random and gets the transient too: started at the identity it never mixes on a map with invariant
axes, and without a transient of its own it leaves a bias of order 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.analysis import Analysis, Result, at_least
from nnflow.ensemble import Ensemble

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
SEGMENT = 2**18  # log-stretches kept at a time, so that a long run needs no memory for them


def kaplan_yorke(exponents: Array) -> Array:
    """The Kaplan–Yorke dimension D = j + (λ_1 + … + λ_j)/|λ_{j+1}| of spectra sorted in descending order.

    `exponents (…, dim)` in nats per iteration; j is the largest number of leading exponents whose sum is not negative.
    Returns ``(…)``: 0 if λ_1 < 0, dim if no sum is negative, NaN where an exponent is NaN.
    (J. L. Kaplan, J. A. Yorke, Lect. Notes Math. 730, 204 (1979), doi:10.1007/BFb0064319.)

    >>> float(kaplan_yorke(np.array([0.5, 0.0, -1.0])))
    2.5
    """
    sums = np.cumsum(exponents, axis=-1)
    j = (sums >= 0).sum(axis=-1)
    dim = exponents.shape[-1]
    inside = np.take_along_axis(sums, np.maximum(j - 1, 0)[..., None], -1)[..., 0]
    following = np.take_along_axis(exponents, np.minimum(j, dim - 1)[..., None], -1)[..., 0]
    with np.errstate(all="ignore"):
        between = j + inside / np.abs(following)
    dimension = np.where(j == 0, 0.0, np.where(j == dim, float(dim), between))
    return np.where(np.isnan(exponents).any(axis=-1), np.nan, dimension)


@dataclass(frozen=True)
class LyapunovSpectrum(Analysis):
    """The k largest Lyapunov exponents λ_i = ⟨ln R_ii⟩ per iteration, from QR along the orbit.

    Variables: `exponent (…, index)`, nats per iteration, sorted descending; `history (…, time, index)` on request, the
    running means in the order of the frame; `kaplan_yorke` when k = dim. An escaped member gives NaN; a superstable
    orbit −inf. (G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15, 9 (1980), doi:10.1007/BF02128236.)
    """

    k: int | None = None
    """How many exponents (default: all of them up to dim 8, else 1)."""
    steps: int = 10_000
    """Steps averaged over, after the transient."""
    transient: int = 1000
    """Steps dropped first, by the state and by the frame."""
    every: int = 1
    """Steps between two re-orthonormalisations."""
    history: bool = False
    """Keep the running means, one per `every` steps."""
    seed: int = 0
    """Seed of the random frame (one frame per initial state)."""

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every)
        if self.steps % self.every:
            raise ValueError(f"steps = {self.steps}, every = {self.every}: steps must be a multiple of every")

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables; raises ValueError unless 1 ≤ k ≤ dim."""
        dim = ensemble.map.dim
        k = self.k if self.k is not None else dim if dim <= 8 else 1
        now = self._warm(ensemble.with_frame(k, self.seed))
        total, means = np.zeros((len(ensemble), k)), []
        left, done = self.steps // self.every, 0
        while left > 0:
            blocks = min(left, max(256, SEGMENT // (len(ensemble) * k)))
            records, now = now.tangent_orbit(blocks * self.every, self.every)
            if self.history:
                count = np.arange(done + 1, done + blocks + 1)[:, None] * self.every
                means.append((total[:, None] + np.cumsum(records.log_stretches, axis=1)) / count)
            total = total + np.ascontiguousarray(records.log_stretches.transpose(0, 2, 1)).sum(axis=2)  # pairwise sums
            left, done = left - blocks, done + blocks
        return self._result(np.sort(total / self.steps, axis=1)[:, ::-1], means, now)

    def _warm(self, ensemble: Ensemble) -> Ensemble:
        """The transient, of the state and of the frame."""
        whole = self.transient - self.transient % self.every
        now = ensemble.tangent_orbit(whole, self.every)[1] if whole else ensemble
        rest = self.transient - whole
        return now.tangent_orbit(rest, rest)[1] if rest else now

    def _result(self, exponents: Array, means: list[Array], after: Ensemble) -> Result:
        units = {"units": "nats per iteration"}
        result: dict[str, Any] = {
            "index": ("index", np.arange(1, exponents.shape[1] + 1)),
            "exponent": (("member", "index"), exponents, {"long_name": "Lyapunov exponent", **units}),
            "escaped": ("member", after.escaped),
        }
        if exponents.shape[1] == after.map.dim:
            result["kaplan_yorke"] = ("member", kaplan_yorke(exponents), {"long_name": "Kaplan-Yorke dimension"})
        if self.history:
            times = np.arange(self.every, self.steps + 1, self.every)
            result["time"] = ("time", times, {"long_name": "steps averaged", "units": "iterations"})
            result["history"] = (("member", "time", "index"), np.concatenate(means, axis=1), units)
        return result

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The exponents over the scanned axis (median over the others); without one, their history if it was kept."""
        from nnflow_plugins.drawing import over_axis, scanned

        running = "history" in dataset and scanned(dataset["exponent"], "index") is None
        over_axis(dataset["history" if running else "exponent"], axes, "index", "λ{}")
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_ylabel("Lyapunov exponent (nats per iteration)")
