"""Growth rates other than the spectrum: over finite times, from two orbits, with clipped curvature; the softmax map."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.growth.clipped_lyapunov import ClippedLyapunov
from nnflow_plugins.growth.finite_time_lyapunov import FiniteTimeLyapunov
from nnflow_plugins.growth.two_orbit_lyapunov import TwoOrbitLyapunov
from nnflow_plugins.training.reduced_model import ReducedModel, softmax_step

import nnflow
from nnflow.testing import check_analysis

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FiniteTimeLyapunov, "double_well_descent"),
        (TwoOrbitLyapunov, "double_well_descent"),
        (ClippedLyapunov, "softmax"),
    ],
)
def test_they_satisfy_the_contract(kind: Any, name: str) -> None:
    check_analysis(kind)
    check_analysis(kind, nnflow.maps[name]())


# -------------------------------------------------------------------------------------------------------- finite times


def test_stretches_average_to_the_exponent() -> None:
    map = nnflow.maps["henon"]()
    found = nnflow.run("finite_time_lyapunov", map, k=2, window=100, steps=20_000, transient=100)
    whole = nnflow.run("lyapunov_spectrum", map, steps=20_000, transient=100)
    assert found.exponent.sizes["time"] == 200
    np.testing.assert_allclose(found.exponent.mean("time"), whole.exponent, atol=1e-12)
    np.testing.assert_allclose(found.exponent.sum("index"), math.log(0.3), atol=1e-10)
    assert found.exponent.isel(index=0).std() > 0.01


def test_without_a_transient_the_first_stretch_is_the_growth_of_a_random_perturbation() -> None:
    start = [[0.1, 0.2]]
    map = nnflow.maps["cat"]()
    ensemble = nnflow.Ensemble.grid(map, states=start)
    found = nnflow.run("finite_time_lyapunov", ensemble, window=5, steps=10, seed=3)
    v = ensemble.with_frame(1, 3).frame[:, 0]
    grown = v @ np.linalg.matrix_power(map.tangent(np.zeros((1, 2)), np.zeros((1, 0)), 0, np.eye(2)[None])[0], 5)
    assert found.exponent[0, 0].item() == pytest.approx(math.log(np.linalg.norm(grown)) / 5, rel=1e-9)
    assert found.exponent[1, 0].item() == pytest.approx(CAT_RATE, abs=1e-3)
    assert found.time.values.tolist() == [0, 5]


# ---------------------------------------------------------------------------------------------------------- two orbits


@pytest.mark.parametrize(
    ("name", "parameters", "exact", "tolerance"),
    [
        ("logistic", {"r": 3.2}, 0.5 * math.log(abs(4 + 2 * 3.2 - 3.2**2)), 1e-6),
        ("logistic", {"r": 4.0}, math.log(2), 2e-3),
        ("cat", {}, CAT_RATE, 1e-6),
        ("henon", {}, 0.41922, 8e-3),
    ],
)
def test_two_orbits_find_known_exponents(name: str, parameters: Any, exact: float, tolerance: float) -> None:
    map = nnflow.maps[name](**parameters)
    found = nnflow.run("two_orbit_lyapunov", nnflow.Ensemble.grid(map, inits=4), steps=10_000, every=5)
    assert found.exponent.values.mean() == pytest.approx(exact, abs=tolerance)


def test_the_error_of_two_orbits_is_of_the_order_of_their_distance() -> None:
    """On the attractor of Hénon, against the tangent exponent of the very same steps."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=40)
    window = {"steps": 200, "transient": 100, "every": 1}
    exact = nnflow.run("lyapunov_spectrum", ensemble, k=1, **window).exponent.isel(index=0)
    sizes = np.array([1e-3, 1e-4, 1e-5, 1e-6])
    found = [nnflow.run("two_orbit_lyapunov", ensemble, size=size, **window).exponent for size in sizes]
    errors = [float(abs(one - exact).median()) for one in found]
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.1)
    assert errors[-1] < 1e-5


def test_orbits_that_merge_have_no_finite_exponent() -> None:
    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = 0.5

    found = nnflow.run("two_orbit_lyapunov", nnflow.CompiledMap(rule, dim=1, name="constant"), steps=10, transient=0)
    assert found.exponent.item() == -math.inf


# ---------------------------------------------------------------------------------------------------- clipped curvature


def test_clipping_takes_out_one_kind_of_growth() -> None:
    """L = (3 x² − y² ) / 2 at η = 1: multipliers 1 − 3 = −2 and 1 + 1 = 2, each with its own direction."""
    map = nnflow.gradient_map(lambda w: (3.0 * w[0] ** 2 - 0.5 * w[1] ** 2) / 2, 2, eta=1.0)
    found = nnflow.run("clipped_lyapunov", map, steps=40)
    np.testing.assert_allclose(found.largest, 1.5)
    np.testing.assert_allclose(found.smallest, -2.0)
    by_clip = dict(zip(found.clipped.values.tolist(), found.exponent.values.tolist(), strict=True))
    assert by_clip["none"] == pytest.approx(math.log(2), abs=0.03)
    assert by_clip["negative"] == pytest.approx(math.log(2), abs=0.03)
    assert by_clip["beyond"] == pytest.approx(math.log(1.5), abs=0.05)


def test_without_a_clip_it_is_the_finite_time_exponent() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["iris"](eta=1.0), inits=2)
    found = nnflow.run("clipped_lyapunov", ensemble, steps=30)
    first = ensemble.draw("tangent", (1, 83), seed=0)
    frame = first / np.linalg.norm(first, axis=2, keepdims=True)
    records, _ = replace(ensemble, frame=frame).tangent_orbit(30)
    np.testing.assert_allclose(found.exponent.sel(clipped="none"), records.log_stretches.mean(axis=1)[:, 0], rtol=1e-9)
    assert (found.exponent.sel(clipped="negative") < found.exponent.sel(clipped="none")).all()
    top = nnflow.run("sharpness", ensemble, steps=30, every=1).stability
    np.testing.assert_allclose((1 - found.smallest) / 2, top, rtol=1e-5)


def test_a_tangent_map_that_is_not_symmetric_is_refused() -> None:
    with pytest.raises(TypeError, match="henon has no symmetric tangent map"):
        nnflow.run("clipped_lyapunov", nnflow.maps["henon"]())


# -------------------------------------------------------------------------------------------------------- reduced model


def test_the_softmax_step_is_that_of_the_registered_map() -> None:
    map = nnflow.maps["softmax"](frequencies=(0.2, 0.3, 0.5), kappa=7.0)
    ensemble = nnflow.Ensemble.grid(map, inits=5)
    ours = softmax_step(ensemble.states, np.full(5, 7.0), np.array([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(ours, ensemble.advance(1).states, rtol=1e-13)


def test_a_saturated_network_follows_the_softmax_map() -> None:
    """At η = 5 the hidden units saturate; at η = 0.01 they do not, and the residual says so."""
    map = nnflow.maps["iris"]()
    ensemble = nnflow.Ensemble.grid(map, inits=8, eta=[0.01, 5.0])
    found = nnflow.run("reduced_model", ensemble, steps=200, transient=2000, every=10)
    assert found.time.values.tolist() == list(range(2000, 2200, 10))
    learning, chaotic = found.sel(eta=0.01), found.sel(eta=5.0)
    assert float(learning.residual.min()) > 1e-4
    matched = chaotic.residual.max("time") < 1e-3
    assert float(matched.mean()) > 0.5
    kappa = chaotic.kappa.where(matched).isel(time=-1).dropna("init")
    counts = kappa / 5.0 - 1
    np.testing.assert_allclose(counts, np.rint(counts), atol=0.02)
    np.testing.assert_allclose(counts, chaotic.stuck_on.isel(time=-1).sel(init=kappa.init), atol=0.02)
    records, _ = ensemble.advance(2000).orbit(1, observe="hidden_square")
    np.testing.assert_allclose(found.kappa[..., 0].values.ravel(), ensemble.parameters[:, 0] * (1 + records[:, 0, 0]))


@pytest.mark.parametrize(
    "map",
    [
        nnflow.maps["henon"](),
        nnflow.maps["iris"](optimizer="heavy_ball"),
        nnflow.maps["iris"](weight_decay=0.1),
        nnflow.maps["iris"](batch=30),
    ],
    ids=["henon", "heavy ball", "weight decay", "batches"],
)
def test_the_reduced_model_is_for_plain_gradient_descent(map: nnflow.Map) -> None:
    with pytest.raises(ValueError, match="give a compiled training map"):
        nnflow.run("reduced_model", map)


def test_it_satisfies_the_contract_on_iris() -> None:
    check_analysis(ReducedModel, nnflow.maps["iris"]())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("finite_time_lyapunov", {"window": 300}, "steps = 1000, window = 300"),
        ("finite_time_lyapunov", {"k": 0}, "k = 0"),
        ("two_orbit_lyapunov", {"every": 3}, "every = 3"),
        ("two_orbit_lyapunov", {"size": -1.0}, "size = -1.0"),
        ("clipped_lyapunov", {"steps": 0}, "steps = 0"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run(name, nnflow.maps["henon"](), **settings)
