"""The largest exponent as a reference study estimates it: the best straight line on ln d(t), over many windows.

(K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.) The largest R² among
many windows favours the steepest stretch before d(t) saturates, so the estimate is biased upwards; and over a few
hundred steps it sees transient chaos. `lyapunov_spectrum` over the same steps has neither fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.analysis import Result, at_least
from nnflow.ensemble import Ensemble
from nnflow_plugins.separation import Separation

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]
Windows = npt.NDArray[np.int64]


def windows(first: int, last: int, stride: int, shortest: int, longest: int, samples: int) -> Windows:
    """All windows [start, end) ``(window, 2)`` with start = first, first + stride, … ≤ last and as many lengths.

    Lengths run from `shortest` to `longest` by the same stride; windows that end after `samples` are left out.
    """
    starts, lengths = np.arange(first, last + 1, stride), np.arange(shortest, longest + 1, stride)
    pairs = np.stack(np.meshgrid(starts, lengths, indexing="ij"), axis=-1).reshape(-1, 2)
    ends = pairs.sum(axis=1)
    return np.asarray(np.stack([pairs[:, 0], ends], axis=1)[ends <= samples])


def fits(y: Array, time: Array, spans: Windows) -> tuple[Array, Array]:
    """Slope and R² of the least-squares line on each window: ``y (…, time)`` → ``(…, window)`` both.

    R² is 0 where y is constant, NaN where y is not finite.
    """
    slopes, squares = np.empty((2, *y.shape[:-1], len(spans)))
    for i, (start, end) in enumerate(spans):
        t, part = time[start:end] - time[start:end].mean(), y[..., start:end]
        away = part - part.mean(axis=-1, keepdims=True)
        covariance, spread = (away * t).sum(axis=-1), (away * away).sum(axis=-1)
        slopes[..., i] = covariance / (t * t).sum()
        squares[..., i] = np.where(spread == 0, 0.0, covariance * slopes[..., i] / np.where(spread == 0, 1.0, spread))
    return slopes, squares


@dataclass(frozen=True)
class NetworkLyapunov(Separation):
    """The slope of ln ⟨d(t)⟩ on the window of largest R², ⟨d⟩ being the mean distance over the perturbations.

    Variables: `exponent (…, [size])`, nats per step; `r_squared`; `window (…, [size], edge)`, its first step and the
    one after its last; `counted`, whether r_squared and exponent pass the filters, as the study averages only those.
    The estimator is the study's: biased upwards by choosing among windows, and blind to whether chaos lasts.
    (K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.)
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
    """… and its exponent larger than this."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, first=self.first)
        at_least(1, stride=self.stride)
        at_least(2 * self.every, shortest=self.shortest)
        at_least(self.first, last=self.last)
        at_least(self.shortest, longest=self.longest)
        at_least(self.first + self.shortest, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        found = super().__call__(ensemble)
        dims, distance = found["distance"][:2]
        with np.errstate(divide="ignore"):
            y = np.log(np.asarray(distance).mean(axis=-2))
        time = np.asarray(found["time"][1], dtype=float)
        spans = windows(self.first, self.last, self.stride, self.shortest, self.longest, self.steps)
        slopes, squares = fits(np.where(np.isfinite(y), y, np.nan), time, -(-spans // self.every))
        best = np.where(np.isnan(squares), -np.inf, squares).argmax(axis=-1)[..., None]
        exponent, r_squared = (np.take_along_axis(part, best, axis=-1)[..., 0] for part in (slopes, squares))
        own: dict[str, Any] = {
            "exponent": (dims[:-2], exponent, {"long_name": "exponent of the best window", "units": "nats per step"}),
            "r_squared": (dims[:-2], r_squared),
            "window": ((*dims[:-2], "edge"), spans[best[..., 0]], {"long_name": "steps since the perturbation"}),
            "counted": (dims[:-2], (r_squared > self.least_r_squared) & (exponent > self.least_exponent)),
        }
        kept = ("size", "unresolved", "escaped")
        return {**{name: found[name] for name in kept if name in found}, **own}

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The exponents of the members that count: their histogram, or over the size mean and standard deviation."""
        from nnflow_plugins.drawing import COLOURS

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
