"""A map means what it meant when it was made: what a rule on tensors reads beside its arguments is not to change.

What could go wrong in this way, and is tried: a name of the module, of a function around it, a list, a dict, an array,
a tensor, a module that is changed in place, an object's field, a helper's constant; a change before the first verb, and
one after a long run; a rule that counts its calls, or keeps what it has seen, to no effect.
"""

from __future__ import annotations

import argparse
import enum
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nnflow
from nnflow.tensor import outside

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


CONFIG = ModuleType("config")
CONFIG.rate, CONFIG.inner = 0.5, ModuleType("inner")  # type: ignore[attr-defined]
CONFIG.inner.rate = 0.5  # type: ignore[attr-defined]


class Settings:
    rate = 0.5
    unused = 0

    class Inner:
        rate = 0.5


class Layer(nn.Module):
    rate = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x)

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.weight * self.rate * FACTOR * 2


class Own:
    rate = 0.5

    def rule(self, x: Tensor, p: Any, t: int) -> Tensor:
        return x * self.rate


LAID = Layer()
PLACES: dict[str, tuple[Any, Any, str]] = {
    "a module of Python": (lambda x, p, t: x * CONFIG.rate, CONFIG, "CONFIG.rate"),
    "a module within": (lambda x, p, t: x * CONFIG.inner.rate, CONFIG.inner, "CONFIG.inner.rate"),  # type: ignore[attr-defined]
    "a class": (lambda x, p, t: x * Settings.rate, Settings, "Settings.rate"),
    "a class within": (lambda x, p, t: x * Settings.Inner.rate, Settings.Inner, "Settings.Inner.rate"),
    "the class of an object": (Own().rule, Own, "Own.rate"),
    "the class of a layer": (lambda x, p, t: LAID(x).detach(), Layer, "Layer.rate"),
}


@pytest.mark.parametrize("name", PLACES)
def test_modules_and_classes_are_read_too(name: str) -> None:
    """With many members, which have graphs of their own, the old and the new rate went on side by side."""
    rule, place, told = PLACES[name]
    map, late = (nnflow.TensorMap(rule, name="rule") for _ in range(2))
    before = halved(late)
    halved(late, steps=100)
    place.rate = 1.0
    try:
        with pytest.raises(nnflow.Refusal, match=f"{told}, which 'rule' reads, has changed"):
            halved(map)
        for members in (1, 2, 1):
            with pytest.raises(nnflow.Refusal, match=f"since {told} has changed"):
                halved(late, members)
    finally:
        place.rate = 0.5
    assert halved(nnflow.TensorMap(rule)) == before


def test_the_class_of_a_module_in_training_is_read_and_so_are_its_methods() -> None:
    def made() -> nnflow.Map:
        return nnflow.training_map(Layer(), lambda o, y: ((o - y) ** 2).mean(), [[1.0], [2.0]], [[1.0], [2.0]])

    for holder, name in ((Layer, "rate"), (globals(), "FACTOR")):
        map = made()
        nnflow.Ensemble.grid(map).advance(3)
        if isinstance(holder, dict):
            rebind()
        else:
            holder.rate = 0.25
        try:
            with pytest.raises(nnflow.Refusal, match=rf"since (Layer\.)?{name} has changed"):
                nnflow.Ensemble.grid(map).advance(1)
        finally:
            if isinstance(holder, dict):
                rebind()
            else:
                holder.rate = 0.5


def test_what_is_not_read_may_change() -> None:
    """Names of attributes are no names of the module that a rule stands in."""
    global rate, scaled
    rate = scaled = 1.0

    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        return Settings.rate * x * p.rate

    map = nnflow.TensorMap(rule, parameters={"rate": 1.0})
    trained = nnflow.training_map(Layer(), lambda o, y: ((o - y) ** 2).mean(), [[1.0], [2.0]], [[1.0], [2.0]])
    rate = scaled = Settings.unused = 2
    assert halved(map) == 0.125
    nnflow.Ensemble.grid(trained).advance(1)


EPOCH = 0


class Fitted(Layer):
    def fit(self) -> int:
        return EPOCH

    @classmethod
    def named(cls) -> str:
        return "fitted"

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight * len(self.named())


def test_what_other_methods_read_may_change() -> None:
    """Those that neither forward calls nor what it calls: a loop of training, say, with a count of its own."""
    global EPOCH
    map = nnflow.training_map(Fitted(), lambda o, y: ((o - y) ** 2).mean(), [[1.0], [2.0]], [[1.0], [2.0]], eta=1e-3)
    rule = nnflow.TensorMap(lambda x, p, t: 0.1 * FITTED(x).detach())
    for steps in (1, 60, 1):
        EPOCH += 1
        nnflow.Ensemble.grid(map).advance(steps)
        nnflow.Ensemble.grid(rule).advance(steps)
    assert not map._outside[0].changed()


FITTED = Fitted()


def test_whether_a_layer_trains_is_read() -> None:
    layer = nn.Sequential(nn.Dropout(0.0))
    map = nnflow.TensorMap(lambda x, p, t: 0.5 * layer(x))
    halved(map, steps=100)
    layer.eval()
    assert halved(map) == 0.125  # other fields, the same numbers
    layer[0].p = 1.0
    layer.train()
    with pytest.raises(nnflow.Refusal, match="since layer has changed"):
        halved(map)


rate: Any = None
scaled: Any = None


class Kind(enum.Enum):
    SOFT = 1


class Rates(NamedTuple):
    gain: float = 0.5


class Made:
    factor = 0.5

    @classmethod
    def of(cls) -> float:
        return cls.factor

    @staticmethod
    def half() -> float:
        return 0.5

    @property
    def gain(self) -> float:
        return self.__dict__.get("own", 0.5) * 1.0

    def wider(self) -> float:
        return self.of()


SPACE, RATES, MADE, LOG = argparse.Namespace(gain=0.5), Rates(), Made(), logging.getLogger("nnflow.tests")
ORDINARY: dict[str, Any] = {
    "a namespace": lambda x, p, t: SPACE.gain * x,
    "a named tuple": lambda x, p, t: RATES.gain * x,
    "an enumeration": lambda x, p, t: 0.5 * x if Kind.SOFT is Kind(1) else x,
    "a logger": lambda x, p, t: (LOG.debug("step"), 0.5 * x)[1],
    "a path": lambda x, p, t: 0.5 * x * len([*Path("a").suffixes, 1]),
    "a class method": lambda x, p, t: MADE.wider() * x,
    "a property": lambda x, p, t: MADE.gain * x,
    "a static method": lambda x, p, t: Made.half() * x,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_objects_are_read_and_do_not_change(name: str) -> None:
    """Each look at a class made a new bound method, or a new view of its names, which was taken for a change."""
    map = nnflow.TensorMap(ORDINARY[name])
    for members in (1, 2, 1):
        assert halved(map, members) == 0.125
    assert not map._outside[0].changed()


class Holding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scales, self.table, self.row, self.some = [0.5], {"k": 0.5}, np.array([0.5]), {0.5}
        self.inner = nn.Sequential(Inner())
        self.act = half


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * FACTOR


def half(x: Tensor) -> Tensor:
    return x * FACTOR


ACTS = {"half": half}
HELD: dict[str, tuple[Callable[[Holding, Tensor], Tensor], Callable[[Holding], None]]] = {
    "a list": (lambda net, x: x * net.scales[0], lambda net: net.scales.__setitem__(0, 1.0)),
    "a table": (lambda net, x: x * net.table["k"], lambda net: net.table.update(k=1.0)),
    "an array": (lambda net, x: x * float(net.row[0]), lambda net: net.row.__setitem__(0, 1.0)),
    "a set": (lambda net, x: x * max(net.some), lambda net: net.some.add(1.0)),
    "a part's forward": (lambda net, x: net.inner(x), lambda net: rebind()),
    "a function that is held": (lambda net, x: net.act(x), lambda net: rebind()),
    "a function in a table": (lambda net, x: ACTS["half"](x), lambda net: rebind()),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_module_or_a_table_holds_is_read(name: str) -> None:
    """One member went on with the old numbers, which a graph held, and two took the new ones."""
    global FACTOR
    net, (read, change) = Holding(), HELD[name]
    map = nnflow.TensorMap(lambda x, p, t: read(net, x), name="rule")
    halved(map, steps=100)
    change(net)
    try:
        for members in (1, 2):
            with pytest.raises(nnflow.Refusal, match="when it is asked again, since .* has changed"):
                halved(map, members)
    finally:
        FACTOR = 0.5


def test_what_is_remembered_of_many_things_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A logger holds the tree of all loggers: to look at that before each verb took minutes."""
    tree: Any = {"leaf": 0.5}
    for _ in range(5):
        tree = dict.fromkeys(range(20), tree)
    kept, count = outside._kept, [0]

    def counted(*given: Any) -> Any:
        count[0] += 1
        return kept(*given)

    monkeypatch.setattr(outside, "_kept", counted)
    seen = outside.Outside([lambda x, p, t: x * len(tree) * LOG.level])
    assert count[0] < 2 * outside.MOST  # of millions; what is beyond is the same as long as it is the same object
    assert not any(name.startswith("Logger") for name, _, _ in seen._seen)
