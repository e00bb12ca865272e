"""JAX: networks under gradient descent as jit(scan), with or without a tangent vector, and jit(vmap(scan)); float64.

Weights are flat, in the order of torch's parameters. A kind is a name of `FORWARD`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

Parts = Callable[..., Any]  # the next part of the weights, in this shape


def linear(x: Any, part: Parts, inputs: int, outputs: int) -> Any:
    weight, bias = part(outputs, inputs), part(outputs)
    return x @ weight.T + bias


def small(x: Any, part: Parts) -> Any:
    return linear(jax.nn.sigmoid(linear(x, part, 4, 10)), part, 10, 3)


def wide(x: Any, part: Parts) -> Any:
    return linear(jnp.tanh(linear(x, part, 64, 64)), part, 64, 10)


def convolution(x: Any, part: Parts, inputs: int, outputs: int) -> Any:
    weight, bias = part(outputs, inputs, 3, 3), part(outputs)
    return jax.lax.conv_general_dilated(x, weight, (1, 1), "SAME") + bias[:, None, None]


def convolutional(x: Any, part: Parts) -> Any:
    x = jnp.tanh(convolution(x.reshape(-1, 1, 8, 8), part, 1, 8))
    x = x.reshape(-1, 8, 4, 2, 4, 2).mean(axis=(3, 5))
    x = jnp.tanh(convolution(x, part, 8, 16))
    return linear(x.reshape(len(x), -1), part, 256, 10)


def attention(x: Any, part: Parts, heads: int) -> Any:
    rows, times, width = x.shape
    three = linear(x, part, width, 3 * width).reshape(rows, times, 3, heads, width // heads)
    q, k, v = three.transpose(2, 0, 3, 1, 4)
    weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) / np.sqrt(width // heads))
    return linear((weights @ v).swapaxes(1, 2).reshape(rows, times, width), part, width, width)


def normed(x: Any, scale: Any, shift: Any) -> Any:
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / jnp.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5) * scale + shift


def transformer(x: Any, part: Parts) -> Any:
    attended = x + attention(x, part, heads=2)
    up, down = (part(32, 16), part(32)), (part(16, 32), part(16))
    first, second = (part(16), part(16)), (part(16), part(16))
    x = normed(attended, *first)
    x = normed(x + jax.nn.relu(x @ up[0].T + up[1]) @ down[0].T + down[1], *second)
    return linear(x.mean(axis=1), part, 16, 4)


FORWARD = {"small": small, "wide": wide, "convolutional": convolutional, "transformer": transformer}


def parts(w: Any) -> Parts:
    at = 0

    def part(*shape: int) -> Any:
        nonlocal at
        at += prod(shape)
        return w[at - prod(shape) : at].reshape(shape)

    return part


def descent(kind: str, x: Any, y: Any, eta: float, w: Any) -> Any:
    def loss(w: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(FORWARD[kind](x, parts(w))), y[:, None], axis=1).mean()

    return w - eta * jax.grad(loss)(w)


def along(step: Callable[[Any], Any], w: Any, v: Any) -> tuple[Any, Any]:
    """A step, and where it takes a tangent vector, of length 1 again."""
    w, v = jax.jvp(step, (w,), (v,))
    return w, v / jnp.linalg.norm(v)


@partial(jax.jit, static_argnames=("kind", "steps"))
def orbit(kind: str, w: Any, x: Any, y: Any, eta: float, steps: int) -> Any:
    return jax.lax.scan(lambda w, _: (descent(kind, x, y, eta, w), None), w, length=steps)[0]


@partial(jax.jit, static_argnames=("kind", "steps"))
def tangent_orbit(kind: str, w: Any, v: Any, x: Any, y: Any, eta: float, steps: int) -> Any:
    step = partial(descent, kind, x, y, eta)
    return jax.lax.scan(lambda both, _: (along(step, *both), None), (w, v), length=steps)[0][1]


@partial(jax.jit, static_argnames=("kind", "steps"))
def orbits(kind: str, w: Any, x: Any, y: Any, eta: float, steps: int) -> Any:
    return jax.vmap(lambda w: orbit(kind, w, x, y, eta, steps))(w)


def step(**arguments: Any) -> np.ndarray:
    """The state after all steps."""
    return np.asarray(orbit(**arguments))


def tangent(**arguments: Any) -> np.ndarray:
    """The direction of the tangent vector after all steps."""
    return np.asarray(tangent_orbit(**arguments))


def ensemble(**arguments: Any) -> np.ndarray:
    """The states of all members after all steps."""
    return np.asarray(orbits(**arguments))
