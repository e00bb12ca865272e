"""From a module in training on: its optimizer's rule and settings, its weights, its memory and its clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

import nnflow

RNG = np.random.default_rng(8)
X, LABELS = RNG.normal(size=(20, 4)), RNG.integers(0, 3, 20)
Make = Callable[[Any], torch.optim.Optimizer]
OPTIMIZERS: dict[str, tuple[str, Make]] = {
    "gd": ("gd", lambda p: torch.optim.SGD(p, lr=0.3, weight_decay=0.01)),
    "heavy_ball": ("heavy_ball", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
    "nesterov": ("nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True)),
    "adam": ("adam", lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)),
    "adamw": ("adamw", lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1)),
    "rmsprop": ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9)),
}


def module() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(net(torch.tensor(X)), torch.tensor(LABELS)).backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("backend", ["tensor", pytest.param("compiled", marks=pytest.mark.slow)])
def test_training_goes_on_where_torch_stopped(name: str, backend: str) -> None:
    net = module()
    known, make = OPTIMIZERS[name]
    optimizer = make(net.parameters())
    train(net, optimizer, 7)
    map = nnflow.training_map(net, cross_entropy, X, LABELS, optimizer, backend=backend)
    assert map.optimizer == known
    start = nnflow.Ensemble.from_module(map, net, optimizer)
    assert start.t == (7 if known in ("adam", "adamw", "rmsprop") else 0)
    train(net, optimizer, 30)
    after = start.advance(30)
    np.testing.assert_allclose(after.states[0], map.state_of(net, optimizer), rtol=0, atol=1e-11)
    assert after.history == "those of a module, then 30 steps"


def test_settings_that_are_given_win() -> None:
    net = module()
    made = nnflow.training_map(net, cross_entropy, X, LABELS, torch.optim.SGD(net.parameters(), lr=0.3), eta=0.5)
    assert dict(made.parameters) == {"eta": 0.5, "weight_decay": 0.0}


@pytest.mark.parametrize("settings", [{"batch": 7}, {"schedule": lambda t: 1.0 / (1.0 + t)}])
def test_sgd_is_told_its_step_where_that_counts(settings: Any) -> None:
    """It counts none: training went on with the first batch again, and with the first rate."""
    net = module()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    train(net, optimizer, 5)
    map = nnflow.training_map(net, cross_entropy, X, LABELS, optimizer, **settings)
    with pytest.raises(nnflow.Refusal, match="counts no steps.*give t="):
        nnflow.Ensemble.from_module(map, net, optimizer)
    assert nnflow.Ensemble.from_module(map, net, optimizer, t=5).t == 5
    assert nnflow.Ensemble.from_module(map, net).t == 0


class Own(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        return None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.Adagrad(p), "optimizer is a Adagrad: the maps step as torch.optim's SGD, Adam"),
        (lambda p: Own(p, lr=0.1), "optimizer is a Own"),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.1), "dampening = 0.1: that is another rule"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), "amsgrad = True"),
        (lambda p: torch.optim.RMSprop(p, momentum=0.5), "momentum = 0.5"),
        (lambda p: torch.optim.SGD(p, lr=0.1, maximize=True), "maximize = True"),
        (lambda p: 3, "optimizer is a int|optimizer = 3"),
    ],
)
def test_rules_that_no_map_has_are_refused(make: Any, message: str) -> None:
    net = module()
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.training_map(net, cross_entropy, X, LABELS, make(net.parameters()))


def test_only_training_maps_start_from_modules() -> None:
    with pytest.raises(TypeError, match="give a training map"):
        nnflow.Ensemble.from_module(nnflow.maps["henon"](), module())


# ------------------------------------------------------------------------------------- observables of one's own


def margin(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    right = outputs.gather(1, targets[:, None]).squeeze(1)
    return (right - outputs.scatter(1, targets[:, None], float("-inf")).max(dim=1).values).min()


def test_an_observable_of_ones_own_is_that_of_the_module() -> None:
    net = module()
    map = nnflow.training_map(net, cross_entropy, X, LABELS, eta=0.3, batch=7, observables={"margin": margin})
    start = nnflow.Ensemble.grid(map)
    records, after = start.orbit(40, 39 + 1, observe=("margin", "loss"))
    assert records[0, 0, 0] == pytest.approx(margin(net(torch.tensor(X)), torch.tensor(LABELS)).item(), abs=1e-12)
    late = after.orbit(1, observe="margin")[0].item()
    moved = map.load_state(net, after.states[0])
    assert late == pytest.approx(margin(moved(torch.tensor(X)), torch.tensor(LABELS)).item(), abs=1e-12)


@pytest.mark.parametrize(
    ("observables", "message"),
    [
        ({"drawn": lambda outputs, targets: outputs.sum() * RNG.random()}, "drawn gives other numbers each time"),
        ({"margin": 3}, "observable margin = 3: give a function"),
        ({"margin": lambda o, y: o}, r"returned a tensor of shape \(20, 3\)"),
        ({"margin": lambda o, y: o @ y}, "observable margin fails on outputs and targets"),
        ({"loss": margin}, "observable loss: every training map has one"),
        ({"eta": margin}, "eta: used twice"),
    ],
)
def test_what_is_no_observable_is_refused(observables: Any, message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.training_map(module(), cross_entropy, X, LABELS, observables=observables)


def test_a_checkpoint_of_a_deeper_network_is_refused() -> None:
    """Its first layers fitted, and the rest was left out."""
    map = nnflow.training_map(module(), cross_entropy, X, LABELS)
    deeper = nn.Sequential(*module(), nn.Tanh(), nn.Linear(3, 3)).double()
    with pytest.raises(nnflow.Refusal, match=r"this map's module has no 4.weight, 4.bias"):
        map.state_of(deeper.state_dict())
    normed = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double().eval()
    other = nnflow.training_map(normed, cross_entropy, X, LABELS)
    assert other.state_of(normed.state_dict()).shape == (21,)


@pytest.mark.parametrize("backend", ["tensor", "compiled"])
def test_a_training_map_bears_the_name_it_is_given(backend: str) -> None:
    """A plugin's map is called as it is registered."""
    named = {"name": "mine", "source": "a paper"}
    made = nnflow.training_map(module(), cross_entropy, X, LABELS, backend=backend, **named)
    assert (made.name, made.source) == ("mine", "a paper")


class Named(nn.Module):
    """Two layers of one shape, defined in either order."""

    def __init__(self, *order: str) -> None:
        super().__init__()
        for name in order:
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.get_submodule("b")(torch.tanh(self.get_submodule("a")(x)))
        return out


def test_parameters_are_matched_by_their_names() -> None:
    torch.manual_seed(3)
    one, other = Named("a", "b").double(), Named("b", "a").double()
    other.load_state_dict(one.state_dict())
    map = nnflow.training_map(one, cross_entropy, X, LABELS)
    state = map.state_of(one)
    np.testing.assert_array_equal(map.state_of(other), state)
    moved = map.load_state(other, state + 1.0)
    expected = map.load_state(one, state + 1.0)
    assert list(dict(moved.named_parameters())) == list(dict(other.named_parameters()))
    np.testing.assert_array_equal(moved(torch.tensor(X)).detach(), expected(torch.tensor(X)).detach())
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.5)
    train(other, optimizer, 2)
    heavy = nnflow.training_map(one, cross_entropy, X, LABELS, optimizer="heavy_ball")
    velocity = heavy.state_of(other, optimizer)[40:]
    held = optimizer.state[other.get_submodule("a").weight]["momentum_buffer"]
    np.testing.assert_array_equal(velocity[:16], held.numpy().ravel())


def test_parameters_of_other_names_are_matched_by_their_order() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    map = nnflow.training_map(Named("a", "b"), cross_entropy, X, LABELS)
    flat = nn.utils.parameters_to_vector(plain.parameters()).detach().numpy()
    np.testing.assert_array_equal(map.state_of(plain), flat)
    with pytest.raises(nnflow.Refusal, match="b.weight at another place"):
        map.state_of(Named("b", "c"))


def _scheduled(optimizer: Any) -> None:
    torch.optim.lr_scheduler.StepLR(optimizer, 10)


def _patched(optimizer: Any) -> None:
    optimizer.step = lambda closure=None: None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_scheduled, "scheduler of its rate: .* schedule="),
        (_patched, "a step of its own in place of its class's"),
        (lambda optimizer: optimizer.register_step_pre_hook(lambda *_: None), "hooks on its steps"),
        (lambda optimizer: optimizer.register_step_post_hook(lambda *_: None), "hooks on its steps"),
    ],
)
def test_an_optimizer_that_does_more_than_its_class_is_refused(change: Callable[[Any], Any], message: str) -> None:
    net = module()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    change(optimizer)
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.training_map(net, cross_entropy, X, LABELS, optimizer)


def test_hooks_on_all_optimizers_are_refused() -> None:
    net = module()
    hook = register_optimizer_step_pre_hook(lambda *_: None)
    try:
        with pytest.raises(nnflow.Refusal, match="hooks on its steps"):
            nnflow.training_map(net, cross_entropy, X, LABELS, torch.optim.SGD(net.parameters(), lr=0.1))
    finally:
        hook.remove()


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    net = module()
    with pytest.raises(nnflow.Refusal, match=r"does not train 0.weight, 0.bias, .*requires_grad_\(False\)"):
        nnflow.training_map(net, cross_entropy, X, LABELS, torch.optim.SGD(net[2].parameters(), lr=0.1))
    both = [*net.parameters(), *nn.Linear(2, 2).parameters()]
    with pytest.raises(nnflow.Refusal, match="not in the module"):
        nnflow.training_map(net, cross_entropy, X, LABELS, torch.optim.SGD(both, lr=0.1))
    net[0].requires_grad_(False)
    head = torch.optim.SGD(net[2].parameters(), lr=0.3)
    map = nnflow.training_map(net, cross_entropy, X, LABELS, head)
    start = nnflow.Ensemble.from_module(map, net, head, t=0)
    train(net, head, 20)
    np.testing.assert_allclose(start.advance(20).states[0], map.state_of(net), rtol=0, atol=1e-12)
