"""Lyapunov spectrum: the mean logarithmic stretches of a re-orthonormalized frame (Benettin et al. 1980).

The frame starts Haar-random and gets the transient too: started at the identity it never mixes on a map with invariant
axes, and without a transient of its own it leaves a bias of order 1/n.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import Analysis, Array, Ensemble, Gathered, Result, at_least, multiple_of, orthonormalise
from nnflow_plugins.tools.remarks import at_rest, start_counts

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

SEGMENT = 2**18  # log-stretches kept at a time, so that a long run needs no memory for them
UNIT = 256  # blocks that are summed up together: not by memory, since sums must not depend on the chunk
RENEW = 8  # steps after which gauge directions are set anew: rounding lets them drift towards what grows


def kaplan_yorke(exponents: Array) -> Array:
    """The Kaplan–Yorke dimension D = j + (λ_1 + … + λ_j)/|λ_{j+1}| of spectra sorted in descending order.

    j is the largest number of leading exponents whose sum is not negative.

    Args:
        exponents: ``(…, dim)``, nats per iteration.

    Returns:
        ``(…)``: 0 if λ_1 < 0, dim if no sum is negative, NaN where an exponent is NaN.

    Source:
        J. L. Kaplan, J. A. Yorke, Lect. Notes Math. 730, 204 (1979), doi:10.1007/BFb0064319.

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


def _rounded(steps: int, unit: int) -> int:
    """The least multiple of a unit that is not less."""
    return -(-steps // unit) * unit


def _renewed(ensemble: Ensemble) -> Ensemble:
    """The same frame with its first vectors exactly the gauge directions, and the others orthonormal to them."""
    basis, frame = ensemble.gauge(), ensemble.frames
    frame[:, : basis.shape[1]] = basis
    return ensemble.with_vectors(orthonormalise(frame, ensemble.escaped >= 0)[0])


def _summed(total: Array, stretches: Array) -> Array:
    """``total (member, k)`` plus the sum of ``stretches (member, block, k)``: pairwise in a UNIT, one after another."""
    series = np.ascontiguousarray(stretches.transpose(0, 2, 1))
    whole = series.shape[2] // UNIT * UNIT
    units = series[:, :, :whole].reshape(*total.shape, -1, UNIT).sum(axis=3)
    rest = series[:, :, whole:].sum(axis=2)
    parts = np.concatenate([total[..., None], units, rest[..., None]], axis=2)
    return np.asarray(np.add.accumulate(parts, axis=2)[..., -1])


@dataclass(frozen=True)
class LyapunovSpectrum(Analysis):
    """The k largest Lyapunov exponents λ_i = ⟨ln R_ii⟩ per iteration, from QR along the orbit.

    Of a map whose step sees a part of its data, steps and transient are rounded up to whole epochs (so that the mean is
    over all data).

    Returns:
        exponent (…, index): Nats per iteration, sorted descending. An escaped member gives NaN; a superstable orbit
            −inf.
        history (…, time, index): On request, the running means in the order of the frame.
        kaplan_yorke (…): When k = dim.
        exponent_per_epoch (…, index): Nats per epoch, of a map whose step sees a part of its data.
        at_rest (…): Whether the orbit ended on a fixed point: one of chaos is there by rounding, and its exponent is
            that of the point (a warning says so, too).
        put_to_rest (…): Whether rounding has put it there, or some of its coordinates on an unstable point.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) unless 1 ≤ k ≤ dim (less the gauge directions left out), or for steps that are no
            multiple of every.

    Source:
        G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15, 9 (1980), doi:10.1007/BF02128236.
    """

    k: int | None = None
    """How many exponents (default: all of them up to dim 8, else 1)."""
    steps: int = 10_000
    """Steps averaged over, after the transient."""
    transient: int = 1000
    """Steps dropped first, by the state and by the frame."""
    every: int = 1
    """Steps between two entries of the history; the frame is re-orthonormalized at each step, whatever this is."""
    history: bool = False
    """Keep the running means, one per `every` steps."""
    gauge: bool = True
    """Whether directions that are neutral by a symmetry of the map count; if not, they are projected out."""
    seed: int = 0
    """Seed of the random frame (one frame per initial state)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every)
        multiple_of("every", self.every, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now, k = self._with_frame(ensemble)
        steps = _rounded(self.steps, lcm(self.every, ensemble.map.epoch))
        if transient := _rounded(self.transient, ensemble.map.epoch):
            now = self._carry(now, 1, transient)[1]
        total, running, means = np.zeros((len(ensemble), k)), np.zeros((len(ensemble), 1, k)), []
        left, done = steps // self.every, 0
        while left > 0:
            blocks = min(left, max(1, SEGMENT // (len(ensemble) * k * UNIT)) * UNIT)
            stretches, now = self._carry(now, blocks, self.every)
            stretches = stretches[:, :, -k:]
            if self.history:
                count = np.arange(done + 1, done + blocks + 1)[:, None] * self.every
                sums = np.add.accumulate(np.concatenate([running, stretches], axis=1), axis=1)
                means.append(sums[:, 1:] / count)
                running = sums[:, -1:]
            total = _summed(total, stretches)
            left, done = left - blocks, done + blocks
        resting = at_rest(
            ensemble, now, total.max(axis=1), lambda at, n: at.with_vectors(now.frame).tangent_orbit(n, n)[1]
        )
        result = self._result(np.sort(total / steps, axis=1)[:, ::-1], means, now, steps)
        return {**result, **resting}

    def work(self, ensemble: Any) -> int:
        """How many member-steps it will take."""
        epoch = ensemble.map.epoch
        steps = _rounded(self.steps, lcm(self.every, epoch)) + _rounded(self.transient, epoch)
        return len(ensemble) * steps

    def _with_frame(self, ensemble: Ensemble) -> tuple[Ensemble, int]:
        """The ensemble with its frame, and how many of the frame's vectors count (the last ones)."""
        left_out = 0 if self.gauge else ensemble.gauge().shape[1]
        dim = ensemble.map.dim - left_out
        k = self.k if self.k is not None else dim if dim <= 8 else 1
        return ensemble.with_frame(k, self.seed, self.gauge), k

    def _carry(self, ensemble: Ensemble, blocks: int, every: int) -> tuple[Array, Ensemble]:
        """Log-stretches of some blocks, and the ensemble after them; gauge directions are set anew now and then."""
        if self.gauge:
            records, ensemble = ensemble.tangent_orbit(blocks * every, every)
            return records.log_stretches, ensemble
        steps, k = blocks * every, ensemble.frame.shape[1]
        gathered = Gathered(len(ensemble), steps, every, k, ensemble.map.dim, ())
        for done in range(0, steps, RENEW):
            records, ensemble = _renewed(ensemble).tangent_orbit(min(RENEW, steps - done))
            gathered.add(records)
        return gathered.records.log_stretches, ensemble

    def _result(self, exponents: Array, means: list[Array], after: Ensemble, steps: int) -> Result:
        units, epoch = {"units": "nats per iteration"}, after.map.epoch
        left_out = 0 if self.gauge else after.gauge().shape[1]
        result: dict[str, Any] = {
            "index": ("index", np.arange(1, exponents.shape[1] + 1)),
            "exponent": (
                ("member", "index"),
                exponents,
                {
                    "long_name": "Lyapunov exponent",
                    **units,
                    "steps": steps,
                    "gauge_directions_left_out": left_out,
                    **start_counts(self.transient),
                },
            ),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }
        if epoch > 1:
            attributes = {"units": "nats per epoch", "steps_per_epoch": epoch}
            result["exponent_per_epoch"] = (("member", "index"), epoch * exponents, attributes)
        if exponents.shape[1] == after.map.dim - left_out:
            result["kaplan_yorke"] = ("member", kaplan_yorke(exponents), {"long_name": "Kaplan-Yorke dimension"})
        if self.history:
            times = np.arange(1, sum(part.shape[1] for part in means) + 1) * self.every
            result["time"] = ("time", times, {"long_name": "steps averaged", "units": "iterations"})
            result["history"] = (("member", "time", "index"), np.concatenate(means, axis=1), units)
        return result

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The exponents over the scanned axis (median over the others); without one, their history if it was kept."""
        from nnflow_plugins.tools.drawing import over_axis, scanned

        running = "history" in dataset and scanned(dataset["exponent"], "index") is None
        over_axis(dataset["history" if running else "exponent"], axes, "index", "λ{}")
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_ylabel("Lyapunov exponent (nats per iteration)")
