"""Autocorrelation with its shuffled band: noise, a cycle, and published values."""

from __future__ import annotations

import numpy as np
import pytest
from nnflow_plugins.signals.autocorrelation import shuffled_band

import nnflow


def test_white_noise_stays_in_the_band_and_a_cycle_does_not() -> None:
    """The band of n values has half width about 1.96/√n around −1/n."""
    noise = np.random.default_rng(0).normal(size=2000)
    found = nnflow.run("autocorrelation", nnflow.Recording(noise), transient=0, steps=2000, lags=60, shuffles=1000)
    inside = (found.autocorrelation >= found.null_low) & (found.autocorrelation <= found.null_high)
    assert 0.85 < inside[1:].mean() < 1
    np.testing.assert_allclose(found.null_high[1:], 1.96 / np.sqrt(2000), rtol=0.15)
    np.testing.assert_allclose(found.null_low[1:], -1.96 / np.sqrt(2000), rtol=0.15)
    cycle = nnflow.run("autocorrelation", nnflow.maps["logistic"](r=3.2), steps=400, lags=4, shuffles=100)
    np.testing.assert_allclose(cycle.autocorrelation, (-1.0) ** np.arange(5) * (1 - np.arange(5) / 400), atol=1e-9)
    assert (np.abs(cycle.autocorrelation) > cycle.null_high)[1:].all()


def test_the_band_belongs_to_its_seed() -> None:
    series = np.random.default_rng(1).normal(size=300)
    one, same, other = (shuffled_band(series, 3, 50, 0.9, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_softmax_map_has_the_published_autocorrelation() -> None:
    """Of the loss in the chaotic band of the reduced model: −.278, −.325, +.171 at lags 1, 2, 3."""
    start = nnflow.Ensemble.grid(nnflow.maps["softmax"](kappa=10.0), inits=6, seed=1)
    found = nnflow.run("autocorrelation", start, steps=60_000, transient=3000, lags=7, shuffles=20)
    values = found.autocorrelation.values
    values = values[np.abs(values[:, 3]) < 0.5]  # a 3-cycle has 1
    assert len(values)
    expected = [-0.278, -0.325, 0.171]
    np.testing.assert_allclose(values[:, 1:4].mean(axis=0), expected, atol=8e-3)
    assert values[:, 7].mean() == pytest.approx(-0.181, abs=8e-3)
