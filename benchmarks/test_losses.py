"""A loss of a few weights under Adam: step and tangent of 16 members beside tensors, and beside a kernel by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from timing import timed
from torch import Tensor

import nnflow

MEMBERS, STEPS, ON_TENSORS = 16, 20_000, 200
Loss = Callable[[Tensor], Tensor]


def rosenbrock(w: Tensor) -> Tensor:
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2  # type: ignore[no-any-return]


def parabola(w: Tensor) -> Tensor:
    return (w * w).sum() / 2


@njit(error_model="numpy")
def gradient(w: Any, g: Any) -> None:
    bend = w[1] - w[0] * w[0]
    g[0], g[1] = -2 * (1 - w[0]) - 400 * w[0] * bend, 200 * bend


def rule(x: Any, p: Any, t: int, out: Any) -> None:
    """Adam on Rosenbrock's function."""
    gradient(x[:2], out[:2])
    rate, left = p[0] / (1 - p[1] ** (t + 1)), 1 - p[2] ** (t + 1)
    for i in range(2):
        g = out[i]
        out[2 + i] = p[1] * x[2 + i] + (1 - p[1]) * g
        out[4 + i] = p[2] * x[4 + i] + (1 - p[2]) * g * g
        out[i] = x[i] - rate * out[2 + i] / (np.sqrt(out[4 + i] / left) + p[3])


def tangent(x: Any, p: Any, t: int, v: Any, out: Any) -> None:
    """Its Jacobian times v."""
    gradient(x[:2], out[:2])
    rate, left = p[0] / (1 - p[1] ** (t + 1)), 1 - p[2] ** (t + 1)
    h00, h01, h11 = 2 - 400 * x[1] + 1200 * x[0] * x[0], -400 * x[0], 200.0
    for i in range(2):
        g, dg = out[i], h00 * v[0] + h01 * v[1] if i == 0 else h01 * v[0] + h11 * v[1]
        m, s = p[1] * x[2 + i] + (1 - p[1]) * g, p[2] * x[4 + i] + (1 - p[2]) * g * g
        out[2 + i] = p[1] * v[2 + i] + (1 - p[1]) * dg
        out[4 + i] = p[2] * v[4 + i] + 2 * (1 - p[2]) * g * dg
        root = np.sqrt(s / left)
        divisor = root + p[3]
        out[i] = v[i] - rate * (out[2 + i] - m / divisor * 0.5 / (left * root) * out[4 + i]) / divisor


def start(map: Any) -> Any:
    drawn = np.random.default_rng(0).normal(size=(MEMBERS, map.dim // 3))
    return nnflow.Ensemble.grid(map, states=np.hstack([drawn, np.zeros((MEMBERS, 2 * drawn.shape[1]))])).with_frame(1)


@pytest.mark.parametrize(("loss", "dim"), [(rosenbrock, 2), (parabola, 1)])
def test_a_tangent_step_of_a_loss(duel: Any, loss: Loss, dim: int) -> None:
    """The largest exponent under Adam, beside the traced tensor map."""
    ours, theirs = (
        start(nnflow.gradient_map(loss, dim, "adam", eta=0.01, backend=kind)) for kind in ("compiled", "tensor")
    )
    (a, one), (b, other) = ours.tangent_orbit(40), theirs.tangent_orbit(40)  # traced from the 24th on
    np.testing.assert_allclose(one.states, other.states, rtol=1e-9)
    np.testing.assert_allclose(a.log_stretches, b.log_stretches, atol=1e-7)
    duel(
        f"{loss.__name__} under Adam, step and tangent, {MEMBERS} members × {STEPS} steps",
        lambda: ours.tangent_orbit(STEPS),
        f"on tensors, traced ({ON_TENSORS} steps, × {STEPS // ON_TENSORS})",
        lambda: timed(lambda: theirs.tangent_orbit(ON_TENSORS)),
        scale=STEPS / ON_TENSORS,
        target=40.0,
    )


def test_a_tangent_step_by_hand(duel: Any) -> None:
    """What the tape costs, beside a rule and a tangent that somebody derived and wrote down."""
    parameters = {"eta": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    hand = start(nnflow.CompiledMap(rule, tangent, dim=6, parameters=parameters, name="by hand"))
    ours = start(nnflow.gradient_map(rosenbrock, 2, "adam", eta=0.01, backend="compiled"))
    (a, one), (b, other) = ours.tangent_orbit(40), hand.tangent_orbit(40)
    np.testing.assert_allclose(one.states, other.states, rtol=1e-9)
    np.testing.assert_allclose(a.log_stretches, b.log_stretches, atol=1e-7)
    duel(
        f"rosenbrock under Adam, step and tangent, {MEMBERS} members × {STEPS} steps",
        lambda: ours.tangent_orbit(STEPS),
        "a compiled map by hand",
        lambda: timed(lambda: hand.tangent_orbit(STEPS)),
        target=0.25,
    )


@pytest.mark.whole
@pytest.mark.parametrize("size", [8, 16, 32, 40])
def test_where_tensors_catch_up(duel: Any, size: int) -> None:
    """A full quadratic form: 2 n² products in its gradient, up to the limit of a tape."""
    matrix = torch.tensor(np.random.default_rng(1).normal(size=(size, size)))
    maps = [
        nnflow.gradient_map(lambda w: (w @ matrix @ w + (w**4).sum()) / 8, size, eta=0.01, backend=kind)
        for kind in ("compiled", "tensor")
    ]
    states = np.random.default_rng(0).normal(size=(MEMBERS, size)) / 4
    ours, theirs = (nnflow.Ensemble.grid(map, states=states).with_frame(1) for map in maps)
    (a, _), (b, _) = ours.tangent_orbit(40), theirs.tangent_orbit(40)
    np.testing.assert_allclose(a.log_stretches, b.log_stretches, atol=1e-7)
    duel(
        f"a quadratic form of {size} weights, step and tangent, {MEMBERS} members × 200 steps",
        lambda: ours.tangent_orbit(200),
        "on tensors, traced",
        lambda: timed(lambda: theirs.tangent_orbit(200)),
    )
