"""Rates of growth that were silently wrong, whichever is asked for: old frames, orbits put to rest, the start."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.ensemble import ResolutionWarning

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


def test_the_verb_and_the_iterate_renew_their_frames_too() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["cat"](), inits=3)
    records, after = ensemble.with_frame(2).tangent_orbit(2000, 500, ["frames", "factors"])
    np.testing.assert_allclose(records.log_stretches[:, 1:] / 500, [[[CAT_RATE, -CAT_RATE]] * 3] * 3, atol=1e-12)
    single, same = ensemble.with_frame(2).tangent_orbit(2000, 1, ["frames", "factors"])
    np.testing.assert_array_equal(after.frame, same.frame)
    assert single.frames is not None
    assert records.frames is not None
    np.testing.assert_array_equal(records.frames, single.frames[:, ::500])
    twice = nnflow.run("lyapunov_spectrum", nnflow.iterate(nnflow.maps["henon"](), 100), steps=20, transient=1)
    assert float(twice.exponent.sum()) == pytest.approx(100 * math.log(0.3), abs=1e-9)
    assert float(twice.exponent[0]) == pytest.approx(41.9, abs=4)  # 2000 steps in all


def test_factors_of_a_block_are_the_products_of_its_steps() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2).with_frame(2)
    (_, _, long), (_, _, short) = (ensemble.tangent_orbit(12, every, ["factors"])[0] for every in (4, 1))
    assert long is not None
    assert short is not None
    for block in range(3):
        a, b, c, d = (short[:, 4 * block + i] for i in range(4))
        np.testing.assert_allclose(long[:, block], d @ c @ b @ a, rtol=1e-12)


def doubling(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 2.0 * x[0] % 1.0


@pytest.mark.parametrize(
    ("analysis", "settings"),
    [
        ("lyapunov_spectrum", {}),
        ("finite_time_lyapunov", {}),
        ("clipped_lyapunov", {}),
        ("two_orbit_lyapunov", {"steps": 200, "transient": 0}),
    ],
)
def test_an_orbit_that_rounding_puts_to_rest_says_so(analysis: str, settings: Any) -> None:
    map = nnflow.CompiledMap(doubling, dim=1, periods={"x0": 1.0})
    with pytest.warns(ResolutionWarning, match="orbits have come to rest on an unstable point"):
        found = nnflow.run(analysis, map, **settings)
    assert found.at_rest.item()
    assert "rounding" in found.at_rest.attrs["note"]


def test_without_a_transient_the_result_says_that_the_start_counts() -> None:
    """Where a gradient is 0 Adam's memory is empty, and a step stretches by eta/epsilon: right, but not without a word.

    Also in this way: the turning of a random frame, the way to the attractor; in every rate of growth.
    """
    map = nnflow.gradient_map(lambda w: (w * w).sum() / 2, 1, optimizer="adam", eta=1e-3)
    ensemble = nnflow.Ensemble.grid(map, states=[[0.0, 0.0, 0.0]])
    at_once, later = (nnflow.run("lyapunov_spectrum", ensemble, k=1, steps=100, transient=n) for n in (0, 100))
    assert at_once.exponent.item() > later.exponent.item() + 0.05
    assert "first steps count" in at_once.exponent.attrs["note"]
    assert "note" not in later.exponent.attrs
    for name in ("finite_time_lyapunov", "two_orbit_lyapunov"):
        settings: dict[str, Any] = {"steps": 200, "transient": 0}
        assert "first steps count" in nnflow.run(name, nnflow.maps["henon"](), **settings).exponent.attrs["note"]
