"""Growth rates over stretches: their mean is the exponent, the first one the growth of a random perturbation."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nnflow

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


def test_stretches_average_to_the_exponent() -> None:
    map = nnflow.maps["henon"]()
    found = nnflow.run("finite_time_lyapunov", map, k=2, window=100, steps=20_000, transient=100)
    whole = nnflow.run("lyapunov_spectrum", map, steps=20_000, transient=100)
    assert found.exponent.sizes["time"] == 200
    np.testing.assert_allclose(found.exponent.mean("time"), whole.exponent, atol=1e-12)
    np.testing.assert_allclose(found.exponent.sum("index"), math.log(0.3), atol=1e-10)
    assert found.exponent.isel(index=0).std() > 0.01


def test_without_a_transient_the_first_stretch_is_the_growth_of_a_random_perturbation() -> None:
    start = [[0.1, 0.2]]
    map = nnflow.maps["cat"]()
    ensemble = nnflow.Ensemble.grid(map, states=start)
    found = nnflow.run("finite_time_lyapunov", ensemble, window=5, steps=10, seed=3)
    v = ensemble.with_frame(1, 3).frame[:, 0]
    grown = v @ np.linalg.matrix_power(map.tangent(np.zeros((1, 2)), np.zeros((1, 0)), 0, np.eye(2)[None])[0], 5)
    assert found.exponent[0, 0].item() == pytest.approx(math.log(np.linalg.norm(grown)) / 5, rel=1e-9)
    assert found.exponent[1, 0].item() == pytest.approx(CAT_RATE, abs=1e-3)
    assert found.time.values.tolist() == [0, 5]
