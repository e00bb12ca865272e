"""JAX: Iris under gradient descent as jit(vmap(scan)) in float64."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from iris_data import HOT, INPUTS

jax.config.update("jax_enable_x64", True)
inputs, hot = jnp.asarray(INPUTS), jnp.asarray(HOT)


def loss(w: Any) -> Any:
    hidden = jax.nn.sigmoid(inputs @ w[:40].reshape(10, 4).T + w[40:50])
    logits = hidden @ w[50:80].reshape(3, 10).T + w[80:]
    return -(hot * jax.nn.log_softmax(logits)).sum(axis=1).mean()


def descent(w: Any, eta: Any) -> Any:
    return w - eta * jax.grad(loss)(w)


@cache
def compiled(steps: int) -> Any:
    def train(w: Any, eta: Any) -> Any:
        return jax.lax.scan(lambda w, _: (descent(w, eta), None), w, length=steps)[0]

    return jax.jit(jax.vmap(train, in_axes=(0, None)))


def train(states: np.ndarray, eta: float, steps: int) -> np.ndarray:
    """The states after all steps, by a function that was compiled in an earlier call."""
    return np.asarray(compiled(steps)(states, eta))
