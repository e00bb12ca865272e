"""The reduced model: its step is the softmax map's, and saturated networks follow it."""

from __future__ import annotations

import numpy as np
import pytest
from nnflow_plugins.training.reduced_model import ReducedModel, softmax_step

import nnflow
from nnflow.testing import check_analysis


def test_the_softmax_step_is_that_of_the_registered_map() -> None:
    map = nnflow.maps["softmax"](frequencies=(0.2, 0.3, 0.5), kappa=7.0)
    ensemble = nnflow.Ensemble.grid(map, inits=5)
    ours = softmax_step(ensemble.states, np.full(5, 7.0), np.array([0.2, 0.3, 0.5]))
    np.testing.assert_allclose(ours, ensemble.advance(1).states, rtol=1e-13)


def test_a_saturated_network_follows_the_softmax_map() -> None:
    """At η = 5 the hidden units saturate; at η = 0.01 they do not, and the residual says so."""
    map = nnflow.maps["iris"]()
    ensemble = nnflow.Ensemble.grid(map, inits=8, eta=[0.01, 5.0])
    found = nnflow.run("reduced_model", ensemble, steps=200, transient=2000, every=10)
    assert found.time.values.tolist() == list(range(2000, 2200, 10))
    learning, chaotic = found.sel(eta=0.01), found.sel(eta=5.0)
    assert float(learning.residual.min()) > 1e-4
    matched = chaotic.residual.max("time") < 1e-3
    assert float(matched.mean()) > 0.5
    kappa = chaotic.kappa.where(matched).isel(time=-1).dropna("init")
    counts = kappa / 5.0 - 1
    np.testing.assert_allclose(counts, np.rint(counts), atol=0.02)
    np.testing.assert_allclose(counts, chaotic.stuck_on.isel(time=-1).sel(init=kappa.init), atol=0.02)
    records, _ = ensemble.advance(2000).orbit(1, observe="hidden_square")
    np.testing.assert_allclose(found.kappa[..., 0].values.ravel(), ensemble.parameters[:, 0] * (1 + records[:, 0, 0]))


@pytest.mark.parametrize(
    "map",
    [
        nnflow.maps["henon"](),
        nnflow.maps["iris"](optimizer="heavy_ball"),
        nnflow.maps["iris"](weight_decay=0.1),
        nnflow.maps["iris"](batch=30),
    ],
    ids=["henon", "heavy ball", "weight decay", "batches"],
)
def test_the_reduced_model_is_for_plain_gradient_descent(map: nnflow.Map) -> None:
    with pytest.raises(ValueError, match="give a compiled training map"):
        nnflow.run("reduced_model", map)


def test_it_satisfies_the_contract_on_iris() -> None:
    check_analysis(ReducedModel, nnflow.maps["iris"]())
