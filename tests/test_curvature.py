"""Lanczos and what stands on it, against dense matrices, exact losses and the declared rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matrices import symmetric
from nnflow_plugins.training.hessian_spectrum import HessianSpectrum
from nnflow_plugins.training.knock_out import KnockOut
from nnflow_plugins.training.sharpness import Sharpness

import nnflow
from nnflow.curvature import Lanczos, broadened, largest, quadrature
from nnflow.testing import check_analysis
from nnflow.typing import Array

RNG = np.random.default_rng(12)
SPECTRA = [np.linspace(-2, 5, 30), np.geomspace(1e-6, 10, 30), np.r_[np.zeros(27), 1.0, 2.0, 2.0]]
MATRICES = np.array([symmetric(values, i) for i, values in enumerate(SPECTRA)])


def operator(matrices: Array) -> Any:
    """Products with one matrix a member."""
    return lambda v: (matrices @ v[:, :, None])[:, :, 0] if v.ndim == 2 else v @ matrices


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


# ------------------------------------------------------------------------------------------- the analyses that use them


@pytest.mark.parametrize("kind", [Sharpness, HessianSpectrum, KnockOut])
def test_they_satisfy_the_contract(kind: Any) -> None:
    check_analysis(kind, nnflow.maps["cubic_descent"]())
    check_analysis(kind, nnflow.gradient_map(lambda w: (w**4).sum() / 4 + w @ w, 3, "adam", eta=0.05))
    with pytest.raises(TypeError, match="henon has no loss"):
        nnflow.run(kind(), nnflow.maps["henon"]()) if kind is not KnockOut else nnflow.maps["henon"]().threshold(1, 0)


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
