"""The symmetry of a softmax is a property of the function, not of one weight vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(5)
X, LABELS, VALUES = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12), RNG.normal(size=(12, 3))


class Headed(nn.Module):
    """The head first, as some write it, and zero to begin with."""

    def __init__(self, head_first: bool, zero: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        if head_first:
            self.head, self.body = nn.Linear(5, 3), nn.Linear(4, 5)
        else:
            self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh())


def dead() -> nn.Module:
    """Hidden units that are silent at the weights they have."""
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    nn.init.constant_(module[0].bias, -100.0)
    return module


def fitted() -> nn.Module:
    """A regression that fits exactly: its gradient is 0."""
    module = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(module.weight)
    return module


CASES: dict[str, tuple[Any, Any, Any, dict[str, Any], int]] = {
    "head first, zero": (lambda: Headed(True), F.cross_entropy, LABELS, {}, 0),
    "head first": (lambda: Headed(True, zero=False), F.cross_entropy, LABELS, {}, 0),
    "head last, zero": (lambda: Headed(False), F.cross_entropy, LABELS, {}, 6),
    "silent units": (dead, F.cross_entropy, LABELS, {"backend": "tensor"}, 6),
    "silent, regression": (dead, F.mse_loss, VALUES, {"backend": "tensor"}, 0),
    "fitted": (fitted, F.mse_loss, 0 * VALUES, {}, 0),
    "dropout after the head": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), F.cross_entropy, LABELS, {"noise": 2}, 0
    ),
    "dropout before it": (
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)), F.cross_entropy, LABELS, {"noise": 2}, 5
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gauge_directions_are_neutral_at_every_weight_vector(name: str) -> None:
    """A zero head, defined first: 4 directions of another layer were taken for a symmetry and projected out.

    The same kind: silent units, an exact fit, and a loss that is another one in training than in evaluation.
    """
    make, loss, targets, settings, expected = CASES[name]
    map = nnflow.training_map(make(), loss, X, targets, eta=0.3, **settings)
    ensemble = nnflow.Ensemble.grid(map, states=map.start + RNG.normal(size=(3, map.dim)))
    basis = map.gauge(ensemble.state, ensemble.parameters)
    assert basis.shape[1] == expected
    if expected:
        moved = map.to_numpy(map.tangent(ensemble.state, ensemble.parameters, 0, map.native(basis.copy())))
        np.testing.assert_allclose(moved, basis, rtol=0, atol=1e-13)
