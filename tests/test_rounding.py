"""What counts as rounding: some tens of units in the last place of what was recorded, and results say how much.

What else could go wrong: a small signal on a high level that is well resolved, a constant on a level that has no exact
number, a cycle that flickers in the last digit, an orbit of a map, where rounding adds up, another floor in each
analysis, or none.
"""

from __future__ import annotations

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
