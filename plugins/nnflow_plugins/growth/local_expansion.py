"""Local expansion rates: how fast the futures of similar moments of one series separate, and false neighbors.

(K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.) Two moments at which
a one-dimensional projection of a larger state takes the same value need not be close to one another. Where such false
neighbors pass one another at different speeds d_n grows like n, and a line through ln n, n = 1 … 4, has slope 0.45
without any chaos; where they have parted by n = 1, nothing is left to grow. A further embedding dimension tells them
from true ones. (M. B. Kennel, R. Brown, H. D. I. Abarbanel, Phys. Rev. A 45, 3403 (1992),
doi:10.1103/PhysRevA.45.3403.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from nnflow.authors import Analysis, Array, Ensemble, Recording, Refusal, Result, at_least, first, generator, real
from nnflow_plugins.tools.observed import ROUNDING, exponent_of, floor_of, gap, largest_of, told_of, turn_of
from nnflow_plugins.tools.remarks import put_to_rest
from nnflow_plugins.tools.windows import best_window, fits, logarithm, windows

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

Times = npt.NDArray[np.int64]


class Rates(NamedTuple):
    """What is found at each seed time, arrays ``(seed_point,)``."""

    time: Times
    """The seed times t, in samples, ascending."""
    value: Array
    """x(t)."""
    rate: Array
    """Slope of ln d_n on the window n = 1 … m of largest R², in nats per sample."""
    r_squared: Array
    """That R²."""
    neighbours: Times
    """How many neighbors."""
    false_share: Array
    """The share of them that is false."""
    kept: npt.NDArray[np.bool_]
    """Whether the screening fit is significant."""


def expansion_rates(series: npt.ArrayLike, **settings: Any) -> Rates:
    """The local expansion rates of a measured series.

    The whole series is used: `steps` and `transient` have no part.

    Args:
        series: ``(time,)``.
        **settings: Those of `LocalExpansion` by name.

    Returns:
        The rates, one a seed time; a series that is not finite has NaN rates and no neighbors.

    Raises:
        Refusal: (a ValueError) for a series of another shape or too short for its settings.

    >>> found = expansion_rates(2.0 ** np.arange(20), moments=2, radius=1e6, longest=12)
    >>> np.allclose(found.rate, np.log(2))
    True
    """
    x = real(series, "the series")
    if x.ndim != 1:
        raise Refusal(f"series of shape {x.shape}: give (time,)")
    return LocalExpansion(**{**settings, "steps": len(x), "transient": 0}).rates(x)


def neighbours(
    x: Array, times: Times, moments: Times, radius: float, theiler: int, back: Times, turn: float | None = None
) -> Iterator[Times]:
    """For each t of `times`, those t' of `moments` with |t − t'| ≥ theiler and max_b |x(t − b) − x(t' − b)| < radius.

    Candidates are looked up in the sorted values of x at the moments. Of angles the difference is the shorter way
    round, and candidates are looked up a turn away, too.

    Args:
        x: The series, ``(time,)``; angles in [0, turn).
        times: The times t, in samples.
        moments: The times t' that may be neighbors.
        radius: In units of x.
        theiler: In samples.
        back: What b runs over.
        turn: The period of angles; None for what is none.

    Yields:
        The neighbors of each t.
    """
    order = moments[np.argsort(x[moments], kind="stable")]
    reach = radius * (1 + 1e-6)  # not to lose by rounding what the comparison below would keep
    shifts = np.array([0.0] if turn is None else [-turn, 0.0, turn])
    low = np.searchsorted(x[order], x[times, None] + shifts - reach, side="left")
    high = np.searchsorted(x[order], x[times, None] + shifts + reach, side="right")
    for t, starts, ends in zip(times, low, high, strict=True):
        found = np.unique(np.concatenate([order[start:end] for start, end in zip(starts, ends, strict=True)]))
        found = found[np.abs(found - t) >= theiler]
        for b in back:
            found = found[gap(x[found - b], x[t - b], turn) < radius]
        yield found


@dataclass(frozen=True)
class LocalExpansion(Analysis):
    """How fast the futures of similar moments of one series separate, at seed times drawn at random.

    The neighbors of a seed time t are the times t' with |t − t'| ≥ theiler at which the delay vector (x(t − (E−1)τ), …,
    x(t − τ), x(t)), E = `embedding`, τ = `delay`, is closer than `radius` in the max-norm. d_n is the mean of |x(t+n) −
    x(t'+n)| over them; the rate is the slope of ln d_n on the window n = 1 … m, shortest ≤ m ≤ longest, of largest R².
    A neighbor is false if |x(t+τ) − x(t'+τ)|, the distance in the coordinate that embedding E + 1 would add, exceeds
    tolerance × radius. Differences of angles are taken the shorter way round.

    A large rate is not chaos by itself. In a one-dimensional projection (embedding 1, the study's choice) most
    neighbors may be false: in a slow series, even quasi-periodic, they give rates about 0.45; in a fast one rates that
    are too small. Only with an embedding at which `false_share` is small (in a slow series: with a delay in which false
    neighbors part) does the median tend to the exponent. It stays above it by what the choice of the window adds, least
    where all windows are long; the radius must be so small that d_n does not saturate within them.

    Returns:
        value (…, seed_point): x(t); the coordinate of seed_point is t.
        rate (…, seed_point): Nats per iteration; NaN without neighbors or where a d_n is 0, or rounding. Of an escaped
            member nothing is found.
        r_squared (…, seed_point): R² of its line.
        neighbours (…, seed_point): How many.
        false_share (…, seed_point): The share of them that is false.
        kept (…, seed_point): Whether the line through ln d_n, n = 1 … screen, has a slope of two-sided p ≤
            significance.
        median_rate (…): Over the kept seeds.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for a radius, tolerance or significance out of range, or too few steps for the settings.

    Source:
        arXiv:2404.05782; false neighbors after doi:10.1103/PhysRevA.45.3403.
    """

    observable: str | None = None
    """What is followed (default: the loss, or the first coordinate)."""
    moments: int = 1000
    """Seed times drawn, all different."""
    radius: float = 5e-5
    """Neighbors are closer than this, in units of the observable."""
    theiler: int = 1
    """Neighbors are at least this many samples away in time (1: any time but the seed's own)."""
    embedding: int = 1
    """Components of the delay vector."""
    delay: int = 1
    """Samples between components."""
    shortest: int = 4
    """The shortest window is n = 1 … this."""
    longest: int = 24
    """The longest window."""
    screen: int = 10
    """A seed is kept by the line through n = 1 … this …"""
    significance: float = 0.05
    """… if its slope has at most this p-value."""
    tolerance: float = 10.0
    """A neighbor is false if the next coordinate is farther than this many radii."""
    steps: int = 20000
    """Steps of the series, after the transient."""
    transient: int = 1000
    """Steps dropped first."""
    seed: int = 0
    """Seed of the seed times (the same for all members)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, moments=self.moments, theiler=self.theiler, embedding=self.embedding, delay=self.delay)
        at_least(3, shortest=self.shortest, screen=self.screen)
        at_least(max(self.shortest, self.screen), longest=self.longest)
        for name in ("radius", "tolerance"):
            if not getattr(self, name) > 0:
                raise Refusal(f"{name} = {getattr(self, name)}: give a positive number")
        if not 0 < self.significance <= 1:
            raise Refusal(f"significance = {self.significance}: give a p-value above 0 and at most 1")
        at_least(self._past + self._future + self.moments, steps=self.steps)

    @property
    def _past(self) -> int:
        """Samples that a delay vector reaches back."""
        return (self.embedding - 1) * self.delay

    @property
    def _future(self) -> int:
        """Samples that must follow a seed and a neighbor: those fitted, and the next coordinate."""
        return max(self.longest, self.delay)

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        now: Any = ensemble.advance(self.transient)
        name = first(ensemble, self.observable)
        records, after = now.orbit(self.steps, 1, name)
        series = np.where(after.escaped[:, None] < 0, records[:, :, 0], np.nan)
        floors, turn = floor_of(ensemble, name, series), turn_of(ensemble, name)
        found = [self.rates(x, turn, floor) for x, floor in zip(series, floors, strict=True)]
        parts = {name: np.stack([getattr(rates, name) for rates in found]) for name in Rates._fields}
        medians = [np.median(rates.rate[rates.kept]) if rates.kept.any() else np.nan for rates in found]
        unit = {"units": "nats per iteration", **told_of(ensemble)}
        units = {"rate": {"long_name": "local expansion rate", **unit}}
        time = parts.pop("time")[0] + now.t
        return {
            "seed_point": ("seed_point", time, {"long_name": "seed time", "units": "iterations"}),
            **{name: (("member", "seed_point"), part, units.get(name, {})) for name, part in parts.items()},
            "median_rate": ("member", np.array(medians), {"long_name": "median rate of the kept seeds", **unit}),
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def rates(self, x: Array, turn: float | None = None, floor: float | None = None) -> Rates:
        """What is found on one series.

        Args:
            x: ``(steps,)``.
            turn: The period of angles; None for what is none.
            floor: A d_n of this size or less is 0 (default: rounding).

        Returns:
            The rates, one a seed time.
        """
        candidates = np.arange(self._past, self.steps - self._future)
        times = np.sort(generator(self.seed, "seed times").choice(candidates, self.moments, replace=False))
        x = x if np.isfinite(x).all() else np.full(len(x), np.nan)  # NaN has no neighbours
        value, exponent = x[times], exponent_of(x)
        x = np.ldexp(x, -exponent)  # no sum overflows
        radius = float(np.ldexp(self.radius, -exponent))
        if turn is not None:
            turn = float(np.ldexp(turn, -exponent))
            x %= turn
        count, share = np.zeros(self.moments, dtype=np.int64), np.full(self.moments, np.nan)
        distance = np.full((self.moments, self.longest), np.nan)
        ahead = np.lib.stride_tricks.sliding_window_view(x, self.longest + 1)
        back = np.arange(self.embedding) * self.delay
        for i, found in enumerate(neighbours(x, times, candidates, radius, self.theiler, back, turn)):
            if found.size:
                t = times[i]
                count[i] = found.size
                distance[i] = gap(ahead[found], ahead[t], turn).mean(axis=0)[1:]
                apart = gap(x[found + self.delay], x[t + self.delay], turn)
                share[i] = (apart > self.tolerance * radius).mean()
        rounding = ROUNDING * float(largest_of(x) if turn is None else turn)
        distance[distance <= (rounding if floor is None else np.ldexp(floor, -exponent))] = 0.0
        rate, r_squared, kept = self._fitted(distance)
        return Rates(times, value, rate, r_squared, count, share, kept)

    def _fitted(self, distance: Array) -> tuple[Array, Array, npt.NDArray[np.bool_]]:
        """Rate, R² and whether it is kept, from d_n ``(seed_point, n)``."""
        y, n = logarithm(distance), np.arange(1.0, self.longest + 1)
        y[np.isnan(y).any(axis=1)] = np.nan
        slopes, squares = fits(y, n, windows(0, 0, 1, self.shortest, self.longest, self.longest))
        best = np.maximum(best_window(squares, np.True_), 0)[:, None]  # where there is none, the first holds NaN
        screened = fits(y, n, np.array([[0, self.screen]]))[1][:, 0]
        rate, r_squared = (np.take_along_axis(values, best, axis=1)[:, 0] for values in (slopes, squares))
        return rate, r_squared, slope_p_value(screened, self.screen) <= self.significance

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The rate over the value at the seed, a dot a kept seed."""
        from nnflow_plugins.tools.drawing import COLOURS

        kept = dataset["kept"].values
        values, rates = dataset["value"].values[kept], dataset["rate"].values[kept]
        axes.plot(values, rates, linestyle="", marker=".", markersize=2, color=COLOURS[0])
        label = f"{self.observable or 'value'} at the seed"
        axes.set(xlabel=label, ylabel="local expansion rate (nats per iteration)")


def slope_p_value(r_squared: Array, points: int) -> Array:
    """The two-sided p-value of the slope of a least-squares line with this R².

    t² = (points − 2) R² / (1 − R²) has Student's distribution with points − 2 degrees of freedom if there is no slope.

    Args:
        r_squared: ``(…)``.
        points: Through so many the line goes.

    Returns:
        ``(…)``; NaN of NaN.

    >>> slope_p_value(np.array([0.0, 1.0]), 10).tolist()
    [1.0, 0.0]
    """
    return np.asarray(betainc((points - 2) / 2, 0.5, np.clip(1 - r_squared, 0.0, 1.0)))
