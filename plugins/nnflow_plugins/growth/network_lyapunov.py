"""The largest exponent as a reference study estimates it: the best straight line on ln d(t), over many windows.

(K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.) The largest R² among
many windows favors the steepest stretch before d(t) saturates, so the estimate is biased upwards where growth is slow.
Where it is fast, d(t) saturates within the shortest window, and the estimate is far too small, at an R² above 0.9: on
Arnold's cat map 0.68 for 0.96. Such windows bend, and do not count. And over a few hundred steps the estimate sees
transient chaos. `lyapunov_spectrum` over the same steps has none of these faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import Array, Ensemble, Refusal, Result, at_least, generator, room
from nnflow_plugins.growth.separation import Separation
from nnflow_plugins.tools.windows import Windows, best_window, fits, logarithm, windows

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


def guarded(y: Array, time: Array, spans: Windows, slopes: Array, saturation: float | None, growth: float) -> Any:
    """Which windows may be chosen: neither in the saturation of y, nor flat.

    A window is saturated if y anywhere in it is above ln(saturation) + the median of the last quarter of y, and flat if
    its line rises by less than `growth`.

    Args:
        y: ln ⟨d⟩, ``(…, time)``.
        time: ``(time,)``.
        spans: The windows [start, end) in samples, ``(window, 2)``.
        slopes: Of their lines, ``(…, window)``.
        saturation: A share of the level at the end; None is no guard.
        growth: In nats; 0 is no guard.

    Returns:
        ``(…, window)`` bool.
    """
    widths = time[spans[:, 1] - 1] - time[spans[:, 0]]
    allowed = slopes * widths >= growth if growth > 0 else np.ones(slopes.shape, dtype=bool)
    if saturation is None:
        return allowed
    ceiling = np.median(y[..., -max(1, y.shape[-1] // 4) :], axis=-1) + np.log(saturation)
    highest = np.stack([y[..., start:end].max(axis=-1) for start, end in spans], axis=-1)
    return allowed & (highest <= ceiling[..., None])


@dataclass(frozen=True)
class NetworkLyapunov(Separation):
    """The slope of ln ⟨d(t)⟩ on the window of largest R², ⟨d⟩ being the mean distance over the perturbations.

    The estimator is the study's: biased upwards by choosing among windows where growth is slow; too small where d(t)
    saturates within the shortest window; and blind to whether chaos lasts. From 1e-8 it is 3 % too small at 0.69 nats a
    step and 8 % at 0.75, where it counts, and 13 % and more from 0.8 on, where it does not. Two guards, off by default,
    leave out windows in the saturation of d(t) and windows on which it hardly grows.

    Returns:
        exponent (…, [size]): Nats per step.
        r_squared (…, [size]): R² of its line.
        window (…, [size], edge): Its first step and the one after its last (−1: none is allowed).
        steadiness (…, [size]): The slope of the window's second half over that of its first.
        counted (…, [size]): Whether r_squared and exponent pass the filters, as the study averages only those, and
            steadiness does (which at 1e-8 changes none of the study's).
        low, high (…, [size]): On request, between which the exponents of resampled perturbations lie.
        slope (…, [size], window_start, window_length): On request, the slope on every window, nats per step.
        fit (…, [size], window_start, window_length): On request, R² on every window.
        unresolved, put_to_rest, layer_distance, escaped: As those of `Separation`.

    Raises:
        Refusal: (a ValueError) for settings that leave no window, and as `Separation`.

    Source:
        K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.
    """

    first: int = 0
    """First start of a window, in steps since the perturbation."""
    last: int = 100
    """Last start."""
    stride: int = 5
    """Between starts, and between lengths."""
    shortest: int = 30
    """Shortest window, in steps."""
    longest: int = 100
    """Longest window."""
    least_r_squared: float = 0.9
    """A member counts if its R² is larger than this …"""
    least_exponent: float = 0.05
    """… and its exponent larger than this …"""
    least_steadiness: float = 2 / 3
    """… and its second half is at least this share as steep as its first: less where d(t) saturates."""
    saturation: float | None = None
    """Guard: no window in which ⟨d⟩ exceeds this share of its level at the end (median of the last quarter)."""
    least_growth: float = 0.0
    """Guard: no window on whose line ln ⟨d⟩ rises by less than this, in nats."""
    bootstrap: int = 0
    """Resamples of the perturbations for `low` and `high`; the window is chosen anew for each."""
    level: float = 0.95
    """Share of the resamples between `low` and `high`."""
    window_map: bool = False
    """Also slope and R² on every window."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, first=self.first)
        at_least(0, bootstrap=self.bootstrap, least_growth=self.least_growth)
        at_least(1, stride=self.stride)
        if self.saturation is not None and not self.saturation > 0:
            raise Refusal(f"saturation = {self.saturation}: give a positive share of the level at the end")
        if not 0 < self.level < 1:
            raise Refusal(f"level = {self.level}: give a share between 0 and 1")
        at_least(2 * self.every, shortest=self.shortest)
        at_least(self.first, last=self.last)
        at_least(self.shortest, longest=self.longest)
        at_least(self.first + self.shortest, steps=self.steps)
        room("bootstrap", self.bootstrap, self.perturbations)
        starts, lengths = self.last - self.first, self.longest - self.shortest
        room("windows", 2, 1 + min(starts, self.steps) // self.stride, 1 + min(lengths, self.steps) // self.stride)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        found = super().__call__(ensemble)
        dims, distance = found["distance"][0][:-2], np.asarray(found["distance"][1])
        y, time = logarithm(distance.mean(axis=-2)), self._times().astype(float)
        spans = windows(self.first, self.last, self.stride, self.shortest, self.longest, self.steps)
        best, slopes, squares = self._chosen(y, time, spans)
        exponent, r_squared = _taken(slopes, best), _taken(squares, best)
        steadiness = _steadiness(y, time, -(-spans // self.every), best)
        unit = {"units": "nats per step"}
        own: dict[str, Any] = {
            "exponent": (dims, exponent, {"long_name": "exponent of the best window", **unit}),
            "r_squared": (dims, r_squared),
            "window": ((*dims, "edge"), np.where(best[..., None] < 0, -1, spans[best]), {"long_name": "steps"}),
            "steadiness": (dims, steadiness, {"long_name": "slope of the second half / of the first"}),
            "counted": (
                dims,
                (r_squared > self.least_r_squared)
                & (exponent > self.least_exponent)
                & (steadiness >= self.least_steadiness),
            ),
        }
        if self.bootstrap:
            low, high = self._interval(distance, time, spans)
            own |= {"low": (dims, low, unit), "high": (dims, high, unit)}
        if self.window_map:
            own |= self._map(dims, spans, slopes, squares)
        layers = ("time", "layer", "layer_distance") if self.layers else ()
        kept = ("size", "unresolved", "put_to_rest", "escaped", "after", *layers)
        return {**{name: found[name] for name in kept if name in found}, **own}

    def _chosen(self, y: Array, time: Array, spans: Windows) -> tuple[npt.NDArray[np.int64], Array, Array]:
        """The index of the best window, and slope and R² on all of them."""
        samples = -(-spans // self.every)
        slopes, squares = fits(y, time, samples)
        return (
            best_window(squares, guarded(y, time, samples, slopes, self.saturation, self.least_growth)),
            slopes,
            squares,
        )

    def _interval(self, distance: Array, time: Array, spans: Windows) -> tuple[Array, Array]:
        """The quantiles of the exponents that resampled perturbations give."""
        count, found = distance.shape[-2], []
        for drawn in generator(self.seed, "bootstrap").integers(count, size=(self.bootstrap, count)):
            best, slopes, _ = self._chosen(logarithm(distance[..., drawn, :].mean(axis=-2)), time, spans)
            found.append(_taken(slopes, best))
        low, high = np.quantile(found, [(1 - self.level) / 2, (1 + self.level) / 2], axis=0)
        return np.asarray(low), np.asarray(high)

    def _map(self, dims: Any, spans: Windows, slopes: Array, squares: Array) -> dict[str, Any]:
        """Slope and R² on a grid of starts and lengths; NaN for windows beyond the end."""
        starts, i = np.unique(spans[:, 0], return_inverse=True)
        lengths, j = np.unique(spans[:, 1] - spans[:, 0], return_inverse=True)
        grids = np.full((2, *slopes.shape[:-1], len(starts), len(lengths)), np.nan)
        grids[0][..., i, j], grids[1][..., i, j] = slopes, squares
        named = (*dims, "window_start", "window_length")
        return {
            "window_start": ("window_start", starts),
            "window_length": ("window_length", lengths),
            "slope": (named, grids[0], {"units": "nats per step"}),
            "fit": (named, grids[1], {"long_name": "R²"}),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The exponents of the members that count: their histogram, or over the size mean and standard deviation."""
        from nnflow_plugins.tools.drawing import COLOURS

        values = dataset["exponent"].where(dataset["counted"])
        if "size" in values.dims:
            rows = values.transpose(..., "size").values.reshape(-1, dataset.sizes["size"])
            known = [column[np.isfinite(column)] for column in rows.T]
            middle = [column.mean() if column.size else np.nan for column in known]
            bars = [column.std() if column.size else np.nan for column in known]
            axes.errorbar(dataset["size"], middle, bars, marker=".", capsize=2, color=COLOURS[0])
            axes.set(xscale="log", xlabel="size of the perturbation", ylabel="exponent (nats per step)")
        else:
            known = values.values[np.isfinite(values.values)]
            axes.hist(known, bins=min(40, max(5, known.size // 5)), color=COLOURS[0])
            axes.set(xlabel="exponent (nats per step)", ylabel="members that count")


def _taken(values: Array, best: npt.NDArray[np.int64]) -> Array:
    """The value at the chosen window; NaN where there is none."""
    taken = np.take_along_axis(values, np.maximum(best, 0)[..., None], axis=-1)[..., 0]
    return np.where(best < 0, np.nan, taken)


def _steadiness(y: Array, time: Array, samples: Windows, best: npt.NDArray[np.int64]) -> Array:
    """The slope on the second half of the chosen window over that on its first; the middle belongs to both."""
    start, end = samples[:, 0], samples[:, 1]
    middle = (start + end - 1) // 2
    halves = (
        np.stack([start, np.maximum(middle + 1, start + 2)], axis=1),
        np.stack([np.minimum(middle, end - 2), end], axis=1),
    )
    early, late = (_taken(fits(y, time, half)[0], best) for half in halves)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(late / early)
