"""Autocorrelation of a series, beside what shuffling the series leaves of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import (
    Analysis,
    Array,
    Ensemble,
    Recording,
    Refusal,
    Result,
    at_least,
    first,
    generator,
    multiple_of,
    room,
)
from nnflow_plugins.tools.correlation import trajectory_correlation
from nnflow_plugins.tools.observed import exponent_of, floor_of, straightened, told_of
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


def shuffled_band(series: Array, lags: int, shuffles: int, level: float, seed: int) -> tuple[Array, Array]:
    """The band that holds a share of the autocorrelations of shuffled copies.

    What lies outside is unlikely for a series without memory that has the same values.

    Args:
        series: ``(time,)`` or ``(time, component)``, whose components stay together.
        lags: The longest lag, in samples.
        shuffles: How many copies.
        level: The share inside the band.
        seed: Of the shuffles.

    Returns:
        Low and high, ``(lags + 1,)`` both.

    Source:
        J. Theiler et al., Physica D 58, 77 (1992), doi:10.1016/0167-2789(92)90102-S.
    """
    values = np.ldexp(series.reshape(len(series), -1), -exponent_of(series))  # squares are within bounds
    away = values - values.mean(axis=0)
    order = generator(seed, "shuffle").permuted(np.tile(np.arange(len(away)), (shuffles, 1)), axis=1)
    copies = away[order]
    lagged = [(copies[:, : len(away) - lag] * copies[:, lag:]).sum(axis=(1, 2)) for lag in range(lags + 1)]
    null = np.stack(lagged, axis=1) / (away * away).sum()
    low, high = np.quantile(null, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


@dataclass(frozen=True)
class Autocorrelation(Analysis):
    """C(τ) = Σ_t (x_t − x̄)(x_{t+τ} − x̄) / Σ_t (x_t − x̄)² of an observable, and the band of shuffled copies.

    A coordinate that is an angle is followed as the point on the circle.

    Returns:
        autocorrelation (…, lag): NaN for a series that does not move (but for rounding), or escapes; lags in
            iterations.
        null_low, null_high (…, lag): Between them a share `level` of the shuffled series lies.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, lags that are as long as the series, or steps that are no
            multiple of every.
    """

    observable: str | None = None
    """What is followed (default: the loss, or the first coordinate)."""
    lags: int = 20
    """Longest lag, in samples."""
    steps: int = 5000
    """Steps of the series, after the transient."""
    transient: int = 1000
    """Steps dropped first."""
    every: int = 1
    """Steps between samples."""
    shuffles: int = 200
    """Shuffled copies of each series."""
    level: float = 0.95
    """Share of the copies inside the band."""
    seed: int = 0
    """Seed of the shuffles (the same for all members)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, lags=self.lags, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every, shuffles=self.shuffles)
        multiple_of("every", self.every, steps=self.steps)
        if not 0 < self.level < 1:
            raise Refusal(f"level = {self.level}: give a share between 0 and 1")
        if self.lags >= self.steps // self.every:
            raise Refusal(f"lags = {self.lags}: {self.steps // self.every} samples need a smaller one")
        room("shuffles", self.shuffles, self.steps // self.every)

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        now: Any = ensemble.advance(self.transient)
        name = first(ensemble, self.observable)
        records, after = now.orbit(self.steps, self.every, name)
        floors = floor_of(ensemble, name, records[:, :, 0])
        points = straightened(ensemble, (name,), records)
        found = [self._of(series, floor) for series, floor in zip(points, floors, strict=True)]
        parts = dict(zip(("autocorrelation", "null_low", "null_high"), zip(*found, strict=True), strict=True))
        return {
            "lag": ("lag", np.arange(self.lags + 1) * self.every, {"units": "iterations"}),
            **{name: (("member", "lag"), np.array(part), told_of(ensemble)) for name, part in parts.items()},
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def _of(self, series: Array, floor: float) -> tuple[Array, Array, Array]:
        own = trajectory_correlation(series, self.lags, floor)
        if np.isnan(own).any():
            return own, own, own
        return own, *shuffled_band(series, self.lags, self.shuffles, self.level, self.seed)

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The autocorrelation over the lag (the median over members), and the band of the shuffled series."""
        from nnflow_plugins.tools.drawing import COLOURS

        own, low, high = (
            dataset[name].transpose(..., "lag").values.reshape(-1, dataset.sizes["lag"])
            for name in ("autocorrelation", "null_low", "null_high")
        )
        known = np.isfinite(own).all(axis=1)
        if not known.any():
            known[0] = True
        axes.plot(dataset["lag"], np.median(own[known], axis=0), color=COLOURS[0], marker=".", linewidth=1)
        band = np.median(low[known], axis=0)[1:], np.median(high[known], axis=0)[1:]
        label = f"{self.level:.0%} of shuffled series"
        axes.fill_between(dataset["lag"][1:], *band, color="0.6", alpha=0.4, linewidth=0, label=label)
        axes.legend(frameon=False, fontsize="small")
        axes.set(xlabel="lag (iterations)", ylabel="autocorrelation")
