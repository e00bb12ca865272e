"""Lanczos and what stands on it, against dense matrices, exact losses and the declared rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from nnflow_plugins.training.hessian_spectrum import HessianSpectrum
from nnflow_plugins.training.knock_out import KnockOut
from nnflow_plugins.training.sharpness import Sharpness
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.curvature import Lanczos, broadened, largest, quadrature
from nnflow.map import Array
from nnflow.systems import data
from nnflow.testing import check_analysis

RNG = np.random.default_rng(12)


def symmetric(values: Any, seed: int = 0) -> Array:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))
    return q * values @ q.T


def operator(matrices: Array) -> Any:
    """Products with one matrix a member."""
    return lambda v: (matrices @ v[:, :, None])[:, :, 0] if v.ndim == 2 else v @ matrices


SPECTRA = [np.linspace(-2, 5, 30), np.geomspace(1e-6, 10, 30), np.r_[np.zeros(27), 1.0, 2.0, 2.0]]
MATRICES = np.array([symmetric(values, i) for i, values in enumerate(SPECTRA)])


# ------------------------------------------------------------------------------------------------------------- Lanczos


def test_the_basis_is_orthonormal_and_makes_the_matrix_tridiagonal() -> None:
    iteration = Lanczos(operator(MATRICES), RNG.normal(size=(3, 30)))
    for _ in range(20):  # the third one is exhausted after 4, and goes on with fresh vectors
        iteration.extend()
    for i, matrix in enumerate(MATRICES):
        q = iteration.basis[i, :20]
        np.testing.assert_allclose(q @ q.T, np.eye(20), atol=1e-13)
        beta = iteration.beta[i, :-1]
        tridiagonal = np.diag(iteration.alpha[i]) + np.diag(beta, 1) + np.diag(beta, -1)
        np.testing.assert_allclose(q @ matrix @ q.T, tridiagonal, atol=1e-12)
    assert (iteration.beta[2] == 0).any()


def test_a_full_basis_has_all_eigenvalues_multiple_ones_too() -> None:
    iteration = Lanczos(operator(MATRICES), RNG.normal(size=(3, 30)))
    for _ in range(30):
        iteration.extend()
    np.testing.assert_allclose(iteration.ritz()[0], np.sort(SPECTRA, axis=1), atol=1e-12)
    with pytest.raises(ValueError, match="order = 31: there are no more than 30"):
        iteration.extend()


@pytest.mark.parametrize("most", [3, 6, 12, 30])
def test_within_each_residual_there_is_an_eigenvalue(most: int) -> None:
    found = largest(operator(MATRICES), RNG.normal(size=(3, 3, 30)), tolerance=0.0, most=most)
    for i, matrix in enumerate(MATRICES):
        gaps = np.abs(found.values[i][:, None] - SPECTRA[i]).min(axis=1)
        assert (gaps <= found.residuals[i] + 1e-13).all()
        misfit = found.vectors[i] @ matrix - found.values[i][:, None] * found.vectors[i]
        np.testing.assert_allclose(np.linalg.norm(misfit, axis=1), found.residuals[i], atol=1e-12)


def test_the_largest_are_found_and_a_member_stands_alone() -> None:
    start = RNG.normal(size=(3, 3, 30))
    together = largest(operator(MATRICES), start, tolerance=1e-9)
    np.testing.assert_allclose(together.values, np.sort(SPECTRA, axis=1)[:, :-4:-1], rtol=1e-9)  # 2 twice
    for i in range(3):
        alone = largest(operator(MATRICES[i : i + 1]), start[i : i + 1], tolerance=1e-9)
        assert all(np.array_equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))
    with pytest.raises(ValueError, match="k = 31: there are 30 eigenvalues"):
        largest(operator(MATRICES), RNG.normal(size=(3, 31, 30)))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
@pytest.mark.parametrize("tail", [0.5, 0.9])
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(tolerance: float, tail: float) -> None:
    values = np.r_[3.0, 3.0, 1.0, np.linspace(-0.5, tail, 60)]
    matrices = np.tile(np.diag(values), (20, 1, 1))
    found = largest(operator(matrices), np.random.default_rng(0).normal(size=(20, 3, 63)), tolerance)
    np.testing.assert_allclose(found.values[:, :2], 3.0, rtol=tolerance)
    every = largest(operator(MATRICES[:1, :4, :4]), RNG.normal(size=(1, 4, 4)), 1e-12)
    np.testing.assert_allclose(every.values[0], np.linalg.eigvalsh(MATRICES[0, :4, :4])[::-1], rtol=1e-10)


def test_a_lost_member_is_nan_and_disturbs_no_other() -> None:
    broken = MATRICES.copy()
    broken[1, 0, 0] = np.nan
    start = RNG.normal(size=(3, 2, 30))
    found, clean, huge = (
        largest(operator(m), start) for m in (broken, MATRICES, MATRICES * [[[1.0]], [[1e200]], [[1.0]]])
    )
    assert np.isnan(found.values[1]).all()
    for other in (found, huge):
        assert np.array_equal(other.values[[0, 2]], clean.values[[0, 2]])


def test_an_orbit_that_diverges_is_a_value() -> None:
    map = nnflow.gradient_map(lambda w: (w**4).sum() - (w**2).sum() / 2, 3, eta=0.9)
    ensemble = nnflow.Ensemble.grid(map, states=[[3.0, 2.0, 1.0], [0.1, 0.2, 0.3]])
    for name, settings in (("sharpness", {"steps": 10, "every": 1}), ("hessian_spectrum", {"transient": 10})):
        found = nnflow.run(name, ensemble, **settings)
        assert found.escaped.values[0] > 0 > found.escaped.values[1]
    assert np.isnan(found.eigenvalue[0]).all()
    assert np.isnan(found.flat[0])
    assert np.isfinite(found.density[1]).all()


# ---------------------------------------------------------------------------------------------------------- quadrature


def test_quadrature_has_the_moments_of_its_probes() -> None:
    """Order m integrates polynomials up to degree 2m − 1 exactly: vᵀ Hʲ v for j < 2m."""
    probes = RNG.normal(size=(3, 4, 30))
    nodes, weights = quadrature(operator(MATRICES), probes, 3)
    v = probes / np.linalg.norm(probes, axis=2, keepdims=True)
    for j in range(6):
        powers = np.array([np.linalg.matrix_power(m, j) for m in MATRICES])
        exact = np.einsum("mpi,mij,mpj->m", v, powers, v) / 4
        np.testing.assert_allclose((weights * nodes**j).sum(axis=1), exact, rtol=1e-10)
    beyond = np.einsum("mpi,mij,mpj->m", v, np.array([np.linalg.matrix_power(m, 6) for m in MATRICES]), v) / 4
    assert not np.allclose((weights * nodes**6).sum(axis=1)[:2], beyond[:2], rtol=1e-6)


def test_the_error_of_a_quadrature_falls_as_one_over_the_root_of_the_probes() -> None:
    rng, matrix, trace = np.random.default_rng(0), MATRICES[:1], np.mean(SPECTRA[0] ** 2)

    def error(probes: int) -> float:
        drawn = rng.normal(size=(200, 1, probes, 30))
        found = [quadrature(operator(matrix), p, 2) for p in drawn]
        return float(np.sqrt(np.mean([((w * n**2).sum() - trace) ** 2 for n, w in found])))

    assert error(4) / error(16) == pytest.approx(2.0, rel=0.25)


def test_a_broadened_density_integrates_to_one() -> None:
    nodes = np.array([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    for points in (20, 500):
        grid, density = broadened(nodes, np.full((3, 3), 1 / 3), points, 0.02)
        cells = np.diff(grid, axis=1)[:, :1]
        np.testing.assert_allclose((density * cells).sum(axis=1), 1.0, atol=1e-4)
        np.testing.assert_allclose((density * grid * cells).sum(axis=1), nodes.mean(axis=1), rtol=2e-3, atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- sharpness


def quadratic(h: Any, **settings: Any) -> nnflow.TensorMap:
    matrix = torch.tensor(symmetric(np.array(h)))
    return nnflow.gradient_map(lambda w: w @ matrix @ w / 2, len(h), **settings)


@pytest.mark.parametrize("kind", [Sharpness, HessianSpectrum, KnockOut])
def test_they_satisfy_the_contract(kind: Any) -> None:
    check_analysis(kind, nnflow.maps["cubic_descent"]())
    check_analysis(kind, nnflow.gradient_map(lambda w: (w**4).sum() / 4 + w @ w, 3, "adam", eta=0.05))
    with pytest.raises(TypeError, match="henon has no loss"):
        nnflow.run(kind(), nnflow.maps["henon"]()) if kind is not KnockOut else nnflow.maps["henon"]().threshold(1, 0)


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


# ------------------------------------------------------------------------------------------------------------ spectrum


def test_counts_of_a_quadratic() -> None:
    h = [-2.0, -0.5, 0.0, 0.0, 1.0, 3.9, 4.1, 9.0]
    exact = nnflow.run("hessian_spectrum", quadratic(h, eta=0.5))
    np.testing.assert_allclose(exact.eigenvalue, h[::-1], atol=1e-12)
    estimated = nnflow.run("hessian_spectrum", quadratic(h, eta=0.5), dense=0, probes=3000)
    for name, count in {"negative": 2, "flat": 2, "unstable": 2, "gauge": 0, "stationary_dimension": 2}.items():
        assert exact[name].item() == count
        assert estimated[name].item() == pytest.approx(count, abs=0.15)
    assert exact.threshold.item() == 4.0
    assert np.trapezoid(exact.density, exact.curvature) == pytest.approx(1.0, abs=1e-3)
    assert exact.density.attrs["method"] == "all eigenvalues"
    assert "quadrature" in estimated.density.attrs["method"]
    assert "eigenvalue" not in estimated


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


# ------------------------------------------------------------------------------------------------------------ knock-out


def test_knock_out_of_each_weight() -> None:
    h = torch.tensor([1.0, 4.0, 0.0])
    map = nnflow.gradient_map(lambda w: 1 + (h * w**2).sum(), 3, "heavy_ball", eta=0.01)
    ensemble = nnflow.Ensemble.grid(map, inits=2)
    found = nnflow.run("knock_out", ensemble)
    w, whole = ensemble.states[:, :3], 1 + (h.numpy() * ensemble.states[:, :3] ** 2).sum(axis=1)
    np.testing.assert_allclose(found.baseline, whole, rtol=1e-14)
    np.testing.assert_allclose(found.ratio, (whole[:, None] - h.numpy() * w**2) / whole[:, None], rtol=1e-13)
    assert found.weight.values.tolist() == ["w0", "w1", "w2"]
    some = nnflow.run("knock_out", ensemble, where="w1", observable="gradient_norm")
    assert some.weight.values.tolist() == ["w1"]
    g = 2 * h.numpy() * w
    np.testing.assert_allclose(some.ratio[:, 0], np.hypot(g[:, 0], g[:, 2]) / np.linalg.norm(g, axis=1), rtol=1e-12)


def test_a_baseline_of_zero_is_a_value() -> None:
    map = nnflow.gradient_map(lambda w: (w @ w) ** 2, 2, eta=0.1)
    found = nnflow.run("knock_out", nnflow.Ensemble.grid(map, states=[[0.0, 0.0]]))
    assert np.isnan(found.ratio).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sharpness", {"k": 0}, "k = 0"),
        ("sharpness", {"k": 3}, "k = 3: there are 2 eigenvalues"),
        ("sharpness", {"steps": 15, "every": 10}, "steps = 15, every = 10"),
        ("hessian_spectrum", {"width": 0.0}, "width = 0.0: give a share"),
        ("hessian_spectrum", {"probes": 0}, "probes = 0"),
        ("knock_out", {"where": "v*"}, r"'v\*': matches no coordinate"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run(name, nnflow.gradient_map(lambda w: w @ w, 2), **settings)
