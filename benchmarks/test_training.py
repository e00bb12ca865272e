"""Training maps: ensembles on tensors beside vmap by hand, tangents beside plain gradient steps."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.systems.data import iris_split

MEMBERS, STEPS, TAME = 512, 20, 0.1
INPUTS, LABELS = (torch.as_tensor(part) for part in iris_split(0)[:2])


def iris_on_tensors(eta: float) -> Any:
    module = nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3))
    settings = {"backend": "tensor", "scale": 1.0, "eta": eta}
    return nnflow.training_map(module, cross_entropy, INPUTS, LABELS, **settings)


def iris_loss(w: Tensor) -> Tensor:
    """The same loss, written out."""
    hidden = torch.sigmoid(INPUTS @ w[:40].view(10, 4).T + w[40:50])
    return cross_entropy(hidden @ w[50:80].view(3, 10).T + w[80:], LABELS)


def test_iris_ensemble_on_tensors(duel: Any) -> None:
    ensemble = nnflow.Ensemble.grid(iris_on_tensors(TAME), inits=MEMBERS)
    gradient = vmap(grad(iris_loss))

    def by_hand() -> Tensor:
        w = ensemble.state
        with torch.no_grad():
            for _ in range(STEPS):
                w = w - TAME * gradient(w)
        return w

    np.testing.assert_allclose(ensemble.advance(STEPS).states, by_hand().numpy(), rtol=0, atol=1e-12)
    duel(
        f"Iris GD on tensors, {MEMBERS} members × {STEPS} steps",
        lambda: ensemble.advance(STEPS),
        "torch.func.vmap by hand",
        by_hand,
        target=1 / 1.3,
    )


def test_tangent_of_a_large_perceptron(duel: Any) -> None:
    """10⁵ weights, 500 samples, float64: one tangent step with k = 4 beside four plain gradient steps of torch."""
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(500, 784)), rng.integers(0, 10, 500)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(784, 120), nn.Tanh(), nn.Linear(120, 64), nn.Tanh(), nn.Linear(64, 10)).double()
    map = nnflow.training_map(module, cross_entropy, inputs, labels, eta=TAME)
    ensemble = nnflow.Ensemble.grid(map, states=[map.state_of(module)]).with_frame(4)
    p, x, y = map.native(ensemble.parameters), torch.tensor(inputs), torch.tensor(labels)

    def gradients() -> list[Tensor]:
        for _ in range(4):
            found = torch.autograd.grad(cross_entropy(module(x), y), list(module.parameters()))
        return [part.detach() for part in found]

    stepped = ensemble.states[0] - TAME * nn.utils.parameters_to_vector(gradients()).numpy()
    np.testing.assert_allclose(map.to_numpy(map.step(ensemble.state, p, 0))[0], stepped, rtol=0, atol=1e-12)
    duel(
        f"tangent step with k = 4, perceptron of {map.dim} weights",
        lambda: map.tangent(ensemble.state, p, 0, ensemble.frame),
        "4 gradient steps of torch",
        gradients,
        target=1 / 6,
    )


def test_all_exponents_of_iris(duel: Any) -> None:
    """All k = 83 vectors at η = 5, 8 members on all cores, beside torch's forward over reverse on the same frames."""
    members, steps = 8, 25
    ensemble = nnflow.Ensemble.grid(nnflow.maps["iris"](eta=5.0), inits=members).with_frame(83)
    iris, states = ensemble.map, torch.tensor(ensemble.states)
    frames = torch.tensor(ensemble.frame)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = [(p.state, p.parameters, p.frame) for p in (ensemble.take([i, i + 1]) for i in range(0, members, 2))]

        def ours() -> list[Any]:
            return list(pool.map(lambda part: iris.tangent_orbit(part[0], part[1], 0, part[2], steps, 1), parts))

        def theirs() -> Tensor:
            def one(w: Tensor, frame: Tensor) -> Tensor:
                return vmap(lambda v: v - 5.0 * jvp(grad(iris_loss), (w,), (v,))[1])(frame)

            with torch.no_grad():
                moved = vmap(one)(states, frames)
            return torch.linalg.qr(moved.transpose(1, 2))[1]

        stretches = torch.diagonal(theirs(), dim1=1, dim2=2).abs().log().numpy()
        found = np.concatenate([records.log_stretches[:, 0] for records, _ in ours()])
        np.testing.assert_allclose(found, stretches, rtol=0, atol=1e-7)
        duel(
            f"Iris, all 83 exponents, {members} members × {steps} steps",
            ours,
            "torch.func jvp over grad, by hand",
            theirs,
            scale=steps,
            limit=200e-6 * members * steps,
        )
