"""The exponent of two orbits: known ones, its error, and neighbors that are too far apart or merge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.ensemble import ResolutionWarning

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


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
