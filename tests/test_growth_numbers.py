"""Rates of growth that were silently wrong: frames left alone, orbits put to rest by rounding, distances too large."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.ensemble import ResolutionWarning

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


# --------------------------------------------------------------------------------------------- frames renewed in time


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


def test_the_verb_and_the_iterate_renew_their_frames_too() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["cat"](), inits=3)
    records, after = ensemble.with_frame(2).tangent_orbit(2000, 500, ["frames", "factors"])
    np.testing.assert_allclose(records.log_stretches[:, 1:] / 500, [[[CAT_RATE, -CAT_RATE]] * 3] * 3, atol=1e-12)
    single, same = ensemble.with_frame(2).tangent_orbit(2000, 1, ["frames", "factors"])
    np.testing.assert_array_equal(after.frame, same.frame)
    assert single.frames is not None
    assert records.frames is not None
    np.testing.assert_array_equal(records.frames, single.frames[:, ::500])
    twice = nnflow.run("lyapunov_spectrum", nnflow.iterate(nnflow.maps["henon"](), 100), steps=20, transient=1)
    assert float(twice.exponent.sum()) == pytest.approx(100 * math.log(0.3), abs=1e-9)
    assert float(twice.exponent[0]) == pytest.approx(41.9, abs=4)  # 2000 steps in all


def test_factors_of_a_block_are_the_products_of_its_steps() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2).with_frame(2)
    (_, _, long), (_, _, short) = (ensemble.tangent_orbit(12, every, ["factors"])[0] for every in (4, 1))
    assert long is not None
    assert short is not None
    for block in range(3):
        a, b, c, d = (short[:, 4 * block + i] for i in range(4))
        np.testing.assert_allclose(long[:, block], d @ c @ b @ a, rtol=1e-12)


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


# ------------------------------------------------------------------------------------------------- orbits put to rest


def test_the_default_of_the_logistic_map_does_not_fall_on_zero() -> None:
    """At r = 4 it did at step 292 597, and the exponent of chaos became ln 4, that of 0.

    Also in this way: other values of r with all defaults, tent at 2, doubling and baker in plain floats, all other
    rates of growth; orbits that are at rest by right (stable, or started there), which are no reason to warn.
    """
    found = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](), steps=1_000_000)
    assert 0.685 < found.exponent.item() < 0.6932
    assert not found.at_rest.item()


def doubling(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 2.0 * x[0] % 1.0


@pytest.mark.parametrize(
    ("analysis", "settings"),
    [
        ("lyapunov_spectrum", {}),
        ("finite_time_lyapunov", {}),
        ("clipped_lyapunov", {}),
        ("two_orbit_lyapunov", {"steps": 200, "transient": 0}),
    ],
)
def test_an_orbit_that_rounding_puts_to_rest_says_so(analysis: str, settings: Any) -> None:
    map = nnflow.CompiledMap(doubling, dim=1, periods={"x0": 1.0})
    with pytest.warns(ResolutionWarning, match="1 of 1 orbits have come to rest"):
        found = nnflow.run(analysis, map, **settings)
    assert found.at_rest.item()
    assert "rounding" in found.at_rest.attrs["note"]


def test_an_orbit_at_rest_by_right_is_no_reason_to_warn() -> None:
    stable = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](r=2.5))
    started = nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(nnflow.maps["logistic"](r=4.0), states=[[0.0]]))
    assert stable.at_rest.item()
    assert started.at_rest.item()
    assert started.exponent.item() == pytest.approx(math.log(4))
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[2.5, 3.9, 5.0])
    assert nnflow.run("lyapunov_spectrum", scan).at_rest.values.tolist() == [True, False, False]


# ------------------------------------------------------------------------------------------------------- no transient


def test_without_a_transient_the_result_says_that_the_start_counts() -> None:
    """Where a gradient is 0 Adam's memory is empty, and a step stretches by eta/epsilon: right, but not without a word.

    Also in this way: the turning of a random frame, the way to the attractor; in every rate of growth.
    """
    map = nnflow.gradient_map(lambda w: (w * w).sum() / 2, 1, optimizer="adam", eta=1e-3)
    ensemble = nnflow.Ensemble.grid(map, states=[[0.0, 0.0, 0.0]])
    at_once, later = (nnflow.run("lyapunov_spectrum", ensemble, k=1, steps=100, transient=n) for n in (0, 100))
    assert at_once.exponent.item() > later.exponent.item() + 0.05
    assert "first steps count" in at_once.exponent.attrs["note"]
    assert "note" not in later.exponent.attrs
    for name in ("finite_time_lyapunov", "two_orbit_lyapunov"):
        settings: dict[str, Any] = {"steps": 200, "transient": 0}
        assert "first steps count" in nnflow.run(name, nnflow.maps["henon"](), **settings).exponent.attrs["note"]


# --------------------------------------------------------------------------------------------------------- two orbits


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("logistic", {"size": 1.0}),  # beyond the basin: 10 … 51 nats
        ("ikeda", {"size": 100.0}),  # where the map is linear again: ln 0.9
        ("cat", {"size": 1.0}),  # round the torus, and symmetric about the orbit
        ("cat", {"every": 50}),  # saturated between two pull-backs: .35
        ("logistic", {"every": 50}),
        ("henon", {"size": 1e-15}),  # rounding
    ],
)
def test_two_orbits_that_are_not_near_have_no_exponent(name: str, settings: Any) -> None:
    """Also in this way: neighbours that fall together by rounding, a size near the bend of the map, an escape."""
    with pytest.warns(ResolutionWarning):
        found = nnflow.run("two_orbit_lyapunov", nnflow.maps[name](), steps=500, transient=100, **settings)
    assert np.isnan(found.exponent.item())
    assert found.escaped.item() == -1
    assert found.asymmetry.item() > 0.05
    assert "NaN" in found.asymmetry.attrs["note"]


def test_neighbours_that_rounding_merges_are_no_superstable_orbit() -> None:
    map = nnflow.maps["logistic"](r=3.2)
    exact = 0.5 * math.log(abs(4 + 2 * 3.2 - 3.2**2))
    found = nnflow.run("two_orbit_lyapunov", map)
    assert found.exponent.item() == pytest.approx(exact, abs=1e-6)
    with pytest.warns(ResolutionWarning, match="smaller every"):
        merged = nnflow.run("two_orbit_lyapunov", map, every=50)
    assert np.isnan(merged.exponent.item())


# ------------------------------------------------------------------------------------------------ the reference's fits


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


def test_few_digits_of_growth_put_no_orbit_to_rest() -> None:
    """The orbit of 1/4 under the doubling tent reaches 0 exactly, in two steps: 20 ln 2 nats are no loss of digits."""
    scan = nnflow.Ensemble.grid(nnflow.maps["tent"](mu=2.0), states=[[0.25]])
    assert nnflow.run("lyapunov_spectrum", scan, steps=20, transient=0).exponent.item() == pytest.approx(np.log(2.0))
