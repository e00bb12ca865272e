"""Norm layers in training mode: by the statistics of each batch, with running averages in the state or without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.systems.training import averages
from nnflow.systems.training.graph import permuted

RNG = np.random.default_rng(9)
X, LABELS = RNG.normal(1.0, 2.0, size=(12, 2, 3, 3)), RNG.integers(0, 3, 12)
OTHERS, OF_OTHERS = RNG.normal(size=(5, 2, 3, 3)), RNG.integers(0, 3, 5)
Make = Callable[[int], nn.Module]
TRACKED: dict[str, Make] = {
    "batch norm": nn.BatchNorm2d,
    "batch norm without weights": lambda n: nn.BatchNorm2d(n, affine=False, momentum=0.3),
    "instance norm": lambda n: nn.InstanceNorm2d(n, track_running_stats=True),
    "its weights": lambda n: nn.InstanceNorm2d(n, track_running_stats=True, affine=True, momentum=0.5),
}
UNTRACKED: dict[str, Make] = {
    "batch norm": lambda n: nn.BatchNorm2d(n, track_running_stats=False),
    "instance norm": nn.InstanceNorm2d,
    "group norm": lambda n: nn.GroupNorm(2, n),
    "layer norm": lambda n: nn.LayerNorm([n, 2, 2]),
}


def net(norm: Make, *more: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 4, 2), norm(4), nn.Tanh(), *more, nn.Flatten(), nn.Linear(16, 3)).double()


def trained(module: nn.Module, optimizer: optim.Optimizer, steps: int, batch: int = 12) -> None:
    for t in range(steps):
        rows = np.arange(12).reshape(-1, batch)[t % (12 // batch)]
        optimizer.zero_grad()
        cross_entropy(module(torch.tensor(X[rows])), torch.tensor(LABELS[rows])).backward()
        optimizer.step()


def sgd(module: nn.Module) -> optim.Optimizer:
    return optim.SGD(module.parameters(), lr=0.1, momentum=0.8)


def made(module: nn.Module, **settings: Any) -> Any:
    chosen = {"eta": 0.1, "beta": 0.8, **settings}
    return nnflow.training_map(module, cross_entropy, X, LABELS, "heavy_ball", (OTHERS, OF_OTHERS), **chosen)


@pytest.mark.parametrize("norm", UNTRACKED)
@pytest.mark.parametrize("batch", [12, 4])
def test_norms_without_averages_just_work(norm: str, batch: int) -> None:
    module, other = net(UNTRACKED[norm]), net(UNTRACKED[norm])
    map = made(module, batch=batch)
    trained(other, optimizer := sgd(other), 50, batch)
    after = nnflow.Ensemble.grid(map).advance(50)
    np.testing.assert_allclose(after.states[0], map.state_of(other, optimizer), rtol=0, atol=1e-11)
    seen = after.orbit(1, observe=("loss", "test_loss"))[0].ravel()
    evaluated = [cross_entropy(other.eval()(torch.tensor(x)), torch.tensor(y)).item()
                 for x, y in ((X, LABELS), (OTHERS, OF_OTHERS))]  # fmt: skip
    np.testing.assert_allclose(seen, evaluated, rtol=0, atol=1e-11)


@pytest.mark.parametrize("norm", TRACKED)
@pytest.mark.parametrize("kind", ["batch", "state"])
@pytest.mark.parametrize("batch", [12, 4])
def test_fifty_steps_in_training_mode_are_those_of_torch(norm: str, kind: str, batch: int) -> None:
    module, other = net(TRACKED[norm]), net(TRACKED[norm])
    map = made(module, batch=batch, batch_norm=kind)
    trained(other, optimizer := sgd(other), 50, batch)
    after = nnflow.Ensemble.grid(map).advance(50)
    np.testing.assert_allclose(after.states[0], map.state_of(other, optimizer), rtol=0, atol=1e-11)
    assert map.structure["batch_norm"] == kind
    assert map.dim == 2 * map.weights + (8 if kind == "state" else 0)
    seen = after.orbit(1, observe=("loss", "test_loss", "test_accuracy", "gradient_norm"))[0].ravel()
    if kind == "batch":
        averages.forget(other)
    outputs = [other.eval()(torch.tensor(x)) for x in (X, OTHERS)]
    losses = [cross_entropy(o, torch.tensor(y)) for o, y in zip(outputs, (LABELS, OF_OTHERS), strict=True)]
    slope = torch.autograd.grad(losses[0], list(other.parameters()))
    right = float((outputs[1].argmax(1) == torch.tensor(OF_OTHERS)).double().mean())
    norm_of = float(torch.linalg.vector_norm(torch.cat([g.ravel() for g in slope])))
    np.testing.assert_allclose(seen, [*(x.item() for x in losses), right, norm_of], rtol=0, atol=1e-11)


def test_averages_are_the_end_of_the_state() -> None:
    module = net(nn.BatchNorm2d)
    trained(module, sgd(module), 3)
    map = made(module, batch_norm="state")
    assert map.coordinates[-8:-3] == (*(f"1.running_mean[{i}]" for i in range(4)), "1.running_var[0]")
    held = np.concatenate([module[1].running_mean.numpy(), module[1].running_var.numpy()])
    assert np.array_equal(map.start[-8:], held)
    assert np.array_equal(map.state_of(module.state_dict())[-8:], held)
    drawn = map.initial_states(2, 0)
    assert np.array_equal(drawn[:, -8:], [[0.0] * 4 + [1.0] * 4] * 2)
    assert np.array_equal(made(module, batch_norm="state", scale=0.5).initial_states(1, 0)[0, -8:], held)
    later = nnflow.Ensemble.grid(map).advance(7).states[0]
    back = map.load_state(net(nn.BatchNorm2d), later)
    assert np.array_equal(np.r_[back[1].running_mean.numpy(), back[1].running_var.numpy()], later[-8:])
    assert np.array_equal(map.state_of(back)[: map.weights], later[: map.weights])
    with pytest.raises(nnflow.Refusal, match="does not fit: 1.running_mean is missing"):
        map.state_of(net(UNTRACKED["batch norm"]))
    with pytest.raises(nnflow.Refusal, match="does not fit: 1.running_mean is missing"):
        map.state_of({name: value for name, value in module.state_dict().items() if "running" not in name})


@pytest.mark.parametrize("kind", ["batch", "state"])
@pytest.mark.parametrize("norm", ["batch norm", "its weights"])
def test_the_tangent_is_the_derivative_of_the_step(norm: str, kind: str) -> None:
    map = made(net(TRACKED[norm]), batch_norm=kind)
    later = nnflow.Ensemble.grid(map, inits=2, seed=1).advance(3)
    x, p = later.states, later.parameters
    v, h = np.random.default_rng(2).standard_normal((2, 1, map.dim)), 1e-5
    moved = map.to_numpy(map.tangent(x, p, 3, v))[:, 0]
    ahead, behind = (map.to_numpy(map.step(x + sign * h * v[:, 0], p, 3)) for sign in (1, -1))
    np.testing.assert_allclose(moved, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)


def test_averages_alone_forget_by_their_momentum() -> None:
    """Nothing that is trained depends on them: so many exponents are ln(1 − momentum)."""
    map = made(net(lambda n: nn.BatchNorm2d(n, momentum=0.3)), batch_norm="state")
    frame = np.zeros((1, 8, map.dim))
    frame[0, :, -8:] = np.eye(8)
    records, _ = map.tangent_orbit(map.start[None], np.array([list(map.parameters.values())]), 0, frame, 20, 20)
    np.testing.assert_allclose(records.log_stretches / 20, np.log(0.7), rtol=1e-12)


@pytest.mark.parametrize(
    "settings", [{}, {"batch": 4, "shuffle": 3}, {"noise": 5}, {"noise": 5, "batch": 4}, {"clip_norm": 0.1}]
)
def test_a_replay_has_the_bits_of_the_step(settings: dict[str, Any]) -> None:
    more = [nn.Dropout(0.3)] if "noise" in settings else []
    map = made(net(nn.BatchNorm2d, *more), batch_norm="state", groups={"norm": "1"}, **settings)
    ens = nnflow.Ensemble.grid(map, **{"eta.norm": [0.1, 0.4]})
    late, x = ens.advance(60).states, ens.states
    for t in range(60):
        x = map.to_numpy(map._step_anew(map.native(x), map.native(ens.parameters), t))
    assert np.array_equal(late, x)


class Twice(nn.Module):
    """One layer that sees two batches a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.norm, self.head = nn.Linear(18, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            torch.tanh(self.norm(self.inner(x.flatten(1)))) + self.norm(self.inner(2.0 * x.flatten(1) + 1))
        )


def test_a_layer_that_is_called_twice_averages_twice() -> None:
    other = Twice()
    map = made(Twice(), batch_norm="state")
    trained(other, optimizer := sgd(other), 20)
    after = nnflow.Ensemble.grid(map).advance(20).states[0]
    np.testing.assert_allclose(after, map.state_of(other, optimizer), rtol=0, atol=1e-11)


def test_layers_in_evaluation_mode_keep_their_averages() -> None:
    module = nn.Sequential(net(nn.BatchNorm2d)[:3], nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).double()
    trained(module, sgd(module), 3)
    module[0].eval()
    map = made(module, batch_norm="state")
    assert [name for name, _ in map.averages] == ["1.running_mean", "1.running_var"]
    other = copy.deepcopy(module)
    after = nnflow.Ensemble.grid(map).advance(20).states[0]
    trained(other, optimizer := sgd(other), 20)
    np.testing.assert_allclose(after, map.state_of(other, optimizer), rtol=0, atol=1e-11)


def test_the_module_and_its_averages_stay_as_they_are() -> None:
    module = net(nn.BatchNorm2d)
    before = copy.deepcopy(module.state_dict())
    made(module, batch_norm="state")
    made(module, batch_norm="batch")
    assert module[1].track_running_stats
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class Patient(nn.BatchNorm2d):
    """Its averages follow half as fast as its momentum says."""

    def forward(self, x: Tensor) -> Tensor:
        self.momentum = 0.05
        out = super().forward(x)
        self.momentum = 0.1
        return out


def test_the_loss_of_all_data_is_normed_as_a_whole() -> None:
    """Also where a batch was at most as large as what goes through the module at once."""
    module = net(nn.BatchNorm2d)
    cut, whole = (made(module, batch_norm="state", batch=4, microbatch=size) for size in (4, None))
    v = RNG.normal(size=(1, 1, whole.weights))
    bent = [nnflow.Ensemble.grid(map).of_all_data().curvature(v) for map in (cut, whole)]
    assert np.array_equal(*bent)


WRONG: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], str]] = {
    "untold": (lambda: net(nn.BatchNorm2d), {}, "1 is a BatchNorm2d in training mode.*batch_norm='state'.*'batch'"),
    "an instance norm": (lambda: net(TRACKED["instance norm"]), {}, "1 is a InstanceNorm2d in training mode"),
    "nothing to tell": (lambda: net(nn.BatchNorm2d).eval(), {"batch_norm": "batch"}, "no layer in training mode keeps"),
    "another word": (lambda: net(nn.BatchNorm2d), {"batch_norm": "yes"}, "unknown batch_norm 'yes'.*batch, state"),
    "no momentum": (lambda: net(lambda n: nn.BatchNorm2d(n, momentum=None)), {"batch_norm": "state"}, "momentum=None"),
    "pieces": (
        lambda: net(nn.BatchNorm2d),
        {"batch_norm": "state", "microbatch": 4},
        "normed as a whole: give batch=4",
    ),
    "pieces evaluated": (
        lambda: net(nn.BatchNorm2d),
        {"batch_norm": "batch", "batch": 4, "microbatch": 6},
        "microbatch = 6: .* cannot|only a loss that is a mean",
    ),
    "another layer": (lambda: net(Patient), {"batch_norm": "state"}, "after a step 1.running_(mean|var) is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_map_is_refused(case: str) -> None:
    module, settings, message = WRONG[case]
    with pytest.raises(nnflow.Refusal, match=message) as error:
        made(module(), **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["biased", "other way round"])
def test_wrong_averages_are_found_when_the_map_is_made(fault: str, monkeypatch: Any) -> None:
    right = averages.updated

    def wrong(part: Any, mean: Tensor, variance: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        after = right(part, mean, variance, x)
        if fault == "other way round":
            return right(part, *after, x)
        return after[0], after[1] - 0.1 * (x.var([0, 2, 3]) - x.var([0, 2, 3], correction=0))

    monkeypatch.setattr("nnflow.systems.training.losses.updated", wrong)
    with pytest.raises(nnflow.Refusal, match=r"after a step 1.running_(mean|var) is .* by torch on the module itself"):
        made(net(nn.BatchNorm2d), batch_norm="state")


def test_evaluation_in_pieces_goes_by_the_averages() -> None:
    map = made(net(nn.BatchNorm2d), batch_norm="state", batch=4, microbatch=4)
    whole = made(net(nn.BatchNorm2d), batch_norm="state", batch=4)
    seen = [nnflow.Ensemble.grid(each).advance(5).orbit(1, observe="loss")[0].item() for each in (map, whole)]
    assert seen[0] == pytest.approx(seen[1], rel=1e-12)


def test_units_with_averages_are_not_reordered() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(18, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)).double()
    map = made(module, batch_norm="state")
    with pytest.raises(nnflow.Refusal, match="running averages of a norm layer"):
        permuted(map, map.start, [np.arange(4)[::-1].copy()])


def test_analyses_run_on_the_whole_state() -> None:
    map = made(net(nn.BatchNorm2d), batch_norm="state")
    edge = nnflow.run("sharpness", map, k=1, steps=20, every=10)
    assert np.isfinite(edge.stability.values).all()
    apart = nnflow.run("separation", map, perturbation=1e-6, perturbations=2, steps=10)
    assert np.isfinite(apart.distance.values).all()


def test_a_last_batch_that_no_layer_can_take_is_refused_when_the_map_is_made() -> None:
    """13 rows in batches of 6: a batch of one row has no variance, which would be found after two steps."""
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    x, y = np.random.default_rng(0).normal(size=(13, 4)), np.arange(13) % 3
    with pytest.raises(nnflow.Refusal, match="at t = 2: .*more than 1 value per channel"):
        nnflow.training_map(module, nn.CrossEntropyLoss(), x, y, batch=6, batch_norm="batch")
