"""Any torch module in training: which backend takes it, how states travel, how they are drawn, what is refused."""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils.prune import random_unstructured

import nnflow
from nnflow.systems.training.compiled import CompiledTraining
from nnflow.systems.training.modules import is_bias
from nnflow.systems.training.state import TrainingMap
from nnflow.systems.training.tensor import TensorTraining
from nnflow.typing import Array

RNG = np.random.default_rng(11)
X, LABELS, VALUES = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12), RNG.normal(size=(12, 3))
WATCHED = ["loss", "accuracy", "test_loss", "test_accuracy", "l1", "l2", "gradient_norm"]
IMAGES = RNG.normal(size=(6, 1, 6, 6))


def small(*activations: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), *(activations or (nn.Tanh(),)), nn.Linear(5, 3))


def train(module: Any = None, loss: Any = cross_entropy, targets: Any = LABELS, **settings: Any) -> TrainingMap:
    return nnflow.training_map(small() if module is None else module, loss, X, targets, **settings)


class Residual(nn.Module):
    """A module that is no Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gain, self.last = nn.Linear(4, 4), nn.Parameter(torch.tensor(0.5)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x + self.gain * torch.tanh(self.inner(x)))


class Doubling(nn.Sequential):
    """A Sequential that does not do what a Sequential does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def convolution() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 3))


def image_map(module: nn.Module | None = None, **settings: Any) -> TrainingMap:
    return nnflow.training_map(module or convolution(), cross_entropy, IMAGES, LABELS[:6], **settings)


def torch_steps(module: nn.Module, loss: Any, inputs: Any, targets: Any, steps: int, **settings: float) -> Array:
    """The weights after `steps` of torch's own SGD in float64."""
    module = copy.deepcopy(module).double()
    sgd = torch.optim.SGD(module.parameters(), **settings)
    for _ in range(steps):
        sgd.zero_grad()
        loss(module(torch.tensor(inputs)), torch.tensor(targets)).backward()
        sgd.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy()


def hooked() -> nn.Module:
    module = small()
    module[0].register_forward_hook(lambda part, inputs, output: 2 * output)
    return module


# ------------------------------------------------------------------------------------------------------- which backend


@pytest.mark.parametrize(
    ("module", "loss", "targets"),
    [
        (small(), cross_entropy, LABELS),
        (small(), nn.CrossEntropyLoss(), torch.tensor(LABELS)),
        (small(nn.Sigmoid()), mse_loss, VALUES),
        (small(nn.ReLU()), nn.MSELoss(), VALUES.astype(np.float32)),
        (small(nn.Softplus()), cross_entropy, LABELS.astype(np.uint8)),
        (small(nn.Identity()), cross_entropy, LABELS.tolist()),
        (nn.Sequential(nn.Linear(4, 3)), cross_entropy, LABELS),
        (nn.Sequential(OrderedDict(first=nn.Linear(4, 3), last=nn.Tanh())), mse_loss, VALUES),
        (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)), cross_entropy, LABELS),
    ],
)
def test_small_networks_are_compiled(module: nn.Module, loss: Any, targets: Any) -> None:
    assert isinstance(train(module, loss, targets), CompiledTraining)
    assert isinstance(train(module, loss, targets, backend="compiled"), CompiledTraining)
    assert isinstance(train(module, loss, targets, backend="tensor"), TensorTraining)


SHARED = nn.Linear(4, 4)
OTHERS = {
    "no Sequential": (Residual(), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "a forward of its own": (Doubling(nn.Linear(4, 3)), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "another activation": (small(nn.GELU()), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "two activations": (small(nn.Tanh(), nn.ReLU()), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "steep softplus": (small(nn.Softplus(beta=2)), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "no biases": (nn.Sequential(nn.Linear(4, 3, bias=False)), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "a shared layer": (nn.Sequential(SHARED, nn.Tanh(), SHARED), cross_entropy, LABELS, "are shared"),
    "a hook": (hooked(), cross_entropy, LABELS, "no Sequential of plain Linear"),
    "another loss": (small(), lambda out, y: out.square().mean(), LABELS, "the loss is neither"),
    "smoothed labels": (small(), nn.CrossEntropyLoss(label_smoothing=0.1), LABELS, "the loss is neither"),
    "weighted classes": (small(), nn.CrossEntropyLoss(weight=torch.ones(3)), LABELS, "the loss is neither"),
    "a summed loss": (small(), nn.MSELoss(reduction="sum"), VALUES, "the loss is neither"),
    "class probabilities": (small(), cross_entropy, np.full((12, 3), 1 / 3), "integer labels"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_tensors_and_train_as_torch_does(name: str) -> None:
    module, loss, targets, reason = OTHERS[name]
    map = train(module, loss, targets)
    assert isinstance(map, TensorTraining)
    with pytest.raises(ValueError, match=f"backend = 'compiled': .*{reason}.*use backend='tensor'"):
        train(module, loss, targets, backend="compiled")
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)], eta=0.1)
    if isinstance(loss, nn.Module):
        loss = copy.deepcopy(loss).double()
    expected = torch_steps(module, loss, X, targets, 3, lr=0.1)
    np.testing.assert_allclose(start.advance(3).states[0], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("settings", [{"dtype": torch.float32}, {"device": "cpu", "dtype": torch.float32}])
def test_other_number_types_are_tensors(settings: dict[str, Any]) -> None:
    map = train(**settings)
    assert isinstance(map, TensorTraining)
    assert map.dtype == torch.float32
    end = map.advance(map.initial_states(2, 0), np.ones((2, 2)), 0, 1)
    assert end.states.dtype == torch.float32
    with pytest.raises(ValueError, match=r"float64, not on cpu in torch.float32"):
        train(backend="compiled", **settings)


def test_many_data_are_not_compiled_in() -> None:
    inputs, labels = np.zeros((40_000, 4)), np.zeros(40_000, dtype=int)
    assert isinstance(nnflow.training_map(small(), cross_entropy, inputs, labels), TensorTraining)
    compiled = nnflow.training_map(small(), cross_entropy, inputs, labels, backend="compiled")
    assert isinstance(compiled, CompiledTraining)


@pytest.mark.parametrize("optimizer", ["gd", "heavy_ball"])
def test_both_backends_are_one_map(optimizer: str) -> None:
    test = RNG.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
    maps = [train(test=test, optimizer=optimizer, backend=backend, eta=0.3) for backend in ("compiled", "tensor")]
    for field in ("dim", "coordinates", "parameters", "memory", "layout", "name"):
        assert getattr(maps[0], field) == getattr(maps[1], field)
    assert maps[0].structure == {**maps[1].structure, "backend": "compiled"}
    names = [name for name in maps[0].observables if name in maps[1].observables]
    assert set(names) == {*WATCHED, *(f"{norm}.{part}" for norm in ("l1", "l2") for part, _ in maps[0].layout)}
    names = ["loss", "test_accuracy", "l2.0.weight"] if optimizer == "gd" else ["loss"]  # each is compiled
    drawn = [map.initial_states(3, 2) for map in maps]
    assert np.array_equal(*drawn)
    one, other = (nnflow.Ensemble.grid(map, states=drawn[0]).orbit(20, observe=names) for map in maps)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(one[1].states, other[1].states, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------- convolutions, layer norms


@pytest.mark.parametrize(("optimizer", "momentum"), [("gd", 0.0), ("heavy_ball", 0.6)])
def test_a_convolution_with_a_layer_norm_trains_as_torch_does(optimizer: str, momentum: float) -> None:
    module = convolution()
    map = image_map(module, optimizer=optimizer)
    values = {"beta": momentum} if map.memory else {}
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)], eta=0.2, **values)
    expected = torch_steps(module, cross_entropy, IMAGES, LABELS[:6], 4, lr=0.2, momentum=momentum)
    np.testing.assert_allclose(start.advance(4).states[0, : map.weights], expected, rtol=0, atol=1e-13)


def test_the_tangent_and_the_curvature_of_a_convolution() -> None:
    map = image_map()
    x, p = map.initial_states(1, 0), np.array([[0.5, 0.0]])
    v = np.random.default_rng(0).normal(size=(1, 2, map.dim))
    tangent, products = (map.to_numpy(f(x, p, 0, v)) for f in (map.tangent, map.curvature))
    np.testing.assert_allclose(tangent, v - 0.5 * products, rtol=0, atol=1e-13)
    steps = [map.to_numpy(map.step(x + h * v[0, :1], p, 0)) for h in (1e-6, -1e-6)]
    np.testing.assert_allclose((steps[0] - steps[1]) / 2e-6, tangent[:, 0], atol=1e-7 * np.abs(tangent).max())


# -------------------------------------------------------------------------------------------------- modules and states


@pytest.mark.parametrize("make", [train, image_map])
def test_states_travel_to_modules_and_back(make: Any) -> None:
    module = small() if make is train else convolution()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    map = make(module, optimizer="heavy_ball")
    state = map.state_of(module)
    flat = nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    assert np.array_equal(state, np.r_[flat, np.zeros(map.memory)])
    after = nnflow.Ensemble.grid(map, states=[state], eta=0.5, beta=0.5).advance(3).states[0]
    assert np.abs(after - state).max() > 1e-3

    loaded = map.load_state(module, after)
    assert loaded is not module
    assert np.array_equal(map.state_of(loaded)[: map.weights], after[: map.weights])
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.dtype == torch.float32


@pytest.mark.parametrize("optimizer", ["nesterov", "adam", "rmsprop"])
def test_torchs_training_is_resumed_as_a_map(optimizer: str) -> None:
    """Seven steps of torch, then five of the map from module and optimizer, are twelve of torch."""
    module = small().double()
    kind = {"nesterov": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[optimizer]
    momentum = {"momentum": 0.8, "nesterov": True} if optimizer == "nesterov" else {}
    theirs = kind(module.parameters(), lr=0.05, **momentum)
    map = train(module, optimizer=optimizer, backend="tensor", eta=0.05, **({"beta": 0.8} if momentum else {}))

    def steps(count: int) -> None:
        for _ in range(count):
            theirs.zero_grad()
            cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).backward()
            theirs.step()

    assert not map.state_of(module, theirs)[map.weights :].any()  # before the first step
    steps(7)
    state = map.state_of(module, theirs)
    assert np.array_equal(map.state_of(module.state_dict())[: map.weights], state[: map.weights])
    start = nnflow.Ensemble.grid(map, states=[state])
    after = start.with_states(start.state, t=7).advance(5).states[0]
    steps(5)
    np.testing.assert_allclose(after, map.state_of(module, theirs), rtol=0, atol=1e-13)


def test_a_checkpoint_that_does_not_fit_is_told() -> None:
    map = train(optimizer="heavy_ball")
    whole = small().state_dict()
    with pytest.raises(
        ValueError, match=r"does not fit: 2.bias is missing; there are 0.weight, 0.bias, 2.weight; .*\(3,\)"
    ):
        map.state_of({name: value for name, value in whole.items() if name != "2.bias"})
    with pytest.raises(ValueError, match=r"does not fit: 0.weight has shape \(5, 9\); this map needs shape \(5, 4\)"):
        map.state_of({**whole, "0.weight": torch.zeros(5, 9)})
    module = small()
    adam = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    adam.step()
    with pytest.raises(
        ValueError, match=r"optimizer is a Adam, which remembers .*: .* 'heavy_ball' and needs momentum_buf"
    ):
        map.state_of(module, adam)


def test_later_changes_of_the_module_do_not_reach_the_map() -> None:
    module, inputs = Doubling(nn.Linear(4, 3)), X.copy()
    map = nnflow.training_map(module, cross_entropy, inputs, LABELS)
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)])
    expected = start.advance(2).states
    inputs[:] = np.nan
    with torch.no_grad():
        module[0].weight.fill_(math.nan)
    assert np.array_equal(start.advance(2).states, expected)
    assert np.isfinite(map.initial_states(1, 0)).all()


def test_what_does_not_fit_is_not_loaded() -> None:
    map = train()
    with pytest.raises(ValueError, match=r"parameters of shapes .*; this map has \[\(5, 4\)"):
        map.state_of(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="this map has"):
        map.load_state(nn.Linear(4, 3), map.initial_states(1, 0)[0])
    with pytest.raises(ValueError, match=r"shape \(1, 43\): give one state of shape \(43,\)"):
        map.load_state(small(), map.initial_states(1, 0))


# -------------------------------------------------------------------------------------------------------- drawn states


@pytest.mark.parametrize("make", [train, image_map])
def test_states_are_drawn_by_the_modules_own_initialisation(make: Any) -> None:
    map = make(optimizer="heavy_ball")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    states = map.initial_states(40, 5)
    assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
    assert np.array_equal(map.initial_states(3, 5), states[:3])
    assert not np.array_equal(map.initial_states(3, 6), states[:3])
    assert len(np.unique(states[:, 0])) == 40
    assert not states[:, map.weights :].any()
    fan = 4 if make is train else 9  # torch draws both layers uniform within 1/sqrt(fan in)
    first = states[:, : 20 if make is train else 18] * math.sqrt(fan)
    assert 0.95 < np.abs(first).max() <= 1.0


def test_the_whole_has_the_last_word_on_its_initialisation() -> None:
    class Zeroed(Residual):
        def reset_parameters(self) -> None:
            nn.init.zeros_(self.last.weight)
            nn.init.constant_(self.gain, 0.25)

    map = train(Zeroed())
    states = dict(zip(map.coordinates, map.initial_states(2, 0).T, strict=True))
    assert not states["last.weight[0,0]"].any()
    assert states["gain"].tolist() == [0.25, 0.25]
    assert states["inner.weight[0,0]"].all()


def test_states_of_a_given_scale() -> None:
    map = image_map(scale=0.5, optimizer="heavy_ball")
    states = map.initial_states(200, 1)
    parts = dict(zip(map.coordinates, states.T, strict=True))
    kernels = np.stack([column for name, column in parts.items() if name[:8] in ("0.weight", "4.weight")])
    assert abs(kernels.std() - 0.5) < 0.02
    assert abs(kernels.mean()) < 0.02
    assert not np.stack([column for name, column in parts.items() if "bias" in name]).any()
    assert (np.stack([column for name, column in parts.items() if name[:8] == "3.weight"]) == 1).all()
    assert not states[:, map.weights :].any()
    assert np.array_equal(train(scale=2.0).initial_states(3, 1), 2 * train(scale=1.0).initial_states(3, 1))


def test_a_bias_is_told_by_its_own_name() -> None:
    """And not by that of the module that it is in; that of a parametrization is one, too."""
    module = nn.Sequential(OrderedDict(bias_net=nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)))).double()
    assert [is_bias(name) for name, _ in module.named_parameters()] == [False, True, False, True]
    assert [is_bias(name) for name in ("in_proj_bias", "a.bias_ih_l0", "a.parametrizations.bias.original")] == [
        True
    ] * 3
    assert not is_bias("bias.parametrizations.weight.original0")
    map = nnflow.training_map(module, cross_entropy, X, LABELS, scale=1.0)
    state = dict(zip(map.coordinates, map.initial_states(1, 0)[0], strict=True))
    assert {state[f"bias_net.0.weight[{i}]"] for i in range(4)} == {1.0}
    assert np.abs([value for name, value in state.items() if name.startswith("bias_net.1.weight")]).min() > 0


def test_a_module_without_reset_needs_states_or_a_scale() -> None:
    map = train(Residual())
    with pytest.raises(ValueError, match=r"Residual has parameters but no reset_parameters\(\): give states, or scale"):
        map.initial_states(1, 0)
    states = train(Residual(), scale=0.1).initial_states(2, 0)
    assert states[:, train(Residual()).column("gain")].tolist() == [0.5, 0.5]


# --------------------------------------------------------------------------------------------------------- observables


def test_observables_are_those_of_torch() -> None:
    test = RNG.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
    module = Residual().double()
    map = train(module, test=test)
    assert list(map.observables)[:7] == WATCHED
    records, _ = nnflow.Ensemble.grid(map, states=[map.state_of(module)]).orbit(1, observe=WATCHED)
    expected = []
    for inputs, labels in ((X, LABELS), test):
        logits = module(torch.tensor(inputs))
        loss = cross_entropy(logits, torch.tensor(labels))
        expected += [loss.item(), np.mean(logits.argmax(1).numpy() == labels)]
    w = nn.utils.parameters_to_vector(module.parameters())
    gradient = torch.autograd.grad(cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)), module.parameters())
    norm = nn.utils.parameters_to_vector(gradient).norm()
    expected += [w.abs().sum().item(), w.norm().item(), norm.item()]
    np.testing.assert_allclose(records[0, 0], expected, rtol=1e-13)


@pytest.mark.parametrize("backend", ["compiled", "tensor"])
def test_only_classifiers_have_an_accuracy(backend: str) -> None:
    assert "accuracy" not in train(loss=mse_loss, targets=VALUES, backend=backend).observables
    counts = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))  # integer targets, but no classes
    assert "accuracy" not in train(counts, nn.PoissonNLLLoss(), LABELS).observables


# -------------------------------------------------------------------------------------------------------------- misuse

NAN = np.where(np.arange(48).reshape(12, 4) == 5, np.nan, X)


CALLS = itertools.count(1)


class Noisy(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.randn(3)


class Pair(nn.Linear):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x), x


def pruned() -> nn.Module:
    return random_unstructured(nn.Linear(4, 3), "weight", amount=0.5)


BAD = {
    "inputs too narrow": ({"inputs": X[:, :3]}, r"inputs \(12, 3\) of float64.*cannot be multiplied"),
    "inputs of integers": ({"inputs": np.ones((12, 4), int)}, r"inputs \(12, 4\) of int64.*same dtype"),
    "inputs of words": ({"inputs": [["a"] * 4] * 12}, "inputs of shape .*give numbers"),
    "no inputs": ({"inputs": X[:0], "targets": LABELS[:0]}, r"inputs of shape \(0, 4\)"),
    "a number": ({"inputs": 3.0}, r"inputs of shape \(\)"),
    "targets too few": ({"targets": LABELS[:-1]}, "12 inputs and 11 targets"),
    "a label too large": ({"targets": LABELS + 1}, r"outputs \(12, 3\), targets \(12,\) of int64: .*out of bounds"),
    "labels not integer": ({"targets": LABELS + 0.0}, "targets .* of float64: expected .*Long"),
    "targets too wide": ({"loss_fn": mse_loss, "targets": np.ones((12, 2))}, r"targets \(12, 2\)"),
    "targets that broadcast": ({"loss_fn": mse_loss, "targets": VALUES[:, :1]}, "Using a target size"),
    "targets flat": ({"module": nn.Linear(4, 1), "loss_fn": mse_loss, "targets": VALUES[:, 0]}, "Using a target size"),
    "inputs with NaN": ({"inputs": NAN}, "the loss on the data is nan: check inputs and targets"),
    "targets with NaN": ({"loss_fn": mse_loss, "targets": VALUES * np.inf}, "the loss on the data is inf"),
    "a loss a sample": (
        {"loss_fn": nn.CrossEntropyLoss(reduction="none")},
        r"a tensor of shape \(12,\): it must return one number",
    ),
    "a loss of float": ({"loss_fn": lambda out, y: 1.0}, "returned 1.0: it must return one number"),
    "no loss": ({"loss_fn": None}, "'NoneType' object is not callable"),
    "an output of two": ({"module": Pair(4, 3)}, "outputs tuple"),
    "noise": ({"module": Noisy(4, 3)}, "another one each time.*module.eval"),
    "a small loss that counts": ({"loss_fn": lambda out, y: 1e-10 * next(CALLS) * out.sum()}, "another one each time"),
    "dropout": ({"module": small(nn.Dropout())}, r"1 is a Dropout in training mode.*call module.eval\(\)"),
    "batch norm": ({"module": small(nn.BatchNorm1d(5))}, "1 is a BatchNorm1d in training mode"),
    "frozen parameters only": ({"module": small().requires_grad_(False)}, "no parameters that require gradients"),
    "no parameters": ({"module": nn.Tanh()}, "the module has no parameters"),
    "a module torch cannot copy": ({"module": pruned()}, "the module cannot be copied: Only Tensors created"),
    "lazy parameters": ({"module": nn.LazyLinear(3)}, "parameter weight has no shape yet"),
    "test too narrow": ({"test": (X[:, :3], LABELS)}, r"do not fit the test data: inputs \(12, 3\)"),
    "test labels": ({"test": (X, LABELS + 1)}, "do not fit the test data"),
    "test too few": ({"test": (X, LABELS[1:])}, "12 test inputs and 11 test targets"),
    "test alone": ({"test": (X,)}, r"test has 1 entries: give a pair"),
    "an unknown backend": ({"backend": "tensors"}, "unknown backend 'tensors'. Did you mean 'tensor'"),
    "an unknown optimizer": ({"optimizer": "sgd"}, "unknown optimizer 'sgd'"),
    "an unknown parameter": ({"etta": 1.0}, "unknown parameter of gd 'etta'. Did you mean 'eta'"),
    "another's parameter": ({"beta": 1.0}, "unknown parameter of gd 'beta'"),
    "a name": ({"name": 1.0}, "name = 1.0: give text or None"),
    "an unknown device": ({"device": "nowhere"}, "device = 'nowhere'"),
    "a negative scale": ({"scale": -1.0}, "scale = -1.0"),
}


@pytest.mark.parametrize("backend", ["auto", "tensor"])
@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(name: str, backend: str) -> None:
    change, message = BAD[name]
    good = {"module": small(), "loss_fn": cross_entropy, "inputs": X, "targets": LABELS, "backend": backend}
    with pytest.raises(ValueError, match=message) as error:
        nnflow.training_map(**(good | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": "net"}, "module = 'net': give a torch.nn.Module"),
        ({"dtype": "float32"}, "dtype = 'float32': give a floating torch dtype"),
        ({"dtype": torch.int64}, "dtype = torch.int64"),
    ],
)
def test_wrong_types_are_type_errors(change: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        train(**change)


def test_switched_off_dropout_is_fine() -> None:
    module = small(nn.Tanh(), nn.Dropout(), nn.BatchNorm1d(5)).eval()
    map = train(module)
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)], eta=0.1)
    expected = torch_steps(module, cross_entropy, X, LABELS, 2, lr=0.1)
    np.testing.assert_allclose(start.advance(2).states[0], expected, rtol=0, atol=1e-13)


def test_which_backend_was_chosen_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnflow.systems.training.choose.FEW", 100)
    rng = np.random.default_rng(0)
    plain = nn.Sequential(nn.Linear(4, 3))
    few = rng.normal(size=(6, 4))
    labels = rng.integers(0, 3, 6)
    for module, data, settings, backend, reason in (
        (plain, few, {}, "compiled", None),
        (plain, few, {"backend": "tensor"}, "tensor", None),
        (plain, few, {"torch_threads": 2}, "tensor", "torch_threads = 2"),
        (nn.Sequential(nn.Linear(4, 3), nn.GELU()), few, {}, "tensor", "the module is no Sequential of plain Linear"),
        (plain, few, {"clip_norm": 1.0}, "tensor", "it has groups of parameters, or clips gradients"),
        (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), few, {}, "tensor", "43 weights times 6 rows a step"),
        (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), few, {"batch": 2}, "compiled", None),
    ):
        found = nnflow.training_map(module, cross_entropy, data, labels, **settings).structure
        assert found["backend"] == backend
        assert (reason is None) == ("backend_reason" not in found)
        assert (reason or "") in found.get("backend_reason", "")


@pytest.mark.parametrize("backend", ["compiled", "tensor"])
def test_a_map_of_many_weights_is_shown_in_a_line(backend: str) -> None:
    """It was 2.4 MB. The same kind: a map that is registered, an ensemble, one of a loss."""
    module = nn.Sequential(nn.Linear(200, 10), nn.Tanh(), nn.Linear(10, 3))
    map = nnflow.training_map(module, cross_entropy, np.zeros((5, 200)), np.zeros(5, dtype=int), backend=backend)
    others = [nnflow.maps["digits"](), nnflow.gradient_map(lambda w: (w * w).sum(), 300, backend=backend)]
    for shown in (map, *others, nnflow.Ensemble.grid(map)):
        assert len(repr(shown)) < 500
        assert "\n" not in repr(shown)
