"""What counts as rounding: some tens of units in the last place of what was recorded, and results say how much.

What else could go wrong: a small signal on a high level that is well resolved, a constant on a level that has no exact
number, a cycle that flickers in the last digit, an orbit of a map, where rounding adds up, another floor in each
analysis, or none; an orbit of a map that was recorded, whose rounding is that of the map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnflow

NOISE = np.random.default_rng(0).random(1200)
VARIABLES = {
    "zero_one_test": "K", "recurrence": "recurrence_rate", "orbit_diagram": "period", "plateaus": "level",
    "laminar_lengths": "laminar_share", "autocorrelation": "autocorrelation", "local_expansion": "median_rate",
    "trajectory_autocorrelation": "autocorrelation",
}  # fmt: skip


@pytest.mark.parametrize("level", [1e12, -1e9, 10.0])
def test_noise_on_a_high_level_is_no_rounding(level: float) -> None:
    """At 1e12 numbers are 1.2e-4 apart: of a range of 1 that is nothing."""
    high, low = nnflow.Recording(level + NOISE), nnflow.Recording(NOISE)
    for name in ("zero_one_test", "recurrence", "autocorrelation"):
        found, expected = nnflow.run(name, high), nnflow.run(name, low)
        np.testing.assert_allclose(found[VARIABLES[name]], expected[VARIABLES[name]], atol=0.01)
    assert float(nnflow.run("zero_one_test", high).K) > 0.99
    assert nnflow.run("orbit_diagram", high).period == 0


@pytest.mark.parametrize("cycle", [[0.1], [0.1, 0.7], [1e12 + 0.1, 1e12 + 0.7, 1e12 + 0.3]])
def test_the_last_digits_are_rounding(cycle: list[float]) -> None:
    """Up to four units: the sum of a few terms."""
    x = np.tile(cycle, 400)
    x += np.spacing(x) * np.random.default_rng(1).integers(-4, 5, len(x))
    recording = nnflow.Recording(x)
    assert nnflow.run("orbit_diagram", recording).period == len(cycle)
    rate = float(nnflow.run("recurrence", recording, threshold=1e-300).recurrence_rate)
    assert rate == pytest.approx(1 / len(cycle), abs=0.01)
    if len(cycle) == 1:
        assert nnflow.run("zero_one_test", recording).K == 0


@pytest.mark.parametrize("name", VARIABLES)
def test_results_say_what_rounding_was(name: str) -> None:
    recorded = nnflow.run(name, nnflow.Recording(NOISE))[VARIABLES[name]].attrs["rounding"]
    assert recorded == pytest.approx(7.1e-15, rel=0.01)
    of_a_map = nnflow.run(name, nnflow.maps["logistic"](), transient=10, steps=1200)[VARIABLES[name]]
    assert of_a_map.attrs["rounding"] == pytest.approx(1e-12)
    assert "1e-09 of the range" in nnflow.run(name, nnflow.Recording(NOISE))[VARIABLES[name]].attrs["rounding_note"]


CYCLES: list[tuple[str, dict[str, float], int]] = [
    ("henon", {"a": 0.9}, 2), ("logistic", {"r": 3.4}, 2), ("logistic", {"r": 3.448}, 2), ("logistic", {"r": 3.55}, 8),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameters", "period"), CYCLES)
def test_a_recorded_cycle_recurs_after_its_period(name: str, parameters: dict[str, float], period: int) -> None:
    """Each branch is some hundred units wide: the recurrence rate of the Henon map's was .37, the mean time 2.7."""
    map, window = nnflow.maps[name](**parameters), {"transient": 0, "steps": 2000}
    orbit = nnflow.Ensemble.grid(map).advance(10_000).orbit(2000)[0][:, :, :1]
    found = nnflow.run("recurrence", nnflow.Recording(orbit), **window)
    assert float(found.recurrence_rate) == pytest.approx(1 / period, abs=1e-3)
    assert float(found.determinism) == 1
    assert float(found.mean_recurrence_time) == pytest.approx(period, abs=1e-12)
    laminar: dict[str, Any] = {"period": period, "tolerance": 1e-20, **window}
    assert nnflow.run("laminar_lengths", nnflow.Recording(orbit), **laminar).laminar_share == 1
    assert not nnflow.run("local_expansion", nnflow.Recording(orbit), moments=50, **window).kept.any()


@pytest.mark.parametrize(("level", "amplitude"), [(10.0, 1e-10), (1.0, 1e-12), (-1e6, 1e-6)])
def test_a_small_signal_keeps_its_digits(level: float, amplitude: float) -> None:
    """Chaos within 1e-12 of the level, or some 1e-11: what would be rounding in an orbit of a map."""
    window: dict[str, Any] = {"transient": 0, "steps": 1000}
    chaos = nnflow.Ensemble.grid(nnflow.maps["logistic"](r=3.9)).orbit(1000)[0][:, :, :1]
    high = nnflow.Recording(level + amplitude * chaos)
    assert nnflow.run("recurrence", high, **window).recurrence_rate == pytest.approx(0.05, abs=0.01)
    assert nnflow.run("zero_one_test", high, **window).K > 0.95
    assert nnflow.run("orbit_diagram", high, **window).period == 0
    correlation = nnflow.run("autocorrelation", high, **window).autocorrelation
    np.testing.assert_allclose(
        correlation, nnflow.run("autocorrelation", nnflow.Recording(chaos), **window)["autocorrelation"], atol=0.02
    )


def test_the_threshold_of_zeros_is_no_negative_zero() -> None:
    for zero in (0.0, -0.0):
        found = nnflow.run("recurrence", nnflow.Recording(np.full(600, zero)), transient=0, steps=600)
        assert found.threshold == 0
        assert not np.signbit(found.threshold)
