"""What has a map gets one: constant gradients, recurrence in float32, batch statistics, losses in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(9)
X, LABELS, ROWS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12), RNG.normal(size=(12, 5, 4))
CLASSES = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def test_a_derivative_that_is_zero_everywhere() -> None:
    """ "Cannot convert a ZeroTensor to numpy": L = |w| has a constant gradient, so the step is a shift.

    The same kind: the curvature of such a loss, a rule that ignores x, one of a linear loss.
    """
    maps = [nnflow.gradient_map(loss, 2, eta=0.1) for loss in (lambda w: w.abs().sum(), lambda w: w.sum())]
    for map in maps:
        found = nnflow.run("lyapunov_spectrum", map, steps=20, transient=0)
        assert found.exponent.values.tolist() == [0.0, 0.0]
        assert not nnflow.run("sharpness", map, k=1).sharpness.values.any()
    constant = nnflow.TensorMap(lambda x, p, t: torch.ones(2, dtype=torch.float64), dim=2)
    assert (nnflow.run("lyapunov_spectrum", constant, steps=3, transient=0).exponent.values == -np.inf).all()


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.out = kind(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_in_float32(kind: Any) -> None:
    """oneDNN's LSTM of float32 has no forward mode: refused. What float64 says is found to float32's digits, and the
    caller's setting is as it was."""
    single, double = (
        nnflow.training_map(Recurrent(kind), F.cross_entropy, ROWS, LABELS, dtype=dtype, eta=0.5)
        for dtype in (torch.float32, torch.float64)
    )
    v = RNG.normal(size=(1, 2, double.dim))
    p = np.array([[0.5, 0.0]])
    for verb in ("tangent", "curvature"):
        one, other = (map.to_numpy(getattr(map, verb)(double.start[None], p, 0, v)) for map in (single, double))
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
    assert torch.backends.mkldnn.enabled == torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("batch", [None, 5])
def test_batch_statistics_without_running_averages(batch: int | None) -> None:
    """Refused for running averages that it has not. Where it has some, or would be cut in pieces, it still is."""

    def module(track: bool) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=track), nn.Linear(5, 3)).double()

    map = nnflow.training_map(module(False), F.cross_entropy, X, LABELS, batch=batch, eta=0.1)
    theirs, rows = module(False), slice(batch)
    F.cross_entropy(theirs(torch.tensor(X[rows])), torch.tensor(LABELS[rows])).backward()
    moved = torch.cat([(p - 0.1 * p.grad).detach().ravel() for p in theirs.parameters() if p.grad is not None])
    np.testing.assert_allclose(nnflow.Ensemble.grid(map).advance(1).states[0], moved, rtol=0, atol=1e-13)
    with pytest.raises(nnflow.Refusal, match="its running averages would be a state of their own"):
        nnflow.training_map(module(True), F.cross_entropy, X, LABELS, batch=batch)
    with pytest.raises(nnflow.Refusal, match="microbatch = 3: .* cut"):
        nnflow.training_map(module(False), F.cross_entropy, X, LABELS, batch=batch, microbatch=3)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(CLASSES), lambda o, y: F.cross_entropy(o, y, weight=CLASSES)])
def test_class_weights_in_float64_beside_a_module_in_float32(loss: Any) -> None:
    """Torch cannot train that; the map works on copies in float64, and is that of the module in float64.

    A loss that the copy cannot take is still refused.
    """
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    after = nnflow.Ensemble.grid(nnflow.training_map(module, loss, X, LABELS, eta=0.1)).advance(3).states
    same = nnflow.Ensemble.grid(nnflow.training_map(module.double(), loss, X, LABELS, eta=0.1)).advance(3).states
    np.testing.assert_array_equal(after, same)
    narrow = CLASSES.float()
    with pytest.raises(nnflow.Refusal, match="expected scalar type"):
        nnflow.training_map(module, lambda o, y: F.cross_entropy(o, y, weight=narrow), X, LABELS)


class Empty(nn.Module):
    """A last parameter without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.none = nn.Linear(4, 3), nn.Parameter(torch.zeros(0, 3))

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        return self.layer(x) + self.none.sum()  # type: ignore[no-any-return]


def test_a_parameter_without_numbers() -> None:
    module = Empty()
    map = nnflow.training_map(module, nn.CrossEntropyLoss(), X, LABELS, eta=0.1)
    found = nnflow.Ensemble.from_module(map, module).advance(3).states[0]
    plain = nnflow.training_map(module.layer, nn.CrossEntropyLoss(), X, LABELS, backend="tensor", eta=0.1)
    np.testing.assert_array_equal(found, nnflow.Ensemble.from_module(plain, module.layer).advance(3).states[0])
