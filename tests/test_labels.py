"""What counts as an answer: labels that a loss ignores, and modules that need all rows at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(4)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)


def module() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(4, 3).double()


def marked(label: int) -> Any:
    labels = LABELS.copy()
    labels[::2] = label
    return labels


LOSSES = {
    "default": (nn.CrossEntropyLoss(), -100),
    "negative": (nn.CrossEntropyLoss(ignore_index=-1), -1),
    "beyond": (nn.CrossEntropyLoss(ignore_index=255), 255),
    "a class": (nn.CrossEntropyLoss(ignore_index=1), 1),
    "partial": (partial(F.cross_entropy, ignore_index=2), 2),
    "closure": (lambda out, y: F.nll_loss(out.log_softmax(1), y, ignore_index=0), 0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_the_loss_ignores_are_no_mistakes(name: str) -> None:
    """Accuracy with ignore_index: .083 for .167. The same kind: 255 and other labels that are no class, a class that
    is ignored, a partial or a closure (found by what the loss looks at), test data, class counts, pieces."""
    loss, ignored = LOSSES[name]
    labels = marked(ignored)
    kept = labels != ignored
    right = module()(torch.tensor(X)).argmax(1).numpy() == labels
    for cut in ({}, {"microbatch": 12}):
        map = nnflow.training_map(module(), loss, X, labels, test=(X[:7], labels[:7]), **cut)
        found = nnflow.Ensemble.grid(map).orbit(1, observe=["accuracy", "test_accuracy"])[0]
        np.testing.assert_allclose(found.ravel(), [right[kept].mean(), right[:7][kept[:7]].mean()], rtol=1e-13)
        assert sum(map.classes) == kept.sum()
        assert len(map.classes) == 3


def test_a_sure_network_is_not_ignored() -> None:
    """Where a gradient vanishes by rounding, the row still counts."""
    sure = module()
    with torch.no_grad():
        sure.weight *= 1e4
    map = nnflow.training_map(sure, F.cross_entropy, X, LABELS, backend="tensor", check=False)
    expected = (sure(torch.tensor(X)).argmax(1).numpy() == LABELS).mean()
    assert nnflow.Ensemble.grid(map).orbit(1, observe="accuracy")[0].item() == pytest.approx(expected, rel=1e-13)


class Graph(nn.Module):
    """A layer of graph convolution: row i sees its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l = nn.Linear(4, 3)
        self.register_buffer("A", torch.rand(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.A @ self.l(x)


def test_a_module_may_need_all_rows() -> None:
    """Row 1 was evaluated alone: RuntimeError. A probe or a batch of other length is told in one line."""
    graph, mask = Graph().double(), torch.arange(12) < 8

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs[mask], y[mask])

    map = nnflow.training_map(graph, loss, X, LABELS, eta=0.1)
    sgd = torch.optim.SGD(graph.parameters(), lr=0.1)
    start = nnflow.Ensemble.grid(map)
    right = (graph(torch.tensor(X)).argmax(1).numpy() == LABELS).mean()
    assert start.orbit(1, observe="accuracy")[0].item() == pytest.approx(right, rel=1e-13)
    for _ in range(3):
        sgd.zero_grad()
        loss(graph(torch.tensor(X)), torch.tensor(LABELS)).backward()
        sgd.step()
    expected = nn.utils.parameters_to_vector(graph.parameters()).detach().numpy()
    np.testing.assert_allclose(start.advance(3).states[0], expected, rtol=0, atol=1e-13)
    for other in ({"probe": X[:3]}, {"batch": 4}, {"microbatch": 4}, {"test": (X[:5], LABELS[:5])}):
        with pytest.raises(nnflow.Refusal) as error:
            nnflow.training_map(graph, F.cross_entropy, X, LABELS, **other)
        assert "\n" not in str(error.value)


def test_what_an_accuracy_needs_is_said() -> None:
    one_hot = np.eye(3)[LABELS]
    single = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1))
    for network, loss, targets in (
        (module(), F.mse_loss, 0.7 * one_hot),
        (single, lambda o, y: F.binary_cross_entropy_with_logits(o, y), 1.0 * (LABELS[:, None] > 1)),
        (single, F.mse_loss, one_hot[:, :1]),
    ):
        start = nnflow.Ensemble.grid(nnflow.training_map(network, loss, X, targets))
        for name, more in (("accuracy", ""), ("test_accuracy", " and test data")):
            said = rf"{name} needs targets that are class indices, one whole number a sample, or .*{more}\.$"
            with pytest.raises(nnflow.Refusal, match=said):
                nnflow.run("series", start, steps=2, observe=name)
