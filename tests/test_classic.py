"""The registered maps: conformance, exponents, fixed points, and the traps of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from exact import CHAOS, EXPONENTS, GOLDEN, HENON_FIXED, HENON_PERIOD_2, Row

import nnflow
from nnflow.testing import check_map

PARAMETERS = {
    "baker": (), "cat": (), "circle": ("omega", "k"), "cubic_descent": ("eta", "beta"),
    "double_well_descent": ("eta", "beta"), "gauss": ("alpha", "beta"), "henon": ("a", "b"), "ikeda": ("mu",),
    "digits": ("eta",), "iris": ("eta",), "logistic": ("r",), "logistic_ring": ("r", "coupling"), "lozi": ("a", "b"),
    "softmax": ("kappa",), "standard": ("k",), "tent": ("mu",),
}  # fmt: skip


def test_the_registered_maps_and_their_parameters() -> None:
    assert {name: tuple(nnflow.maps[name]().parameters) for name in nnflow.maps.names()} == PARAMETERS


@pytest.mark.parametrize("name", sorted(set(PARAMETERS) - {"digits"}))  # it is made as iris is
def test_every_map_conforms(name: str) -> None:
    assert len(check_map(nnflow.maps[name]())) == 11


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_every_map_names_its_source_and_its_ranges(name: str) -> None:
    map = nnflow.maps[name]()
    assert map.source
    assert set(map.ranges) == set(map.parameters)
    assert map.exact_tangent


def ensemble_of(row: Row) -> nnflow.Ensemble:
    states = None if row.state is None else [row.state]
    return nnflow.Ensemble.grid(nnflow.maps[row.name](**row.parameters), states=states)


@pytest.mark.parametrize("row", EXPONENTS, ids=lambda row: f"{row.name}-{row.source[:20]}")
def test_exponents_are_the_known_ones(row: Row) -> None:
    found = nnflow.run("lyapunov_spectrum", ensemble_of(row), steps=row.steps, k=len(row.exponents)).exponent.values
    assert found == pytest.approx(np.array(row.exponents), abs=row.tolerance)
    if row.sum is not None:
        assert found.sum() == pytest.approx(row.sum, abs=1e-12)


def test_superstable_orbits_are_very_negative_and_never_nan() -> None:
    logistic = nnflow.maps["logistic"]

    def exponent(r: float, x: float) -> float:
        scan = nnflow.Ensemble.grid(logistic(r=r), states=[[x]])
        return float(nnflow.run("lyapunov_spectrum", scan).exponent[0])

    assert exponent(2.0, 0.1) == -math.inf
    assert -40 < exponent(2.0, 0.3) < -30
    assert exponent(1 + math.sqrt(5), 0.3) == pytest.approx(-17.26, abs=0.05)


def test_the_exponent_at_a_period_doubling_goes_to_zero_slowly() -> None:
    found = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](r=3.0)).exponent[0]
    assert -1e-3 < found < 0


def test_chaos_begins_at_the_feigenbaum_point() -> None:
    r = CHAOS + np.array([-1e-3, -1e-4, 1e-3])
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=r)
    found = nnflow.run("lyapunov_spectrum", scan, steps=200_000, transient=50_000).exponent.values[:, 0]
    assert (found[:2] < 0).all()
    assert found[2] > 0


def test_an_island_of_the_standard_map_is_not_chaotic() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["standard"](k=1.0), states=[[3.0, 1.0]])
    assert nnflow.run("lyapunov_spectrum", scan, steps=100_000).exponent[0] == pytest.approx(0.0, abs=1e-3)


def test_henon_fixed_points_and_period_2() -> None:
    henon = nnflow.maps["henon"]()
    p = np.array([[1.4, 0.3]])
    for x in HENON_FIXED:
        assert henon.step(np.array([[x, 0.3 * x]]), p, 0)[0, 0] == pytest.approx(x, abs=1e-9)
    x, y = HENON_PERIOD_2
    assert henon.step(np.array([[x, 0.3 * y]]), p, 0)[0] == pytest.approx([y, 0.3 * x], abs=1e-9)


def test_cat_map_keeps_area_and_the_golden_mean() -> None:
    cat = nnflow.maps["cat"]()
    jacobian = cat.tangent(np.array([[0.2, 0.7]]), np.empty((1, 0)), 0, np.eye(2)[None])[0]
    assert np.log(np.abs(np.linalg.eigvals(jacobian))).max() == pytest.approx(GOLDEN, abs=1e-14)
    assert abs(np.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("name", ["tent", "baker"])
def test_maps_that_shift_bits_do_not_collapse(name: str) -> None:
    after = nnflow.Ensemble.grid(nnflow.maps[name](), inits=4).advance(500).states
    assert (after[:, 0] > 1e-9).all()
    assert len(np.unique(after[:, 0])) == 4


def test_circle_map_rotates_by_omega_without_coupling() -> None:
    circle = nnflow.maps["circle"](omega=0.25, k=0.0)
    after = circle.advance(np.array([[0.1]]), np.array([[0.25, 0.0]]), 0, 4).states
    distance = circle.difference(after, np.array([[0.1]]))
    assert np.abs(distance).max() < 1e-14


def test_gauss_map_by_hand() -> None:
    gauss = nnflow.maps["gauss"](alpha=4.9, beta=-0.5)
    assert gauss.step(np.array([[0.3]]), np.array([[4.9, -0.5]]), 0)[0, 0] == pytest.approx(
        math.exp(-4.9 * 0.09) - 0.5, abs=1e-15
    )


@pytest.mark.parametrize("size", [3, 7])
def test_the_ring_has_any_size_and_keeps_a_synchronised_state(size: int) -> None:
    ring = nnflow.maps["logistic_ring"](size=size)
    after = nnflow.Ensemble.grid(ring, states=[[0.3] * size]).advance(20).states
    assert after.shape == (1, size)
    assert np.ptp(after) == 0.0


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("henon", {"c": 1.0}, "unknown parameter of henon 'c'. Known: a, b"),
        ("logistic_ring", {"size": 1}, "size = 1"),
        ("logistic", {"box": ([0.9], [0.1])}, "box"),
    ],
)
def test_a_factory_refuses_what_it_does_not_know(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        nnflow.maps[name](**settings)


def test_structure_is_not_scannable_and_the_error_says_so() -> None:
    with pytest.raises(ValueError, match="size is structure: it is fixed when the map is made"):
        nnflow.Ensemble.grid(nnflow.maps["logistic_ring"](), size=[2, 3])
    with pytest.raises(ValueError, match="optimizer is structure"):
        nnflow.Ensemble.grid(nnflow.maps["cubic_descent"](), optimizer=[0, 1])


def test_a_box_of_ones_own() -> None:
    states = nnflow.maps["henon"](box=np.array([[0.5, 0.0], [0.6, 0.0]])).initial_states(50, 0)
    assert ((states[:, 0] >= 0.5) & (states[:, 0] <= 0.6) & (states[:, 1] == 0)).all()
