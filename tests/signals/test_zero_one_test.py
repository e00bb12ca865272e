"""The 0–1 test against an independent slow implementation, published behaviour and its known traps."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnflow_plugins.signals.zero_one_test import (
    BLOCK,
    DRIFT_THRESHOLD,
    displacements,
    drift,
    drift_batch,
    growth_rates,
    zero_one,
    zero_one_batch,
)
from numpy.typing import NDArray

import nnflow

N = 2000
T = np.arange(N)
GOLDEN = (np.sqrt(5) - 1) / 2


def logistic(r: float, samples: int = N, transient: int = 1000, x: float = 0.1) -> NDArray[np.float64]:
    orbit = np.empty(transient + samples)
    for i in range(orbit.size):
        orbit[i] = x
        x = r * x * (1 - x)
    return orbit[transient:]


def noise(samples: int = N, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=samples)


def slow_displacement(series: NDArray[np.float64], c: float) -> NDArray[np.float64]:
    """The recipe of 2009, written out: the walk, and the mean over all windows for every n."""
    phi = series - series.mean()
    k = np.arange(1, phi.size + 1)
    p = np.concatenate(([0.0], np.cumsum(phi * np.cos(k * c))))
    q = np.concatenate(([0.0], np.cumsum(phi * np.sin(k * c))))
    longest = phi.size // 10
    j = np.arange(phi.size - longest)
    n = range(1, longest + 1)
    return np.array([np.mean((p[j + lag] - p[j]) ** 2 + (q[j + lag] - q[j]) ** 2) for lag in n])


def slow_growth_rate(series: NDArray[np.float64], c: float) -> float:
    displacement = slow_displacement(series, c)
    return float(np.corrcoef(displacement, np.arange(displacement.size))[0, 1])


@pytest.mark.parametrize("r", [3.5, 3.55, 3.83])
def test_periodic_windows_give_zero(r: float) -> None:
    assert abs(zero_one(logistic(r))) < 0.01


@pytest.mark.parametrize("r", [3.9, 3.97, 4.0])
def test_chaos_gives_one(r: float) -> None:
    assert 0.99 < zero_one(logistic(r)) <= 1.0


def test_smooth_observable_of_the_golden_rotation_gives_zero() -> None:
    assert abs(zero_one(np.cos(2 * np.pi * GOLDEN * T))) < 0.01


def test_discontinuous_observable_of_the_golden_rotation_gives_a_half() -> None:
    assert zero_one((GOLDEN * T) % 1) == pytest.approx(0.5, abs=0.05)


def test_white_noise_is_taken_for_chaos_and_the_docstring_says_so() -> None:
    assert zero_one(noise()) == pytest.approx(0.998, abs=0.002)
    assert "noise" in str(zero_one.__doc__)


@pytest.mark.parametrize("r", [3.97, 4.0])
def test_an_offset_does_not_hide_chaos(r: float) -> None:
    assert zero_one(1 + 1e-3 * logistic(r)) > 0.99


@pytest.mark.parametrize("mean", [3.0, -1e-8, 1e9])
def test_rounding_noise_on_a_constant_is_constant(mean: float) -> None:
    series = mean * (1 + 1e-15 * noise())
    assert np.ptp(series) > 0
    assert zero_one(series) == 0.0
    assert drift(series) == 0.0
    assert zero_one(mean * (1 + 1e-10 * noise())) > 0.99  # well above rounding it is a signal


def test_zeros_are_constant() -> None:
    assert zero_one(np.zeros(N)) == 0.0
    assert drift(np.zeros(N)) == 0.0
    assert not displacements(np.zeros(N)).any()


SERIES = {
    "period 4": logistic(3.5),
    "period 3, odd length": logistic(3.83, 1999),
    "chaos": logistic(4.0),
    "short chaos": logistic(3.9, 100),
    "offset chaos": 1 + 1e-3 * logistic(4.0, 1000),
    "rotation": np.cos(2 * np.pi * GOLDEN * T),
    "slow wave": np.sin(2 * np.pi * T / N),
    "decay": 1 + np.exp(-T / 20),
    "outlier": np.where(T == 50, 1e6, noise()),
    "prime length": noise(1009),
}


@pytest.mark.parametrize("name", SERIES)
def test_equals_the_slow_recipe(name: str) -> None:
    series, c = SERIES[name], np.array([0.1, 0.7, np.pi / 2, 2.0, np.pi, 5.0])
    slow = np.array([slow_displacement(series, each) for each in c])
    np.testing.assert_allclose(displacements(series, c), slow, rtol=1e-9, atol=1e-12 * slow.max())
    rates = [slow_growth_rate(series, each) for each in c]
    np.testing.assert_allclose(growth_rates(series, c), rates, rtol=0, atol=1e-10)


def test_equals_the_slow_recipe_on_a_long_series() -> None:
    for series in (logistic(3.5, 10_000), np.cos(2 * np.pi * GOLDEN * np.arange(10_000)), logistic(4.0, 10_000)):
        assert growth_rates(series, [2.0])[0] == pytest.approx(slow_growth_rate(series, 2.0), abs=1e-9)


def test_k_is_the_median_over_equally_spaced_frequencies() -> None:
    series = logistic(3.6, 300)
    c = np.pi / 5 + 3 * np.pi / 5 * np.arange(101) / 100
    slow = [slow_growth_rate(series, each) for each in c]
    assert zero_one(series) == pytest.approx(np.median(slow), abs=1e-10)
    assert zero_one(series, 21) == pytest.approx(np.median(slow[::5]), abs=1e-10)
    assert zero_one(series, c[:7]) == pytest.approx(np.median(slow[:7]), abs=1e-10)


def test_a_resonant_frequency_grows_ballistically_and_the_median_forgets_it() -> None:
    series = logistic(3.5)
    assert growth_rates(series, [np.pi / 2])[0] > 0.9
    assert abs(zero_one(series, 3)) < 0.1  # π/5, π/2, 4π/5


@settings(max_examples=20, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
    offset=st.floats(-10, 10),
    r=st.sampled_from([3.5, 3.7, 3.83, 4.0]),
)
def test_affine_changes_of_the_observable_change_nothing(scale: float, offset: float, r: float) -> None:
    series = logistic(r, 500)
    changed = scale * (series + offset)
    np.testing.assert_allclose(growth_rates(changed, 11), growth_rates(series, 11), rtol=0, atol=1e-9)
    assert drift(changed) == pytest.approx(drift(series), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e200, 1e305])
def test_extreme_units_neither_overflow_nor_vanish(scale: float) -> None:
    assert zero_one(logistic(4.0) * scale) == pytest.approx(zero_one(logistic(4.0)), abs=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_gives_nan(bad: float) -> None:
    series = logistic(4.0)
    series[17] = bad
    assert np.isnan(zero_one(series))
    assert np.isnan(drift(series))
    assert np.isnan(growth_rates(series, 5)).all()
    assert np.isnan(displacements(series, 5)).all()


def test_batch_is_bit_for_bit_the_single_series_and_rows_do_not_disturb_each_other() -> None:
    rows = np.random.default_rng(1).random((BLOCK + 5, 300))
    rows[3], rows[4, 7] = 2.0, np.nan
    k = zero_one_batch(rows)
    np.testing.assert_array_equal(k, [zero_one(row) for row in rows])
    np.testing.assert_array_equal(k[:7], zero_one_batch(rows[:7]))
    np.testing.assert_array_equal(k, zero_one_batch(np.asfortranarray(rows)))
    np.testing.assert_array_equal(drift_batch(rows), [drift(row) for row in rows])
    assert k[3] == 0.0
    assert np.flatnonzero(np.isnan(k)).tolist() == [4]


def test_batch_without_members_is_empty() -> None:
    assert zero_one_batch(np.empty((0, 300))).shape == (0,)
    assert drift_batch(np.empty((0, 300))).shape == (0,)


def test_batch_from_several_threads() -> None:
    rows = np.random.default_rng(2).random((40, 500))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(zero_one_batch, np.split(rows, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), zero_one_batch(rows))


def test_arguments_are_left_as_they_were() -> None:
    series = logistic(4.0)
    before = series.copy()
    zero_one(series)
    displacements(series, 3)
    drift(series)
    np.testing.assert_array_equal(series, before)


STEADY = {
    "period 4": logistic(3.5),
    "period 3": logistic(3.83),
    "chaos": logistic(4.0),
    "chaos, short": logistic(3.9, 200),
    "intermittent chaos": logistic(3.828),
    "banded chaos": logistic(3.6),
    "rotation": np.cos(2 * np.pi * GOLDEN * T),
    "rotation mod 1": (GOLDEN * T) % 1,
    "slow rotation": np.cos(2 * np.pi * T / 97.3),
    "noise": noise(),
    "constant": np.full(N, 0.3),
}
DRIFTING = {
    "brief decay": 1 + np.exp(-T / 2),
    "decay": np.exp(-T / 100),
    "slow decay": 1 + np.exp(-T / 5000),
    "oscillating decay": 1 + np.exp(-T / 300) * (-1.0) ** T,
    "ramp": 5 - T / N,
    "1/t": 1 / (T + 1),
    "late 1/t": 1 / (T + 1e5),
    "period 4 on a ramp": logistic(3.5) + T / N,
    "one turn of a wave": np.sin(2 * np.pi * T / N),
    "parabola": (T - 1000.0) ** 2,
    "burst": np.where(abs(T - 1000) < 10, 1.0, 1e-3 * logistic(4.0)),
    "dying chaos": logistic(4.0) * np.exp(-T / 300),
    "random walk": np.cumsum(noise()),
}


@pytest.mark.parametrize("name", STEADY)
def test_steady_series_are_not_flagged(name: str) -> None:
    assert drift(STEADY[name]) < 0.8 * DRIFT_THRESHOLD


@pytest.mark.parametrize("name", DRIFTING)
def test_series_that_have_not_settled_are_flagged(name: str) -> None:
    assert drift(DRIFTING[name]) > 1.2 * DRIFT_THRESHOLD


def test_drift_by_hand() -> None:
    assert drift(np.arange(400.0)) == pytest.approx(3.0)  # quarters shifted by 300, mean absolute deviation 100
    step = np.repeat([0.0, 1.0], 200)
    assert drift(step) == pytest.approx(2.0)  # quarters a distance 1 apart, deviation 1/2
    assert drift(np.tile([0.0, 1.0], 200)) == 0.0


@pytest.mark.parametrize(("samples", "rate"), [(100, 0.06), (200, 0.002)])  # measured: 0.035, 0.0002
def test_false_alarms_on_noise_are_as_rare_as_documented(samples: int, rate: float) -> None:
    series = noise(1000 * samples).reshape(1000, samples)
    assert np.mean(drift_batch(series) > DRIFT_THRESHOLD) < rate


@pytest.mark.parametrize("call", [zero_one, growth_rates, displacements, drift])
def test_bad_series_are_refused(call) -> None:
    with pytest.raises(ValueError, match="at least 100 samples, not 99"):
        call(np.zeros(99))
    with pytest.raises(ValueError, match=r"shape \(sample,\), not \(2, 200\)"):
        call(np.zeros((2, 200)))


@pytest.mark.parametrize("call", [zero_one_batch, drift_batch])
def test_bad_batches_are_refused(call) -> None:
    with pytest.raises(ValueError, match="at least 100 samples, not 99"):
        call(np.zeros((3, 99)))
    with pytest.raises(ValueError, match=r"shape \(member, sample\), not \(200,\)"):
        call(np.zeros(200))


@pytest.mark.parametrize("frequencies", [0, -3, [], [0.0], [1.0, 7.0], [np.nan], [[1.0]], 1.5])
def test_bad_frequencies_are_refused(frequencies) -> None:
    with pytest.raises(ValueError, match="frequencies"):
        zero_one(logistic(4.0), frequencies)


@pytest.mark.parametrize("zero", [0.0, 0.2, 0.4])
def test_the_drift_of_an_angle_does_not_depend_on_where_its_zero_is(zero: float) -> None:
    """A cosine that hardly moves, for the orbit is at 0 and ½, still decayed when all else had settled."""

    class Shifted(nnflow.Map):
        def step(self, x: NDArray[np.float64], p: NDArray[np.float64], t: int) -> NDArray[np.float64]:
            return (x + 0.5 - 0.3 / (2 * np.pi) * np.sin(2 * np.pi * (x - zero))) % 1.0

    start = nnflow.Ensemble.grid(Shifted(periods={"x0": 1.0}), states=[[0.123 + zero]])
    assert nnflow.run("zero_one_test", start, steps=600, transient=100).drift < 0.05
