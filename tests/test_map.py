"""A map of one's own in plain numpy: the four verbs are its definition, and its fields are checked."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.map import Array, length, orthonormalise
from nnflow.testing import check_map


class Rotation(nnflow.Map):
    """θ' = θ + omega on a circle of length 1, in numpy."""

    def step(self, x: Array, p: Array, t: int) -> Array:
        return (x + p) % 1.0


class Saddle(nnflow.Map):
    """x' = diag(2, 1/2) x with an exact tangent."""

    def step(self, x: Array, p: Array, t: int) -> Array:
        return x * [2.0, 0.5]

    def tangent(self, x: Array, p: Array, t: int, v: Array) -> Array:
        return v * [2.0, 0.5]


def rotation(**settings: Any) -> Rotation:
    return Rotation(parameters={"omega": 0.1}, coordinates=("theta",), periods={"theta": 1.0}, **settings)


def test_a_map_in_numpy_conforms() -> None:
    assert len(check_map(rotation())) == 11


def test_without_a_step_the_error_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match=r"Map does not write step\(x, p, t\)"):
        nnflow.Ensemble.grid(nnflow.Map()).advance(1)


def test_records_start_with_the_initial_state_and_the_end_holds_the_last() -> None:
    records, end = rotation().orbit(np.array([[0.0]]), np.array([[0.125]]), 0, 4, 2, ("theta",))
    assert records[0, :, 0].tolist() == [0.0, 0.25]
    assert end.states[0, 0] == 0.5
    assert end.t == 4


def test_the_tangent_orbit_of_a_saddle() -> None:
    saddle = Saddle(dim=2)
    records, end = saddle.tangent_orbit(np.zeros((1, 2)), np.empty((1, 0)), 0, np.eye(2)[None], 6, 3, ("factors",))
    np.testing.assert_allclose(records.log_stretches, np.log([[[8.0, 0.125]] * 2]), atol=1e-14)
    assert records.factors is not None
    np.testing.assert_allclose(records.factors[0, 0], np.diag([8.0, 0.125]))
    assert records.frames is None
    assert end.t == 6


def test_separation_is_streamed_and_the_perturbed_states_come_back() -> None:
    saddle = Saddle(dim=2)
    y = np.array([[[1e-3, 0.0], [0.0, 1e-3]]])
    distances, end = saddle.separation_orbit(np.zeros((1, 2)), y, np.empty((1, 0)), 0, 4, 1, "l1")
    np.testing.assert_allclose(distances[0], 1e-3 * np.array([[1, 2, 4, 8], [1, 0.5, 0.25, 0.125]]))
    np.testing.assert_allclose(end.frame[0], [[16e-3, 0], [0, 1e-3 / 16]])
    assert y[0, 0, 0] == 1e-3


def test_an_escaped_member_stays_nan_and_keeps_its_step() -> None:
    class Grow(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            return x * 1e100

    end = Grow().advance(np.array([[1.0], [0.0]]), np.empty((2, 0)), 5, 10)
    assert np.isnan(end.states[0, 0])
    assert end.states[1, 0] == 0.0
    assert list(end.escaped) == [5 + 4, -1]


def test_central_differences_take_angles_the_short_way_round() -> None:
    tangent = rotation().tangent(np.array([[0.9]]), np.array([[0.1]]), 0, np.ones((1, 1, 1)))
    assert tangent[0, 0, 0] == pytest.approx(1.0, abs=1e-9)


def test_a_vector_of_zeros_has_a_tangent_of_zeros() -> None:
    assert rotation().tangent(np.array([[0.3]]), np.array([[0.1]]), 0, np.zeros((1, 1, 1)))[0, 0, 0] == 0.0


def test_orthonormalise_is_qr_with_a_positive_diagonal() -> None:
    frame = np.random.default_rng(0).standard_normal((5, 3, 4))
    rows, factor = orthonormalise(frame, np.zeros(5, dtype=bool))
    np.testing.assert_allclose(rows @ rows.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-14)
    np.testing.assert_allclose(rows.transpose(0, 2, 1) @ factor, frame.transpose(0, 2, 1), atol=1e-13)
    assert (np.einsum("mjj->mj", factor) > 0).all()


def test_norms_by_hand() -> None:
    d = np.array([3.0, -4.0])
    assert [float(length(d, norm)) for norm in ("l1", "l2", "max")] == [7.0, 5.0, 4.0]
    with pytest.raises(ValueError, match="unknown norm"):
        length(d, "l0")


def test_pickling_carries_closures() -> None:
    factor = 2.0
    map = Saddle(dim=2, observables={"double": lambda x, p, t: factor * x[:, 0]})
    twin = pickle.loads(pickle.dumps(map))
    assert twin.orbit(np.ones((1, 2)), np.empty((1, 0)), 0, 2, 1, ("double",))[0].ravel().tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim = 0"),
        ({"dim": 2, "coordinates": ("x",)}, "1 coordinates named for a map of dim 2"),
        ({"coordinates": ("a",), "parameters": {"a": 1.0}}, "a: used twice"),
        ({"periods": {"phi": 1.0}}, "unknown coordinate of map 'phi'"),
        ({"box": ([1.0], [0.0])}, "low <= high"),
        ({"box": ([0.0, 0.0], [1.0, 1.0])}, "each 1 finite numbers"),
        ({"ranges": {"r": (0.0, 1.0)}}, "unknown parameter in ranges or limits 'r'"),
    ],
)
def test_fields_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.Map(**settings)


def test_names_that_are_not_there_are_answered_with_those_that_are() -> None:
    henon = nnflow.maps["henon"]()
    with pytest.raises(ValueError, match=r"unknown parameter of henon 'aa'. Did you mean 'a'\? Known: a, b"):
        henon.with_parameters(aa=1.0)
    with pytest.raises(ValueError, match="unknown coordinate of henon 'z'"):
        henon.column("z")
    with pytest.raises(ValueError, match="unknown observable of henon 'loss'"):
        henon.channels("loss")
    with pytest.raises(TypeError, match="henon has no loss, so no curvature"):
        henon.curvature(np.zeros((1, 2)), np.zeros((1, 2)), 0, np.zeros((1, 1, 2)))


def test_a_map_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        nnflow.maps["henon"]().dim = 3
