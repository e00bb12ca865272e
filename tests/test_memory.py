"""What a torch optimizer remembers becomes part of a state, if it steps as the map does; else it is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(7)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)
optim = torch.optim
MADE: dict[str, Any] = {
    "gd": lambda p: optim.SGD(p, lr=0.05),
    "heavy_ball": lambda p: optim.SGD(p, lr=0.05, momentum=0.8),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.05),
    "adamw": lambda p: optim.AdamW(p, lr=0.05),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.05),
}


def small(hidden: int = 5) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 4)).double()


def mapped(name: str, hidden: int = 5) -> Any:
    beta = {"beta": 0.8} if name in ("heavy_ball", "nesterov") else {}
    return nnflow.training_map(small(hidden), F.cross_entropy, X, LABELS, name, backend="tensor", eta=0.05, **beta)


def trained(module: nn.Module, optimizer: Any, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).backward()
        optimizer.step()


@pytest.mark.parametrize("name", MADE)
def test_a_checkpoint_of_both_is_resumed(name: str) -> None:
    """`state_of(sd, optimizer.state_dict())` was an AttributeError; a state_dict with an optimizer lost its memory."""
    module, map = small(), mapped(name)
    theirs = MADE[name](module.parameters())
    trained(module, theirs, 3)
    state = map.state_of(module, theirs)
    for saved in (theirs.state_dict(), theirs):
        for held in (module.state_dict(), copy.deepcopy(module.state_dict())):
            assert np.array_equal(map.state_of(held, saved), state)
    assert np.array_equal(map.state_of(copy.deepcopy(module), theirs.state_dict()), state)
    assert bool(state[map.weights :].any()) == bool(map.memory)
    start = nnflow.Ensemble.grid(map, states=[state])
    after = start.with_states(start.state, t=3).advance(4).states[0]
    trained(module, theirs, 4)
    np.testing.assert_allclose(after, map.state_of(module, theirs), rtol=0, atol=1e-12)


def weights_first(module: nn.Module) -> list[dict[str, Any]]:
    named = list(module.named_parameters())
    return [{"params": [p for n, p in named if kind in n]} for kind in ("weight", "bias")]


def rates(module: nn.Module) -> list[dict[str, Any]]:
    first, second = weights_first(module)
    return [first, {**second, "lr": 0.5}]


def still(module: nn.Module) -> list[dict[str, Any]]:
    first, second = weights_first(module)
    return [first, {**second, "momentum": 0.0}]


OTHERS: dict[str, tuple[str, Any, str]] = {
    "nesterov for heavy ball": ("heavy_ball", lambda m: MADE["nesterov"](m.parameters()), "nesterov = True"),
    "heavy ball for nesterov": ("nesterov", lambda m: MADE["heavy_ball"](m.parameters()), "nesterov = False"),
    "dampening": ("heavy_ball", lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9, dampening=0.5), "dampening"),
    "maximize": ("heavy_ball", lambda m: optim.SGD(m.parameters(), lr=0.1, momentum=0.9, maximize=True), "maximize"),
    "no momentum": ("heavy_ball", lambda m: MADE["gd"](m.parameters()), "momentum = 0"),
    "no momentum for nesterov": ("nesterov", lambda m: MADE["gd"](m.parameters()), "momentum = 0|nesterov = False"),
    "a group without": ("heavy_ball", lambda m: optim.SGD(still(m), lr=0.1, momentum=0.9), "momentum"),
    "muon": ("nesterov", lambda m: optim.Muon(list(m.parameters())[::2]), "which remembers"),
    "momentum for gd": ("gd", lambda m: MADE["heavy_ball"](m.parameters()), "momentum = 0.8"),
    "adam for gd": ("gd", lambda m: MADE["adam"](m.parameters()), "which remembers"),
    "adam for rmsprop": ("rmsprop", lambda m: MADE["adam"](m.parameters()), "which remembers"),
    "amsgrad": ("adam", lambda m: optim.Adam(m.parameters(), amsgrad=True), "amsgrad = True"),
    "adamw for adam": ("adam", lambda m: MADE["adamw"](m.parameters()), "decoupled_weight_decay = True"),
    "adam for adamw": ("adamw", lambda m: MADE["adam"](m.parameters()), "decoupled_weight_decay = False"),
    "nadam": ("adam", lambda m: optim.NAdam(m.parameters()), "which remembers"),
    "adagrad": ("rmsprop", lambda m: optim.Adagrad(m.parameters()), "which remembers"),
    "centered": ("rmsprop", lambda m: optim.RMSprop(m.parameters(), centered=True), "centered = True"),
    "rmsprop with momentum": ("rmsprop", lambda m: optim.RMSprop(m.parameters(), momentum=0.9), "momentum = 0.9"),
    "two rates": (
        "heavy_ball",
        lambda m: optim.SGD(rates(m), lr=0.1, momentum=0.9),
        "groups with different lr|2 groups without",
    ),
    "another module": ("heavy_ball", lambda m: MADE["heavy_ball"](small().parameters()), "does not train 0.weight"),
    "some parameters": ("heavy_ball", lambda m: MADE["heavy_ball"](m[0].parameters()), "does not train 2.weight"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("steps", [0, 2])
def test_another_optimiser_is_refused(name: str, steps: int) -> None:
    """Nesterov, dampening and plain SGD were taken for heavy ball, Muon for nesterov. The same kind: every option that
    changes the rule, before the first step too; groups; parameters of another module, whose memory would have been 0.
    """
    kind, make, message = OTHERS[name]
    module, map = small(), mapped(kind)
    theirs = make(module)
    if name != "another module":
        trained(module, theirs, steps)
    with pytest.raises(nnflow.Refusal, match=message) as error:
        map.state_of(module, theirs)
    assert "\n" not in str(error.value)
    if name not in ("another module", "some parameters"):
        with pytest.raises(nnflow.Refusal, match=message):
            map.state_of(module.state_dict(), theirs.state_dict())


class Own(optim.SGD):
    def step(self, closure: Any = None) -> None:
        """Another rule under the name of one."""


class Same(optim.SGD):
    """SGD, with something beside."""


def test_a_class_that_steps_by_itself_is_refused() -> None:
    module, map = small(), mapped("heavy_ball")
    with pytest.raises(nnflow.Refusal, match=r"optimizer is of class Own, with a step of its own: .* state_dict"):
        map.state_of(module, Own(module.parameters(), lr=0.05, momentum=0.8))
    same = Same(module.parameters(), lr=0.05, momentum=0.8)
    trained(module, same)
    assert map.state_of(module, same)[map.weights :].any()


def test_the_order_of_groups_is_not_guessed() -> None:
    """With all weights first, equal shapes would have been taken for one another."""
    module, map = small(4), mapped("heavy_ball", 4)
    theirs = optim.SGD(weights_first(module), lr=0.05, momentum=0.8)
    trained(module, theirs)
    state = map.state_of(module, theirs)
    buffers = [theirs.state[p]["momentum_buffer"].ravel() for p in module.parameters()]
    assert np.array_equal(state[map.weights :], torch.cat(buffers).numpy())
    with pytest.raises(nnflow.Refusal, match="2 groups without names: give the optimizer and the module themselves"):
        map.state_of(module.state_dict(), theirs.state_dict())
    with pytest.raises(nnflow.Refusal, match=r"optimizer trains 2 parameters, this map has 4"):
        map.state_of(module.state_dict(), MADE["heavy_ball"](module[0].parameters()).state_dict())
    wide = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4)).double()
    held = MADE["heavy_ball"](wide.parameters())
    wide(torch.ones(1, 5).double()).sum().backward()
    held.step()
    with pytest.raises(nnflow.Refusal, match=r"remembers 0.weight with shape"):
        map.state_of(module.state_dict(), held.state_dict())
    with pytest.raises(nnflow.Refusal, match="give a torch optimizer or its state_dict"):
        map.state_of(module, module.state_dict())


@pytest.mark.parametrize("name", ["heavy_ball", "adam"])
def test_parameters_of_one_shape_are_told_apart_or_refused(name: str) -> None:
    """Made of the layers in reverse, an optimizer's state_dict gave each weight the memory of another.

    The same kind: an optimizer beside a checkpoint of the module, where values tell; names tell always; before the
    first step there is nothing to interchange; without memory, neither.
    """
    module, map = small(4), mapped(name, 4)
    theirs = MADE[name]([*module[2].parameters(), *module[0].parameters()])
    assert not map.state_of(module, theirs.state_dict())[map.weights :].any()
    trained(module, theirs)
    state = map.state_of(module, theirs)
    kinds = ("momentum_buffer",) if name == "heavy_ball" else ("exp_avg", "exp_avg_sq")
    held = [theirs.state[p][kind].ravel() for kind in kinds for p in module.parameters()]
    assert np.array_equal(state[map.weights :], torch.cat(held).numpy())
    saved = copy.deepcopy(module.state_dict())
    assert np.array_equal(map.state_of(saved, theirs), state)
    for given in (module, saved):
        with pytest.raises(nnflow.Refusal, match="0.weight and 2.weight, of one shape, cannot be told apart"):
            map.state_of(given, theirs.state_dict())
    first, second = list(module.named_parameters())[:2], list(module.named_parameters())[2:]
    named = MADE[name]([*second, *first])
    named.load_state_dict(theirs.state_dict() | {"param_groups": named.state_dict()["param_groups"]})
    for given in (module, saved):
        assert np.array_equal(map.state_of(given, named.state_dict()), state)
    trained(module, theirs, 1)
    with pytest.raises(nnflow.Refusal, match="0 parameters of the shape and values of 0.weight"):
        map.state_of(saved, theirs)
