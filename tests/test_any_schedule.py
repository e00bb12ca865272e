"""A schedule may be any function of t: what numba cannot compile goes to the tensor backend; the rest is refused."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nnflow
from nnflow.systems.network import CompiledTraining

RNG = np.random.default_rng(6)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)


def falling(t: int, rate: float = 0.5) -> float:
    return 1.0 / (1.0 + rate * t)


class Falling:
    def __call__(self, t: int) -> float:
        return falling(t)

    def method(self, t: int) -> float:
        return falling(t)


TABLE = {0: 1.0}
SCHEDULES: dict[str, Any] = {
    "a function": falling,
    "an object": Falling(),
    "a bound method": Falling().method,
    "a partial": partial(falling, rate=0.5),
    "a table": lambda t: [1.0, *map(falling, range(1, 50))][t] if t < 50 else 0.0,
    "a numpy number": lambda t: np.float32(1.0) * falling(t),
    "a tensor": lambda t: torch.tensor(falling(t), dtype=torch.float64),
    "a builtin": partial(math.pow, falling(1)),
}


def train(schedule: Any, backend: str = "auto", **settings: Any) -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3)).double()
    return nnflow.training_map(
        module, F.cross_entropy, X, LABELS, schedule=schedule, backend=backend, eta=0.5, **settings
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_function_of_t_is_a_schedule(name: str) -> None:
    """Bound methods, callable objects and partials: TypeError from numba. The result names them, without addresses."""
    schedule = SCHEDULES[name]
    map = train(schedule)
    weights = nnflow.Ensemble.grid(map).advance(4).states[0]
    module = map.load_state(nn.Linear(4, 3), map.start)
    for t in range(4):
        rate = 0.5 * float(schedule(t))
        gradients = torch.autograd.grad(
            F.cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)), [*module.parameters()]
        )
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    np.testing.assert_allclose(weights, map.state_of(module), rtol=0, atol=1e-13)
    assert " at 0x" not in map.structure["schedule"]
    bowl = nnflow.gradient_map(lambda w: (w * w).sum(), 1, schedule=schedule, eta=0.25)
    stepped = nnflow.Ensemble.grid(bowl, states=[[1.0]]).advance(2).states.item()
    expected = (1 - 0.5 * float(schedule(0))) * (1 - 0.5 * float(schedule(1)))
    assert stepped == pytest.approx(expected, rel=1e-13)


def test_what_cannot_be_compiled_is_told_when_it_is_asked_for() -> None:
    assert isinstance(train(falling), CompiledTraining)
    for name in ("an object", "a bound method", "a partial", "a tensor"):
        assert not isinstance(train(SCHEDULES[name]), CompiledTraining)
        with pytest.raises(nnflow.Refusal, match=r"backend = 'compiled': schedule = .*; use backend='tensor'") as error:
            train(SCHEDULES[name], "compiled")
        assert "\n" not in str(error.value)


NONE: dict[str, Any] = {
    "no number": (lambda t: None, "fails at t = 0: TypeError"),
    "complex": (lambda t: 1j, "fails at t = 0: TypeError"),
    "nan": (lambda t: math.nan, "gives nan"),
    "infinite": (lambda t: math.inf if t else 1.0, "gives inf.* at t = 1"),
    "random": (lambda t: RNG.random(), "give a function of t alone"),
    "a count": (partial(next, iter(range(100))), "give a function of t alone"),
    "no function": (0.5, "schedule = float: fails at t = 0: TypeError"),
    "two arguments": (lambda t, u: 1.0, "fails at t = 0: TypeError"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_function_of_t_is_refused(name: str) -> None:
    schedule, message = NONE[name]
    for make in (lambda: train(schedule), lambda: nnflow.gradient_map(lambda w: (w * w).sum(), 1, schedule=schedule)):
        with pytest.raises(nnflow.Refusal, match=message):
            make()
