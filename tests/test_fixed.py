"""Parameters that require no gradients are constants: the state is what torch.optim would train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.systems.training.tensor import TensorTraining

RNG = np.random.default_rng(4)
X, SERIES, LABELS = RNG.normal(size=(12, 4)), RNG.normal(size=(12, 5, 4)), RNG.integers(0, 3, 12)


class Last(nn.Module):
    """A recurrent layer, read out at its end."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])  # type: ignore[no-any-return]


class Tied(nn.Module):
    """One frozen matrix, used twice and known by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.other.weight = self.one.weight
        self.one.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.other(torch.tanh(self.one(x)))))  # type: ignore[no-any-return]


def perceptron(*fixed: str) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for name in fixed:
        module.get_parameter(name).requires_grad_(False)
    return module


def recurrent(kind: type[nn.RNNBase], *fixed: str) -> nn.Module:
    layer = kind(4, 6, batch_first=True)  # type: ignore[arg-type]
    for name in fixed:
        layer.get_parameter(name).requires_grad_(False)
    return Last(layer)


def head_only() -> nn.Module:
    module = Last(nn.GRU(4, 6, batch_first=True))
    module.layer.requires_grad_(False)
    return module


MODULES: dict[str, Any] = {
    "a bias": lambda: (perceptron("0.bias"), X),
    "a layer": lambda: (perceptron("0.weight", "0.bias"), X),
    "a matrix of a recurrent layer": lambda: (recurrent(nn.LSTM, "weight_hh_l0"), SERIES),
    "all but the head": lambda: (head_only(), SERIES),
    "a tied matrix": lambda: (Tied(), X),
}


@pytest.mark.filterwarnings("ignore:last is not traced")  # a frozen GRU is one operation, whose kernel torch chooses
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_steps_are_those_of_torch_on_what_is_trained(name: str, optimizer: str) -> None:
    torch.manual_seed(1)
    module, x = MODULES[name]()
    module = module.double()
    kept = {key: value.clone() for key, value in module.state_dict().items()}
    map = nnflow.training_map(module, cross_entropy, x, LABELS, optimizer, eta=0.05)
    assert isinstance(map, TensorTraining)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert map.weights == sum(p.numel() for p in trained)
    assert not {key for key, p in module.named_parameters() if not p.requires_grad} & {key for key, _ in map.layout}
    torch_optimizer = {"gd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](trained, lr=0.05)
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)])
    assert all(torch.equal(value, kept[key]) for key, value in module.state_dict().items())
    for _ in range(50):
        torch_optimizer.zero_grad()
        cross_entropy(module(torch.tensor(x)), torch.tensor(LABELS)).backward()
        torch_optimizer.step()
    after = start.advance(50).states[0]
    np.testing.assert_allclose(after, map.state_of(module, torch_optimizer), rtol=0, atol=1e-11)
    again = map.load_state(module, after)
    fixed = {key: p for key, p in again.named_parameters() if not p.requires_grad}
    assert fixed
    assert all(torch.equal(p, kept[key]) for key, p in fixed.items())


def test_drawn_states_leave_constants_as_they_are() -> None:
    map = nnflow.training_map(perceptron("0.weight"), cross_entropy, X, LABELS)
    drawn = map.initial_states(3, 0)
    assert drawn.shape == (3, 23)
    scaled = nnflow.training_map(perceptron("0.weight"), cross_entropy, X, LABELS, scale=0.5).initial_states(3, 0)
    assert not scaled[:, :5].any()  # the bias of the first layer
    exact = nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(map, eta=0.5), k=2, steps=40, transient=10)
    assert np.isfinite(exact.exponent).all()
    with pytest.raises(nnflow.Refusal, match="are shared, or require no gradients"):
        nnflow.training_map(perceptron("0.weight"), cross_entropy, X, LABELS, backend="compiled")
