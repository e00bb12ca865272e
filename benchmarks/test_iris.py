"""The Iris network under gradient descent, 512 initial states × 200 steps in float64, beside JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from nnflow import Ensemble, maps
from nnflow.systems.data import iris_split

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's own

MEMBERS, STEPS = 512, 200
TAME = 0.1  # a learning rate at which rounding errors do not grow


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(os.cpu_count()) as made:
        yield made


@pytest.fixture(scope="module")
def jax_training() -> Callable[[Any, float], Any]:
    """The same network in JAX: (states, eta) -> the states after all steps, compiled."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    jax.config.update("jax_enable_x64", True)
    data = iris_split(0)
    inputs, hot = jax.numpy.asarray(data.inputs), jax.numpy.asarray(np.eye(3)[data.targets])

    def loss(w: Any) -> Any:
        hidden = jax.nn.sigmoid(inputs @ w[:40].reshape(10, 4).T + w[40:50])
        logits = hidden @ w[50:80].reshape(3, 10).T + w[80:]
        return -(hot * jax.nn.log_softmax(logits)).sum(axis=1).mean()

    def train(w: Any, eta: Any) -> Any:
        return jax.lax.scan(lambda w, _: (w - eta * jax.grad(loss)(w), None), w, length=STEPS)[0]

    return jax.jit(jax.vmap(train, in_axes=(0, None)))


def trained(ensemble: Ensemble, pool: ThreadPoolExecutor) -> np.ndarray:
    """The states after all steps, the members shared out to the threads of a pool."""
    parts = pool.map(lambda chunk: chunk[1].advance(STEPS).states, ensemble.split(64))
    return np.concatenate(list(parts))


def test_iris_ensemble(duel: Any, pool: ThreadPoolExecutor, jax_training: Callable[[Any, float], Any]) -> None:
    import jax

    tame = Ensemble.grid(maps["iris"](), inits=MEMBERS, eta=TAME)
    expected = np.asarray(jax_training(tame.states, TAME))
    assert expected.dtype == np.float64
    assert np.abs(expected - tame.states).max() > 0.1, "the weights moved"
    np.testing.assert_allclose(trained(tame, pool), expected, rtol=1e-9, atol=1e-9)

    ensemble = Ensemble.grid(maps["iris"](), inits=MEMBERS, eta=1.0)
    states = jax.numpy.asarray(ensemble.states)
    duel(
        f"Iris GD, {MEMBERS} members × {STEPS} steps",
        lambda: trained(ensemble, pool),
        "JAX jit(vmap(scan))",
        lambda: jax_training(states, 1.0).block_until_ready(),
        target=2.5,
    )
