"""Recurrence: when does a series come back to where it was? The lines of the recurrence plot, counted.

R_ij = 1 where the states at times i and j are no farther apart than the threshold, d(x_i, x_j) ≤ ε. A diagonal line of
length l is a stretch of the orbit that repeats an earlier one for l samples: long lines mean predictable dynamics. A
vertical line is a state that lingers; a white vertical line is the time the orbit stays away from a state.

Everything that is reported follows from the histograms of the line lengths, and these need no matrix: the diagonals
and the columns are computed one at a time, in memory O(N). The matrix of a series is symmetric, so half of the
diagonals suffice.

Zbilut and Webber, Phys. Lett. A 171 (1992) 199, doi:10.1016/0375-9601(92)90426-M; Marwan, Romano, Thiel and Kurths,
Recurrence plots for the analysis of complex systems, Phys. Rep. 438 (2007) 237, doi:10.1016/j.physrep.2006.11.001;
the window: Theiler, Phys. Rev. A 34 (1986) 2427, doi:10.1103/PhysRevA.34.2427; the recurrence times: Gao, Phys. Rev.
Lett. 83 (1999) 3178, doi:10.1103/PhysRevLett.83.3178.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnflow.authors import (
    Analysis,
    Array,
    Ensemble,
    Recording,
    Refusal,
    Result,
    at_least,
    first,
    multiple_of,
    one_of,
    real,
    tick,
)
from nnflow_plugins.tools.lines import Counts, count_recurrences, lines_of_cells, lines_of_points, matrix_of_points
from nnflow_plugins.tools.observed import ROUNDING, exponent_of, floor_of, largest_of, told_of, turn_of
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


Turn = float | Sequence[float | None] | None
NORMS = {"max": 0, "l1": 1, "l2": 2, "maximum": 0, "manhattan": 1, "euclidean": 2}
"""The norms, and the power to which their terms are summed; 0 = not summed, each term must be small."""

RATE = 0.05
"""The recurrence rate that the analysis aims at when neither a threshold nor a rate is given."""

LARGEST = 2**28
"""Most matrix cells (bytes) that one call of the analysis returns."""

CONVENTION = (
    "recurrence: distance <= threshold; cells |i - j| < theiler are left out of every line and of the rate's "
    "denominator; lines that meet the border or that window count with the length inside; natural logarithm"
)

FLOOR = "not below the rounding of the series: points that differ by rounding recur, whatever was asked for"

MEASURES = {
    "recurrence_rate": "recurrence rate",
    "determinism": "determinism",
    "mean_diagonal": "mean diagonal length",
    "max_diagonal": "longest diagonal",
    "diagonal_entropy": "entropy of the diagonal lengths",
    "laminarity": "laminarity",
    "trapping_time": "trapping time",
    "max_vertical": "longest vertical",
    "vertical_entropy": "entropy of the vertical lengths",
    "mean_white": "mean white vertical length",
    "max_white": "longest white vertical",
    "white_entropy": "entropy of the white vertical lengths",
    "mean_recurrence_time": "mean recurrence time",
}
"""The measures, in the order of the results, and what they are called in words."""


class Points(NamedTuple):
    """An embedded series as the kernels want it."""

    values: Array
    """``(coordinate, N)``, a coordinate lying side by side, in units of 2^exponent: squares are within bounds."""
    turns: Array
    """``(coordinate,)``: the period of an angle, in the same unit, and then 0 ≤ values ≤ turn; inf of what is none."""
    exponent: int
    rounding: float
    """The distance, in the same unit, below which two points differ by rounding."""


class Lines(NamedTuple):
    """How many lines of each length there are, `(length,)` with index 0 unused, and how many cells were looked at."""

    diagonal: Counts
    vertical: Counts
    white: Counts
    """Vertical lines without recurrence, those that meet the border among them."""
    time: Counts
    """Times from the beginning of a vertical line to the beginning of the next one in its column."""
    cells: int


def recurrence_measures(
    series: ArrayLike,
    threshold: float | None = None,
    rate: float | None = None,
    theiler: int = 1,
    min_diagonal: int = 2,
    min_vertical: int = 2,
    embedding: int = 1,
    delay: int = 1,
    norm: str = "euclidean",
    turn: Turn = None,
) -> dict[str, float]:
    """The measures of the recurrence plot of a series, from O(N) memory; see `measures_of_lines` for each.

    R_ij = 1 where d(x_i, x_j) ≤ threshold, x the series embedded as in `embed`, N points long. Points that differ by
    rounding, by 1e-12 of the largest value, recur whatever the threshold: below that one would count rounding. Lines
    that meet the window or the border count with the length inside.

    Args:
        series: ``(time,)`` or ``(time, channel)``.
        threshold: The distance ε, in units of the series; or else `rate`.
        rate: The recurrence rate in (0, 1] that `threshold_of_rate` finds a threshold for.
        theiler: Cells |i − j| < theiler are left out, of every line and of the rate's denominator: 1 leaves out the
            identity line, 0 nothing.
        min_diagonal: The shortest diagonals that count.
        min_vertical: The shortest verticals that count, black and white.
        embedding: The number of delay coordinates.
        delay: The samples between two of them.
        norm: "l1", "l2" or "max", also as "manhattan", "euclidean", "maximum", over delay coordinates and channels.
        turn: The period, if the series is an angle: differences are then taken the shorter way round. Of several
            channels, one each, None of what is no angle.

    Returns:
        Measure → value, in the order of MEASURES; NaN throughout for a series with a value that is not finite.

    Raises:
        Refusal: (a ValueError) for a series that is too short, and for impossible settings, among them both or neither
            of threshold and rate.

    >>> measures = recurrence_measures([0, 1, 2] * 20, threshold=0.5)  # period 3
    >>> measures["determinism"], measures["laminarity"], measures["mean_recurrence_time"]
    (1.0, 0.0, 3.0)
    """
    at_least(1, min_diagonal=min_diagonal, min_vertical=min_vertical)
    _check_choice(threshold, rate)
    points = _points(series, embedding, delay, theiler, norm, turn)
    epsilon = _threshold(points, threshold, rate, theiler, norm)
    return _measures(points, epsilon, theiler, min_diagonal, min_vertical, norm)


def recurrence_matrix(
    series: ArrayLike,
    threshold: float | None = None,
    rate: float | None = None,
    embedding: int = 1,
    delay: int = 1,
    norm: str = "euclidean",
    turn: Turn = None,
) -> NDArray[np.bool_]:
    """The recurrence matrix R_ij = [d(x_i, x_j) ≤ threshold] of a series.

    A point with a NaN recurs with none, not with itself either; with a rate, such a series gives an empty matrix.

    Args:
        series: ``(time,)`` or ``(time, channel)``.
        threshold: The distance ε, in units of the series; or else `rate`.
        rate: The recurrence rate, that without the identity line (theiler = 1).
        embedding: The number of delay coordinates.
        delay: The samples between two of them.
        norm: "l1", "l2" or "max", also as "manhattan", "euclidean", "maximum", over delay coordinates and channels.
        turn: The period, if the series is an angle; of several channels, one each.

    Returns:
        ``(N, N)`` bool.

    Raises:
        Refusal: (a ValueError) as `recurrence_measures`.
    """
    _check_choice(threshold, rate)
    points = _points(series, embedding, delay, 1, norm, turn)
    return _matrix(points, _threshold(points, threshold, rate, 1, norm), norm)


def measures_of_matrix(
    matrix: ArrayLike, theiler: int | None = None, min_diagonal: int = 2, min_vertical: int = 2
) -> dict[str, float]:
    """The measures of any recurrence matrix, square or not; see `measures_of_lines` for each.

    Args:
        matrix: ``(row, column)``. Every entry that is not 0 is a recurrence; a column's line is a vertical one.
        theiler: As in `recurrence_measures`; by default 1 for a square matrix, as there, and 0 for another one, which
            has no identity line (give 0 for the square matrix of two series).
        min_diagonal: The shortest diagonals that count.
        min_vertical: The shortest verticals that count, black and white.

    Returns:
        Measure → value, in the order of MEASURES.

    Raises:
        Refusal: (a ValueError) for an array that is no matrix, and for impossible settings.
    """
    return measures_of_lines(lines_of_matrix(matrix, theiler), min_diagonal, min_vertical)


def measures_of_lines(lines: Lines, min_diagonal: int = 2, min_vertical: int = 2) -> dict[str, float]:
    """The measures that follow from the histograms P(l) of line lengths.

    - `recurrence_rate`: Σ l P(l) / cells, the share of cells that are recurrences.
    - `determinism`, `laminarity`: Σ_{l ≥ min} l P(l) / Σ l P(l) of the diagonals, of the verticals: the share of
      recurrences that belong to a line.
    - `mean_diagonal`, `trapping_time`, `mean_white`: Σ_{l ≥ min} l P(l) / Σ_{l ≥ min} P(l), in samples.
    - `max_diagonal`, `max_vertical`, `max_white`: the longest line; 0 if there is none of at least the minimum.
    - `diagonal_entropy`, `vertical_entropy`, `white_entropy`: −Σ p ln p, p = P(l) / Σ_{l ≥ min} P(l), in nats.
    - `mean_recurrence_time`: the mean time from the beginning of a vertical line to that of the next in its column, in
      samples (the second type of Gao 1999: the stay is not counted as many returns). p for a series of period p.

    Args:
        lines: The histograms.
        min_diagonal: The shortest diagonals that count.
        min_vertical: The shortest verticals that count; white lines share it.

    Returns:
        Measure → value, in the order of MEASURES. A share of nothing, a mean or an entropy over no line is NaN.

    Raises:
        Refusal: (a ValueError) for a minimum below 1.
    """
    at_least(1, min_diagonal=min_diagonal, min_vertical=min_vertical)
    diagonal, vertical = _statistics(lines.diagonal, min_diagonal), _statistics(lines.vertical, min_vertical)
    white, time = _statistics(lines.white, min_vertical), _statistics(lines.time, 1)
    points = float(lines.diagonal @ np.arange(lines.diagonal.size))
    values = (points / lines.cells, *diagonal, *vertical, *white[1:], time[1])
    return dict(zip(MEASURES, values, strict=True))


def lines_of_matrix(matrix: ArrayLike, theiler: int | None = None) -> Lines:
    """The histograms of line lengths of a recurrence matrix.

    Args:
        matrix: ``(row, column)``, as in `measures_of_matrix`.
        theiler: As in `measures_of_matrix`.

    Returns:
        The histograms, and how many cells were looked at.

    Raises:
        Refusal: (a ValueError) for masked entries, an array that is no matrix, or one without cells outside the window.
    """
    if np.ma.is_masked(matrix):
        raise Refusal("a masked entry of the matrix is neither recurrent nor not: fill them first")
    cells = np.ascontiguousarray(np.asarray(matrix) != 0)
    if cells.ndim != 2:
        raise Refusal(f"the matrix must have the shape (row, column), not {cells.shape}")
    rows, columns = cells.shape
    window = int(rows == columns) if theiler is None else theiler
    at_least(0, theiler=window)
    count = _cells(rows, columns, window)
    if count == 0:
        raise Refusal(f"a matrix of shape {cells.shape} has no cells outside the Theiler window, theiler = {window}")
    return Lines(*lines_of_cells(cells.view(np.uint8), window), count)


def embed(series: ArrayLike, dimension: int, delay: int) -> Array:
    """The delay vectors (x(t), x(t + delay), …) of a series.

    Args:
        series: ``(time,)`` or ``(time, channel)``; the channels of one sample stand side by side.
        dimension: The number of delay coordinates.
        delay: The samples between two of them.

    Returns:
        ``(N, dimension · channels)`` float64; N is the number of samples less (dimension − 1) delay.

    Raises:
        Refusal: (a ValueError) if nothing is left, or for a series of another shape.

    Source:
        F. Takens, Lecture Notes in Mathematics 898 (1981) 366, doi:10.1007/BFb0091924.

    >>> embed([1, 2, 3, 4], dimension=2, delay=2)
    array([[1., 3.],
           [2., 4.]])
    """
    at_least(1, dimension=dimension, delay=delay)
    values = real(series, "the series")
    if values.ndim not in (1, 2) or 0 in values.shape[1:]:
        raise Refusal(f"the series must have the shape (time,) or (time, channel), not {values.shape}")
    table = values.reshape(len(values), -1)
    count = len(table) - (dimension - 1) * delay
    if count < 1:
        raise Refusal(f"{len(table)} samples are too few for {dimension} delay coordinates, {delay} samples apart")
    return np.concatenate([table[lag * delay : lag * delay + count] for lag in range(dimension)], axis=1)


def threshold_of_rate(
    series: ArrayLike,
    rate: float,
    theiler: int = 1,
    embedding: int = 1,
    delay: int = 1,
    norm: str = "euclidean",
    turn: Turn = None,
) -> float:
    """The threshold whose recurrence rate is as near to `rate` as the series allows, to rounding.

    By bisection: each of its about 30 steps counts the pairs within a trial threshold, in O(N) memory, all pairs and no
    sample of them. Equal distances (a periodic series) recur together, so the rate is then met only as nearly as they
    permit; and no threshold is below the rounding of the series.

    Args:
        series: ``(time,)`` or ``(time, channel)``.
        rate: The recurrence rate, in (0, 1].
        theiler: Cells |i − j| < theiler are left out of the rate.
        embedding: The number of delay coordinates.
        delay: The samples between two of them.
        norm: "l1", "l2" or "max", also as "manhattan", "euclidean", "maximum".
        turn: The period, if the series is an angle; of several channels, one each.

    Returns:
        The threshold, in units of the series; NaN for a series with a value that is not finite.

    Raises:
        Refusal: (a ValueError) as `recurrence_measures`.
    """
    _check_choice(None, rate)
    points = _points(series, embedding, delay, theiler, norm, turn)
    return _in_units_of_the_series(points, _threshold(points, None, rate, theiler, norm))


def _check_choice(threshold: float | None, rate: float | None) -> None:
    if (threshold is None) == (rate is None):
        raise Refusal(f"threshold = {threshold}, rate = {rate}: give exactly one of them")
    if threshold is not None:
        at_least(0, threshold=threshold)
    if rate is not None and not 0.0 < rate <= 1.0:
        raise Refusal(f"rate = {rate}: give a share of the cells, above 0 and at most 1")


def _points(
    series: ArrayLike,
    embedding: int,
    delay: int,
    theiler: int,
    norm: str,
    turn: Turn,
    floor: float | None = None,
) -> Points:
    """Return the embedded series as the kernels want it; what is not finite becomes NaN, which is near to nothing."""
    at_least(0, theiler=theiler)
    at_least(1, embedding=embedding, delay=delay)
    one_of(list(NORMS), norm=norm)
    values = np.ascontiguousarray(embed(series, embedding, delay).T)
    turns = _turns(turn, len(values) // embedding, embedding)
    if values.shape[1] < max(2, theiler + 1):
        raise Refusal(
            f"the series gives {values.shape[1]} points: with theiler = {theiler} give {max(2, theiler + 1)} or more"
        )
    values = np.where(np.isfinite(values), values, np.nan)
    angles = np.isfinite(turns)
    values[angles] %= turns[angles, None]
    scale = np.concatenate([values[~angles].ravel(), turns[angles]])
    exponent = exponent_of(scale)
    values, turns = np.ldexp(values, -exponent), np.ldexp(turns, -exponent)
    largest = float(np.ldexp(largest_of(scale), -exponent))
    rounding = ROUNDING * largest if floor is None else float(np.ldexp(floor, -exponent))
    return Points(values, turns, exponent, min(rounding, _longest(values)))


def _turns(turn: Turn, channels: int, embedding: int) -> Array:
    """The period of each coordinate of the embedded series, inf of what is no angle."""
    given = [turn] * channels if turn is None or isinstance(turn, float | int) else list(turn)
    if len(given) != channels or any(each is not None and not 0.0 < each < np.inf for each in given):
        raise Refusal(
            f"turn = {turn}: give the period of the angle, a positive number; of {channels} channels, one each"
        )
    return np.tile([np.inf if each is None else float(each) for each in given], embedding)


def _longest(values: Array) -> float:
    """No distance is longer, in any norm, than the sum of the ranges; 0 of a series that does not move."""
    return float(np.sum(np.ptp(values, axis=1)))


def _apart(values: Array) -> float:
    """How far distances that are equal may be apart, each value being rounded at its own level."""
    return float(4 * np.finfo(np.float64).eps * np.abs(values).max())


def _in_units_of_the_series(points: Points, threshold: float) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(threshold, points.exponent))


def _power(points: Points, norm: str) -> int:
    """In one dimension the norms agree, and the maximum is the cheapest."""
    return NORMS[norm] if len(points.values) > 1 else 0


def _threshold(points: Points, threshold: float | None, rate: float | None, theiler: int, norm: str) -> float:
    """The threshold asked for, or that of a rate, in units of the points; never below their rounding."""
    if threshold is not None:
        with np.errstate(over="ignore", under="ignore"):
            return max(float(np.ldexp(threshold, -points.exponent)), points.rounding)
    if rate is None or not np.isfinite(points.values).all():
        return math.nan
    count = points.values.shape[1]
    cells, power = _cells(count, count, theiler), _power(points, norm)
    wanted = rate * cells
    low, high = points.rounding, (1.0 + 1e-9) * _longest(points.values)
    below, above = count_recurrences(points.values, points.turns, power, low, theiler), cells
    while below < wanted < above and above - below > 2 and low < (middle := 0.5 * (low + high)) < high:
        number = count_recurrences(points.values, points.turns, power, middle, theiler)
        low, below, high, above = (middle, number, high, above) if number < wanted else (low, below, middle, number)
    aside = min(points.rounding, max(ROUNDING * _longest(points.values), _apart(points.values)))  # not amid equal ones
    low, high = max(points.rounding, low - aside), high + aside
    below, above = (count_recurrences(points.values, points.turns, power, edge, theiler) for edge in (low, high))
    return low if wanted - below < above - wanted else high


def _measures(
    points: Points, threshold: float, theiler: int, min_diagonal: int, min_vertical: int, norm: str
) -> dict[str, float]:
    if not np.isfinite(points.values).all():
        return dict.fromkeys(MEASURES, math.nan)
    count = _cells(points.values.shape[1], points.values.shape[1], theiler)
    lines = Lines(*lines_of_points(points.values, points.turns, _power(points, norm), threshold, theiler), count)
    return measures_of_lines(lines, min_diagonal, min_vertical)


def _matrix(points: Points, threshold: float, norm: str) -> NDArray[np.bool_]:
    return matrix_of_points(points.values, points.turns, _power(points, norm), threshold).view(np.bool_)


def _cells(rows: int, columns: int, theiler: int) -> int:
    """How many cells lie outside the Theiler window."""
    inside = (min(rows, columns - k) - max(0, -k) for k in range(1 - theiler, theiler))
    return rows * columns - sum(max(0, length) for length in inside)


def _statistics(lines: Counts, least: int) -> tuple[float, float, float, float]:
    """Share of the points in lines of at least this length, their mean length, the longest, the entropy."""
    lengths = np.flatnonzero(lines[least:]) + least
    if not lengths.size:
        return 0.0 if lines[1:].any() else math.nan, math.nan, 0.0, math.nan
    counts = lines[lengths]
    points, p = int(lengths @ counts), counts / counts.sum()
    share = points / int(lines @ np.arange(lines.size))
    return share, points / int(counts.sum()), float(lengths[-1]), abs(float(p @ np.log(p)))  # abs: 0, not −0


@dataclass(frozen=True)
class Recurrence(Analysis):
    """Recurrence quantification of an observable along the orbit: how regular, how sticky, how often it returns.

    Distances of a coordinate that is an angle are taken the shorter way round. See `recurrence_measures`.

    Returns:
        recurrence_rate, determinism, laminarity (…): Shares. An escaped member is NaN in all measures.
        mean_diagonal, max_diagonal, trapping_time, max_vertical, mean_white, max_white, mean_recurrence_time (…): In
            samples.
        diagonal_entropy, vertical_entropy, white_entropy (…): In nats.
        threshold (…): In units of the observable, never below the rounding of the series.
        matrix (…, i, j): On request, int8; 0 of an escaped member.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, for matrices too large to keep, and for impossible settings.

    Source:
        N. Marwan, M. C. Romano, M. Thiel, J. Kurths, Phys. Rep. 438, 237 (2007), doi:10.1016/j.physrep.2006.11.001.
    """

    observable: str | tuple[str, ...] | None = None
    """A coordinate or observable of the map (default: the loss if it has one, else the first coordinate), or several:
    then distances are measured in the space that they span."""
    embedding: int = 1
    """How many delay coordinates."""
    delay: int = 1
    """Samples between two delay coordinates."""
    threshold: float | None = None
    """The distance up to which two points recur, in units of the observable; or else give a rate."""
    rate: float | None = None
    """Recurrence rate for which every member gets its own threshold (default: 0.05, if no threshold is given)."""
    norm: str = "euclidean"
    """How distances are measured: l1, l2 or max, also as manhattan, euclidean, maximum."""
    theiler: int = 1
    """Pairs closer in time than this many samples are left out: 1 leaves out the identity line, 0 nothing."""
    min_diagonal: int = 2
    """Shortest diagonal line that counts, in samples."""
    min_vertical: int = 2
    """Shortest vertical line that counts, black or white, in samples."""
    matrix: bool = False
    """Keep the recurrence matrices."""
    steps: int = 2000
    """Steps recorded, after the transient."""
    transient: int = 1000
    """Steps dropped first."""
    every: int = 1
    """Steps between two samples."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, theiler=self.theiler)
        at_least(1, embedding=self.embedding, delay=self.delay, steps=self.steps, every=self.every)
        at_least(1, min_diagonal=self.min_diagonal, min_vertical=self.min_vertical)
        one_of(list(NORMS), norm=self.norm)
        if self.observable == ():
            raise Refusal("observable = (): give a name or more")
        _check_choice(self.threshold, self._aim)
        multiple_of("every", self.every, steps=self.steps)
        least = max(2, self.theiler + 1)
        if self._size < least:
            raise Refusal(
                f"steps = {self.steps}: after sampling and embedding {self._size} points are left; "
                f"with theiler = {self.theiler} at least {least} are needed"
            )

    @property
    def _aim(self) -> float | None:
        return RATE if self.threshold is None and self.rate is None else self.rate

    @property
    def _size(self) -> int:
        """Points of the embedded series."""
        return self.steps // self.every - (self.embedding - 1) * self.delay

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        several = isinstance(self.observable, tuple)
        names: Any = self.observable if several else (first(ensemble, self.observable),)  # type: ignore[arg-type]
        name = ", ".join(names)
        if self.matrix and len(ensemble) * self._size**2 > LARGEST:
            raise Refusal(
                f"{len(ensemble)} matrices of {self._size} x {self._size} cells are too much to keep: take fewer "
                "steps, fewer members at a time (chunk), or leave the matrix out"
            )
        records, after = ensemble.advance(self.transient).orbit(self.steps, self.every, names)
        floors = np.max([floor_of(ensemble, n, records[:, :, c]) for c, n in enumerate(names)], axis=0)
        turns = [turn_of(ensemble, name) for name in names]
        members = [self._member(one, turns, floor) for one, floor in zip(records, floors, strict=True)]
        attrs: dict[str, Any] = {"convention": CONVENTION, "observable": name, **told_of(ensemble)}
        result: dict[str, Any] = {
            measure: ("member", np.array([values[measure] for values, _, _ in members]), {"long_name": words, **attrs})
            for measure, words in MEASURES.items()
        }
        thresholds = np.array([threshold for _, threshold, _ in members])
        result["threshold"] = ("member", thresholds, {"long_name": f"threshold, distance of {name}", "note": FLOOR})
        if self.matrix:
            result |= self._matrices([matrix for _, _, matrix in members], attrs)
        result |= put_to_rest(ensemble, after)
        return {**result, "escaped": ("member", after.escaped), "after": ("member", after)}

    def _member(
        self, series: Array, turns: Sequence[float | None], floor: float
    ) -> tuple[dict[str, float], float, NDArray[np.bool_] | None]:
        """Measures, threshold and matrix of one series."""
        tick()  # a long series takes seconds: lets Ctrl-C through in between
        points = _points(series, self.embedding, self.delay, self.theiler, self.norm, turns, floor)
        threshold = _threshold(points, self.threshold, self._aim, self.theiler, self.norm)
        measures = _measures(points, threshold, self.theiler, self.min_diagonal, self.min_vertical, self.norm)
        matrix = _matrix(points, threshold, self.norm) if self.matrix else None
        return measures, _in_units_of_the_series(points, threshold), matrix

    def _matrices(self, matrices: list[Any], attrs: dict[str, Any]) -> dict[str, Any]:
        times = np.arange(self._size) * self.every
        stacked = np.array(matrices, dtype=np.int8)
        return {
            "i": ("i", times, {"long_name": "step after the transient"}),
            "j": ("j", times, {"long_name": "step after the transient"}),
            "matrix": (("member", "i", "j"), stacked, {"long_name": "recurrence", **attrs}),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The recurrence plot of the first member if the matrix was kept, else three shares over the scanned axis."""
        from nnflow_plugins.tools.drawing import over_axis

        if "matrix" not in dataset:
            shares = dataset[["recurrence_rate", "determinism", "laminarity"]].to_array("measure")
            over_axis(shares, axes, own="measure")
            axes.set_ylim(-0.05, 1.05)
            axes.set_ylabel("share of the pairs, of the recurrences")
            return
        matrix = dataset["matrix"]
        matrix = matrix.isel({dim: 0 for dim in matrix.dims if dim not in ("i", "j")})
        half = self.every / 2
        ends = (-half, float(matrix["j"][-1]) + half)
        axes.imshow(matrix.transpose("i", "j"), origin="lower", extent=(*ends, *ends), cmap="binary", vmin=0, vmax=1)
        axes.set_xlabel(f"{matrix['j'].attrs['long_name']}, j")
        axes.set_ylabel(f"{matrix['i'].attrs['long_name']}, i")
