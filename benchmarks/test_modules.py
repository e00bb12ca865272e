"""A user's own module, in float64: steps beside a plain torch loop, tangents beside a traced jvp by hand, and JAX.

One thread each, but for the ensemble, where both sides have all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from timing import timed
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.fx.experimental.proxy_tensor import make_fx

import nnflow

RATE = 0.1


class Recurrent(nn.Module):
    """A GRU whose last state is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        return self.head(self.gru(x)[0][:, -1])  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """One layer of a transformer, averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        return self.head(self.layer(x).mean(dim=1))  # type: ignore[no-any-return]


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def perceptron(*sizes: int) -> nn.Module:
    parts = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "4-10-3, 120 rows": (lambda: nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3)), (120, 4), 3, 200),
    "64-64-10, 1200 rows": (lambda: nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)), (1200, 64), 10, 40),
    "CNN of 3818 weights, 256 rows": (convolutional, (256, 64), 10, 10),
    "784-900-300-10, 256 rows": (lambda: perceptron(784, 900, 300, 10), (256, 784), 10, 12),
    "GRU, 64 rows of 12 steps": (Recurrent, (64, 12, 8), 4, 10),
    "transformer layer, 64 rows of 12 steps": (Transformer, (64, 12, 16), 4, 10),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch in one thread, as it was afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape, classes, _ = MODULES[name]
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    return make().double(), torch.tensor(rng.normal(size=shape)), torch.tensor(rng.integers(0, classes, shape[0]))


COMPILED = list(MODULES)[:3]
STEPS = [*((name, False) for name in MODULES), *((name, True) for name in COMPILED)]
TANGENTS = [*((name, False) for name in list(MODULES)[:4]), *((name, True) for name in COMPILED)]
IN_JAX = {  # the name of the same network in peers/jax_modules.py, and how many times as fast as JAX we want to be
    "4-10-3, 120 rows": ("small", None),
    "64-64-10, 1200 rows": ("wide", None),
    "CNN of 3818 weights, 256 rows": ("convolutional", 1.0),
    "transformer layer, 64 rows of 12 steps": ("transformer", 1.0),
}
FASTER = {"CNN of 3818 weights, 256 rows": 1 / 0.6}  # than the plain loop, by compile=True


@pytest.mark.parametrize(("name", "compile"), STEPS)
def test_a_step_of_a_module(duel: Any, name: str, compile: bool) -> None:
    """Gradient descent on the full batch, beside `loss.backward()` and torch.optim.SGD."""
    module, x, y = made(name)
    loss, steps = nn.CrossEntropyLoss(), MODULES[name][3]
    descent = nnflow.training_map(module, loss, x, y, backend="tensor", compile=compile, eta=RATE)
    start = nnflow.Ensemble.grid(descent)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)

    def loop() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(module(x), y).backward()
            optimizer.step()

    after = start.advance(steps).states[0]
    loop()
    theirs = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    np.testing.assert_allclose(after, theirs, rtol=0, atol=1e-9)
    work, target = f"GD step of {name}{', compiled' if compile else ''}", FASTER.get(name) if compile else None
    duel(work, lambda: start.advance(steps), "a plain torch loop", lambda: timed(loop), target=target)


@pytest.mark.parametrize(("name", "compile"), TANGENTS)
def test_a_tangent_step_of_a_module(duel: Any, name: str, compile: bool) -> None:
    """Step and tangent, k = 1, beside a jvp of the step that was traced by hand."""
    module, x, y = made(name)
    loss_fn, steps = nn.CrossEntropyLoss(), max(2, MODULES[name][3] // 3)
    descent = nnflow.training_map(module, loss_fn, x, y, backend="tensor", compile=compile, eta=RATE)
    start = nnflow.Ensemble.grid(descent).with_frame(1)
    shapes = {key: p.shape for key, p in module.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def loss(w: Tensor) -> Tensor:
        parts = zip(shapes.items(), w.split(sizes), strict=True)
        return loss_fn(functional_call(module, {key: part.view(shape) for (key, shape), part in parts}, (x,)), y)

    def both(w: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = jvp(lambda w: w - RATE * grad(loss)(w), (w,), (v,))
        return out

    w, v = torch.tensor(start.states[0]), torch.tensor(start.frames[0, 0])
    with torch.no_grad():
        by_hand = make_fx(both)(w, v)
    by_hand.graph.eliminate_dead_code()
    by_hand.recompile()

    @torch.no_grad()
    def loop() -> Tensor:
        at, along = w, v
        for _ in range(steps):
            at, along = by_hand(at, along)
            along = along / torch.linalg.vector_norm(along)
        return along

    start.tangent_orbit(40)
    _, after = start.tangent_orbit(steps)
    np.testing.assert_allclose(after.frames[0, 0], loop().numpy(), rtol=0, atol=1e-7)
    work = f"step and tangent of {name}{', compiled' if compile else ''}"
    duel(work, lambda: start.tangent_orbit(steps), "jvp traced by hand", lambda: timed(loop))


@pytest.mark.parametrize("name", IN_JAX)
@pytest.mark.parametrize("what", ["step", "tangent"])
def test_beside_jax(duel: Any, peer: Any, what: str, name: str) -> None:
    """A step, or a step with its tangent, k = 1, by the backend that is chosen, and as jit(scan) on one core."""
    theirs, (module, x, y), (kind, target) = peer("jax_on_one_core"), made(name), IN_JAX[name]
    descent = nnflow.training_map(module, nn.CrossEntropyLoss(), x, y, eta=RATE)
    start, steps = nnflow.Ensemble.grid(descent).with_frame(1), MODULES[name][3]
    settings = {"kind": kind, "w": start.states[0], "x": x.numpy(), "y": y.numpy(), "eta": RATE, "steps": steps}
    if what == "tangent":
        settings["v"] = start.frames[0, 0]
        start.tangent_orbit(40)
        ours: Callable[[], nnflow.Ensemble] = lambda: start.tangent_orbit(steps)[1]  # noqa: E731
        found = ours().frames[0, 0]
    else:
        ours = lambda: start.advance(steps)  # noqa: E731
        found, target = ours().states[0], None
    np.testing.assert_allclose(found, theirs(what, **settings), rtol=0, atol=1e-7)
    work = f"{'step and tangent' if what == 'tangent' else 'GD step'} of {name}, {descent.backend}"
    duel(work, ours, "JAX jit(scan), one core", lambda: theirs.seconds(what, **settings), target=target)


@pytest.mark.whole
def test_an_ensemble_beside_jax(duel: Any, peer: Any) -> None:
    """512 members of 64-64-10 on all cores, by the backend that is chosen."""
    theirs, (module, x, y), steps = peer("jax_modules"), made("64-64-10, 1200 rows"), 3
    descent = nnflow.training_map(module, nn.CrossEntropyLoss(), x, y, eta=RATE)
    start = nnflow.Ensemble.grid(descent, inits=512)
    settings = {"kind": "wide", "w": start.states, "x": x.numpy(), "y": y.numpy(), "eta": RATE, "steps": steps}
    np.testing.assert_allclose(start.advance(steps).states, theirs("ensemble", **settings), rtol=0, atol=1e-9)
    duel(
        f"GD of 64-64-10, 1200 rows, 512 members × {steps} steps, all cores, {descent.backend}",
        lambda: start.advance(steps),
        "JAX jit(vmap(scan))",
        lambda: theirs.seconds("ensemble", **settings),
        target=1.0,
    )
