"""Groups of parameters with learning rates of their own, and clipped gradients: as torch.optim has them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import cross_entropy

import nnflow
from nnflow import schedules
from nnflow.systems.optimisers import tensor as rules
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.typing import Array

RNG = np.random.default_rng(5)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)
OWN: dict[str, dict[str, float]] = {  # optimizer -> what group "head" has of its own
    "gd": {"eta": 0.3, "weight_decay": 0.1},
    "heavy_ball": {"eta": 0.05, "beta": 0.5, "weight_decay": 0.1},
    "nesterov": {"eta": 0.05, "beta": 0.5, "weight_decay": 0.1},
    "adam": {"eta": 0.05, "beta1": 0.7, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
    "adamw": {"eta": 0.05, "beta1": 0.7, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
    "rmsprop": {"eta": 0.02, "beta2": 0.9, "epsilon": 1e-6, "weight_decay": 0.1},
}


def net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def theirs(name: str, groups: list[dict[str, Any]]) -> optim.Optimizer:
    if name in ("adam", "adamw"):
        return {"adam": optim.Adam, "adamw": optim.AdamW}[name](groups, lr=0.02)
    if name == "rmsprop":
        return optim.RMSprop(groups, lr=0.01)
    return optim.SGD(groups, lr=0.1, momentum=0.0 if name == "gd" else 0.9, nesterov=name == "nesterov")


def own_of_torch(name: str) -> dict[str, Any]:
    own = OWN[name]
    found: dict[str, Any] = {"lr": own["eta"], "weight_decay": own["weight_decay"]}
    found |= {"momentum": own["beta"]} if "beta" in own else {}
    found |= {"betas": (own["beta1"], own["beta2"])} if "beta1" in own else {}
    found |= {"alpha": own["beta2"]} if name == "rmsprop" else {}
    return found | ({"eps": own["epsilon"]} if "epsilon" in own else {})


def groups_of(module: nn.Sequential, name: str) -> list[dict[str, Any]]:
    head = {"params": list(module[2].parameters()), **own_of_torch(name)}
    return [{"params": list(module[0].parameters())}, head]


def trained_by_torch(
    module: nn.Module, optimizer: optim.Optimizer, steps: int, clip: Any = None, schedule: Any = None
) -> int:
    """How many of the steps were clipped."""
    scheduler, clipped = schedule and schedule(optimizer), 0
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).backward()
        before = nn.utils.parameters_to_vector([p.grad for p in module.parameters()]).clone()
        if clip:
            clip(module.parameters())
        clipped += not torch.equal(before, nn.utils.parameters_to_vector([p.grad for p in module.parameters()]))
        optimizer.step()
        if scheduler:
            scheduler.step()
    return clipped


# ------------------------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("name", OPTIMISERS)
def test_fifty_steps_with_groups_are_those_of_torch(name: str) -> None:
    module, other = net(), net()
    defaults = {"eta": 0.02 if name.startswith("adam") else 0.01 if name == "rmsprop" else 0.1}
    defaults |= {f"{key}.head": value for key, value in OWN[name].items()}
    map = nnflow.training_map(module, cross_entropy, X, LABELS, name, groups={"head": "2"}, **defaults)
    taken = nnflow.training_map(module, cross_entropy, X, LABELS, theirs(name, groups_of(module, name)))
    optimizer = theirs(name, groups_of(other, name))
    trained_by_torch(other, optimizer, 50)
    after = nnflow.Ensemble.grid(map).advance(50).states[0]
    room = 1e-10 if name == "rmsprop" else 1e-12  # small gradients over small roots
    np.testing.assert_allclose(after, map.state_of(other, optimizer), rtol=0, atol=room)
    assert np.abs(after - map.start)[: map.weights].max() > 0.1
    assert np.array_equal(nnflow.Ensemble.grid(taken).advance(50).states[0], after)
    assert {key.replace(".1", ".head"): value for key, value in taken.parameters.items()} == map.parameters
    goes_on = nnflow.Ensemble.from_module(taken, other, optimizer).advance(3).states[0]
    trained_by_torch(other, optimizer, 3)
    if not name.startswith("adam"):  # their clock is that of the optimizer, which has been read
        np.testing.assert_allclose(goes_on, taken.state_of(other, optimizer), rtol=0, atol=room)


def test_rates_follow_the_schedule_and_are_scanned() -> None:
    module, etas = net(), [0.05, 0.2, 0.8]
    map = nnflow.training_map(
        module,
        cross_entropy,
        X,
        LABELS,
        groups={"head": ["2.weight", "2.bias"]},
        schedule=schedules.cosine(40),
        eta=0.3,
    )
    assert map.parameters == {"eta": 0.3, "weight_decay": 0.0, "eta.head": 0.3}
    assert map.structure["groups"] == {"head": ("2.weight", "2.bias")}
    after = nnflow.Ensemble.grid(map, **{"eta.head": etas}).advance(30).states
    for eta, state in zip(etas, after, strict=True):
        other = net()
        sgd = optim.SGD([{"params": other[0].parameters()}, {"params": other[2].parameters(), "lr": eta}], lr=0.3)
        trained_by_torch(other, sgd, 30, schedule=lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 40))
        np.testing.assert_allclose(state, map.state_of(other), rtol=0, atol=1e-12)


def test_equal_rates_are_one_rate_to_the_bit() -> None:
    one = nnflow.training_map(net(), cross_entropy, X, LABELS, "adam", backend="tensor", eta=0.02)
    two = nnflow.training_map(net(), cross_entropy, X, LABELS, "adam", groups={"head": "2"}, eta=0.02)
    states = [nnflow.Ensemble.grid(map).advance(40).states for map in (one, two)]
    assert np.array_equal(*states)


def test_where_all_are_in_groups_there_is_no_rate_for_the_rest() -> None:
    """It would have been a parameter that moves nothing."""
    module = net()
    map = nnflow.training_map(module, cross_entropy, X, LABELS, groups={"all": "*.bias", "w": ["0.weight", "2.weight"]})
    assert list(map.parameters) == ["weight_decay", "eta.all", "eta.w"]
    named = [{"params": module[0].parameters(), "name": "body"}, {"params": module[2].parameters(), "name": "head"}]
    taken = nnflow.training_map(module, cross_entropy, X, LABELS, optim.SGD(named, lr=0.2))
    assert taken.parameters == {"weight_decay": 0.0, "eta.body": 0.2, "eta.head": 0.2}
    with pytest.raises(nnflow.Refusal, match="eta = 0.3: no weight would have it"):
        nnflow.training_map(module, cross_entropy, X, LABELS, optim.SGD(named, lr=0.2), eta=0.3)
    assert taken.threshold(np.array([[0.0, 0.5, 2.0]]), 0) == pytest.approx([1.0])


@pytest.mark.parametrize("optimizer", ["gd", "adamw"])
def test_groups_that_all_have_their_own_weight_decay(optimizer: str) -> None:
    """There is none for the rest then, and the threshold asked for it."""
    settings = {"weight_decay.a": 0.1, "weight_decay.b": 0.2}
    map = nnflow.training_map(net(), cross_entropy, X, LABELS, optimizer, groups={"a": "0", "b": "2"}, **settings)
    scan = nnflow.Ensemble.grid(map, **{"eta.a": [0.1, 0.2]})
    assert scan.threshold().shape == (2,)
    assert nnflow.run("sharpness", scan, k=1, steps=1, every=1).curvature.shape[0] == 2


@pytest.mark.parametrize("name", ["gd", "nesterov", "adam", "rmsprop"])
def test_the_tangent_with_groups_and_a_clip_is_the_derivative_of_the_step(name: str) -> None:
    tame = {"epsilon": 0.1} if name in ("adam", "rmsprop") else {}  # of their memory near 0 differences say little
    settings = {"clip_norm": 0.2, "eta": 0.5, **tame}
    map = nnflow.training_map(net(), cross_entropy, X, LABELS, name, groups={"head": "2"}, **settings)
    later = nnflow.Ensemble.grid(map, **{"eta.head": [0.8]}).advance(3)
    x, p, v = later.states, later.parameters, np.random.default_rng(1).standard_normal((1, 1, map.dim))
    v[..., map.weights :] *= 1e-4  # squares of gradients are small
    moved, h = map.to_numpy(map.tangent(x, p, 3, v))[0, 0], 1e-6
    ahead, behind = (map.to_numpy(map.step(x + sign * h * v[0], p, 3))[0] for sign in (1, -1))
    np.testing.assert_allclose(moved, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"clip_norm": 0.1}, {"clip_value": 0.02}, {"clip_norm": 0.1, "batch": 5}])
def test_a_replay_has_the_bits_of_the_step(settings: dict[str, Any]) -> None:
    map = nnflow.training_map(net(), cross_entropy, X, LABELS, "nesterov", groups={"head": "2"}, eta=0.1, **settings)
    ens = nnflow.Ensemble.grid(map, **{"eta.head": [0.1, 0.4]})
    late = ens.advance(60)  # by a replay
    x = ens.states
    for t in range(60):
        x = map.to_numpy(map._step_anew(map.native(x), map.native(ens.parameters), t))
    assert np.array_equal(late.states, x)


def hessian(module: nn.Module) -> Array:
    names, parts = zip(*module.named_parameters(), strict=True)
    sizes = [p.numel() for p in parts]

    def loss(w: Tensor) -> Tensor:
        named = {n: q.view_as(p) for n, p, q in zip(names, parts, torch.split(w, sizes), strict=True)}
        outputs = torch.func.functional_call(module, named, (torch.tensor(X),))
        return cross_entropy(outputs, torch.tensor(LABELS))

    return np.asarray(torch.func.hessian(loss)(nn.utils.parameters_to_vector(parts).detach()))


def test_sharpness_is_that_of_the_hessian_in_units_of_the_rates() -> None:
    map = nnflow.training_map(
        net(), cross_entropy, X, LABELS, groups={"head": "2"}, eta=0.1, weight_decay=0.01, **{"eta.head": 0.5}
    )
    rates = np.where(map.groups.which == 0, 0.1, 0.5)
    root = np.sqrt(rates)
    matrix = root[:, None] * (hessian(net()) + 0.01 * np.eye(map.weights)) * root
    found = nnflow.run("sharpness", map, k=1, steps=1, every=1)
    assert found.threshold.values == pytest.approx([2 / 0.5])
    assert found.stability.values == pytest.approx([np.linalg.eigvalsh(matrix)[-1] / 2], rel=1e-6)
    mixed = nnflow.training_map(net(), cross_entropy, X, LABELS, "heavy_ball", groups={"h": "2"}, **{"beta.h": 0.5})
    counted = nnflow.run("hessian_spectrum", mixed)
    assert np.isnan(counted.threshold.item())
    assert np.isnan(counted.unstable.item())


@pytest.mark.parametrize("name", ["gd", "heavy_ball", "nesterov"])
@pytest.mark.parametrize("beyond", [0.98, 1.02])
def test_beyond_the_threshold_a_minimum_is_unstable(name: str, beyond: float) -> None:
    """Of a linear network with squared loss, whose tangent map is the same everywhere."""
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(4, 2), nn.Identity()).double()
    map = nnflow.training_map(
        module, nn.MSELoss(), X, X[:, :2], name, groups={"b": "0.bias"}, weight_decay=0.1, **{"eta.b": 0.7}
    )
    p = np.array([[{"eta": 0.3, "beta": 0.6}.get(key, value) for key, value in map.parameters.items()]])

    def top(p: Array) -> float:
        columns = map.effective_curvature(map.start[None], p, 0, np.eye(map.weights)[None])[0]
        return float(np.linalg.eigvalsh(columns)[-1])

    rates = [key.startswith("eta") for key in map.parameters]
    p[:, rates] *= beyond * map.threshold(p, 0)[0] / top(p)  # weight decay stays, so all curvatures scale alike
    assert top(p) / map.threshold(p, 0)[0] == pytest.approx(beyond)
    jacobian = map.to_numpy(map.tangent(map.start[None], p, 0, np.eye(map.dim)[None]))[0]
    assert (np.abs(np.linalg.eigvals(jacobian)).max() > 1) == (beyond > 1)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no parameter": ({"groups": {"head": "4"}}, "groups: 'head': '4' matches no parameter.* 2.weight, 2.bias"),
    "two groups": ({"groups": {"a": "2", "b": "*.bias"}}, "groups: 2.bias is in 'a' and in 'b'"),
    "none": ({"groups": {"head": []}}, "groups: 'head' holds no parameters"),
    "no name": ({"groups": {"a b": "2"}}, "groups: 'a b': give a group a name"),
    "no text": ({"groups": {"head": [2]}}, "groups"),
    "another group": ({"groups": {"head": "2"}, "eta.tail": 0.1}, r"unknown parameter of gd 'eta.tail'.*eta.head"),
    "no groups": ({"eta.head": 0.1}, r"unknown parameter of gd 'eta.head'"),
    "negative": ({"groups": {"head": "2"}, "eta.head": -0.1}, "eta.head = -0.1: a learning rate is 0 or more"),
    "no mapping": ({"groups": ["2"]}, "groups = .* give a mapping|groups"),
    "compiled": ({"groups": {"head": "2"}, "backend": "compiled"}, "backend = 'compiled': it has groups"),
    "compiled clip": ({"clip_norm": 1.0, "backend": "compiled"}, "backend = 'compiled': .* clips gradients"),
    "both clips": ({"clip_norm": 1.0, "clip_value": 1.0}, "clip_norm and clip_value: .* give one"),
    "negative clip": ({"clip_norm": -1.0}, "clip_norm = -1.0: a clip is 0 or more"),
}


@pytest.mark.parametrize("case", WRONG)
def test_groups_and_clips_that_make_no_sense_are_refused(case: str) -> None:
    settings, message = WRONG[case]
    with pytest.raises(nnflow.Refusal, match=message) as error:
        nnflow.training_map(net(), cross_entropy, X, LABELS, **settings)
    assert "\n" not in str(error.value)


def test_a_registered_network_does_not_clip() -> None:
    with pytest.raises(nnflow.Refusal, match="clip_norm = 1.0: a compiled map does not clip"):
        nnflow.maps["iris"](clip_norm=1.0)
    map = nnflow.training_map(net(), cross_entropy, X, LABELS, groups={"head": "2"})
    with pytest.raises(nnflow.Refusal, match="eta.head = -1: .* takes 0 or more"):
        nnflow.Ensemble.grid(map, **{"eta.head": [-1.0]})


def test_optimizers_that_train_other_weights_than_the_map_are_refused() -> None:
    """One of the head alone was taken for one of all weights."""
    module = net()
    with pytest.raises(nnflow.Refusal, match=r"does not train 0.weight, 0.bias, .*requires_grad_"):
        nnflow.training_map(module, cross_entropy, X, LABELS, optim.SGD(module[2].parameters(), lr=0.1))
    grouped = theirs("gd", groups_of(module, "gd"))
    with pytest.raises(nnflow.Refusal, match="groups of its own"):
        nnflow.training_map(module, cross_entropy, X, LABELS, grouped, groups={"head": "2"})
    with pytest.raises(nnflow.Refusal, match="does not train 0.weight"):
        nnflow.training_map(net(), cross_entropy, X, LABELS, grouped)
    one = nnflow.training_map(module, cross_entropy, X, LABELS, backend="tensor")
    with pytest.raises(nnflow.Refusal, match="groups with different lr: this map has one for all .* share eta"):
        one.state_of(module, grouped)
    module[0].requires_grad_(requires_grad=False)
    head = nnflow.training_map(module, cross_entropy, X, LABELS, optim.SGD(module[2].parameters(), lr=0.1))
    assert head.parameters == {"eta": 0.1, "weight_decay": 0.0}


class Tied(nn.Module):
    """A matrix that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


def test_what_is_shared_or_fixed_is_grouped_as_in_torch() -> None:
    """Of layer b its bias alone was in the group: its matrix bears the name of layer a."""
    tied = nnflow.training_map(Tied(), cross_entropy, X, LABELS, groups={"b": "b"})
    assert tied.groups.held == {"b": ("a.weight", "b.bias")}
    module = net()
    module[0].requires_grad_(requires_grad=False)
    groups = [{"params": module[0].parameters()}, {"params": module[2].parameters(), "lr": 0.3}]
    assert nnflow.training_map(module, cross_entropy, X, LABELS, optim.SGD(groups, lr=0.1)).parameters == {
        "weight_decay": 0.0, "eta.1": 0.3
    }  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- clips


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("kind", ["clip_norm", "clip_value"])
def test_fifty_clipped_steps_are_those_of_torch(name: str, kind: str) -> None:
    bound = {"clip_norm": 0.2, "clip_value": 0.03}[kind]
    clip = {
        "clip_norm": lambda p: nn.utils.clip_grad_norm_(p, bound),
        "clip_value": lambda p: nn.utils.clip_grad_value_(p, bound),
    }[kind]
    other, eta = net(), {"gd": 0.5, "adam": 0.02, "adamw": 0.02, "rmsprop": 0.01}.get(name, 0.1)
    optimizer = theirs(name, [{"params": other.parameters(), "lr": eta, "weight_decay": 0.05}])
    clipped = trained_by_torch(other, optimizer, 50, clip)
    assert 2 <= clipped < (50 if kind == "clip_norm" else 51)
    settings = {"eta": eta, "weight_decay": 0.05, kind: bound}
    map = nnflow.training_map(net(), cross_entropy, X, LABELS, name, **settings)
    after = nnflow.Ensemble.grid(map).advance(50).states[0]
    np.testing.assert_allclose(after, map.state_of(other, optimizer), rtol=0, atol=1e-12)


def test_a_clip_is_scanned_and_beyond_the_norm_is_none() -> None:
    map = nnflow.training_map(net(), cross_entropy, X, LABELS, eta=0.5, clip_norm=1.0)
    free = nnflow.training_map(net(), cross_entropy, X, LABELS, eta=0.5, backend="tensor")
    after = nnflow.Ensemble.grid(map, clip_norm=[0.0, 0.1, 1e9]).advance(20).states
    assert np.array_equal(after[0], map.start)
    np.testing.assert_allclose(after[2], nnflow.Ensemble.grid(free).advance(20).states[0], rtol=0, atol=1e-13)
    assert np.linalg.norm(after[1] - map.start) <= 20 * 0.5 * 0.1
    bowl = nnflow.gradient_map(lambda w: (w * w).sum(), 1, eta=1.0, clip_value=0.5)
    assert nnflow.Ensemble.grid(bowl, states=[[3.0]]).advance(1).states.item() == 2.5


# --------------------------------------------------------------------------------------------- the comparison can fail


@pytest.mark.parametrize("fault", ["groups exchanged", "clip left out", "clip after the decay"])
def test_a_step_that_is_not_torchs_is_found_when_the_map_is_made(fault: str, monkeypatch: Any) -> None:
    spread, clipped = rules._spread, rules._clipped
    if fault == "groups exchanged":
        monkeypatch.setattr(rules, "_spread", lambda p, groups, which: spread(p, groups, 1 - which))
    elif fault == "clip left out":
        monkeypatch.setattr(rules, "_clipped", lambda g, p: g)
    else:
        monkeypatch.setattr(rules, "_clipped", lambda g, p: clipped(g, {**p, "clip_norm": 1.01 * p["clip_norm"]}))
    with pytest.raises(nnflow.Refusal, match=r"a step takes .* by torch.optim with these groups and clips"):
        nnflow.training_map(net(), cross_entropy, X, LABELS, groups={"head": "2"}, clip_norm=1.0)


def test_the_module_stays_as_it_is() -> None:
    module = net()
    before = copy.deepcopy(module.state_dict())
    nnflow.training_map(module, cross_entropy, X, LABELS, groups={"head": "2"}, clip_norm=1.0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
