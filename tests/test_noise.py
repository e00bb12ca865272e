"""Dropout inside torch's own layers: a random map like any other, where torch's own kernel crashed the process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow.systems.training.dropout
from nnflow.systems.training.dropout import WrittenOut, dropout
from nnflow.systems.training.losses import plain_attention

RNG = np.random.default_rng(0)
SERIES, LABELS = RNG.normal(size=(6, 5, 4)), RNG.integers(0, 3, 6)


class Read(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = (
            self.layer(x, x, x, need_weights=False) if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        )
        return self.out((seen[0] if isinstance(seen, tuple) else seen)[:, -1])


class Dot(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.parts, self.causal = nn.Linear(4, 12), causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x).chunk(3, dim=2)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 * self.training, is_causal=self.causal)


class Grouped(nn.Module):
    """Four heads of queries, two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Linear(4, 8 * 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x).unflatten(2, (8, 3)).transpose(1, 2).split([4, 2, 2], dim=1)
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 * self.training, enable_gqa=True)
        return out.transpose(1, 2).flatten(2)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Read(nn.LSTM(4, 8, 2, dropout=0.1, batch_first=True), 8),
    "both ways": lambda: Read(nn.LSTM(4, 8, 3, dropout=0.2, bidirectional=True), 16),
    "projected": lambda: Read(nn.LSTM(4, 8, 3, dropout=0.1, proj_size=3, batch_first=True), 3),
    "gru": lambda: Read(nn.GRU(4, 8, 3, bias=False, dropout=0.1, batch_first=True), 8),
    "rnn": lambda: Read(nn.RNN(4, 8, 2, dropout=0.1, nonlinearity="relu", batch_first=True), 8),
    "transformer": lambda: Read(nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True), 4),
    "attention": lambda: Read(nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True), 4),
    "dot product": lambda: Read(Dot(causal=False), 4),
    "grouped": lambda: Read(Grouped(), 12),
    "causal": lambda: Read(Dot(causal=True), 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_else_is_changed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dropout that keeps everything, unscaled, the layers are torch's in evaluation mode."""
    torch.manual_seed(0)
    module, x = LAYERS[name]().double(), torch.tensor(SERIES)
    with plain_attention(), torch.no_grad():
        whole = module.eval()(x)
        with WrittenOut():
            dropped = module.train()(x)
            monkeypatch.setattr(nnflow.systems.training.dropout, "dropout", lambda x, *rest, **more: x)
            kept = module(x)
    np.testing.assert_allclose(kept, whole, rtol=0, atol=1e-14)
    assert (dropped - whole).abs().max() > 1e-4


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_keeps_the_mean(p: float) -> None:
    x = torch.ones(40_000, dtype=torch.float64)
    torch.manual_seed(0)
    found = dropout(x, p)
    torch.manual_seed(0)
    assert torch.equal(F.dropout(x, p), found)
    assert set(found.unique().tolist()) <= {0.0, 1 / (1 - p) if p < 1 else 0.0}
    share = (found == 0).double().mean().item()
    assert abs(share - p) <= 5 * np.sqrt(p * (1 - p) / len(x))  # five standard deviations, of a fixed seed
    assert torch.equal(dropout(x, p, training=False), x)
    assert dropout(x, p, inplace=True) is x


CHILD = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
import numpy as np, nnflow, test_noise
from torch.nn import functional as F
for name, make in test_noise.LAYERS.items():
    map = nnflow.training_map(make(), F.cross_entropy, test_noise.SERIES, test_noise.LABELS, noise=1, eta=0.5)
    start = nnflow.Ensemble.grid(map)
    records, after = start.with_frame(2).tangent_orbit(2)
    assert np.isfinite(records.log_stretches).all()
    assert np.array_equal(after.states, start.advance(1).advance(1).states)
    print(name)
"""


@pytest.mark.slow
def test_dropout_in_layers_of_torch_does_not_crash(tmp_path: object) -> None:
    """LSTM(dropout=.1) and TransformerEncoderLayer with `noise`: a segmentation fault, so in a process of its own.

    The same kind: all recurrent layers, both directions, projections; attention with and without weights, by hand.
    """
    folder = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:-1] == list(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_without_noise_they_are_refused(name: str) -> None:
    """Also where the head is zero and the loss does not show it."""
    module = LAYERS[name]()
    nn.init.zeros_(module.out.weight)
    nn.init.zeros_(module.out.bias)
    with pytest.raises(nnflow.Refusal, match="give noise=, the seed of a random map|the seed of a random map"):
        nnflow.training_map(module, F.cross_entropy, SERIES, LABELS)


def test_a_seed_of_noise_that_nothing_draws_is_refused() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
    for module in (plain, nn.Sequential(*plain, nn.Dropout(0.5)).eval()):
        with pytest.raises(nnflow.Refusal, match="noise = 1: nothing in the module draws"):
            nnflow.training_map(module, F.cross_entropy, SERIES, LABELS, noise=1)
