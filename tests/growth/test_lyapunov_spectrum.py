"""Lyapunov spectra: known answers are in exact.py; here the estimator itself, its frame, its bias and its rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.growth.lyapunov_spectrum import kaplan_yorke

import nnflow
from nnflow.typing import Array


def linear(*diagonal: float) -> nnflow.CompiledMap:
    factors = np.array(diagonal)

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(len(x)):
            out[i] = x[i]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        for i in range(len(x)):
            out[i] = factors[i] * v[i]

    return nnflow.CompiledMap(
        rule, tangent, dim=len(diagonal), name="linear", check=False
    )  # its states stay where they are


def spectrum(map: Any, **settings: Any) -> Any:
    return nnflow.run("lyapunov_spectrum", map, **settings).exponent.values


def test_a_linear_map_gives_the_logarithms_of_its_factors_in_order() -> None:
    factors = (0.5, 2.0, 1.5)
    expected = sorted(np.log(factors), reverse=True)
    np.testing.assert_allclose(spectrum(linear(*factors), steps=2000, transient=500), expected, atol=1e-12)


def test_without_a_transient_of_the_frame_the_bias_is_one_over_n() -> None:
    errors = [abs(spectrum(linear(0.5, 2.0), steps=n, transient=0)[0] - math.log(2)) for n in (200, 400, 800)]
    assert errors[0] > 1e-4
    np.testing.assert_allclose(np.array(errors) * [1, 2, 4], errors[0], rtol=0.02)


def test_the_frame_gets_the_transient_too() -> None:
    found = spectrum(linear(0.5, 2.0), steps=200, transient=100)
    np.testing.assert_allclose(found, [math.log(2), math.log(0.5)], atol=1e-12)


@pytest.mark.parametrize(("every", "rounding"), [(1, 1e-12), (2, 1e-12), (5, 1e-10), (10, 1e-7)])
def test_rare_orthonormalisation_changes_the_exponents_little(every: int, rounding: float) -> None:
    """Vectors that grow alike for a while lose digits: about exp(2.04 every) units of rounding."""
    found = spectrum(nnflow.maps["henon"](), steps=10_000, every=every)
    once = spectrum(nnflow.maps["henon"](), steps=10_000)
    np.testing.assert_allclose(found, once, atol=2e-3)
    assert found.sum() == pytest.approx(math.log(0.3), abs=rounding)


def test_a_transient_that_is_no_multiple_of_every() -> None:
    plain = spectrum(nnflow.maps["henon"](), steps=1000, transient=103)
    np.testing.assert_allclose(spectrum(nnflow.maps["henon"](), steps=1000, transient=103, every=10), plain, atol=2e-2)


def test_the_error_at_r_4_falls_as_one_over_n() -> None:
    logistic = nnflow.maps["logistic"](r=4.0)
    ensemble = nnflow.Ensemble.grid(logistic, inits=64)
    errors = [np.abs(spectrum(ensemble, steps=n) - math.log(2)).mean() for n in (1000, 16_000)]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.5)


@pytest.mark.parametrize("r", [3.7, 3.9])
def test_elsewhere_it_falls_as_one_over_the_root_of_n(r: float) -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](r=r), inits=400)
    spread = [spectrum(ensemble, steps=n).std() for n in (1000, 16_000)]
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.25)


def test_k_exponents_are_the_first_of_all() -> None:
    ring = nnflow.maps["logistic_ring"](size=5)
    whole = spectrum(ring, steps=3000, transient=500)
    for k in (1, 3):
        np.testing.assert_allclose(spectrum(ring, steps=3000, transient=500, k=k), whole[:k], atol=0.02)


def test_an_independent_way_two_nearby_orbits() -> None:
    """Benettin, Galgani and Strelcyn (1976): stretch a small distance, shrink it back, again and again."""
    henon, d, total, steps = nnflow.maps["henon"](), 1e-8, 0.0, 4000
    p = np.array([[1.4, 0.3]])
    x = henon.advance(np.array([[0.1, 0.1]]), p, 0, 1000).states
    y = x + np.array([[d, 0.0]])
    for _ in range(steps):
        x, y = henon.step(x, p, 0), henon.step(y, p, 0)
        apart = float(np.linalg.norm(y - x))
        total += math.log(apart / d)
        y = x + (y - x) * (d / apart)
    scan = nnflow.Ensemble.grid(henon, states=[[0.1, 0.1]])
    assert total / steps == pytest.approx(spectrum(scan, steps=steps)[0], abs=2e-3)


def test_history_is_the_running_mean_and_ends_at_the_exponents() -> None:
    dataset = nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](), steps=9000, every=3, history=True)
    assert dataset.history.dims == ("time", "index")
    assert dataset.time.values[[0, -1]].tolist() == [3, 9000]
    np.testing.assert_allclose(np.sort(dataset.history[-1])[::-1], dataset.exponent, atol=1e-12)
    middle = nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](), steps=4500, every=3)
    np.testing.assert_allclose(np.sort(dataset.history.sel(time=4500))[::-1], middle.exponent, atol=1e-12)


def test_the_seed_chooses_the_frame_and_one_init_has_one_frame() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]])
    short: dict[str, Any] = {"steps": 1, "transient": 0}
    assert spectrum(scan, seed=1, **short)[0] != spectrum(scan, seed=2, **short)[0]
    assert spectrum(scan, seed=1, **short)[0] == spectrum(scan, seed=1, **short)[0]


def test_an_escaping_member_is_nan_and_counted() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]], a=[1.4, 3.0])
    dataset = nnflow.run("lyapunov_spectrum", scan, steps=500)
    assert np.isfinite(dataset.exponent[0]).all()
    assert np.isnan(dataset.exponent[1]).all()
    assert np.isnan(dataset.kaplan_yorke[1])
    assert dataset.escaped.values[0] == -1 < dataset.escaped.values[1]


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([-0.1, -0.2], 0.0),
        ([0.0, -1.0], 1.0),
        ([0.41922, -1.62319], 1 + 0.41922 / 1.62319),
        ([0.5, 0.1, -1.2], 2.5),
        ([0.3, 0.2], 2.0),
        ([0.7, -math.inf], 1.0),
        ([math.nan, math.nan], math.nan),
    ],
)
def test_kaplan_yorke_by_hand(exponents: list[float], dimension: float) -> None:
    assert kaplan_yorke(np.array(exponents)) == pytest.approx(dimension, nan_ok=True)


def test_henon_has_the_known_dimension() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]])
    assert float(nnflow.run("lyapunov_spectrum", scan, steps=100_000).kaplan_yorke) == pytest.approx(1.25827, abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 10, "every": 3}, "steps must be a multiple of every"),
        ({"transient": -1}, "transient = -1"),
        ({"every": 0}, "every = 0"),
        ({"seed": -2}, "seed = -2"),
        ({"k": 3}, "k = 3: henon has dim 2"),
        ({"k": 0}, "k = 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spectrum(nnflow.maps["henon"](), **settings)


def test_a_long_time_between_records_overflows_nothing() -> None:
    """4^520 is no float, a product of 520 Jacobians neither: log-stretches are summed, and no stretches multiplied.

    Also in this way: the second vector of a frame underflows (−inf) or, sooner, is rounding of the first (a plausible
    number): any `every` beyond about 15 for Hénon, 18 for the cat map; frames without gauge directions, set anew too
    rarely; the verb itself, the n-th iterate of a map, and records of frames and factors.
    """
    found = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](r=4.0), steps=5200, every=520)
    assert found.exponent.item() == pytest.approx(math.log(2), abs=1e-3)
    assert found.escaped.item() == -1


@pytest.mark.parametrize("every", [2, 20, 100, 1000])
def test_how_often_is_recorded_changes_no_exponent(every: int) -> None:
    map = nnflow.maps["henon"]()
    found = nnflow.run("lyapunov_spectrum", map, steps=2000, every=every, history=True)
    plain = nnflow.run("lyapunov_spectrum", map, steps=2000, history=True)
    np.testing.assert_allclose(found.exponent, plain.exponent, atol=1e-12)  # sums in another order
    np.testing.assert_allclose(found.history, plain.history.sel(time=found.time), atol=1e-12)
    assert float(found.exponent.sum()) == pytest.approx(math.log(0.3), abs=1e-12)
    assert float(found.kaplan_yorke) > 1.2


def test_gauge_directions_are_left_out_whatever_is_recorded() -> None:
    """Beside gauge directions that grow by rounding, eight steps are the longest that a frame is left with."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["softmax"](), inits=2)
    window: dict[str, Any] = {"steps": 400, "transient": 200, "gauge": False}
    often, rarely = (nnflow.run("lyapunov_spectrum", ensemble, every=every, **window) for every in (1, 200))
    np.testing.assert_allclose(rarely.exponent, often.exponent, atol=1e-12)


def test_the_chunk_does_not_change_the_bits_of_long_sums() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=40)
    window: dict[str, Any] = {"steps": 5000, "transient": 10, "history": True}
    one, all_ = (nnflow.run("lyapunov_spectrum", ensemble, chunk=chunk, **window) for chunk in (1, 40))
    np.testing.assert_array_equal(one.exponent, all_.exponent)  # 400 000 log-stretches in one chunk, 10 000 in another
    np.testing.assert_array_equal(one.history, all_.history)


def test_the_default_of_the_logistic_map_does_not_fall_on_zero() -> None:
    """At r = 4 it did at step 292 597, and the exponent of chaos became ln 4, that of 0.

    Also in this way: other values of r with all defaults, tent at 2, doubling and baker in plain floats, all other
    rates of growth; orbits that are at rest by right (stable, or started there), which are no reason to warn.
    """
    found = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](), steps=1_000_000)
    assert 0.685 < found.exponent.item() < 0.6932
    assert not found.at_rest.item()


def test_an_orbit_at_rest_by_right_is_no_reason_to_warn() -> None:
    stable = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](r=2.5))
    started = nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(nnflow.maps["logistic"](r=4.0), states=[[0.0]]))
    assert stable.at_rest.item()
    assert started.at_rest.item()
    assert started.exponent.item() == pytest.approx(math.log(4))
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[2.5, 3.9, 5.0])
    assert nnflow.run("lyapunov_spectrum", scan).at_rest.values.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("logistic", {"r": np.linspace(1.5, 2.95, 30)}),
        ("henon", {"a": np.linspace(0.0, 0.35, 20)}),
        ("lozi", {"a": np.linspace(0.1, 0.6, 20)}),
        ("gauss", {"beta": np.linspace(-0.95, -0.7, 10)}),
        ("circle", {"omega": 0.0, "k": np.linspace(0.3, 1.5, 10)}),
    ],
)
def test_stable_fixed_points_are_at_rest(name: str, axes: dict[str, Any]) -> None:
    """In plain floats they flicker by some units in the last place, which was taken for a motion."""
    grid = nnflow.Ensemble.grid(nnflow.maps[name](), inits=2, **axes)
    found = nnflow.run("lyapunov_spectrum", grid, steps=500, transient=5000, k=1)
    settled = nnflow.run("orbit_diagram", grid, transient=5500, steps=60).period == 1
    stable = settled & (found.exponent.isel(index=0) < -0.01)
    assert stable.sum() >= 5
    assert found.at_rest.where(stable, other=True).all()


def test_few_digits_of_growth_put_no_orbit_to_rest() -> None:
    """The orbit of 1/4 under the doubling tent reaches 0 exactly, in two steps: 20 ln 2 nats are no loss of digits."""
    scan = nnflow.Ensemble.grid(nnflow.maps["tent"](mu=2.0), states=[[0.25]])
    assert nnflow.run("lyapunov_spectrum", scan, steps=20, transient=0).exponent.item() == pytest.approx(np.log(2.0))
