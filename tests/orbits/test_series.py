"""Series as they are: what an orbit observes, projections, distances, and recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nnflow_plugins.orbits.series import Series

import nnflow
from nnflow.testing import check_analysis


def test_it_satisfies_the_contract() -> None:
    check_analysis(Series)
    check_analysis(Series, nnflow.gradient_map(lambda w: (w**4).sum(), 2, "heavy_ball", eta=0.01))


def test_a_series_is_what_an_orbit_observes() -> None:
    map = nnflow.gradient_map(lambda w: (w**2).sum() / 2, 3, "heavy_ball", eta=0.1, beta=0.5)
    ensemble = nnflow.Ensemble.grid(map, inits=4)
    settings = {"observe": ("loss", "w1", "velocity.w0"), "steps": 12, "transient": 4, "every": 3}
    plain = nnflow.run("series", ensemble, **settings)
    records, _ = ensemble.advance(4).orbit(12, every=3, observe=["loss", "w1", "velocity.w0"])
    assert np.array_equal(plain.value, records.transpose(0, 2, 1))
    assert plain.time.values.tolist() == [4, 7, 10, 13]
    whole = nnflow.run("series", ensemble, **settings, distance="l2", projections=2, seed=1)
    assert whole.channel.values.tolist() == ["loss", "w1", "velocity.w0", "distance", "projection0", "projection1"]
    np.testing.assert_allclose(whole.value[:, :3], plain.value, rtol=1e-14)
    states = ensemble.orbit(16)[0][:, 4::3, :3]
    way = np.linalg.norm(states - ensemble.states[:, None, :3], axis=2)
    np.testing.assert_allclose(whole.value.sel(channel="distance"), way, rtol=1e-13)
    # two projections of three weights: of unit length, and linear in the state
    vectors, *_ = np.linalg.lstsq(states.reshape(-1, 3), whole.value.values[:, 4:].transpose(0, 2, 1).reshape(-1, 2))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1.0, rtol=1e-9)
    other = nnflow.run("series", ensemble, **settings, projections=2, seed=2)
    assert np.abs(other.value[:, 3:].values - whole.value[:, 4:].values).max() > 1e-3


def test_a_series_of_a_recording() -> None:
    found = nnflow.run("series", nnflow.Recording([3.0, 1.0, 2.0, 5.0], ["loss"]), steps=2, transient=1)
    assert found.value.values.tolist() == [[1.0, 2.0]]
    assert found.channel.values.tolist() == ["loss"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "l3"}, "distance = 'l3': give one of l1, l2, max"),
        ({"projections": -1}, "projections = -1"),
        ({"observe": ("los",)}, "unknown observable of henon 'los'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run("series", nnflow.maps["henon"](), **settings)
