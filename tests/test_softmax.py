"""The softmax map against what is known of it: threshold, sum rules, cycles, and the network that it is a part of."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nnflow

P = np.array([39, 40, 41]) / 120


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_fixed_point_flips_at_the_known_threshold() -> None:
    """κ = 2/μ_max(diag p − ppᵀ) = 5.916 for p = (39, 40, 41)/120, and 2K for K equal classes."""
    mu = np.linalg.eigvalsh(np.diag(P) - np.outer(P, P))[-1]
    assert 2 / mu == pytest.approx(5.916, abs=1e-3)
    for settings, edge in (({}, 2 / mu), ({"frequencies": (1, 1, 1, 1)}, 8.0)):
        for side in (0.97, 1.03):
            scan = nnflow.Ensemble.grid(nnflow.maps["softmax"](**settings), inits=3, kappa=side * edge)
            records, _ = scan.advance(3000).orbit(2)
            assert (np.abs(records[:, 1] - records[:, 0]).max() < 1e-9) == (side < 1)


def test_sum_rules_hold_on_a_chaotic_orbit() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["softmax"](kappa=10.0), inits=4)
    records, after = ensemble.orbit(20_000)
    np.testing.assert_allclose(after.states.sum(axis=1), ensemble.states.sum(axis=1), atol=1e-9)
    np.testing.assert_allclose(softmax(records).mean(axis=1), np.tile(P, (4, 1)), atol=1e-3)


def test_chaos_at_ten_with_both_exponents_positive() -> None:
    """(0.236, 0.136) per step in the band of loss 1.1025–2.3821, the symmetry left out."""
    start = nnflow.Ensemble.grid(nnflow.maps["softmax"](kappa=10.0), inits=6, seed=1)
    found = nnflow.run("lyapunov_spectrum", start, k=2, steps=100_000, transient=2000, gauge=False)
    chaotic = np.flatnonzero(found.exponent.values[:, 0] > 0.1)
    assert chaotic.size
    np.testing.assert_allclose(found.exponent.values[chaotic].mean(axis=0), [0.236, 0.136], atol=4e-3)
    losses, _ = start.advance(2000).orbit(100_000, observe="loss")
    band = losses[chaotic]
    assert band.min() == pytest.approx(1.1025, abs=2e-3)
    assert band.max() == pytest.approx(2.3821, abs=2e-3)


def test_a_three_cycle_of_equal_classes_has_a_constant_loss() -> None:
    """3.83258 at κ = 12: periods are seen on logits, not on the loss."""
    map = nnflow.maps["softmax"](kappa=12.0, frequencies=(1, 1, 1))
    start = nnflow.Ensemble.grid(map, states=[[8.0, 0.0, -8.0]])
    found = nnflow.run("orbit_diagram", start, observable="z0", transient=5000, steps=64)
    assert found.period.item() == 3
    losses, _ = start.advance(5000).orbit(6, observe="loss")
    np.testing.assert_allclose(losses, 3.83258, atol=1e-4)


def test_it_is_a_saturated_network() -> None:
    """Iris with hidden units far in saturation: one step of the logits is one step of the map with κ = η(1 + n)."""
    iris = nnflow.maps["iris"](eta=0.7)
    weights = np.zeros(83)
    weights[40:50] = [60.0] * 4 + [-60.0] * 6  # four units on, six off
    weights[50:80], weights[80:] = np.random.default_rng(0).normal(size=30), [0.3, -0.2, 0.1]

    def logits(w: np.ndarray) -> np.ndarray:
        return w[50:80].reshape(3, 10)[:, :4].sum(axis=1) + w[80:]

    from nnflow.data import iris_split

    frequencies = tuple(np.bincount(iris_split(0).targets) / 120)
    after = nnflow.Ensemble.grid(iris, states=[weights]).advance(1).states[0]
    reduced = nnflow.maps["softmax"](kappa=0.7 * 5, frequencies=frequencies)
    expected = nnflow.Ensemble.grid(reduced, states=[logits(weights)]).advance(1).states[0]
    np.testing.assert_allclose(logits(after), expected, rtol=0, atol=1e-13)


def test_what_is_no_distribution_is_refused() -> None:
    for wrong in ((1.0,), (0.5, -0.5), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="frequencies = .*two or more positive numbers"):
            nnflow.maps["softmax"](frequencies=wrong)
    with pytest.raises(ValueError, match="kappa = -1: softmax takes 0 or more"):
        nnflow.maps["softmax"](kappa=-1.0)
