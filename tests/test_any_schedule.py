"""A schedule may be any function of t, on both backends; the rest is refused."""

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
from nnflow.compiled.map import TILE
from nnflow.frozen import fingerprint
from nnflow.systems.training.compiled import CompiledTraining

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


def test_more_records_than_a_tile_follow_the_schedule() -> None:
    """Each tile of recorded states asks for the values of its own steps."""
    start = nnflow.Ensemble.grid(train(falling))
    steps = 3 * (TILE // start.map.dim) // 2
    records, after = start.orbit(steps, observe=("loss", *start.map.coordinates))
    whole, _ = start.orbit(steps)
    np.testing.assert_array_equal(records[:, :, 1:], whole)
    np.testing.assert_array_equal(after.states, start.advance(steps).states)
    middle = start.advance(steps - 5)
    np.testing.assert_array_equal(middle.orbit(5, observe="loss")[0], records[:, -5:, :1])


@pytest.mark.parametrize("name", ["an object", "a partial"])
def test_a_schedule_is_nobody_elses(name: str) -> None:
    class Own:
        factor = 0.5

        def __call__(self, t: int) -> float:
            return self.factor

    table = [0.5] * 50
    schedule: Any = Own() if name == "an object" else partial(lambda values, t: values[t % 50], table)
    map = train(schedule)
    first = nnflow.Ensemble.grid(map).advance(3).states
    table[:] = [9.0] * 50
    vars(schedule)["factor"] = 9.0
    np.testing.assert_array_equal(nnflow.Ensemble.grid(map).advance(3).states, first)


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


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_is_the_same_on_both_backends(name: str) -> None:
    maps = [train(SCHEDULES[name], backend) for backend in ("auto", "tensor")]
    assert [isinstance(map, CompiledTraining) for map in maps] == [True, False]
    ends = [nnflow.Ensemble.grid(map, states=[maps[0].start]).advance(9) for map in maps]
    np.testing.assert_allclose(ends[0].states, ends[1].states, rtol=0, atol=1e-13)


def test_its_values_are_no_part_of_the_machine_code() -> None:
    first, second = (train(lambda t, rate=rate: 1.0 / (1.0 + rate * t)) for rate in (0.5, 0.25))
    assert fingerprint(first.functions) == fingerprint(second.functions)
    states = np.array([first.start])
    ends = [nnflow.Ensemble.grid(map, states=states).advance(5).states for map in (first, second)]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_it_goes_on_where_it_was() -> None:
    """A window of values for each call: in blocks, with records, along tangents and beside neighbours."""
    ensemble = nnflow.Ensemble.grid(train(falling), inits=2)
    whole, (records, after) = ensemble.advance(12), ensemble.orbit(12, 3, ("loss", "l2"))
    parts = ensemble.advance(5).advance(7)
    for end in (parts, after, ensemble.with_frame(2).tangent_orbit(12, 3)[1]):
        np.testing.assert_array_equal(end.states, whole.states)
    np.testing.assert_array_equal(records[:, 2:], ensemble.advance(6).orbit(6, 3, ("loss", "l2"))[0])
    apart = ensemble.separation_orbit(ensemble.perturbed(1e-3), 12, 4)[1]
    np.testing.assert_array_equal(apart.states, whole.states)


def test_it_is_what_it_was_when_the_map_was_made() -> None:
    rates = [0.5]
    map = train(lambda t: 1.0 / (1.0 + rates[0] * t))
    before = nnflow.Ensemble.grid(map).advance(4).states
    rates[0] = 7.0
    np.testing.assert_array_equal(nnflow.Ensemble.grid(map).advance(4).states, before)


def test_one_that_fails_later_says_when() -> None:
    values = [1.0] * 1001
    map = train(lambda t: values[t])
    with pytest.raises(nnflow.Refusal, match="fails at t = 1001: IndexError"):
        nnflow.Ensemble.grid(map).advance(1002)


NONE: dict[str, Any] = {
    "no number": (lambda t: None, "fails at t = 0: TypeError"),
    "complex": (lambda t: 1j, "fails at t = 0: TypeError"),
    "nan": (lambda t: math.nan, "gives nan"),
    "infinite": (lambda t: math.inf if t else 1.0, "gives inf.* at t = 1"),
    "random": (lambda t: RNG.random(), "give a function of t alone"),
    "a count": (partial(next, iter(range(100))), "give a function of t alone"),
    "no function": (0.5, "schedule = float: give a function of t that multiplies eta"),
    "two arguments": (lambda t, u: 1.0, "fails at t = 0: TypeError"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_function_of_t_is_refused(name: str) -> None:
    schedule, message = NONE[name]
    for make in (lambda: train(schedule), lambda: nnflow.gradient_map(lambda w: (w * w).sum(), 1, schedule=schedule)):
        with pytest.raises(nnflow.Refusal, match=message):
            make()
