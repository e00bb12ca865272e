"""The reference study's estimator: its windows, its fits, its filters, and its numbers at a small size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.growth.network_lyapunov import NetworkLyapunov

import nnflow
from nnflow.testing import check_analysis


def growth(rate: float) -> Any:
    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = p[0] * x[0]

    return nnflow.CompiledMap(rule, dim=1, parameters={"a": rate}, name="growth")


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


def test_the_guards_keep_out_of_saturation_and_of_flat_stretches() -> None:
    """A cat map: distances grow by 0.96 a step to about 0.5, and stay there."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["cat"](), inits=3)
    settings = {"perturbation": 1e-12, "shortest": 10, "longest": 60, "steps": 200, "last": 100, "perturbations": 20}
    rate = math.log((3 + math.sqrt(5)) / 2)
    free = nnflow.run("network_lyapunov", ensemble, **settings)
    guarded = nnflow.run("network_lyapunov", ensemble, saturation=0.1, least_growth=3.0, **settings)
    np.testing.assert_allclose(guarded.exponent, rate, atol=1e-3)
    assert (guarded.window[:, 1] <= 31).all()  # 1e-12 e^(0.96 n) reaches 0.05 after 25 steps
    assert (abs(guarded.exponent - rate) <= abs(free.exponent - rate) + 1e-12).all()
    none = nnflow.run("network_lyapunov", ensemble, least_growth=1e3, **settings)
    assert none.exponent.isnull().all()
    assert not none.counted.any()
    assert (none.window == -1).all()


def test_the_interval_holds_the_estimate_and_shrinks_with_perturbations() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]])
    settings = {"steps": 40, "last": 10, "shortest": 10, "longest": 20, "perturbation": 1e-10, "bootstrap": 200}
    few = nnflow.run("network_lyapunov", ensemble, perturbations=4, **settings)
    many = nnflow.run("network_lyapunov", ensemble, perturbations=100, **settings)
    for found in (few, many):
        assert found.low <= found.exponent <= found.high
    assert float(many.high - many.low) < 0.6 * float(few.high - few.low)


def test_the_window_map_holds_every_fit() -> None:
    settings = {"steps": 60, "shortest": 10, "longest": 30, "last": 40, "perturbation": (1e-6, 1e-3)}
    found = nnflow.run("network_lyapunov", nnflow.maps["henon"](), window_map=True, layers=True, **settings)
    assert found.slope.dims == ("size", "window_start", "window_length")
    assert np.isnan(found.slope.sel(window_start=40, window_length=30)).all()
    for i in range(2):
        start, end = found.window.values[i]
        at = {"window_start": start, "window_length": end - start}
        assert found.slope[i].sel(at).item() == found.exponent[i].item()
        assert found.fit[i].sel(at).item() == float(found.fit[i].max())
    assert found.layer.values.tolist() == ["x", "y"]


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
        ({"saturation": 0.0}, "saturation = 0.0"),
        ({"level": 1.0}, "level = 1.0"),
        ({"bootstrap": -1}, "bootstrap = -1"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkLyapunov(**settings)


def test_a_window_that_saturates_does_not_count() -> None:
    """On the cat map d(t) saturates after 19 steps, the shortest window has 30: a slope of .7 at an R² of .91.

    Also in this way: any map that grows by more than .6 nats a step, larger perturbations, standard map at large k.
    What grows slower counts as before.
    """
    fast = nnflow.run("network_lyapunov", nnflow.Ensemble.grid(nnflow.maps["cat"](), inits=8))
    assert (fast.r_squared > 0.9).all()
    assert (fast.exponent < 0.75).all()
    assert (fast.steadiness < 0.4).all()
    assert not fast.counted.any()
    for name, rate in (("tent", 0.693), ("henon", 0.419)):
        found = nnflow.run("network_lyapunov", nnflow.Ensemble.grid(nnflow.maps[name](), inits=8))
        assert found.counted.all()
        assert float(found.exponent.median()) == pytest.approx(rate, rel=0.15)
    larger = nnflow.run("network_lyapunov", nnflow.maps["tent"](), perturbation=1e-5)
    assert not larger.counted


@pytest.mark.parametrize(
    ("rate", "short", "counted"),
    [(0.5, 0.01, True), (0.69, 0.03, True), (0.75, 0.09, True), (0.8, 0.15, False), (1.0, 0.35, False)],
)
def test_by_how_much_saturation_shortens_what_is_counted(rate: float, short: float, counted: bool) -> None:
    """As the docstring says it of 1e-8: d(t) is as large as the attractor after 18/rate steps, the window has 30."""

    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = (p[0] * x[0] + 0.1234567) % 1.0

    map = nnflow.CompiledMap(rule, parameters={"slope": 1.5}, box=([0.01], [0.99]))
    found = nnflow.run(
        "network_lyapunov", nnflow.Ensemble.grid(map, inits=20, slope=[math.exp(rate)]), perturbation=1e-8
    )
    assert rate * (1 - short) < found.exponent.mean() < rate * 1.005
    assert (found.counted.mean() > 0.5) == counted
