"""Sharpness: exact curvatures, the threshold of the optimizer, the dense Hessian."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matrices import quadratic
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow import data


def test_sharpness_of_the_cubic_is_its_second_derivative() -> None:
    map = nnflow.maps["cubic_descent"](eta=2.4, beta=0.1)
    ensemble = nnflow.Ensemble.grid(map, inits=3)
    found = nnflow.run("sharpness", ensemble, steps=40, every=4, transient=3)
    w, _ = ensemble.advance(3).orbit(40, every=4, observe="w")
    np.testing.assert_allclose(found.sharpness, 1 - 2 * w[:, :, 0], rtol=1e-12)
    np.testing.assert_allclose(found.stability, (1 - 2 * w[:, :, 0]) * 2.4 / (2 * 1.1), rtol=1e-12)
    assert found.time.values.tolist() == list(range(3, 43, 4))


def test_the_largest_curvatures_of_a_quadratic() -> None:
    h = np.r_[np.linspace(-1, 1, 30), 3.0, 4.0, 4.5]
    found = nnflow.run("sharpness", quadratic(h, eta=0.2), k=3, steps=20, every=10, tolerance=1e-10)
    np.testing.assert_allclose(found.curvature, [[4.5, 4.0, 3.0]] * 2, rtol=1e-10)
    np.testing.assert_allclose(found.stability, 0.2 * 4.5 / 2, rtol=1e-10)
    assert (found.residual < 1e-9).all()


def test_a_warm_start_saves_products_and_changes_nothing() -> None:
    map = quadratic(np.r_[np.linspace(-1, 1, 60), 1.5], eta=0.1)
    counted: list[int] = []
    curvature = type(map).curvature

    class Counting(type(map)):  # type: ignore[misc]
        def curvature(self, x: Any, p: Any, t: int, v: Any) -> Any:
            counted.append(t)
            return curvature(self, x, p, t, v)

    object.__setattr__(map, "__class__", Counting)
    found = nnflow.run("sharpness", map, steps=30, every=10, tolerance=1e-8)
    np.testing.assert_allclose(found.sharpness, 1.5, rtol=1e-8)
    assert counted.count(20) < counted.count(0)


def test_stability_under_adam_is_that_of_the_preconditioned_hessian() -> None:
    map = nnflow.gradient_map(lambda w: (torch.tensor([1.0, 2.0, 5.0]) * w**4).sum() / 12, 3, "adam", eta=0.01)
    ensemble = nnflow.Ensemble.grid(map, inits=2)
    found = nnflow.run("sharpness", ensemble, steps=20, every=10, transient=30)
    now = ensemble.advance(40)
    h = np.array([1.0, 2.0, 5.0]) * now.states[:, :3] ** 2  # a diagonal Hessian
    divisor = map.preconditioner(now.state, now.parameters, now.t)
    np.testing.assert_allclose(found.sharpness[:, 1], h.max(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.stability[:, 1], (h / divisor).max(axis=1) / 3800, rtol=1e-6)


@pytest.mark.slow
def test_sharpness_of_iris_against_the_dense_hessian() -> None:
    module, rows = nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3)), data.iris_split(0)
    map = nnflow.training_map(module, cross_entropy, *rows.train, backend="tensor", scale=1.0)
    ensemble = nnflow.Ensemble.grid(map, inits=3)
    found = nnflow.run("sharpness", ensemble, k=2, steps=20, every=10, tolerance=1e-9)
    whole = nnflow.run("hessian_spectrum", ensemble)
    np.testing.assert_allclose(found.curvature[:, 0], whole.eigenvalue[:, :2], rtol=1e-8)
    dense = map.to_numpy(map.curvature(ensemble.state, ensemble.parameters, 0, np.tile(np.eye(83), (3, 1, 1))))
    exact = np.linalg.eigvalsh(dense)
    without = np.sort(np.concatenate([whole.eigenvalue.values, np.zeros((3, 11))], axis=1), axis=1)
    np.testing.assert_allclose(without, exact, rtol=0, atol=1e-13)
    assert whole.gauge.values.tolist() == [11.0] * 3


def test_eigenvectors_on_request() -> None:
    h = np.r_[np.linspace(-1, 1, 30), 3.0, 4.0, 4.5]
    map = quadratic(h, eta=0.2)
    found = nnflow.run("sharpness", map, k=3, steps=20, every=10, tolerance=1e-10, vectors=True)
    vectors = found.eigenvector.values
    assert vectors.shape == (2, 3, 33)
    for rows in vectors:
        np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
        bent = nnflow.Ensemble.grid(map).curvature(rows[None])[0]
        np.testing.assert_allclose(bent, np.array([[4.5], [4.0], [3.0]]) * rows, atol=1e-7)
    assert "eigenvector" not in nnflow.run("sharpness", quadratic(h, eta=0.2), steps=10)


def test_an_optimizer_of_ones_own_has_a_threshold_of_its_own() -> None:
    """Sharpness-aware minimization: a direction beyond its threshold grows, one below does not."""
    rho, eta = 0.3, 0.5
    limit = (np.sqrt(1 + 8 * rho / eta) - 1) / (2 * rho)
    for factor, grows in ((0.99, False), (1.01, True)):
        slope = torch.func.grad(lambda w, h=factor * limit: (torch.stack([h * w[0] ** 2, 0.5 * w[1] ** 2])).sum() / 2)
        map = nnflow.TensorMap(
            lambda x, p, t, slope=slope: x - p.eta * slope(x + p.rho * slope(x)),
            dim=2,
            parameters={"eta": eta, "rho": rho},
            gradient=lambda w, t, slope=slope: slope(w),
            threshold=lambda p, t: (torch.sqrt(1 + 8 * p.rho / p.eta) - 1) / (2 * p.rho),
        )
        scan = nnflow.Ensemble.grid(map, states=[[1.0, 1.0]], eta=[eta, 2 * eta])
        found = nnflow.run("sharpness", scan, steps=2, every=1)
        np.testing.assert_allclose(found.threshold[0], limit, rtol=1e-14)
        np.testing.assert_allclose(found.stability[0], factor, rtol=1e-10)
        assert (abs(scan.advance(100).states[0, 0]) > 1) == grows
        assert nnflow.run("hessian_spectrum", scan).unstable.values[0] == grows


def test_a_threshold_that_is_none_is_refused() -> None:
    slope = torch.func.grad(lambda w: (w * w).sum())
    with pytest.raises(TypeError, match="threshold = 3: give a function"):
        nnflow.TensorMap(lambda x, p, t: x, gradient=lambda w, t: slope(w), threshold=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="with a gradient"):
        nnflow.TensorMap(lambda x, p, t: x, threshold=lambda p, t: 1.0)
    map = nnflow.TensorMap(lambda x, p, t: x / 2, gradient=lambda w, t: slope(w), threshold=lambda p, t: "high")
    with pytest.raises(nnflow.Refusal, match="the threshold of .* gives no number"):
        nnflow.run("sharpness", map, steps=1, every=1)


@pytest.mark.parametrize("backend", ["compiled", "tensor"])
def test_the_hessian_of_all_data_where_steps_see_batches(backend: str) -> None:
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    module, x, y = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
        rng.normal(size=(12, 3)),
        np.arange(12) % 2,
    )
    batched, whole = (
        nnflow.training_map(module, cross_entropy, x, y, "adam", backend=backend, eta=0.05, **settings)
        for settings in ({"batch": 4, "shuffle": 3}, {})
    )
    later = nnflow.Ensemble.grid(batched, inits=2).advance(5)
    known = nnflow.Ensemble.grid(whole, inits=2).with_states(later.states, t=5)
    for name, settings in (("sharpness", {"steps": 1, "every": 1}), ("hessian_spectrum", {})):
        found, own, expected = (
            nnflow.run(name, start, full=full, **settings)
            for start, full in ((later, True), (later, False), (known, True))
        )
        np.testing.assert_allclose(found.curvature, expected.curvature, rtol=1e-9, atol=1e-12)
        assert not np.allclose(own.curvature, expected.curvature, rtol=1e-3)
    assert whole.whole() is whole
    assert batched.whole() is batched.whole()
