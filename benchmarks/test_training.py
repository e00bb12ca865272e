"""Training on tensors: any torch module, beside vmap by hand and beside plain gradients."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.data import iris_split

MEMBERS, STEPS, TAME = 512, 20, 0.1


def test_iris_ensemble_on_tensors(duel: Any, peer: Any) -> None:
    theirs = peer("torch_by_hand")
    module = nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3))
    data = iris_split(0)
    settings = {"backend": "tensor", "scale": 1.0, "eta": TAME}
    map = nnflow.training_map(module, cross_entropy, data.inputs, data.targets, **settings)
    ensemble = nnflow.Ensemble.grid(map, inits=MEMBERS)
    arguments = {"states": ensemble.states, "eta": TAME, "steps": STEPS}
    np.testing.assert_allclose(ensemble.advance(STEPS).states, theirs("train", **arguments), rtol=0, atol=1e-12)
    duel(
        f"Iris GD on tensors, {MEMBERS} members × {STEPS} steps",
        lambda: ensemble.advance(STEPS),
        "torch.func.vmap by hand",
        lambda: theirs.seconds("train", **arguments),
        target=1 / 1.3,
    )


def test_tangent_of_a_large_perceptron(duel: Any, peer: Any) -> None:
    """10⁵ weights, 500 samples, float64: one tangent step with k = 4 beside four plain gradients of torch."""
    theirs, sizes = peer("torch_by_hand"), (784, 120, 64, 10)
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(500, 784)), rng.integers(0, 10, 500)
    torch.manual_seed(0)
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    module = nn.Sequential(*layers[:-1]).double()
    map = nnflow.training_map(module, cross_entropy, inputs, labels, eta=TAME)
    ensemble = nnflow.Ensemble.grid(map, states=[map.state_of(module)]).with_frame(4)
    p = map.native(ensemble.parameters)
    arguments = {"sizes": sizes, "weights": ensemble.states[0], "inputs": inputs, "labels": labels}

    stepped = ensemble.states[0] - TAME * theirs("gradients", **arguments)
    np.testing.assert_allclose(map.to_numpy(map.step(ensemble.state, p, 0))[0], stepped, rtol=0, atol=1e-12)
    duel(
        f"tangent step with k = 4, perceptron of {map.dim} weights",
        lambda: map.tangent(ensemble.state, p, 0, ensemble.frame),
        "4 gradients of torch",
        lambda: theirs.seconds("gradients", **arguments),
        target=1 / 6,
    )
