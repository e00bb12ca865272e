"""Separations of neighbours, what is perturbed, and what floating-point numbers cannot resolve."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from nnflow_plugins.growth.separation import Separation

import nnflow
from nnflow.testing import check_analysis

CAT_RATE = math.log((3 + math.sqrt(5)) / 2)


def test_it_satisfies_the_contract() -> None:
    check_analysis(Separation)
    check_analysis(Separation, nnflow.gradient_map(lambda w: (w**4).sum(), 2, "heavy_ball", eta=0.01))


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
    shift = ensemble.perturbed(1e-4, 3, distribution="normal") - ensemble.states[:, None]
    np.testing.assert_allclose(found.distance[:, 1, :, 0], np.abs(shift).sum(axis=2), rtol=1e-12)
    first = nnflow.run("separation", ensemble, perturbation=1e-4, layers=True, where="W1*", norm="max", **settings)
    assert (first.layer_distance.sel(layer="W2")[..., 0] == 0).all()
    assert np.array_equal(first.layer_distance.max("layer"), first.distance)


def test_memory_is_perturbed_or_not_as_asked() -> None:
    map = nnflow.gradient_map(lambda w: (w**4).sum(), 3, "adam")
    ensemble = nnflow.Ensemble.grid(map, inits=2)

    def moved(**settings: Any) -> list[int]:
        shifts = ensemble.perturbed(0.1, 2, **settings) - ensemble.states[:, None]
        return np.flatnonzero(np.abs(shifts).max(axis=(0, 1))).tolist()

    assert moved() == [0, 1, 2]
    assert moved(where="*") == list(range(9))
    assert moved(where="moment2.*") == [6, 7, 8]
    assert moved(where=["w0", "moment1.w2"]) == [0, 5]
    with pytest.raises(ValueError, match=r"'kernel\*': matches no coordinate of .*: w0, w1, w2"):
        moved(where="kernel*")


def test_draws_belong_to_the_init() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2, a=[1.0, 1.4])
    shifts = ensemble.perturbed(1e-3, 3, distribution="normal", seed=4) - ensemble.states[:, None]
    np.testing.assert_allclose(shifts[0], shifts[2], atol=1e-15)
    assert np.abs(shifts[0] - shifts[1]).max() > 1e-4
    assert not np.allclose(
        ensemble.perturbed(1e-3, 3, distribution="normal", seed=5) - ensemble.states[:, None], shifts
    )
    for wrong in ({"size": 0.0}, {"size": -1.0}, {"size": 1.0, "count": 0}, {"size": 1.0, "distribution": "cauchy"}):
        with pytest.raises(ValueError, match="give a positive size"):
            ensemble.perturbed(**wrong)


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "norm = 'l3'"),
        ({"perturbation": 0.0}, "perturbation = 0.0: give one positive size"),
        ({"perturbations": 0}, "perturbations = 0"),
        ({"perturbation": ()}, r"perturbation = \(\): give one positive size"),
        ({"distribution": "cauchy"}, "distribution = 'cauchy'"),
        ({"steps": 10, "every": 3}, "steps must be a multiple of every"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run("separation", nnflow.maps["henon"](), **settings)
