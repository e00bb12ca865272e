"""Directions that a softmax leaves neutral: kept by the tangent map, left out of frames, perturbations, distances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.vectors import project_out

RNG = np.random.default_rng(8)
X, LABELS = RNG.normal(size=(20, 2)), RNG.integers(0, 3, 20)
GAUGE = 3  # two columns of the weights, and the biases


def softmax_regression(optimizer: str = "gd", **settings: Any) -> Any:
    """A convex loss of 9 weights, 6 of them up to the symmetry."""
    return nnflow.training_map(nn.Linear(2, 3), cross_entropy, X, LABELS, optimizer, backend="tensor", **settings)


def spectrum(map: Any, **settings: Any) -> Any:
    return nnflow.run("lyapunov_spectrum", map, steps=100, transient=300, **settings).exponent.values


def test_the_tangent_map_of_iris_keeps_its_eleven_gauge_directions() -> None:
    iris = nnflow.maps["iris"](eta=5.0)
    ensemble = nnflow.Ensemble.grid(iris, inits=2).advance(3)
    basis = iris.gauge(ensemble.state, ensemble.parameters)
    assert basis.shape == (2, 11, 83)
    np.testing.assert_allclose(basis @ basis.transpose(0, 2, 1), np.tile(np.eye(11), (2, 1, 1)), atol=1e-15)
    bent = iris.curvature(ensemble.state, ensemble.parameters, 0, basis)
    np.testing.assert_allclose(bent, 0.0, atol=1e-15)
    names = np.array(iris.coordinates)
    assert set(names[basis[0, 0] != 0]) == {"W2[0,0]", "W2[1,0]", "W2[2,0]"}
    assert set(names[basis[0, 10] != 0]) == {"b2[0]", "b2[1]", "b2[2]"}


def test_without_gauge_the_neutral_exponents_are_gone_and_no_other() -> None:
    map = softmax_regression(eta=1.0)
    with_gauge, without = spectrum(map, k=9), spectrum(map, k=6, gauge=False)
    np.testing.assert_allclose(with_gauge[:GAUGE], 0.0, atol=1e-6)
    assert (without < -1e-3).all()
    np.testing.assert_allclose(without, with_gauge[GAUGE:], atol=1e-6)


@pytest.mark.parametrize(("optimizer", "memory"), [("heavy_ball", 1), ("adam", 2)])
def test_the_quotient_contracts_all_of_the_volume(optimizer: str, memory: int) -> None:
    """The g neutral directions add 0 to the sum of exponents, also where the optimiser mixes them with others."""
    map = softmax_regression(optimizer, eta=0.05)
    contraction = math.log(0.9) if memory == 1 else math.log(0.9 * 0.999)
    k = 9 * (1 + memory) - GAUGE
    found = nnflow.run("lyapunov_spectrum", map, k=k, steps=60, transient=20, gauge=False)
    assert found.exponent.sum().item() == pytest.approx(9 * contraction, abs=1e-7)
    assert found.exponent.attrs["gauge_directions_left_out"] == GAUGE
    assert "kaplan_yorke" in found
    with pytest.raises(ValueError, match=rf"k = {k + 1}: .* 3 gauge directions, so 1 <= k <= {k}"):
        nnflow.run("lyapunov_spectrum", map, k=k + 1, steps=2, gauge=False)


def test_under_weight_decay_gauge_directions_shrink_as_known() -> None:
    map = softmax_regression(eta=1.0, weight_decay=0.05)
    found = spectrum(map, k=9)
    np.testing.assert_allclose(np.sort(np.abs(found - math.log(1 - 0.05)))[:GAUGE], 0.0, atol=1e-6)


def test_perturbations_and_distances_without_gauge() -> None:
    map = softmax_regression("adam", eta=0.05)
    ensemble = nnflow.Ensemble.grid(map, inits=2)
    basis = map.gauge(ensemble.state, ensemble.parameters)
    moved = [ensemble.perturbed(1e-3, 4, gauge=kept) - ensemble.states[:, None] for kept in (True, False)]
    assert np.abs(moved[0] @ basis.transpose(0, 2, 1)).max() > 1e-4
    np.testing.assert_allclose(moved[1] @ basis.transpose(0, 2, 1), 0.0, atol=1e-15)
    np.testing.assert_allclose(moved[1], project_out(moved[0], basis), atol=1e-15)

    settings = {"perturbation": 1e-3, "perturbations": 4, "steps": 12, "norm": "l2"}
    whole, less = (
        nnflow.run("separation", ensemble, gauge=gauge, **settings).distance.values for gauge in (True, False)
    )
    np.testing.assert_allclose(less[:, :, 0], np.linalg.norm(moved[1], axis=2), rtol=1e-12)
    assert (less < whole).all()
    neighbours = ensemble.perturbed(1e-3, 4, gauge=False, seed=0)
    for t in range(12):  # Adam mixes what is orthogonal with the gauge: the distance leaves it out again
        apart = map.to_numpy(neighbours) - ensemble.states[:, None]
        np.testing.assert_allclose(less[:, :, t], np.linalg.norm(project_out(apart, basis), axis=2), rtol=1e-9)
        after = ensemble.separation_orbit(neighbours, 1)[1]
        neighbours, ensemble = after.neighbors, after


def test_a_map_without_symmetry_has_none() -> None:
    henon = nnflow.maps["henon"]()
    ensemble = nnflow.Ensemble.grid(henon)
    assert henon.gauge(ensemble.state, ensemble.parameters).shape == (1, 0, 2)
    one, other = (
        nnflow.run("lyapunov_spectrum", henon, steps=200, gauge=gauge).exponent.values for gauge in (True, False)
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_a_false_symmetry_does_not_pass_the_check() -> None:
    from nnflow.testing import check_map

    map = softmax_regression(eta=0.5)
    assert "keeps the span of 3 gauge directions" in " ".join(check_map(map))

    class Wrong(type(map)):  # type: ignore[misc]
        def gauge(self, x: Any, p: Any) -> Any:
            return np.eye(9)[None, :2].repeat(len(x), axis=0)

    object.__setattr__(map, "__class__", Wrong)
    with pytest.raises(AssertionError, match="turns gauge directions away"):
        check_map(map)


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Any) -> Any:
        return self.scale * x


@pytest.mark.parametrize("scale", [1e-10, 1e-7, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_what_the_loss_sees_does_not_hang_on_its_scale(scale: float, offset: float) -> None:
    def loss(outputs: Any, targets: Any) -> Any:
        return offset + nn.functional.mse_loss(outputs, targets)

    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), Scaled(scale)).double()
    settings = {"backend": "tensor", "check": False}
    assert not nnflow.training_map(module, loss, X, scale * X[:, :1], **settings).softmax
    if 1e-10 < scale < 1e6:  # beyond, all outputs are one, or the loss is 0
        module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), Scaled(scale)).double()
        assert nnflow.training_map(module, cross_entropy, X, LABELS, **settings).softmax
