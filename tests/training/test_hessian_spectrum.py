"""The Hessian's spectrum: counts of directions on losses whose Hessian is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matrices import quadratic
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow

RNG = np.random.default_rng(12)


def test_counts_of_a_quadratic() -> None:
    h = [-2.0, -0.5, 0.0, 0.0, 1.0, 3.9, 4.1, 9.0]
    exact = nnflow.run("hessian_spectrum", quadratic(h, eta=0.5))
    np.testing.assert_allclose(exact.eigenvalue, h[::-1], atol=1e-12)
    estimated = nnflow.run("hessian_spectrum", quadratic(h, eta=0.5), dense=0, probes=3000)
    for name, count in {"negative": 2, "flat": 2, "unstable": 2, "gauge": 0, "stationary_dimension": 2}.items():
        assert exact[name].item() == count
        assert estimated[name].item() == pytest.approx(count, abs=0.15)
    assert all(exact[f"{name}_error"].item() == 0 for name in ("negative", "flat", "unstable"))
    assert 0 < estimated.negative_error.item() < 0.15
    assert exact.threshold.item() == 4.0
    assert np.trapezoid(exact.density, exact.curvature) == pytest.approx(1.0, abs=1e-3)
    assert exact.density.attrs["method"] == "all eigenvalues"
    assert "quadrature" in estimated.density.attrs["method"]
    assert "eigenvalue" not in estimated


@pytest.mark.parametrize(("order", "probes"), [(15, 5), (60, 10), (120, 20)])
def test_estimated_counts_are_off_by_no_more_than_they_say(order: int, probes: int) -> None:
    """Beyond the dense ones, 56 of 752 negative directions were counted, and 0 of 142 flat ones, without a word."""
    module = nn.Sequential(nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 5))
    x, y = RNG.normal(size=(150, 20)), RNG.integers(0, 5, 150)
    x[:, :2] = 0.0  # weights that nothing sees: flat directions
    map = nnflow.training_map(module, cross_entropy, x, y, eta=0.5)
    start = nnflow.Ensemble.grid(map, inits=3).advance(100)
    exact = nnflow.run("hessian_spectrum", start)
    found = nnflow.run("hessian_spectrum", start, dense=0, order=order, probes=probes)
    for name in ("negative", "flat", "unstable"):
        assert (abs(found[name] - exact[name]) <= found[f"{name}_error"]).all(), name
    assert (exact.flat >= 40).all()
    assert (found.negative_error < 8000 / order).all()


@pytest.mark.parametrize(
    ("loss", "start", "dimension"),
    [
        (lambda w: (w @ w - 1) ** 2, [0.3, -0.2, 0.4], 2),  # a sphere of minima
        (lambda w: (w[0] * w[1] - 1) ** 2, [0.8, 1.4], 1),  # a hyperbola
        (lambda w: (w[0] - 1) ** 2 + 0.0 * w[1] + (w[2] - w[3]) ** 2, [0.3, 0.1, 0.2, 0.9], 2),
    ],
)
def test_the_dimension_of_a_manifold_of_minima(loss: Any, start: list[float], dimension: int) -> None:
    map = nnflow.gradient_map(loss, len(start), eta=0.05)
    found = nnflow.run("hessian_spectrum", nnflow.Ensemble.grid(map, states=[start]), transient=2000)
    assert found.gradient_norm.item() < 1e-12
    assert found.stationary_dimension.item() == dimension
    assert found.negative.item() == 0


def test_gauge_directions_are_counted_apart() -> None:
    x, y = RNG.normal(size=(30, 2)), RNG.integers(0, 3, 30)
    map = nnflow.training_map(nn.Linear(2, 3), cross_entropy, x, y, backend="tensor", eta=0.5)
    for settings in ({}, {"dense": 0, "order": 6}):
        found = nnflow.run("hessian_spectrum", map, transient=20, **settings)
        assert (found.gauge.item(), found.stationary_dimension.item()) == (3, pytest.approx(3))
        assert found.flat.item() == pytest.approx(0)  # the loss of a softmax regression is strictly convex elsewhere


def test_unstable_directions_under_adam_are_those_of_its_threshold() -> None:
    settings = {"eta": 1.0, "beta1": 0.0, "beta2": 0.5, "epsilon": 1.0}  # eta h / (|g| + 1) against 2
    map = nnflow.gradient_map(lambda w: (torch.tensor([1.0, 8.0, 20.0]) * w**2).sum() / 2, 3, "adam", **settings)
    state = [[1e-9, 1e-9, 1e-9, *[0.0] * 6]]
    found = nnflow.run("hessian_spectrum", nnflow.Ensemble.grid(map, states=state))
    assert found.threshold.item() == 2.0
    assert found.unstable.item() == 2
