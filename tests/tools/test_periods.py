"""Periods of recordings: exact cycles, the logistic cascade, and the cases where a careless tolerance errs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnflow_plugins.tools.periods import detect_period
from numpy.typing import NDArray


def logistic(r: float, samples: int = 300, transient: int = 20_000, x: float = 0.1) -> NDArray[np.float64]:
    orbit = np.empty(transient + samples)
    for i in range(orbit.size):
        orbit[i] = x
        x = r * x * (1 - x)
    return orbit[transient:]


def period_of(series: NDArray[np.float64], tolerance: float = 1e-6, maximum: int | None = None) -> int:
    (period,) = detect_period(series[None], tolerance, maximum)
    return int(period)


@pytest.mark.parametrize(
    ("r", "period"),
    [(0.5, 1), (2.8, 1), (3.2, 2), (3.5, 4), (3.55, 8), (3.566, 16), (3.569, 32), (3.83, 3), (3.845, 6), (3.739, 5)],
)
def test_logistic_cascade_and_windows(r: float, period: int) -> None:
    assert period_of(logistic(r)) == period


@pytest.mark.parametrize("r", [3.6, 3.9, 4.0])
def test_chaos_has_no_period(r: float) -> None:
    assert period_of(logistic(r)) == 0


def test_rotation_has_no_period() -> None:
    assert period_of(np.cos(2 * np.pi * (np.sqrt(5) - 1) / 2 * np.arange(300))) == 0


@given(st.integers(1, 33), st.integers(0, 32), st.integers(0, 10))
def test_exact_cycles_of_every_length_and_phase(period: int, phase: int, extra: int) -> None:
    series = np.sin(1.0 + np.arange(period))[(np.arange(3 * period + extra) + phase) % period]
    assert period_of(series) == period


def test_smallest_period_and_not_a_multiple_or_a_near_one() -> None:
    assert period_of(np.tile([1.0, 2.0, 1.0, 2.0], 12)) == 2
    assert period_of(np.tile([1.0, 2.0, 1.0, 2.001], 12)) == 4
    assert period_of(np.tile([1.0, 1.0, 1.0, 1.0, 2.0], 9)) == 5


@pytest.mark.parametrize("mean", [1.0, 1e-12, 0.0, -1e9])
def test_rounding_noise_on_a_fixed_point_is_a_fixed_point(mean: float) -> None:
    """Around 0, and around what is little beside where it comes from, noise has no scale: it has to be told."""
    noise = 1e-16 * np.random.default_rng(0).normal(size=300)
    series = mean + noise * max(abs(mean), 0.1)
    assert detect_period(series[None], floor=1e-14).item() == 1
    assert period_of(series) == (1 if abs(mean) >= 1 else 0)


def test_zeros_are_a_fixed_point() -> None:
    assert period_of(np.zeros(10)) == 1


@pytest.mark.parametrize("excess", [1e-6, 1e-8])
def test_small_two_cycle_just_past_its_bifurcation(excess: float) -> None:
    r = 3 + excess
    split = np.sqrt((r - 3) * (r + 1)) / r  # distance of the two points, exactly
    low, high = (r + 1) / (2 * r) - split / 2, (r + 1) / (2 * r) + split / 2
    series = np.tile([high, low], 150)
    assert period_of(series) == 2


def test_tolerance_is_relative_to_the_range() -> None:
    series = 1.0 + 1e-5 * np.tile([0.0, 1.0, 0.0, 1.001], 50)
    for scale in (1e-6, 1.0, 1e6, -1e6):
        assert period_of(scale * series, tolerance=1e-4) == 4
        assert period_of(scale * series, tolerance=1e-2) == 2


def test_slow_drift_is_not_a_fixed_point_though_every_step_is_small() -> None:
    loss = 0.3 - 1e-8 * np.arange(1000)
    assert np.max(np.abs(np.diff(loss))) < 1e-6 * loss.max()
    assert period_of(loss) == 0
    assert period_of(loss, tolerance=1e-4) == 0  # nor at any tolerance: it uses up its range
    assert period_of(1 / (1e5 + np.arange(1000))) == 0
    assert period_of(np.tile([1.0, 2.0], 500) + 1e-8 * np.arange(1000)) == 0


def test_a_single_sample_off_the_cycle_is_seen_wherever_it_is() -> None:
    for place in range(30):
        series = np.tile([1.0, 2.0, 3.0], 10)
        series[place] += 1e-3
        assert period_of(series) == 0


def test_three_turns_are_asked_for() -> None:
    cycle = np.sin(np.arange(7.0))
    assert period_of(np.tile(cycle, 3)) == 7
    assert period_of(np.tile(cycle, 3)[:-1]) == 0


def test_maximum_limits_the_search() -> None:
    series = np.tile(np.sin(np.arange(7.0)), 10)
    assert period_of(series, maximum=6) == 0
    assert period_of(series, maximum=7) == 7
    assert period_of(series, maximum=10**6) == 7


def test_rows_are_independent_and_broken_ones_give_zero() -> None:
    rows = np.tile([1.0, 2.0], (5, 15))
    rows[1, 4], rows[2, 29], rows[3] = np.nan, np.inf, 7.0
    found = detect_period(rows, 1e-6)
    assert found.dtype == np.int64
    assert found.tolist() == [2, 0, 0, 1, 2]
    assert detect_period(np.asfortranarray(rows)).tolist() == [2, 0, 0, 1, 2]
    assert detect_period(np.empty((0, 5))).shape == (0,)


@pytest.mark.parametrize(
    ("values", "settings", "words"),
    [
        (np.zeros(9), {}, "shape"),
        (np.zeros((3, 0)), {}, "at least one sample"),
        (np.zeros((1, 9)), {"tolerance": 0.0}, "tolerance"),
        (np.zeros((1, 9)), {"tolerance": np.nan}, "tolerance"),
        (np.zeros((1, 9)), {"maximum": 0}, "maximum"),
    ],
)
def test_misuse_is_refused(values, settings, words) -> None:
    with pytest.raises(ValueError, match=words):
        detect_period(values, **settings)
