"""The 0–1 test for chaos: is a long series regular (K near 0) or chaotic (K near 1)?

The series φ drives a walk in the plane, z_c(n) = Σ_{k≤n} φ(k) e^{ikc}. Regular dynamics keep the walk bounded; chaos
makes it diffuse, so that its mean-square displacement D_c(n) grows like n. K_c is the correlation of D_c(n) with
n = 1 … N/10, and K is the median over the frequencies c, which forgets the few c that resonate with a period.

Gottwald and Melbourne, On the implementation of the 0–1 test for chaos, SIAM J. Appl. Dyn. Syst. 8 (2009) 129,
doi:10.1137/080718851; On the validity of the 0–1 test for chaos, Nonlinearity 22 (2009) 1367, arXiv:0906.1415.

Here D_c comes without the O(N²) sum over windows. With J = N − N/10 windows, P(n) = Σ_{j<J} |z(j+n) − z(j)|² and its
increments Δ(n) = P(n) − P(n−1) obey

    Δ(n+1) = Δ(n) + e(J+n) − e(n) + 2 cos(nc) A(n),        e(i) = φ(i) (φ(i) + 2 Re u(i)),

where A(n) = Σ_{j≤J} φ(j) φ(j+n) does not depend on c (one FFT for all frequencies), and u(i) = Σ_{m<n} φ(i−m) e^{imc},
over the n − 1 values before φ(i), is carried along by u ← (u + φ) e^{ic}: a handful of operations for each n and c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft

from nnflow.authors import (
    Analysis,
    Array,
    Ensemble,
    Recording,
    Refusal,
    Result,
    at_least,
    first,
    kernel,
    loop,
    multiple_of,
    real,
    room,
)
from nnflow_plugins.tools.observed import ROUNDING, floor_of, on_circle, told_of, turn_of
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


SHORTEST = 100
"""Fewest samples that are tested: the displacement is then known at ten n."""

BLOCK = 32
"""Rows worked on at once by the batch: enough for the FFT, little memory."""

DRIFT_THRESHOLD = 1.0
"""A `drift` above this makes K meaningless: the series is still on its way, not on an attractor."""


def zero_one(series: ArrayLike, frequencies: int | ArrayLike = 101) -> float:
    """K of the 0–1 test: near 0 for a regular series, near 1 for a chaotic one.

    K = median over c of corr(n, D_c(n)), n = 1 … N/10, with D_c of `displacements`.

    What K does not tell:

    - **White noise gives K = 0.998 too: the test cannot tell noise from chaos.** It belongs on deterministic series.
    - A discontinuous observable of a regular motion fails: x mod 1 of a rotation gives about 0.5; cos 2πx gives 0.
    - A series that has not settled (a decay, a trend) gives −0.4 … 0.1, whatever lies beneath: look at `drift`.
    - Continuous time sampled finely looks regular: keep one sample per typical time of the motion.

    Args:
        series: ``(sample,)``, at least 100 samples; 1000 and more for values of K that mean something.
        frequencies: How many c, equally spaced in [π/5, 4π/5], or the values c themselves, radians a sample in (0, 2π).

    Returns:
        K in [−1, 1]; NaN when the series has a value that is not finite; 0 when it is constant, which is when its
        standard deviation is at most 1e-12 of its mean (the rounding noise of a converged series would give 0.998).

    Raises:
        Refusal: (a ValueError) for a series that is short or not one-dimensional, and for impossible frequencies.

    >>> quiet = np.cos(np.arange(2000))
    >>> abs(zero_one(quiet)) < 0.01
    True
    """
    return float(np.median(growth_rates(series, frequencies)))


def zero_one_batch(series: ArrayLike, frequencies: int | ArrayLike = 101, floor: ArrayLike | None = None) -> Array:
    """K of the 0–1 test of every row, see `zero_one`. Serial, and most of it without the GIL.

    Args:
        series: ``(member, sample)``.
        frequencies: As in `zero_one`.
        floor: ``(member,)`` or one for all: a row whose standard deviation is at most this counts as constant (default:
            1e-12 of its mean).

    Returns:
        ``(member,)``.

    Raises:
        Refusal: (a ValueError) as `zero_one`.
    """
    rows, chosen = _checked(series, ndim=2), _frequencies(frequencies)
    floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), len(rows))
    k = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        k[block] = np.median(_growth_rates(rows[block], chosen, floors[block]), axis=1)
    return k


def growth_rates(series: ArrayLike, frequencies: int | ArrayLike = 101) -> Array:
    """K_c for every frequency: the correlation of D_c(n) with n. See `zero_one`.

    Args:
        series: ``(sample,)``.
        frequencies: As in `zero_one`.

    Returns:
        ``(frequency,)``.

    Raises:
        Refusal: (a ValueError) as `zero_one`.
    """
    values, chosen = _checked(series, ndim=1), _frequencies(frequencies)
    rates: Array = _growth_rates(values[None], chosen, np.full(1, np.nan))[0]
    return rates


def displacements(series: ArrayLike, frequencies: int | ArrayLike = 101) -> Array:
    """The modified mean-square displacement D_c(n), n = 1 … N/10.

    D_c(n) = 1/J Σ_{j=0}^{J−1} |z_c(j+n) − z_c(j)|² with J = N − N/10 and the walk z_c(n) = Σ_{m=1}^{n} φ(m) e^{imc},
    z_c(0) = 0, of the series φ **less its mean**. The modified
    displacement of the papers subtracts (Eφ)² (1 − cos nc)/(1 − cos c), what the mean adds to the walk on average; with
    the mean gone at the outset that term is zero, and so are the cross terms of mean and signal, which it leaves behind
    (1 + 10⁻³ · logistic: K = 0.7 with the term alone, 0.997 with the mean removed).

    Args:
        series: ``(sample,)``.
        frequencies: As in `zero_one`.

    Returns:
        ``(frequency, n)``, in squared units; zeros for a constant series, NaN for one with a value that is not finite.

    Raises:
        Refusal: (a ValueError) as `zero_one`.
    """
    values, chosen = _checked(series, ndim=1), _frequencies(frequencies)
    (standard,), (spread,) = _standardised(values[None], np.full(1, np.nan))
    longest = values.size // 10
    if not spread > 0.0:
        return np.full((chosen.size, longest), spread)
    total = np.empty((longest, chosen.size))
    _walk(standard, _lagged_products(standard[None])[0], np.cos(chosen), np.sin(chosen), total)
    total *= float(spread) * float(spread) / (values.size - longest)
    return np.ascontiguousarray(total.T)


def drift(series: ArrayLike, floor: float | None = None) -> float:
    """How far apart the quarters of a series lie: above `DRIFT_THRESHOLD` = 1 the series has not settled.

    drift = max over pairs of quarters of W₁(quarter, quarter) / mean |φ − median φ|

    W₁ is the earth mover's distance between the values of two quarters (the mean distance of their sorted values), so
    the measure sees changes of level and of amplitude, and is the same for a φ + b. A linear ramp gives 3; a decay that
    ends well inside the series, monotone or oscillating, 4; 1/t gives 3 to 4; a single burst about 4; a random walk and
    a wave of one turn about 2. Periodic and quasi-periodic series of many turns give about 0. Chaos and white noise
    give about 5/√N: the threshold raises a false alarm on 3 % of series of 100 samples of white noise, 1 % of the
    logistic map at r = 4, fewer than 0.1 % from 200 samples on (of 5000). Weak ramps and decays, below the threshold,
    did not lead K astray.

    Args:
        series: ``(sample,)``.
        floor: As in `zero_one_batch`.

    Returns:
        0 … 4; 0 for a constant series (see `zero_one`), NaN for values that are not finite.

    Raises:
        Refusal: (a ValueError) as `zero_one`.
    """
    (standard,), (spread,) = _standardised(_checked(series, ndim=1)[None], np.array([floor], dtype=np.float64))
    if not spread > 0.0:
        return float(spread)
    quarter = standard.size // 4
    quarters = np.sort(standard[: 4 * quarter].reshape(4, quarter), axis=1)
    farthest = max(float(np.mean(np.abs(a - b))) for a, b in combinations(quarters, 2))
    return farthest / float(np.mean(np.abs(standard - np.median(standard))))


def drift_batch(series: ArrayLike, floor: ArrayLike | None = None) -> Array:
    """The `drift` of every row.

    Args:
        series: ``(member, sample)``.
        floor: As in `zero_one_batch`.

    Returns:
        ``(member,)``.

    Raises:
        Refusal: (a ValueError) as `zero_one`.
    """
    rows = _checked(series, ndim=2)
    floors = np.broadcast_to(np.asarray(floor, dtype=np.float64), len(rows))
    return np.array([drift(row, least) for row, least in zip(rows, floors, strict=True)], dtype=np.float64)


def _checked(series: ArrayLike, ndim: int) -> Array:
    values = np.ascontiguousarray(real(series, "the series"))
    if values.ndim != ndim:
        wanted = "(sample,)" if ndim == 1 else "(member, sample)"
        raise Refusal(f"the series must have the shape {wanted}, not {values.shape}")
    if values.shape[-1] < SHORTEST:
        raise Refusal(f"the 0–1 test needs at least {SHORTEST} samples, not {values.shape[-1]}: record more steps")
    return values


def _frequencies(frequencies: int | ArrayLike) -> Array:
    if isinstance(frequencies, int | np.integer):
        if frequencies < 1:
            raise Refusal(f"the number of frequencies must be at least 1, not {frequencies}")
        return np.linspace(np.pi / 5, 4 * np.pi / 5, int(frequencies))
    chosen = np.asarray(frequencies, dtype=np.float64)
    if chosen.ndim != 1 or chosen.size == 0 or not bool(np.all((chosen > 0) & (chosen < 2 * np.pi))):
        raise Refusal("frequencies must be a number of them or a list of values between 0 and 2π, both excluded")
    return chosen


def _growth_rates(rows: Array, frequencies: Array, floors: Array) -> Array:
    """Return K_c of every row, `(member, frequency)`: 0 where a row is constant, NaN where it is not finite."""
    standard, spread = _standardised(rows, floors)
    rates = np.repeat(spread[:, None], frequencies.size, axis=1)
    varies = spread > 0.0
    standard = standard[varies]
    rates[varies] = _correlations(standard, _lagged_products(standard), np.cos(frequencies), np.sin(frequencies))
    return rates


def _standardised(rows: Array, floors: Array) -> tuple[Array, Array]:
    """The rows with mean 0 and standard deviation 1, and the deviations they had.

    Constant is what deviates by no more than the floor `(member,)`, or if that is NaN by rounding only.

    Returns:
        Both; the deviation is 0 of a constant row, NaN of one that is not finite.
    """
    size = np.max(np.abs(rows), axis=1, keepdims=True)
    finite = np.isfinite(size)
    scale = np.where(finite & (size > 0.0), size, 1.0)
    unit = np.where(finite, rows, 0.0) / scale  # squares neither overflow nor vanish
    mean = unit.mean(axis=1, keepdims=True)
    unit -= mean
    unit -= unit.mean(axis=1, keepdims=True)
    spread = np.sqrt(np.mean(unit**2, axis=1, keepdims=True))
    spread[spread <= np.where(np.isnan(floors[:, None]), ROUNDING * np.abs(mean), floors[:, None] / scale)] = 0.0
    unit /= np.where(spread > 0.0, spread, 1.0)
    return unit, np.where(finite, spread * scale, np.nan)[:, 0]


def _lagged_products(rows: Array) -> Array:
    """Return A(n) = Σ_{j<J} φ(j) φ(j + n), n = 0 … N/10, of every row. Nothing wraps round: J + N/10 = N."""
    samples = rows.shape[1]
    longest = samples // 10
    size = fft.next_fast_len(samples, real=True)
    spectrum = np.conj(fft.rfft(rows[:, : samples - longest], size)) * fft.rfft(rows, size)
    return np.ascontiguousarray(fft.irfft(spectrum, size)[:, : longest + 1], dtype=np.float64)


@loop()
def _correlations(rows: Array, products: Array, cosine: Array, sine: Array) -> Array:
    """Return the correlation of P(n) with n, `(member, frequency)`."""
    correlation = np.empty((rows.shape[0], cosine.size))
    total = np.empty((products.shape[1] - 1, cosine.size))
    for member in range(rows.shape[0]):
        _walk(rows[member], products[member], cosine, sine, total)
        _correlate_with_n(total, correlation[member])
    return correlation


@loop()
def _walk(values: Array, products: Array, cosine: Array, sine: Array, total: Array) -> None:
    """Sum the recurrence of the module's docstring into total: P(n), n = 1 … N/10, `(n, frequency)`."""
    windows = values.size - total.shape[0]
    head, tail, wave = np.zeros((2, cosine.size)), np.zeros((2, cosine.size)), np.zeros((2, cosine.size))
    wave[0] = 1.0
    growth = np.full(cosine.size, products[0])
    total[0] = growth
    for n in range(1, total.shape[0]):
        leaving, entering = values[n - 1], values[windows + n - 1]
        _turn(wave[0], wave[1], 0.0, cosine, sine)
        _grow(growth, leaving, entering, products[n], head[0], tail[0], wave[0])
        _turn(head[0], head[1], leaving, cosine, sine)
        _turn(tail[0], tail[1], entering, cosine, sine)
        total[n] = total[n - 1] + growth


@kernel
def _grow(
    growth: Array, leaving: float, entering: float, product: float, head: Array, tail: Array, wave: Array
) -> None:
    """Take Δ(n) to Δ(n+1): head and tail are Re u before the values that leave and enter, wave is cos nc."""
    for i in range(growth.size):
        enters = entering * (entering + 2.0 * tail[i])
        leaves = leaving * (leaving + 2.0 * head[i])
        growth[i] += enters - leaves + 2.0 * product * wave[i]


@kernel
def _turn(real: Array, imaginary: Array, added: float, cosine: Array, sine: Array) -> None:
    """Take u to (u + added) e^{ic}, for every frequency."""
    for i in range(real.size):
        x, y = real[i] + added, imaginary[i]
        real[i] = cosine[i] * x - sine[i] * y
        imaginary[i] = sine[i] * x + cosine[i] * y


@kernel
def _correlate_with_n(total: Array, correlation: Array) -> None:
    """Write the correlation of every column with n; 0 for a column that does not vary."""
    count = total.shape[0]
    mean, square = np.zeros(total.shape[1]), np.zeros(total.shape[1])
    for n in range(count):
        mean += total[n] / count
    correlation[:] = 0.0
    for n in range(count):
        _add_products(total[n], mean, n - 0.5 * (count - 1), square, correlation)
    variance = count * (count * count - 1.0) / 12.0  # of 0 … count − 1, times count
    for i in range(square.size):
        correlation[i] = correlation[i] / math.sqrt(variance * square[i]) if square[i] > 0.0 else 0.0


@kernel
def _add_products(row: Array, mean: Array, n: float, square: Array, product: Array) -> None:
    for i in range(row.size):
        deviation = row[i] - mean[i]
        square[i] += deviation * deviation
        product[i] += n * deviation


@dataclass(frozen=True)
class ZeroOneTest(Analysis):
    """The 0–1 test of an observable along the orbit: K near 0 is regular, near 1 chaotic.

    White noise gives K = 0.998 as well: the test cannot tell noise from chaos. The mean of the series is taken off
    first, which the paper leaves in and corrects for: values of K between 0 and 1 differ from it. A coordinate that is
    an angle is observed by its cosine and its sine, since the jump where it wraps round looks like chaos; K is the
    larger of the two. See `zero_one`.

    Returns:
        K (…): A constant series gives 0, an escaped member NaN.
        drift (…): Where it exceeds its attribute `threshold` the series has not settled and K means nothing.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning says so, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable, or steps that are no multiple of every or too few.

    Source:
        G. A. Gottwald, I. Melbourne, SIAM J. Appl. Dyn. Syst. 8, 129 (2009), doi:10.1137/080718851.
    """

    observable: str | None = None
    """A coordinate or observable of the map (default: the loss if it has one, else the first coordinate)."""
    steps: int = 2000
    """Steps recorded, after the transient."""
    transient: int = 1000
    """Steps dropped first."""
    every: int = 1
    """Steps between two samples."""
    frequencies: int = 101
    """How many frequencies c, equally spaced in [π/5, 4π/5]."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient)
        at_least(1, steps=self.steps, every=self.every, frequencies=self.frequencies)
        multiple_of("every", self.every, steps=self.steps)
        room("frequencies", self.frequencies, self.steps // self.every // 10 + 1)
        if self.steps // self.every < SHORTEST:
            raise Refusal(f"steps = {self.steps}, every = {self.every}: give at least {SHORTEST} samples")

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        name = first(ensemble, self.observable)
        records, after = ensemble.advance(self.transient).orbit(self.steps, self.every, name)
        turn, floor = turn_of(ensemble, name), floor_of(ensemble, name, records[:, :, 0])
        parts = records if turn is None else on_circle(records[:, :, 0], turn)
        series = [np.ascontiguousarray(part) for part in np.moveaxis(parts, 2, 0)]
        k = [zero_one_batch(part, self.frequencies, floor) for part in series]
        drifts = np.array([drift_batch(part, floor) for part in series])
        if turn is not None:  # what hardly moves of cosine and sine counts as little as it moves
            spread = np.array([np.abs(part - np.median(part, axis=1, keepdims=True)).mean(axis=1) for part in series])
            drifts *= spread / np.where(spread.max(axis=0) > 0, spread.max(axis=0), 1.0)
        seen = name if turn is None else f"cosine and sine of {name}, the larger"
        return {
            "K": ("member", np.max(k, axis=0), {"long_name": f"K of {seen}", **told_of(ensemble)}),
            "drift": ("member", np.max(drifts, axis=0), {"long_name": "drift", "threshold": DRIFT_THRESHOLD}),
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """K over the scanned axis, and marks where the series has not settled."""
        from nnflow_plugins.tools.drawing import over_axis, scanned

        over_axis(dataset["K"], axes)
        axis = scanned(dataset["K"])
        others = [dim for dim in dataset["drift"].dims if dim != axis]
        share = (dataset["drift"] > DRIFT_THRESHOLD).mean(others)
        if axis and bool((share > 0.5).any()):
            x = dataset[axis].values[share.values > 0.5]
            axes.plot(x, np.full(len(x), -0.12), "|", color="0.5", markersize=4, label="not settled")
            axes.legend(frameon=False, fontsize="small")
        axes.set_ylim(-0.2, 1.1)
        axes.set_ylabel("0–1 test, K")
