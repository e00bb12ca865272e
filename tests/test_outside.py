"""A map means what it meant when it was made: what a rule on tensors reads beside its arguments is not to change.

What could go wrong in this way, and is tried: a name of the module, of a function around it, a list, a dict, an array,
a tensor, a module that is changed in place, an object's field, a helper's constant; a change before the first verb, and
one after a long run; a rule that counts its calls, or keeps what it has seen, to no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nnflow

FACTOR: Any = 0.5
ARRAY, LIST, TABLE, WEIGHTS = np.array([0.5]), [0.5], {"k": 0.5}, torch.tensor([0.5], dtype=torch.float64)
OBJECT, LAYER, SEEN = SimpleNamespace(k=0.5), nn.Linear(1, 1, bias=False).double(), [0]


def of_module(x: Tensor, p: Any, t: int) -> Tensor:
    return x * FACTOR


def helper() -> float:
    return FACTOR  # type: ignore[no-any-return]


def rebind() -> None:
    global FACTOR
    FACTOR = 1.0 if FACTOR == 0.5 else 0.5


def swap(holder: Any, key: Any) -> Callable[[], None]:
    def change() -> None:
        holder[key] = 1.0 if holder[key] == 0.5 else 0.5

    return change


def field() -> None:
    OBJECT.k = 1.0 if OBJECT.k == 0.5 else 0.5


RULES: dict[str, tuple[Any, Callable[[], None]]] = {
    "a name": (of_module, rebind),
    "a helper": (lambda x, p, t: x * helper(), rebind),
    "an array": (lambda x, p, t: x * float(ARRAY[0]), swap(ARRAY, 0)),
    "a list": (lambda x, p, t: x * LIST[0], swap(LIST, 0)),
    "a dict": (lambda x, p, t: x * TABLE["k"], swap(TABLE, "k")),
    "a tensor": (lambda x, p, t: x * WEIGHTS, swap(WEIGHTS, 0)),
    "a field": (lambda x, p, t: x * OBJECT.k, field),
    "a module": (lambda x, p, t: x * LAYER.weight.detach()[0], lambda: LAYER.weight.data.mul_(2.0)),
}


def halved(map: nnflow.Map, members: int = 1, steps: int = 3) -> float:
    return float(nnflow.Ensemble.grid(map, states=np.ones((members, 1))).advance(steps).states[0, 0])


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_reads_is_not_to_change(name: str) -> None:
    rule, change = RULES[name]
    map, late = (nnflow.TensorMap(rule, name="rule") for _ in range(2))
    before = halved(late)
    halved(late, steps=100)
    change()
    try:
        with pytest.raises(nnflow.Refusal, match="has changed since the map was made"):
            halved(map)
        for members in (1, 2, 1):
            with pytest.raises(nnflow.Refusal, match="when it is asked again, since .* has changed"):
                halved(late, members)
    finally:
        change() if name != "a module" else LAYER.weight.data.mul_(0.5)
    assert halved(nnflow.TensorMap(rule)) == before


class Holder:
    def __init__(self) -> None:
        self.k = 0.5

    def rule(self, x: Tensor, p: Any, t: int) -> Tensor:
        return x * self.k


def halve() -> float:
    return 0.5


def test_methods_partial_functions_defaults_and_helpers_too() -> None:
    global halve
    holder, held, first = Holder(), [0.5], halve

    def by_default(x: Tensor, p: Any, t: int, k: Any = held) -> Tensor:
        return x * k[0]

    def by_helper(x: Tensor, p: Any, t: int) -> Tensor:
        return x * halve()

    rules: list[Any] = [holder.rule, by_default, by_helper, partial(lambda k, x, p, t: x * k[0], held)]
    maps = [nnflow.TensorMap(rule, name="rule") for rule in rules]
    holder.k = held[0] = 1.0
    halve = lambda: 1.0  # noqa: E731
    try:
        for map in maps:
            with pytest.raises(nnflow.Refusal, match="has changed since the map was made"):
                halved(map)
    finally:
        halve = first


def test_a_loss_and_a_module_are_looked_through() -> None:
    rate = [1.0]
    map = nnflow.gradient_map(lambda w: rate[0] * (w * w).sum(), 1, backend="tensor")
    trained = nnflow.training_map(
        nn.Linear(1, 2), lambda o, y: rate[0] * nn.functional.cross_entropy(o, y), [[1.0], [2.0]], [0, 1]
    )
    rate[0] = 2.0
    for each in (map, trained):
        with pytest.raises(nnflow.Refusal, match="rate, which .* reads, has changed"):
            nnflow.Ensemble.grid(each).advance(1)


def test_what_counts_or_keeps_to_no_effect_may() -> None:
    kept: list[int] = []

    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        SEEN[0] += 1
        kept.append(1)
        return 0.5 * x

    map = nnflow.TensorMap(rule)
    assert [halved(map, members) for members in (1, 2, 1)] == [0.125] * 3


def test_a_loss_that_draws_by_numpy_is_refused_when_it_is_made() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(nnflow.Refusal, match="when it is asked again"):
        nnflow.gradient_map(lambda w: (w * w).sum() * rng.random(), 2, backend="tensor")
