"""Intermittency: how long a series stays nearly periodic before a burst ends it.

A sample is laminar if the series comes back close to it one period later, |x(t + period) − x(t)| < tolerance. Near a
tangent bifurcation the mean length of the laminar phases grows as δ^(−1/2) with the distance δ from it (type I); other
ways to lose stability have other laws and other distributions (Y. Pomeau, P. Manneville, Commun. Math. Phys. 74, 189
(1980), doi:10.1007/BF01197757).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.authors import Analysis, Array, Ensemble, Integers, Recording, Refusal, Result, at_least, first, real
from nnflow_plugins.tools.observed import ROUNDING, exponent_of, floor_of, gap, largest_of, on_circle, told_of, turn_of
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


SHARE = 0.05
"""The default tolerance, in standard deviations of the series."""


class Phases(NamedTuple):
    """The laminar phases of a series, in time order, one entry each."""

    start: Integers
    """Index of the first laminar sample."""
    length: Integers
    """Number of samples."""
    complete: npt.NDArray[np.bool_]
    """Whether it is seen from its beginning to its end, and not cut by an end of the series."""


def default_tolerance(series: Array, turn: float | None = None) -> float:
    """The default of `tolerance`: 0.05 standard deviations of the series.

    Args:
        series: ``(time,)``.
        turn: The period of the values, if they are angles; then the deviation is that of the point on the circle.

    Returns:
        A distance, in units of the series.
    """
    exponent = exponent_of(series)
    points = np.ldexp(series[:, None] if turn is None else on_circle(series, turn), -exponent)
    return float(np.ldexp(SHARE * np.sqrt(points.var(axis=0).sum()), exponent))


def laminar_phases(
    series: npt.ArrayLike,
    period: int = 1,
    tolerance: float | None = None,
    shortest: int = 2,
    turn: float | None = None,
    floor: float | None = None,
) -> Phases:
    """The longest runs of laminar samples, |x(t + period) − x(t)| < tolerance.

    Samples that differ by rounding are laminar whatever the tolerance. The last `period` samples of the series have no
    partner and are left out.

    Args:
        series: ``(time,)``, longer than `period`.
        period: In samples.
        tolerance: In units of the series (default: `default_tolerance`).
        shortest: Shorter runs are left out.
        turn: The period of the values, if they are angles.
        floor: What is rounding (default: 1e-12 of the largest value).

    Returns:
        The phases, in time order; none if a sample is not finite.

    Raises:
        Refusal: (a ValueError) for a series that is not longer than `period`, or settings that are not positive.
    """
    x = real(series, "the series")
    _check(period, tolerance, shortest)
    if x.ndim != 1 or len(x) <= period:
        raise Refusal(f"series of shape {x.shape}: give (time,), and more samples than period = {period}")
    known = np.isfinite(x).all()
    with np.errstate(over="ignore", invalid="ignore"):
        apart = gap(x[period:], x[:-period], turn)
        limit = default_tolerance(x, turn) if tolerance is None and known else tolerance or 0.0
    rounding = ROUNDING * float(largest_of(x) if turn is None else turn) if floor is None else floor
    laminar = ((apart < limit) | (apart <= rounding)) & known
    turns = np.diff(np.concatenate([[0], laminar.astype(np.int8), [0]]))
    start, end = np.flatnonzero(turns == 1), np.flatnonzero(turns == -1)
    kept = end - start >= shortest
    return Phases(start[kept], (end - start)[kept], ((start > 0) & (end < len(laminar)))[kept])


def laminar_lengths(
    series: npt.ArrayLike, period: int = 1, tolerance: float | None = None, shortest: int = 2
) -> Integers:
    """Lengths of the complete laminar phases of a series; see `laminar_phases`.

    Args:
        series: ``(time,)``.
        period: In samples.
        tolerance: In units of the series (default: `default_tolerance`).
        shortest: Shorter phases are left out.

    Returns:
        In time order, in samples.

    >>> laminar_lengths([9, 1, 1, 1, 5, 2, 2, 2, 2, 7], tolerance=0.5).tolist()
    [2, 3]
    """
    found = laminar_phases(series, period, tolerance, shortest)
    return found.length[found.complete]


def length_bins(shortest: int, longest: int, bins: int) -> Integers:
    """Edges of logarithmic bins of lengths, the last exclusive.

    Args:
        shortest: The first edge.
        longest: The longest length.
        bins: How many; fewer where one would hold no integer.

    Returns:
        ``(bins + 1,)`` int64.

    >>> length_bins(2, 31, 8).tolist()
    [2, 3, 4, 6, 8, 11, 16, 23, 32]
    """
    return np.unique(np.round(np.geomspace(shortest, longest + 1, bins + 1))).astype(np.int64)


def _check(period: int, tolerance: float | None, shortest: int) -> None:
    at_least(1, period=period, shortest=shortest)
    if tolerance is not None and not 0 < tolerance < np.inf:
        raise Refusal(f"tolerance = {tolerance}: give a positive distance")


@dataclass(frozen=True)
class LaminarLengths(Analysis):
    """Lengths of the laminar phases of an observable: where |x(t + period) − x(t)| < tolerance without a break.

    The difference of angles is the shorter way round, and what differs by rounding is laminar whatever the tolerance.

    Returns:
        phases (…): How many are complete.
        mean_length (…): Of these, in steps; NaN where no phase is complete.
        longest (…): Of these, in steps.
        histogram (…, length): How many lengths are in each logarithmic bin, whose geometric middle is `length`.
        width (…, length): How many integers the bin has.
        laminar_share (…): The share of the samples in laminar phases, those cut by the ends of the series among them;
            NaN where the member escapes.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, or settings out of range.

    Source:
        Y. Pomeau, P. Manneville, Commun. Math. Phys. 74, 189 (1980), doi:10.1007/BF01197757.
    """

    observable: str | None = None
    """What is followed (default: the loss, or the first coordinate)."""
    period: int = 1
    """Samples after which a laminar series is back."""
    tolerance: float | None = None
    """How close it comes back (default: 0.05 standard deviations of the series); never below rounding."""
    shortest: int = 2
    """Shortest phase that counts."""
    bins: int = 24
    """Bins of the histogram, from `shortest` to `steps`; those that would hold no integer are left out."""
    steps: int = 100_000
    """Steps of the series, after the transient."""
    transient: int = 1000
    """Steps dropped first."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.period, self.tolerance, self.shortest)
        at_least(0, transient=self.transient)
        at_least(1, bins=self.bins)
        at_least(self.period + self.shortest, steps=self.steps)
        at_least(self.bins, steps=self.steps)  # a bin holds a length or more

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        now: Any = ensemble.advance(self.transient)
        name = first(ensemble, self.observable)
        records, after = now.orbit(self.steps, 1, name)
        edges = length_bins(self.shortest, self.steps, self.bins)
        floors, turn = floor_of(ensemble, name, records[:, :, 0]), turn_of(ensemble, name)
        found = [self._of(x, edges, turn, floor) for x, floor in zip(records[:, :, 0], floors, strict=True)]
        names = ("laminar_share", "phases", "mean_length", "longest")
        unit, rounding = {"units": "iterations"}, told_of(ensemble)
        return {
            "length": ("length", np.sqrt(edges[:-1] * (edges[1:] - 1.0)), unit),
            "width": (("member", "length"), np.tile(np.diff(edges), (len(found), 1)), unit),
            **{name: ("member", np.array([row[i] for row in found]), rounding) for i, name in enumerate(names)},
            "histogram": (("member", "length"), np.array([row[-1] for row in found])),
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def _of(
        self, series: Array, edges: Integers, turn: float | None, floor: float
    ) -> tuple[float, int, float, int, Integers]:
        found = laminar_phases(series, self.period, self.tolerance, self.shortest, turn, floor)
        lengths = found.length[found.complete]
        share = found.length.sum() / (len(series) - self.period) if np.isfinite(series).all() else np.nan
        mean = lengths.mean() if lengths.size else np.nan
        counts = np.histogram(lengths, edges)[0].astype(np.int64)
        return float(share), lengths.size, float(mean), int(lengths.max(initial=0)), counts

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The density of the lengths, both axes logarithmic: the median over the members that have complete phases."""
        from nnflow_plugins.tools.drawing import COLOURS

        counts = dataset["histogram"].transpose(..., "length").values.reshape(-1, dataset.sizes["length"])
        totals = counts.sum(axis=1, keepdims=True)
        known = totals[:, 0] > 0
        density = np.full(counts.shape[1], np.nan)
        if known.any():
            width = dataset["width"].values.reshape(counts.shape)[0]
            density = np.median(counts[known] / totals[known], axis=0) / width
        shown = np.where(density > 0, density, np.nan)
        axes.plot(dataset["length"], shown, color=COLOURS[0], marker=".", linewidth=1)
        scale = "log" if (density > 0).any() else "linear"  # matplotlib refuses a logarithmic axis without data
        axes.set(xscale=scale, yscale=scale, xlabel="laminar length (iterations)", ylabel="density")
