"""The reference study's estimator: its windows, its fits, its filters, and its numbers at a small size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.network_lyapunov import NetworkLyapunov, fits, windows

import nnflow
from nnflow.testing import check_analysis


def growth(rate: float) -> Any:
    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = p[0] * x[0]

    return nnflow.CompiledMap(rule, dim=1, parameters={"a": rate}, name="growth")


def test_the_study_has_315_windows() -> None:
    spans = windows(0, 100, 5, 30, 100, 200)
    assert len(spans) == 21 * 15
    assert spans.min(axis=0).tolist() == [0, 30]
    assert spans.max() == 200
    assert len(windows(0, 100, 5, 30, 100, 120)) < 315


def test_fits_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    time, y = np.arange(60.0), rng.normal(size=(3, 60)).cumsum(axis=1)
    spans = windows(0, 20, 10, 20, 40, 60)
    slopes, squares = fits(y, time, spans)
    for i in range(3):
        for j, (a, b) in enumerate(spans):
            exact = np.polyfit(time[a:b], y[i, a:b], 1)
            assert slopes[i, j] == pytest.approx(exact[0], rel=1e-9)
            assert squares[i, j] == pytest.approx(np.corrcoef(time[a:b], y[i, a:b])[0, 1] ** 2, rel=1e-9)
    assert fits(np.zeros((1, 60)), time, spans)[1].max() == 0


@pytest.mark.parametrize(("rate", "counted"), [(1.1, True), (1.04, False)])
def test_pure_growth_has_its_rate_and_a_perfect_fit(rate: float, counted: bool) -> None:
    found = nnflow.run("network_lyapunov", nnflow.Ensemble.grid(growth(rate), states=[[0.0]]))
    assert found.exponent.item() == pytest.approx(math.log(rate), rel=1e-9)
    assert found.r_squared.item() == pytest.approx(1.0, abs=1e-12)
    assert bool(found.counted) is counted


def test_a_window_is_given_in_steps_and_sizes_are_an_axis() -> None:
    settings = {"perturbation": (1e-6, 1e-3), "every": 2, "steps": 60, "shortest": 10, "longest": 20, "last": 20}
    found = nnflow.run("network_lyapunov", nnflow.Ensemble.grid(growth(1.2), states=[[0.0]]), **settings)
    np.testing.assert_allclose(found.exponent, [math.log(1.2)] * 2, rtol=1e-9)
    width = np.diff(found.window.values, axis=-1)
    assert ((width >= 10) & (width <= 20)).all()
    assert found.window.values.max() <= 60


def test_it_satisfies_the_contract() -> None:
    check_analysis(NetworkLyapunov)


@pytest.mark.slow
def test_iris_at_learning_rate_one_as_published() -> None:
    """The pooled mean at ε = 1e-8 is 0.284 with a spread of 0.10 between states, and nine states of ten count."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["iris"](eta=1.0), inits=60, seed=0)
    found = nnflow.run("network_lyapunov", ensemble, perturbation=1e-8, where="W*")
    counted = found.exponent.values[found.counted.values]
    assert len(counted) > 42
    assert counted.mean() == pytest.approx(0.284, abs=0.05)
    calm = nnflow.run("network_lyapunov", ensemble.take(range(20)), perturbation=1e-8, where="W*", steps=200)
    assert calm.sizes["member"] == 20
    slow = nnflow.Ensemble.grid(nnflow.maps["iris"](eta=0.01), inits=20, seed=0)
    assert not nnflow.run("network_lyapunov", slow, perturbation=1e-8, where="W*").counted.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 0}, "stride = 0"),
        ({"shortest": 1}, "shortest = 1: give 2 or more"),
        ({"longest": 20}, "longest = 20: give 30 or more"),
        ({"last": -1}, "last = -1: give 0 or more"),
        ({"steps": 20}, "steps = 20: give 30 or more"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkLyapunov(**settings)
