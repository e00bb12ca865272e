"""Plateaus and jumps: a series that stays on a level for long, and then steps to another.

On a plateau the series itself may be constant, periodic or chaotic in a band; what stays is its local mean. So the
series is cut into blocks, and the means of the blocks m_1 … m_n into segments on which they are constant: the partition
with the smallest sum of squares about the levels, plus a penalty for every segment, found exactly by dynamic
programming over the end of the last segment. Starts that can never be the best again are dropped (R. Killick, P.
Fearnhead, I. A. Eckley, J. Am. Stat. Assoc. 107, 1590 (2012), doi:10.1080/01621459.2012.736745).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.authors import Analysis, Array, Ensemble, Integers, Recording, Refusal, Result, at_least, first, real, room
from nnflow_plugins.tools.observed import ROUNDING, exponent_of, floor_of, largest_of, told_of, turn_of
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


SHARE = 0.02
"""The default jump, as a share of the range of the series …"""
NOISES = 3.0
"""… but at least so many standard deviations of a block mean about its level, and no rounding."""
TREND = 0.5
"""A plateau drifts by less than this share of a jump (or than two standard errors) from its start to its end."""

SUMMARY = ("segments", "jumps", "plateau_share", "threshold")
"""What is known of a member as a whole."""


class Segments(NamedTuple):
    """The stretches of a series, in time order, one entry each; together they cover it."""

    start: Integers
    """Index of the first sample."""
    end: Integers
    """Index of the sample after the last."""
    level: Array
    """Mean of the samples."""
    spread: Array
    """Largest minus smallest sample."""
    flat: npt.NDArray[np.bool_]
    """Whether it is a plateau; otherwise the series moves: it drifts, or changes faster than plateaus last."""


def segment(
    series: npt.ArrayLike, block: int = 20, jump: float | None = None, shortest: int = 5, floor: float | None = None
) -> Segments:
    """Cut a series into plateaus, and the stretches between them on which it moves.

    A plateau lasts `shortest` blocks of `block` samples or longer, and the straight line through its block means rises
    or falls by less than half a jump (or by less than two standard errors). Neighboring plateaus meet at the sample
    that parts their two levels best; where a stretch that moves begins or ends is known to one block only.

    Args:
        series: ``(time,)``, one block or more.
        block: Samples in a block.
        jump: The smallest difference of two levels (default: `smallest_jump`, with its `floor`).
        shortest: The shortest plateau, in blocks.
        floor: What is rounding, see `smallest_jump`.

    Returns:
        The segments, in time order; none if a sample is not finite.

    Raises:
        Refusal: (a ValueError) for a series shorter than one block, or settings that are not positive.

    >>> found = segment([1.0] * 110 + [3.0] * 90, block=10)
    >>> found.start.tolist(), found.end.tolist(), found.level.tolist()
    ([0, 110], [110, 200], [1.0, 3.0])
    """
    x = real(series, "the series")
    _check(block, jump, shortest)
    if x.ndim != 1 or len(x) < block:
        raise Refusal(f"series of shape {x.shape}: give (time,), and {block} samples (one block) or more")
    if not np.isfinite(x).all():
        return _described(x, np.zeros(1, dtype=np.int64), np.zeros(0, dtype=bool))
    exponent, least = exponent_of(x), smallest_jump(x, block, floor) if jump is None else jump
    x, step = np.ldexp(x, -exponent), float(np.ldexp(least, -exponent))  # sums are within bounds
    means = block_means(x, block)
    scaled, noise = (means - means.mean()) / step, block_noise(means) / step
    penalty = max(shortest / 2, 3 * noise * noise * np.log(len(means)))  # `shortest` blocks that are one jump away pay
    edges = merged(scaled, partition(scaled, penalty))
    edges, flat = _united(edges, _flat(scaled, edges, noise, shortest))
    edges, flat = _without_transits(scaled, edges, flat)
    borders = np.append(edges[:-1] * block, len(x))
    found = _described(x, _sharpened(x, borders, flat, block), flat)
    return found._replace(level=np.ldexp(found.level, exponent), spread=np.ldexp(found.spread, exponent))


def block_means(series: Array, block: int) -> Array:
    """Means of consecutive blocks, ``(time // block,)``; samples that fill no block are left out."""
    whole = len(series) // block * block
    return np.asarray(series[:whole].reshape(-1, block).mean(axis=1))


def block_noise(means: Array) -> float:
    """Standard deviation of a block mean about its level, from second differences, which see neither level nor drift.

    Args:
        means: Of consecutive blocks, ``(block,)``.

    Returns:
        That of Gaussian noise with the same 90 % quantile: of the loudest plateaus, while jumps are too few to count.
    """
    bends = np.abs(np.diff(means, 2))
    return float(np.quantile(bends, 0.9)) / (1.645 * 6**0.5) if bends.size else 0.0


def smallest_jump(series: Array, block: int, floor: float | None = None) -> float:
    """The default of `jump`: 2 % of the range, but at least three times the noise of a block mean, and not rounding.

    Args:
        series: ``(time,)``.
        block: Samples in a block.
        floor: What is rounding (default: 1e-12 of the largest value).

    Returns:
        A difference of levels, positive, in units of the series.
    """
    exponent = exponent_of(series)
    x = np.ldexp(series, -exponent)
    noise = NOISES * block_noise(block_means(x, block))
    smallest = max(SHARE * float(np.ptp(x)), noise)
    rounding = ROUNDING * float(largest_of(series)) if floor is None else floor
    return max(float(np.ldexp(smallest, exponent)), rounding) or 1.0  # of zeros


def partition(values: Array, penalty: float) -> Integers:
    """The segments that minimize Σ (v − mean of its segment)² + penalty · k, k being how many there are.

    Args:
        values: ``(n,)``.
        penalty: Of a segment.

    Returns:
        Edges 0 = e_0 < e_1 < … < e_k = n.

    >>> partition(np.array([0.0, 0.0, 0.0, 9.0, 9.0]), 1.0).tolist()
    [0, 3, 5]
    """
    best, last = np.zeros(len(values) + 1), np.zeros(len(values) + 1, dtype=np.int64)
    starts, counts, means, squares = np.zeros((4, 0))
    for end, value in enumerate(values, 1):
        starts, counts, means, squares = (
            np.append(a, b) for a, b in ((starts, end - 1), (counts, 0), (means, 0), (squares, 0))
        )
        counts += 1
        away = value - means
        means += away / counts
        squares += away * (value - means)
        totals = best[starts.astype(np.int64)] + squares
        chosen = int(totals.argmin())
        best[end], last[end] = totals[chosen] + penalty, starts[chosen]
        kept = totals <= best[end]
        starts, counts, means, squares = starts[kept], counts[kept], means[kept], squares[kept]
    edges = [len(values)]
    while edges[-1] > 0:
        edges.append(int(last[edges[-1]]))
    return np.array(edges[::-1], dtype=np.int64)


def merged(values: Array, edges: Integers, jump: float = 1.0) -> Integers:
    """The edges without those between neighbors whose levels differ by less than a jump; the closest go first."""
    while len(edges) > 2:
        levels = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
        gaps = np.abs(np.diff(levels))
        if gaps.min() >= jump:
            break
        edges = np.delete(edges, int(gaps.argmin()) + 1)
    return edges


def _check(block: int, jump: float | None, shortest: int) -> None:
    at_least(1, block=block)
    at_least(2, shortest=shortest)
    if jump is not None and not 0 < jump < np.inf:
        raise Refusal(f"jump = {jump}: give a positive difference of levels")


def _flat(values: Array, edges: Integers, noise: float, shortest: int) -> npt.NDArray[np.bool_]:
    """Which segments are plateaus: long enough, and no drift that is both seen and large against a jump (of 1)."""
    flat = np.diff(edges) >= shortest
    for i in np.flatnonzero(flat):
        part = values[edges[i] : edges[i + 1]]
        time = np.arange(len(part)) - (len(part) - 1) / 2
        drift = abs(float(time @ part / (time @ time))) * len(part)
        flat[i] = drift < max(TREND, 2 * noise * (12 / len(part)) ** 0.5)
    return flat


def _united(edges: Integers, flat: npt.NDArray[np.bool_]) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Neighbors that both move become one stretch."""
    kept = np.append(True, flat[1:] | flat[:-1])
    return np.append(edges[:-1][kept], edges[-1]), flat[kept]


def _without_transits(
    values: Array, edges: Integers, flat: npt.NDArray[np.bool_]
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """One block between two plateaus, and between their levels, is a jump in mid-block: it goes to the second one."""
    levels = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    between = (levels[1:-1] - levels[:-2]) * (levels[2:] - levels[1:-1]) > 0
    transit = flat[:-2] & ~flat[1:-1] & flat[2:] & (np.diff(edges)[1:-1] == 1) & between
    gone = np.flatnonzero(transit) + 1
    return np.delete(edges, gone + 1), np.delete(flat, gone)


def _sharpened(series: Array, edges: Integers, flat: npt.NDArray[np.bool_], block: int) -> Integers:
    """Each edge between two plateaus, moved by at most a block to where the samples change level (least squares)."""
    out = edges.copy()
    for i in np.flatnonzero(flat[:-1] & flat[1:]) + 1:
        low, high = edges[i] - block, edges[i] + block
        before, after = series[edges[i - 1] : low].mean(), series[high : edges[i + 1]].mean()
        nearer = (series[low:high] - (before + after) / 2) * np.sign(after - before)
        out[i] = low + int(np.append(0.0, np.cumsum(nearer)).argmin())
    return out


def _described(series: Array, edges: Integers, flat: npt.NDArray[np.bool_]) -> Segments:
    parts = [series[a:b] for a, b in pairwise(edges)]
    level, spread = np.array([part.mean() for part in parts]), np.array([np.ptp(part) for part in parts])
    return Segments(edges[:-1], edges[1:], level, spread, flat)


@dataclass(frozen=True)
class Plateaus(Analysis):
    """The plateaus of an observable, and its jumps: a piecewise constant fit to the means of blocks.

    A coordinate that is an angle is unwrapped: a slip of a whole turn is a jump. A member that escapes has no segments.

    Returns:
        start (…, segment): The step index of its first sample, in time order (−1: there are no more segments).
        end (…, segment): The step index after its last sample.
        level (…, segment): Its mean.
        spread (…, segment): Largest minus smallest value.
        flat (…, segment): Whether it is a plateau (otherwise the series moves).
        segments (…): How many there are; beyond `most`, the longest are kept.
        jumps (…): How often a plateau's level differs from the last one's by `jump` or more.
        plateau_share (…): The share of the samples on plateaus.
        threshold (…): The jump that was asked for or chosen.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, or settings out of range.
    """

    observable: str | None = None
    """What is followed (default: the loss, or the first coordinate)."""
    steps: int = 10_000
    """Steps of the series, after the transient."""
    transient: int = 0
    """Steps dropped first."""
    block: int = 20
    """Samples in a block."""
    jump: float | None = None
    """Smallest difference of levels (default: 2 % of the range, at least three times the noise of a block mean)."""
    shortest: int = 5
    """Shortest plateau, in blocks."""
    most: int = 32
    """Largest number of segments that are returned."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.block, self.jump, self.shortest)
        at_least(0, transient=self.transient)
        at_least(1, most=self.most)
        at_least(self.block * self.shortest, steps=self.steps)
        room("segments", 5, self.most)

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        name = first(ensemble, self.observable)
        now: Any = ensemble.advance(self.transient)
        records, after = now.orbit(self.steps, 1, name)
        floors, turn = floor_of(ensemble, name, records[:, :, 0]), turn_of(ensemble, name)
        values = records[:, :, 0] if turn is None else np.unwrap(records[:, :, 0], axis=1, period=turn)
        rows = [self._of(series, now.t, floor) for series, floor in zip(values, floors, strict=True)]
        index = {"long_name": "step", "units": "iterations"}
        dims = ("member", "segment")
        words = {"long_name": name, **told_of(ensemble)}
        return {
            "start": (dims, np.array([row["start"] for row in rows]), index),
            "end": (dims, np.array([row["end"] for row in rows]), index),
            "level": (dims, np.array([row["level"] for row in rows]), words),
            "spread": (dims, np.array([row["spread"] for row in rows]), {"long_name": f"range of {name}"}),
            "flat": (dims, np.array([row["flat"] for row in rows])),
            **{key: ("member", np.array([row[key] for row in rows])) for key in SUMMARY},
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def _of(self, series: Array, t: int, floor: float) -> dict[str, Any]:
        found = segment(series, self.block, self.jump, self.shortest, floor)
        lengths, count = found.end - found.start, len(found.start)
        step = np.nan if not count else smallest_jump(series, self.block, floor) if self.jump is None else self.jump
        kept = np.sort(np.argsort(-lengths, kind="stable")[: self.most])
        return {
            "start": self._padded(found.start[kept] + t, -1),
            "end": self._padded(found.end[kept] + t, -1),
            "level": self._padded(found.level[kept], np.nan),
            "spread": self._padded(found.spread[kept], np.nan),
            "flat": self._padded(found.flat[kept], False),
            "segments": count,
            "jumps": int((np.abs(np.diff(found.level[found.flat])) >= step).sum()),
            "plateau_share": lengths[found.flat].sum() / len(series) if count else np.nan,
            "threshold": step,
        }

    def _padded(self, values: npt.NDArray[Any], filler: float) -> npt.NDArray[Any]:
        return np.concatenate([values, np.full(self.most - len(values), filler, dtype=values.dtype)])

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """Each plateau as a line at its level, from start to end; where the series moves, a thin dotted one."""
        from nnflow_plugins.tools.drawing import COLOURS

        count = dataset.sizes["segment"]
        flat, start, end, level = (
            dataset[name].transpose(..., "segment").values.reshape(-1, count)
            for name in ("flat", "start", "end", "level")
        )
        alpha = max(0.15, 1 / len(flat) ** 0.5)
        for i in range(len(flat)):
            style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "alpha": alpha}
            on, off = flat[i], (start[i] >= 0) & ~flat[i]
            axes.hlines(level[i][on], start[i][on], end[i][on], linewidth=2, **style)
            axes.hlines(level[i][off], start[i][off], end[i][off], linewidth=0.8, linestyle=":", **style)
        axes.set(xlabel="step", ylabel=dataset["level"].attrs.get("long_name", "level"))
