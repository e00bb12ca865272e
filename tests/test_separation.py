"""Separations of neighbours, what is perturbed, and what floating-point numbers cannot resolve; series as they are."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from nnflow_plugins.growth.separation import Separation
from nnflow_plugins.orbits.series import Series

import nnflow
from nnflow.testing import check_analysis

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


@pytest.mark.parametrize("kind", [Separation, Series])
def test_they_satisfy_the_contract(kind: Any) -> None:
    check_analysis(kind)
    check_analysis(kind, nnflow.gradient_map(lambda w: (w**4).sum(), 2, "heavy_ball", eta=0.01))


def test_neighbours_of_the_cat_map_separate_at_its_exponent() -> None:
    found = nnflow.run("separation", nnflow.maps["cat"](), perturbation=1e-10, perturbations=20, steps=18)
    logs = np.log(found.distance.mean("perturbation"))
    assert np.polyfit(found.time[6:], logs[6:], 1)[0] == pytest.approx(CAT_RATE, abs=1e-4)
    assert found.unresolved == 0


def test_several_sizes_are_one_perturbation_scaled() -> None:
    map = nnflow.gradient_map(lambda w: (w * w).sum() / 2, 3, eta=0.1)  # every distance shrinks by 0.9 a step
    found = nnflow.run("separation", map, perturbation=(1e-3, 1e-1), perturbations=4, steps=15, every=5, norm="max")
    assert found.distance.dims == ("size", "perturbation", "time")
    assert found.time.values.tolist() == [0, 5, 10]
    small, large = found.distance.values
    np.testing.assert_allclose(large, 100 * small, rtol=1e-11)
    np.testing.assert_allclose(small[:, 2], 0.9**10 * small[:, 0], rtol=1e-11)
    assert (small[:, 0] <= 1e-3).all()


def test_layers_add_up_and_normal_perturbations_are_normal() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["iris"](), inits=2)
    settings = {"steps": 30, "every": 10, "perturbations": 3}
    found = nnflow.run(
        "separation", ensemble, perturbation=(1e-6, 1e-4), layers=True, distribution="normal", **settings
    )
    assert found.layer.values.tolist() == ["W1", "b1", "W2", "b2"]
    assert found.layer_distance.dims == ("init", "size", "perturbation", "layer", "time")
    np.testing.assert_allclose(found.layer_distance.sum("layer"), found.distance, rtol=1e-12)
    plain = nnflow.run("separation", ensemble, perturbation=(1e-6, 1e-4), distribution="normal", **settings)
    np.testing.assert_allclose(plain.distance, found.distance, rtol=1e-12)
    shift = ensemble.neighbours(1e-4, 3, kind="normal") - ensemble.states[:, None]
    np.testing.assert_allclose(found.distance[:, 1, :, 0], np.abs(shift).sum(axis=2), rtol=1e-12)
    first = nnflow.run("separation", ensemble, perturbation=1e-4, layers=True, where="W1*", norm="max", **settings)
    assert (first.layer_distance.sel(layer="W2")[..., 0] == 0).all()
    assert np.array_equal(first.layer_distance.max("layer"), first.distance)


def test_memory_is_perturbed_or_not_as_asked() -> None:
    map = nnflow.gradient_map(lambda w: (w**4).sum(), 3, "adam")
    ensemble = nnflow.Ensemble.grid(map, inits=2)

    def moved(**settings: Any) -> list[int]:
        shifts = map.to_numpy(ensemble.neighbours(0.1, 2, **settings)) - ensemble.states[:, None]
        return np.flatnonzero(np.abs(shifts).max(axis=(0, 1))).tolist()

    assert moved() == [0, 1, 2]
    assert moved(where="*") == list(range(9))
    assert moved(where="moment2.*") == [6, 7, 8]
    assert moved(where=["w0", "moment1.w2"]) == [0, 5]
    with pytest.raises(ValueError, match=r"'kernel\*': matches no coordinate of .*: w0, w1, w2"):
        moved(where="kernel*")


def test_draws_belong_to_the_init() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2, a=[1.0, 1.4])
    shifts = ensemble.neighbours(1e-3, 3, kind="normal", seed=4) - ensemble.states[:, None]
    np.testing.assert_allclose(shifts[0], shifts[2], atol=1e-15)
    assert np.abs(shifts[0] - shifts[1]).max() > 1e-4
    assert not np.allclose(ensemble.neighbours(1e-3, 3, kind="normal", seed=5) - ensemble.states[:, None], shifts)
    for wrong in ({"size": 0.0}, {"size": -1.0}, {"size": 1.0, "count": 0}, {"size": 1.0, "kind": "cauchy"}):
        with pytest.raises(ValueError, match="give a positive size"):
            ensemble.neighbours(**wrong)


# ---------------------------------------------------------------------------------------------------------- resolution


@pytest.mark.parametrize(
    ("dtype", "size", "expected"),
    [(torch.float64, 1e-15, 1.0), (torch.float64, 1e-10, 0.0), (torch.float32, 1e-8, 1.0), (torch.float32, 1e-3, 0.0)],
)
def test_perturbations_below_the_resolution_are_told(dtype: torch.dtype, size: float, expected: float) -> None:
    map = nnflow.gradient_map(lambda w: (w * w).sum() / 2, 4, dtype=dtype, eta=0.1)
    ensemble = nnflow.Ensemble.grid(map, states=[[1.0, -2.0, 0.5, 1.5]])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = nnflow.run("separation", ensemble, perturbation=size, steps=3, perturbations=6)
    assert found.unresolved.item() == expected
    assert found.attrs["resolution"] == (2.0**-23 if dtype == torch.float32 else 2.0**-52)
    told = [str(w.message) for w in seen if issubclass(w.category, nnflow.ResolutionWarning)]
    assert len(told) == expected
    assert all(f"6 of 6 perturbations of size {size:g} are near or below the resolution" in text for text in told)


# -------------------------------------------------------------------------------------------------------------- series


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
    ("name", "settings", "message"),
    [
        ("series", {"distance": "l3"}, "distance = 'l3': give one of l1, l2, max"),
        ("series", {"projections": -1}, "projections = -1"),
        ("series", {"observe": ("los",)}, "unknown observable of henon 'los'"),
        ("separation", {"norm": "l3"}, "norm = 'l3'"),
        ("separation", {"perturbation": 0.0}, "size = 0.0"),
        ("separation", {"perturbations": 0}, "perturbations = 0"),
        ("separation", {"perturbation": ()}, "perturbation is empty"),
        ("separation", {"distribution": "cauchy"}, "distribution = 'cauchy'"),
        ("separation", {"steps": 10, "every": 3}, "steps must be a multiple of every"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run(name, nnflow.maps["henon"](), **settings)
