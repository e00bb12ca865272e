"""Convolution, recurrence, attention, norms: each trains as torch does, has an exact tangent; the rest is refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nnflow
from nnflow.systems.training.dropout import WrittenOut
from nnflow.systems.training.reset import Reset
from nnflow.tensor import trace
from nnflow.tensor.modes import seeded
from nnflow.typing import Array

RNG = np.random.default_rng(0)
SERIES, IMAGES, WORDS = RNG.normal(size=(6, 5, 4)), RNG.normal(size=(6, 1, 6, 6)), RNG.integers(0, 7, (6, 5))
OTHERS = np.random.default_rng(1).normal(size=(6, 2, 3))
NORMED, SPECTRAL = nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
ROWS, LABELS, VALUES = RNG.normal(size=(6, 4)), RNG.integers(0, 3, 6), RNG.normal(size=(6, 3))


class Read(nn.Module):
    """A linear layer on what a layer makes of a series."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.layer(x)
        return self.out((seen[0] if isinstance(seen, tuple) else seen)[:, -1])


class Unrolled(nn.Module):
    """A recurrent cell, step by step."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.out = kind(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h: Any = None
        for i in range(x.shape[1]):
            h = self.cell(x[:, i], h)
        return self.out(h[0] if isinstance(h, tuple) else h)


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.whole, self.parts = (
            (nn.MultiheadAttention(4, 2, batch_first=True), None) if fused else (None, nn.Linear(4, 12))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.whole is not None:
            return self.whole(x, x, x, need_weights=False)[0]
        return F.scaled_dot_product_attention(*self.parts(x).chunk(3, dim=2))


class Pair(nn.Module):
    """A layer on two tables, and a linear layer on what it makes of the last row of a series."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(width, 3)

    def forward(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        cross = isinstance(self.layer, nn.MultiheadAttention)
        seen = self.layer(x, other, other)[0] if cross else self.layer(x, other)
        return self.out(seen if seen.ndim == 2 else seen[:, -1])


class Tied(nn.Module):
    """A language model of one word: the embedding is the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(x).mean(1).tanh())


class Listed(nn.Module):
    """Weights in a ParameterList, gains in a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList([nn.Parameter(torch.empty(4, 4)), nn.Parameter(torch.empty(4, 3))])
        self.gains = nn.ParameterDict({"in": nn.Parameter(torch.empty(4)), "out": nn.Parameter(torch.empty(3))})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for matrix in self.matrices:
            nn.init.xavier_uniform_(matrix)
        for gain in self.gains.values():
            nn.init.uniform_(gain, 0.5, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.gains["in"] * x @ self.matrices[0]).tanh() @ self.matrices[1] * self.gains["out"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.out = nn.RMSNorm(4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x + F.silu(self.inner(self.norm(x))))


class Dropping(nn.Module):
    """Attention that drops some of its weights."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.whole, self.need_weights = nn.MultiheadAttention(4, 2, 0.2, batch_first=True), need_weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.whole(x, x, x, need_weights=self.need_weights)[0]


def word_bag() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3))


def pictures(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), *layers, nn.Flatten(), nn.Linear(8, 3))


ZOO: dict[str, tuple[Any, Array, Any, Any]] = {
    "rnn": (lambda: Read(nn.RNN(4, 8, batch_first=True), 8), SERIES, LABELS, F.cross_entropy),
    "gru": (lambda: Read(nn.GRU(4, 8, batch_first=True), 8), SERIES, LABELS, F.cross_entropy),
    "lstm": (lambda: Read(nn.LSTM(4, 8, batch_first=True), 8), SERIES, LABELS, F.cross_entropy),
    "lstm cell": (lambda: Unrolled(nn.LSTMCell), SERIES, LABELS, F.cross_entropy),
    "gru cell": (lambda: Unrolled(nn.GRUCell), SERIES, LABELS, F.cross_entropy),
    "attention": (lambda: Read(Attention(fused=True), 4), SERIES, LABELS, F.cross_entropy),
    "attention, evaluated": (lambda: Read(Attention(fused=True), 4).eval(), SERIES, LABELS, F.cross_entropy),
    "dot product": (lambda: Read(Attention(fused=False), 4), SERIES, LABELS, F.cross_entropy),
    "transformer": (
        lambda: Read(nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True), 4).eval(), SERIES, VALUES, F.mse_loss
    ),
    "embedding": (word_bag, WORDS, LABELS, F.cross_entropy),
    "batch norm, evaluated": (
        lambda: pictures(nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)).eval(),
        IMAGES, LABELS, F.cross_entropy,
    ),
    "group norm": (lambda: pictures(nn.GroupNorm(2, 2), nn.GELU(), nn.MaxPool2d(3)), IMAGES, VALUES, F.smooth_l1_loss),
    "binary": (lambda: nn.Linear(4, 3), ROWS, (VALUES > 0) * 1.0, F.binary_cross_entropy_with_logits),
    "rnn, both ways": (
        lambda: Read(nn.RNN(4, 3, 2, batch_first=True, bidirectional=True), 6), SERIES, VALUES, F.mse_loss
    ),
    "lstm, dropout": (
        lambda: Read(nn.LSTM(4, 4, 2, batch_first=True, dropout=0.3), 4), SERIES, LABELS, F.cross_entropy
    ),
    "gru, dropout": (lambda: Read(nn.GRU(4, 4, 2, batch_first=True, dropout=0.3), 4), SERIES, LABELS, F.cross_entropy),
    "attention, dropout": (lambda: Read(Dropping(False), 4), SERIES, LABELS, F.cross_entropy),
    "attention with its weights, dropout": (lambda: Read(Dropping(True), 4), SERIES, LABELS, F.cross_entropy),
    "attention to another series": (
        lambda: Pair(nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True), 4),
        (SERIES, OTHERS), LABELS, F.cross_entropy,
    ),
    "encoder layer, dropout": (
        lambda: Read(nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True), 4), SERIES, VALUES, F.mse_loss
    ),
    "encoder": (
        lambda: Read(nn.TransformerEncoder(nn.TransformerEncoderLayer(
            4, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True), 2, enable_nested_tensor=False), 4),
        SERIES, LABELS, F.cross_entropy,
    ),
    "decoder layer": (
        lambda: Pair(nn.TransformerDecoderLayer(4, 2, 8, 0.0, batch_first=True), 4), (SERIES, SERIES[:, :3]), LABELS,
        F.cross_entropy,
    ),
    "encoder and decoder": (
        lambda: Pair(nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True), 4), (SERIES, SERIES[:, :3]), LABELS,
        F.cross_entropy,
    ),
    "bilinear": (lambda: Pair(nn.Bilinear(4, 3, 5), 5), (ROWS, VALUES), LABELS, F.cross_entropy),
    "tied": (Tied, WORDS, WORDS[:, 0], F.cross_entropy),
    "lists and dicts of parameters": (Listed, ROWS, LABELS, F.cross_entropy),
    "weight norm": (
        lambda: nn.Sequential(NORMED(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)), ROWS, VALUES, F.mse_loss
    ),
    "spectral norm, evaluated": (
        lambda: nn.Sequential(SPECTRAL(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)).eval(), ROWS, VALUES, F.mse_loss
    ),
    "padded words": (
        lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Flatten(), nn.Linear(20, 3)), WORDS, LABELS,
        F.cross_entropy,
    ),
    "weighted classes": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), ROWS, LABELS,
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1),
    ),
    "residual": (Residual, ROWS, LABELS, F.cross_entropy),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 4, 3, groups=4), nn.InstanceNorm1d(4, affine=True), nn.Conv1d(4, 2, 1), nn.Flatten(),
            nn.Linear(6, 3),
        ),
        SERIES.transpose(0, 2, 1).copy(), LABELS, F.cross_entropy,
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(1, 2, 3, stride=2), nn.ELU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(8, 3)
        ),
        IMAGES, LABELS, F.cross_entropy,
    ),
}  # fmt: skip
BY_MEMORY = ("encoder layer, dropout",)  # torch draws in the order of a tensor in memory, the map in that of its rows


def mapped(name: str) -> tuple[Any, nn.Module]:
    make, inputs, targets, loss = ZOO[name]
    torch.manual_seed(1)
    module, noise = make(), 7 if "dropout" in name else None
    return nnflow.training_map(module, loss, inputs, targets, backend="tensor", eta=0.1, noise=noise), module


def trained(name: str, module: nn.Module, steps: int) -> Array:
    """The weights after so many steps of torch's SGD, its random numbers seeded as those of the map."""
    _, inputs, targets, loss = ZOO[name]
    theirs = copy.deepcopy(module).double()
    loss = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    given = [torch.tensor(part) for part in (inputs if isinstance(inputs, tuple) else (inputs,))]
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for t in range(steps):
        sgd.zero_grad()
        with seeded(7, t, torch.device("cpu")), WrittenOut() if name in BY_MEMORY else nullcontext():
            loss(theirs(*given), torch.tensor(targets)).backward()
        sgd.step()
    return np.asarray(nn.utils.parameters_to_vector(theirs.parameters()).detach().numpy())


SLOW = {  # to compute, and of a kind with another one
    "rnn", "rnn, both ways", "gru", "gru cell", "lstm cell", "gru, dropout", "attention with its weights, dropout",
    "encoder", "encoder and decoder",
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in ZOO])
def test_it_trains_as_torch_does_and_its_tangent_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 50 steps; traced, with the same bits."""
    map, module = mapped(name)
    start = nnflow.Ensemble.grid(map)
    untraced = start.advance(10).states
    monkeypatch.setattr(trace, "PATIENCE", 2)
    half = start.advance(10)
    assert np.array_equal(half.states, untraced)
    assert "step" in {kind[0] for kind, known in map._traces._kinds.items() if known.agreed >= trace.TRIALS}
    after = half.advance(40)
    np.testing.assert_allclose(after.states[0], trained(name, module, 50), rtol=0, atol=1e-12)
    v = np.random.default_rng(5).normal(size=(1, 1, map.dim))
    ahead, behind = (map.to_numpy(map.step(after.states + h * v[:, 0], after.parameters, 50)) for h in (1e-6, -1e-6))
    exact = map.to_numpy(map.tangent(after.state, after.parameters, 50, v))[:, 0]
    np.testing.assert_allclose((ahead - behind) / 2e-6, exact, rtol=0, atol=1e-8 * np.abs(exact).max())


@pytest.mark.parametrize("name", [name for name in ZOO if name != "tied"])
def test_initial_states_are_drawn_as_torch_draws_them(name: str) -> None:
    """The root mean square of each parameter is that of fresh modules, whoever has the last word on it."""
    make, *_ = ZOO[name]
    torch.manual_seed(6)
    fresh = [nn.utils.parameters_to_vector(make().parameters()).detach().double().numpy() for _ in range(40)]
    states = Reset(make().double(), 0)(40, 3)
    ends = np.cumsum([p.numel() for p in make().parameters()])[:-1]
    ours, theirs = (
        np.array([np.sqrt(np.mean(part**2)) for part in np.split(np.array(drawn), ends, axis=1)])
        for drawn in (states, fresh)
    )
    np.testing.assert_allclose(ours, theirs, rtol=0.3)


def test_what_two_layers_would_draw_in_two_ways_is_refused() -> None:
    map, _ = mapped("tied")
    with pytest.raises(nnflow.Refusal, match=r"words.weight belongs to a Embedding and, as head.weight, to a Linear"):
        map.initial_states(1, 0)


@pytest.mark.parametrize("name", ["lstm", "attention", "transformer"])
def test_an_end_of_an_orbit_is_a_module(name: str) -> None:
    map, module = mapped(name)
    after = nnflow.Ensemble.grid(map, states=[map.state_of(module)]).advance(4)
    trained = map.load_state(module, after.states[0])
    _, inputs, targets, loss = ZOO[name]
    found, _ = after.orbit(1, observe="loss")
    assert found.item() == pytest.approx(loss(trained(torch.tensor(inputs)), torch.tensor(targets)).item(), rel=1e-12)
    assert np.array_equal(map.state_of(trained), after.states[0])


SIGNS, LISTS = np.sign(VALUES), np.array([[0, -1, 1], [1, 2, -1], [2, -1, 0], [0, 1, 2], [1, -1, -1], [-1, 2, 1]])
SHARES, COUNTS = np.abs(VALUES) / np.abs(VALUES).sum(axis=1, keepdims=True), RNG.poisson(2.0, (6, 3))


def gaussian(outputs: torch.Tensor, y: torch.Tensor, **settings: Any) -> torch.Tensor:
    return nn.GaussianNLLLoss(**settings)(outputs[:, :1], y[:, :1], F.softplus(outputs[:, 1]))


LOSSES: dict[str, tuple[Any, Array]] = {
    "huber": (nn.HuberLoss(delta=0.5), VALUES),
    "huber, weighted": (lambda o, y: F.huber_loss(o, y, weight=y.abs()), VALUES),
    "soft margin": (nn.SoftMarginLoss(), SIGNS),
    "margin": (nn.MultiMarginLoss(), LABELS),
    "margin, squared": (
        nn.MultiMarginLoss(p=2, margin=0.5, weight=torch.tensor([1.0, 2.0, 3.0]), reduction="sum"), LABELS,
    ),
    "margins of labels": (nn.MultiLabelMarginLoss(), LISTS),
    "gaussian": (gaussian, VALUES),
    "gaussian, full": (lambda o, y: gaussian(o, y, full=True, reduction="sum"), VALUES),
    "poisson, full": (nn.PoissonNLLLoss(full=True), COUNTS * 1.0),
    "divergence": (lambda o, y: nn.KLDivLoss(reduction="batchmean")(o.log_softmax(1), y), SHARES),
}  # fmt: skip


def checked_against_torch(module: nn.Module, loss: Any, inputs: Array, targets: Array, **settings: Any) -> None:
    """Three steps are torch's on the module itself, and the tangent that of the step; members do not disturb others."""
    map = nnflow.training_map(module, loss, inputs, targets, backend="tensor", eta=0.1, **settings)
    theirs = copy.deepcopy(module).double()
    own = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.1)
    for _ in range(3):
        sgd.zero_grad()
        own(theirs(torch.tensor(inputs)), torch.tensor(targets)).backward()
        sgd.step()
    start = nnflow.Ensemble.grid(map, states=np.stack([map.start, 1.1 * map.start]))
    expected = nn.utils.parameters_to_vector(theirs.parameters()).detach().numpy()
    np.testing.assert_allclose(start.advance(3).states[0], expected, rtol=0, atol=1e-13)
    v = np.random.default_rng(5).normal(size=(2, 1, map.dim))
    ahead, behind = (map.to_numpy(map.step(start.states + h * v[:, 0], start.parameters, 0)) for h in (1e-6, -1e-6))
    exact = map.to_numpy(map.tangent(start.state, start.parameters, 0, v))[:, 0]
    np.testing.assert_allclose((ahead - behind) / 2e-6, exact, rtol=0, atol=1e-8 * np.abs(exact).max())


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_torch_cannot_differentiate_twice(name: str) -> None:
    """They were refused: "torch cannot batch it, or differentiate it forward". And torch's warnings stay its own."""
    torch.manual_seed(2)
    loss, targets = LOSSES[name]
    checked_against_torch(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), loss, ROWS, targets)


WRITTEN: dict[str, tuple[Any, Array]] = {
    "weight norm": (lambda: NORMED(nn.Linear(4, 3)), ROWS),
    "weight norm, whole": (lambda: NORMED(nn.Linear(4, 3), dim=None), ROWS),
    "weight norm, last": (lambda: NORMED(nn.Linear(4, 3), dim=1), ROWS),
    "weight norm, kernels": (lambda: pictures(NORMED(nn.Conv2d(2, 2, 3)), nn.AdaptiveAvgPool2d(2)), IMAGES),
    **{
        f"bag, {mode}": (lambda mode=mode: nn.Sequential(nn.EmbeddingBag(7, 4, mode=mode), nn.Linear(4, 3)), WORDS)
        for mode in ("mean", "sum", "max")
    },
    "sparse": (lambda: nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(20, 3)), WORDS),
    "distances": (lambda: Odd(lambda m, x: m.inner(x) + torch.cdist(x, m.inner.weight)), ROWS),
    "log sigmoid": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LogSigmoid(), nn.Linear(5, 3)), ROWS),
    "rrelu": (lambda: nn.Sequential(nn.Linear(4, 5), nn.RReLU(), nn.Linear(5, 3)).eval(), ROWS),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_layers_that_torch_cannot_differentiate_twice(name: str) -> None:
    torch.manual_seed(2)
    make, inputs = WRITTEN[name]
    checked_against_torch(make(), F.mse_loss, inputs, VALUES)


def test_a_hard_sigmoid_has_a_sixth_in_float64() -> None:
    """Torch's own gradient has the sixth of float32: off by 3e-8."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(inplace=True), nn.Linear(5, 3))
    map = nnflow.training_map(module, F.mse_loss, ROWS, VALUES, backend="tensor")
    assert np.isfinite(nnflow.run("lyapunov_spectrum", map, steps=3, transient=0, k=2).exponent).all()


@pytest.mark.parametrize("noise", [None, 1])
def test_a_row_that_attends_to_nothing_is_0(noise: int | None) -> None:
    """With dropout and noise it was refused as "loss is nan", while torch's own attention gives 0."""
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[2] = False

    class Masked(Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.whole is not None:
                return self.whole(x, x, x, attn_mask=~mask, need_weights=False)[0]
            return F.scaled_dot_product_attention(*self.parts(x).chunk(3, dim=2), mask, 0.2 if noise else 0.0)

    for fused in (True, False):
        torch.manual_seed(0)
        attention = Masked(fused)
        if attention.whole is not None:
            attention.whole.dropout = 0.2 if noise else 0.0
        map = nnflow.training_map(Read(attention, 4), F.mse_loss, SERIES, VALUES, noise=noise, eta=0.1)
        assert np.isfinite(nnflow.run("lyapunov_spectrum", map, steps=2, transient=0, k=1).exponent).all()


# ------------------------------------------------------------------------------------------------------------ refusals


class Odd(nn.Module):
    """A linear layer, and something odd that is done with it."""

    def __init__(self, odd: Any, **parts: Any) -> None:
        super().__init__()
        self.inner, self.odd = nn.Linear(4, 3), odd
        for name, part in parts.items():
            setattr(self, name, part)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(self, x)


def counting(module: Any, x: torch.Tensor) -> torch.Tensor:
    module.seen += 1
    return module.inner(x)


def doubling(module: Any, x: torch.Tensor) -> torch.Tensor:
    x *= 2
    return module.inner(x)


def overwriting(module: Any, x: torch.Tensor) -> torch.Tensor:
    z = module.inner(x).tanh()
    w = z.exp()
    w += 1
    w.tanh_()
    z.mul_(2)
    return w


def branching(module: Any, x: torch.Tensor) -> torch.Tensor:
    z = module.inner(x)
    return 2 * z if z.sum() > 0 else z


REFUSED = {
    "inputs changed": (Odd(doubling), "changes its inputs in place"),
    "buffers changed": (Odd(counting), "changes its buffers in place"),
    "overwritten": (Odd(overwriting), "torch cannot differentiate the loss.*inplace"),
    "a branch on the data": (Odd(branching), "torch cannot batch it, or differentiate it forward"),
    "cut off": (Odd(lambda m, x: torch.tensor(m.inner(x).detach().numpy())), "depend on inner.weight, inner.bias:"),
    "unused": (Odd(lambda m, x: m.inner(x), other=nn.Linear(2, 2)), "depend on other.weight, other.bias: use each"),
    "nan": (Odd(lambda m, x: m.inner(x) * torch.nan), "the loss on the data is nan"),
    "batch norm": (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "1 is a BatchNorm1d in training mode"),
    "dropout": (nn.Sequential(nn.Linear(4, 3), nn.Dropout()), "1 is a Dropout in training mode.*or give noise="),
    "hidden dropout": (Odd(lambda m, x: F.dropout(m.inner(x))), "another one each time.*or give noise="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_map_is_refused_with_the_reason(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        nnflow.training_map(module, F.cross_entropy, ROWS, LABELS)
    assert "\n" not in str(error.value)


def test_labels_out_of_range_are_refused() -> None:
    for backend in ("tensor", "auto"):
        with pytest.raises(ValueError, match=r"do not fit the data.*Target 3 is out of bounds"):
            nnflow.training_map(nn.Sequential(nn.Linear(4, 3)), F.cross_entropy, ROWS, LABELS + 1, backend=backend)


# --------------------------------------------------------------------------------------------------------------- noise


def noisy() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 3))


def test_dropout_is_a_random_map_with_the_same_noise_for_all() -> None:
    """The same numbers at the same t for all members and for a resumed orbit, others at another t or seed."""
    map = nnflow.training_map(noisy(), F.cross_entropy, ROWS, LABELS, noise=7, eta=0.3)
    assert not map.autonomous
    states = np.repeat(map.initial_states(1, 0), 3, axis=0)
    ensemble = nnflow.Ensemble.grid(map, states=states)
    torch.manual_seed(0)
    before = torch.rand(2)
    torch.manual_seed(0)
    after = ensemble.advance(5).states
    assert torch.equal(torch.rand(2), before)  # the global generator is left alone
    assert np.array_equal(after[0], after[1])
    assert np.array_equal(ensemble.advance(2).advance(3).states, after)
    assert not np.array_equal(ensemble.with_states(ensemble.state, t=1).advance(5).states, after)
    other = nnflow.training_map(noisy(), F.cross_entropy, ROWS, LABELS, noise=8, eta=0.3)
    assert not np.array_equal(nnflow.Ensemble.grid(other, states=states).advance(5).states, after)
    losses, _ = ensemble.orbit(3, observe=["loss", "batch_loss"])
    assert (losses[..., 0] != losses[..., 1]).all()  # evaluated without dropout, and with it


def test_the_tangent_of_a_step_sees_the_noise_of_that_step() -> None:
    map = nnflow.training_map(noisy(), F.cross_entropy, ROWS, LABELS, noise=7, eta=0.3)
    x, p = map.initial_states(2, 0), np.array([[0.3, 0.0]] * 2)
    v = np.random.default_rng(0).normal(size=(2, 1, map.dim))
    for t in (0, 5):
        ahead, behind = (map.to_numpy(map.step(x + h * v[:, 0], p, t)) for h in (1e-6, -1e-6))
        exact = map.to_numpy(map.tangent(x, p, t, v))[:, 0]
        np.testing.assert_allclose((ahead - behind) / 2e-6, exact, atol=1e-8 * np.abs(exact).max())
        bent = map.to_numpy(map.curvature(x, p, t, v))[:, 0]
        np.testing.assert_allclose(v[:, 0] - 0.3 * bent, exact, rtol=0, atol=1e-14)


def test_a_random_map_has_exponents() -> None:
    """Two runs, two chunkings: one result; it contracts where the loss is convex."""
    map = nnflow.training_map(noisy(), F.cross_entropy, ROWS, LABELS, noise=7, eta=0.3, weight_decay=1.0)
    ensemble = nnflow.Ensemble.grid(map, inits=2)
    settings = {"k": 2, "steps": 100, "transient": 100}
    one, other = (nnflow.run("lyapunov_spectrum", ensemble, chunk=size, **settings) for size in (1, 2))
    np.testing.assert_allclose(one.exponent, other.exponent, rtol=0, atol=1e-8)
    assert (one.exponent < 0).all()
    np.testing.assert_allclose(one.exponent[0], one.exponent[1], atol=1e-3)  # one noise, one random fixed point


# -------------------------------------------------------------------------------------------------------- mini-batches


@pytest.mark.parametrize("shuffle", [None, 3])
def test_mini_batches_are_those_of_torch(shuffle: int | None) -> None:
    from nnflow.data.order import Order

    module = nn.Sequential(nn.Linear(4, 3))
    maps = [
        nnflow.training_map(module, F.cross_entropy, ROWS, LABELS, batch=4, shuffle=shuffle, backend=backend, eta=0.2)
        for backend in (("compiled", "tensor") if shuffle else ("tensor",))
    ]
    theirs, order = copy.deepcopy(module).double(), Order(6, 4, shuffle)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.2)
    for t in range(5):
        rows = order.rows(t)
        sgd.zero_grad()
        F.cross_entropy(theirs(torch.tensor(ROWS[rows])), torch.tensor(LABELS[rows])).backward()
        sgd.step()
    expected = nn.utils.parameters_to_vector(theirs.parameters()).detach().numpy()
    for map in maps:
        assert (map.epoch, map.repeats) == (2, shuffle is None)
        after = nnflow.Ensemble.grid(map, states=[map.state_of(module)]).advance(5)
        np.testing.assert_allclose(after.states[0], expected, rtol=0, atol=1e-14)
    watched, _ = nnflow.Ensemble.grid(maps[-1], states=[maps[-1].state_of(module)]).orbit(
        3, observe=["loss", "batch_loss"]
    )
    logits = module.double()(torch.tensor(ROWS)).detach()
    assert watched[0, 0, 0] == pytest.approx(F.cross_entropy(logits, torch.tensor(LABELS)).item(), rel=1e-13)
    rows = order.rows(0)
    assert watched[0, 0, 1] == pytest.approx(
        F.cross_entropy(logits[rows], torch.tensor(LABELS[rows])).item(), rel=1e-13
    )


@pytest.mark.parametrize("microbatch", [1, 4, 6])
def test_microbatches_change_nothing(microbatch: int) -> None:
    module = noisy().eval()
    settings = {"test": (ROWS[:5], LABELS[:5]), "optimizer": "adam", "eta": 0.1, "backend": "tensor"}
    cut = nnflow.training_map(module, F.cross_entropy, ROWS, LABELS, microbatch=microbatch, **settings)
    whole = nnflow.training_map(module, F.cross_entropy, ROWS, LABELS, **settings)
    names = ["loss", "test_loss", "accuracy", "test_accuracy", "gradient_norm"]
    starts = [nnflow.Ensemble.grid(map, inits=2).with_frame(3) for map in (cut, whole)]
    (a, _), (b, _) = (start.orbit(6, observe=names) for start in starts)
    np.testing.assert_allclose(a, b, rtol=1e-11)
    (a, _), (b, _) = (start.tangent_orbit(4) for start in starts)
    np.testing.assert_allclose(a.log_stretches, b.log_stretches, rtol=0, atol=1e-9)


def test_only_a_mean_over_samples_can_be_cut() -> None:
    def total(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(outputs, y, reduction="sum")

    with pytest.raises(ValueError, match=r"microbatch = 4: the loss of all samples is .* only a loss that is a mean"):
        nnflow.training_map(nn.Linear(4, 3), total, ROWS, LABELS, microbatch=4)
    with pytest.raises(ValueError, match=r"microbatch = 7: give 1 to 6 samples"):
        nnflow.training_map(nn.Linear(4, 3), F.cross_entropy, ROWS, LABELS, microbatch=7)
    with pytest.raises(ValueError, match="noise = -1: give the seed"):
        nnflow.training_map(nn.Linear(4, 3), F.cross_entropy, ROWS, LABELS, noise=-1)


# -------------------------------------------------------------------------------------------- probes, norms, symmetries


@pytest.mark.parametrize("backend", ["tensor", "compiled"])
def test_predictions_on_a_probe_set_and_norms_of_each_layer(backend: str) -> None:
    module, probe = noisy().eval(), RNG.normal(size=(3, 4))
    plain = nn.Sequential(module[0], module[1], module[3]) if backend == "tensor" else nn.Sequential(nn.Linear(4, 3))
    plain = plain.double()
    map = nnflow.training_map(plain, F.cross_entropy, ROWS, LABELS, probe=probe, backend=backend)
    names, last = [f"probe[{i},{c}]" for i in range(3) for c in range(3)], map.layout[-2][0]
    start = nnflow.Ensemble.grid(map, states=[map.state_of(plain)])
    found, _ = start.orbit(1, observe=["0.bias[1]", *names, "l1.0.weight", f"l2.{last}"])
    expected = plain(torch.tensor(probe)).detach().numpy().ravel()
    np.testing.assert_allclose(found[0, 0, 1:-2], expected, rtol=0, atol=1e-14)
    norms = [plain[0].weight.abs().sum().item(), plain[-1].weight.norm().item()]
    np.testing.assert_allclose(found[0, 0, -2:], norms, rtol=1e-13)
    lost, _ = start.with_states(map.native(np.full((1, map.dim), np.nan))).orbit(1, observe=names)
    assert np.isnan(lost).all()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lstm", 9), ("attention", 5), ("transformer", 0), ("embedding", 21), ("binary", 0), ("group norm", 0)],
)
def test_the_symmetry_of_a_softmax_is_found_where_there_is_one(name: str, expected: int) -> None:
    map, module = mapped(name)
    ensemble = nnflow.Ensemble.grid(map, states=[map.state_of(module)])
    basis = map.gauge(ensemble.state, ensemble.parameters)
    assert basis.shape == (1, expected, map.dim)
    np.testing.assert_allclose(basis[0] @ basis[0].T, np.eye(expected), atol=1e-15)
    if expected:
        moved = map.to_numpy(map.tangent(ensemble.state, ensemble.parameters, 0, map.native(basis.copy())))
        np.testing.assert_allclose(moved, basis, rtol=0, atol=1e-15)
