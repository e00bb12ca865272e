"""The autocorrelation of trajectories: a cycle, noise, and a network in all its weights."""

from __future__ import annotations

import numpy as np
import pytest
from nnflow_plugins.signals.trajectory_autocorrelation import TrajectoryAutocorrelation
from nnflow_plugins.tools.correlation import trajectory_correlation
from torch import nn
from torch.nn.functional import mse_loss

import nnflow
from nnflow.testing import check_analysis

RNG = np.random.default_rng(4)


def test_a_two_cycle_alternates() -> None:
    """C(τ) = (−1)^τ (1 − τ/n)."""
    map = nnflow.maps["logistic"](r=3.2)
    found = nnflow.run("trajectory_autocorrelation", map, transient=1000, steps=100, lags=6)
    lags = np.arange(7)
    np.testing.assert_allclose(found.autocorrelation, (-1.0) ** lags * (1 - lags / 100), atol=1e-9)
    every = nnflow.run("trajectory_autocorrelation", map, transient=1000, steps=100, lags=6, every=2)
    assert every.lag.values.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert np.isnan(every.autocorrelation).all()  # every second step it stands still


def test_white_noise_has_none_and_a_constant_is_nan() -> None:
    found = nnflow.run("trajectory_autocorrelation", nnflow.Recording(RNG.normal(size=4000)), steps=4000, lags=40)
    assert found.autocorrelation[0] == pytest.approx(1)
    assert np.abs(found.autocorrelation[1:]).max() < 4 / np.sqrt(4000)
    assert np.isnan(trajectory_correlation(np.full((20, 2), 0.1), 3)).all()
    assert np.isnan(trajectory_correlation([1.0, np.nan, 2.0], 1)).all()
    with pytest.raises(ValueError, match="lags = 3: give"):
        trajectory_correlation([1.0, 2.0, 3.0], 3)


def test_a_network_moves_in_all_its_weights_and_memory_is_left_out() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    x, y = RNG.normal(size=(6, 2)), RNG.normal(size=(6, 1))
    map = nnflow.training_map(module, mse_loss, x, y, "adam", backend="tensor", eta=0.1)
    found = nnflow.run("trajectory_autocorrelation", map, steps=60, lags=10)
    records, _ = nnflow.Ensemble.grid(map).orbit(60)
    np.testing.assert_allclose(
        found.autocorrelation, trajectory_correlation(records[0, :, : map.weights], 10), atol=1e-14
    )
    one = nnflow.run("trajectory_autocorrelation", map, steps=60, lags=10, observe=("0.bias[1]",))
    column = map.column("0.bias[1]")
    np.testing.assert_allclose(one.autocorrelation, trajectory_correlation(records[0, :, column], 10), atol=1e-14)


def test_it_satisfies_the_contract() -> None:
    check_analysis(TrajectoryAutocorrelation)
    with pytest.raises(ValueError, match="lags = 50: 10 records need a smaller one"):
        TrajectoryAutocorrelation(steps=10)
