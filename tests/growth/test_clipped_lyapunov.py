"""Growth with curvature taken out: a quadratic by hand, and the finite-time exponent where nothing is clipped."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import nnflow


def test_clipping_takes_out_one_kind_of_growth() -> None:
    """L = (3 x² − y² ) / 2 at η = 1: multipliers 1 − 3 = −2 and 1 + 1 = 2, each with its own direction."""
    map = nnflow.gradient_map(lambda w: (3.0 * w[0] ** 2 - 0.5 * w[1] ** 2) / 2, 2, eta=1.0)
    found = nnflow.run("clipped_lyapunov", map, steps=40)
    np.testing.assert_allclose(found.largest, 1.5)
    np.testing.assert_allclose(found.smallest, -2.0)
    by_clip = dict(zip(found.clipped.values.tolist(), found.exponent.values.tolist(), strict=True))
    assert by_clip["none"] == pytest.approx(math.log(2), abs=0.03)
    assert by_clip["negative"] == pytest.approx(math.log(2), abs=0.03)
    assert by_clip["beyond"] == pytest.approx(math.log(1.5), abs=0.05)


def test_without_a_clip_it_is_the_finite_time_exponent() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["iris"](eta=1.0), inits=2)
    found = nnflow.run("clipped_lyapunov", ensemble, steps=30)
    first = ensemble.draw("tangent", (1, 83), seed=0)
    frame = first / np.linalg.norm(first, axis=2, keepdims=True)
    records, _ = replace(ensemble, frame=frame).tangent_orbit(30)
    np.testing.assert_allclose(found.exponent.sel(clipped="none"), records.log_stretches.mean(axis=1)[:, 0], rtol=1e-9)
    assert (found.exponent.sel(clipped="negative") < found.exponent.sel(clipped="none")).all()
    top = nnflow.run("sharpness", ensemble, steps=30, every=1).stability
    np.testing.assert_allclose((1 - found.smallest) / 2, top, rtol=1e-5)


def test_a_tangent_map_that_is_not_symmetric_is_refused() -> None:
    with pytest.raises(TypeError, match="henon has no symmetric tangent map"):
        nnflow.run("clipped_lyapunov", nnflow.maps["henon"]())
