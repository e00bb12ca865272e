"""Tensor maps replay what their rule does: the same bits, whatever is traced when; the rest goes on as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow
from nnflow.tensor import UntracedWarning, trace
from nnflow.tensor.trace import PATIENCE, TRIALS, timeless

RNG = np.random.default_rng(3)
X, LABELS = RNG.normal(size=(24, 4)), RNG.integers(0, 3, 24)
VERBS: dict[str, Any] = {
    "advance": lambda e: e.advance(12).states,
    "orbit": lambda e: e.orbit(12, 3, [name for name in ("loss", "l2", "batch_loss") if name in e.map.observables])[0],
    "tangent_orbit": lambda e: e.with_frame(2).tangent_orbit(12)[0].log_stretches,
    "separation_orbit": lambda e: e.separation_orbit(e.perturbed(1e-3, 2), 12)[0],
    "curvature": lambda e: [e.advance(n).curvature(np.ones((len(e), 2, e.map.weights))) for n in range(8)],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "gd": {},
    "adamw": {"optimizer": "adamw"},
    "momentum, batches that do not fit": {"optimizer": "heavy_ball", "batch": 7},
    "shuffled": {"batch": 8, "shuffle": 1},
    "in pieces": {"microbatch": 7, "batch": 20},
    "a schedule": {"schedule": lambda t: 1.0 / (1 + t)},
    "float32": {"dtype": torch.float32},
}


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced at the second call."""
    monkeypatch.setattr(trace, "PATIENCE", 2)


def module(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), *layers, nn.Linear(5, 3))


def trained(*layers: nn.Module, **settings: Any) -> Any:
    return nnflow.training_map(
        module(*(layers or (nn.Tanh(),))), F.cross_entropy, X, LABELS, backend="tensor", **settings
    )


def trusted(map: Any) -> set[Any]:
    return {kind[0] for kind, known in map._traces._kinds.items() if known.agreed >= TRIALS}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("members", [1, 3])
def test_replays_are_the_same_to_the_bit(name: str, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def followed() -> tuple[Any, list[Any]]:
        map = trained(**SETTINGS[name])
        start = nnflow.Ensemble.grid(map, eta=np.linspace(0.1, 0.3, members))
        return map, [verb(start) for verb in VERBS.values()]

    _, known = followed()
    monkeypatch.setattr(trace, "PATIENCE", 2)
    map, found = followed()
    for one, other in zip(found, known, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {"step", "both", "curvature"} <= trusted(map)


def test_dropout_is_drawn_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws of a replay are those of the same seed and step."""

    def followed() -> tuple[Any, list[Any]]:
        map = trained(nn.Tanh(), nn.Dropout(0.3), noise=5)
        start = nnflow.Ensemble.grid(map, inits=2)
        return map, [VERBS[verb](start) for verb in ("advance", "tangent_orbit", "separation_orbit")]

    _, known = followed()
    monkeypatch.setattr(trace, "PATIENCE", 2)
    map, found = followed()
    for one, other in zip(found, known, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {"step", "tangent"} <= trusted(map)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])  # type: ignore[no-any-return]


def test_a_recurrent_network_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has other kernels for its cells when operations in place are traced as others."""
    series = RNG.normal(size=(24, 6, 4))

    def followed() -> tuple[Any, list[Any]]:
        torch.manual_seed(0)
        map = nnflow.training_map(Recurrent(), F.cross_entropy, series, LABELS, "adam", eta=0.01)
        start = nnflow.Ensemble.grid(map)
        return map, [VERBS[verb](start) for verb in ("advance", "orbit", "tangent_orbit")]

    _, known = followed()
    monkeypatch.setattr(trace, "PATIENCE", 2)
    map, found = followed()
    for one, other in zip(found, known, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {"step", "both"} <= trusted(map)


def test_errors_of_a_replay_are_those_of_the_rule() -> None:
    """After the trace they came out raw; and an escaped member brought them to all the others."""
    table = torch.arange(60.0).double()

    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        return torch.stack([x[0] + p.a + 0 * table[x[0].long()]])

    start = nnflow.Ensemble.grid(nnflow.TensorMap(rule, parameters={"a": 1.0}), states=[[0.0]], a=[1.0, 0.5])
    with pytest.raises(nnflow.Refusal, match="the rule of 'rule' fails at t = 60: IndexError"):
        start.advance(100)

    def healthy(x: Tensor, p: Any, t: int) -> Tensor:
        return x * p.a + 0 * torch.linalg.svdvals(x.view(2, 2)).sum()

    map = nnflow.TensorMap(healthy, dim=4, parameters={"a": 1.0})
    scan = nnflow.Ensemble.grid(map, states=[[1.0, 2.0, 3.0, 5.0]], a=[0.5, 1e80])
    for after in (scan.advance(100), scan.orbit(100)[1], scan.with_frame(2).tangent_orbit(100)[1]):
        assert (after.escaped >= 0).tolist() == [False, True]
        np.testing.assert_array_equal(after.states[0], 0.5**100 * np.array([1.0, 2.0, 3.0, 5.0]))


def test_a_replay_hands_out_no_argument() -> None:
    map = nnflow.TensorMap(lambda x, p, t: x)
    x, p = map.native(np.ones((2, 1))), map.native(np.empty((2, 0)))
    for _ in range(2 * PATIENCE):
        map.step(x, p, 0).mul_(0.0)
    assert x.tolist() == [[1.0], [1.0]]


def test_step_and_tangent_see_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss that is a square of dropped weights, each tangent tells which were dropped in that step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1, bias=False)).double()
    for patience in (PATIENCE, 2):
        monkeypatch.setattr(trace, "PATIENCE", patience)
        map = nnflow.training_map(
            net, lambda o, y: (o * o).sum() / 2, np.ones((1, 6)), np.zeros((1, 1)), backend="tensor", noise=3, eta=0.1
        )
        now = nnflow.Ensemble.grid(map, inits=1).with_frame(6)
        for _ in range(12):
            w = now.states[0]
            records, after = now.tangent_orbit(1, keep=("factors",))
            assert records.factors is not None
            jacobian = after.frames[0].T @ records.factors[0, 0] @ now.frames[0]
            np.testing.assert_allclose(jacobian @ w, after.states[0], rtol=0, atol=1e-12)  # a step is linear
            now = after


@pytest.mark.usefixtures("soon")
def test_a_rule_that_looks_at_t_is_no_replay_of_another_t() -> None:
    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        return x + t

    map = nnflow.TensorMap(rule)
    assert nnflow.Ensemble.grid(map, states=[[0.0]]).advance(10).states.item() == 45.0
    assert not trusted(map)
    still = nnflow.TensorMap(lambda x, p, t: 0.5 * x)
    assert nnflow.Ensemble.grid(still, states=[[1024.0]]).advance(10).states.item() == 1.0
    assert trusted(still) == {"step"}


class Counting:
    count = 0

    def __call__(self, x: Tensor, p: Any, t: int) -> Tensor:
        return x


def test_what_looks_at_its_argument() -> None:
    kept: list[Any] = []

    def hands_on(x: Any, p: Any, t: int) -> Any:
        return kept.append(t)

    def closes(x: Any, p: Any, t: int) -> Any:
        return lambda: t

    class Own:
        def rule(self, x: Any, p: Any, t: int) -> Any:
            return x

        def clock(self, x: Any, p: Any, t: int) -> Any:
            return x * t

    assert timeless(lambda x, p, t: x * p, 2)
    assert timeless(Own().rule, 2)
    looking = (hands_on, closes, Own().clock, Counting(), lambda *given: given[0], lambda x, p, t=1: [t for _ in x])
    assert not any(timeless(function, 2) for function in looking)


@pytest.mark.usefixtures("soon")
def test_what_changes_behind_the_map_is_found() -> None:
    """A branch on Python state: the replay differs, and the rule itself goes on; or it is refused as before."""
    state = {"slow": 0}

    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        return 0.5 * x if state["slow"] else 0.25 * x

    map = nnflow.TensorMap(rule, check=False)
    start = nnflow.Ensemble.grid(map, states=[[1.0]])
    start.advance(3)
    state["slow"] = 1
    assert start.advance(3).states.item() == 0.125  # before it was trusted: traced anew
    state["slow"] = 0
    with pytest.warns(UntracedWarning, match="a replay of its operations gives other numbers"):
        assert start.advance(3).states.item() == 0.25**3
    assert start.advance(6).states.item() == 0.25**6


def test_infinite_is_not_large_and_truth_has_no_nan() -> None:
    large = torch.tensor([torch.finfo(torch.float64).max, torch.nan], dtype=torch.float64)
    assert trace.same(large, large.clone())
    assert not trace.same(large, torch.tensor([torch.inf, torch.nan], dtype=torch.float64))
    assert trace.same((torch.tensor([True]),), (torch.tensor([True]),))
    assert not trace.same(torch.tensor([1.0]), torch.tensor([1]))


def test_groups_do_not_depend_on_what_was_called_before() -> None:
    """A call of one member is tried as a batch, too: that was counted among what a member makes, unless it was done."""
    alone, together = trained(), trained()
    x, p = alone.initial_states(4, 0), np.tile(list(alone.parameters.values()), (4, 1))
    alone.step(x[:1], p[:1], 0)
    for map in (alone, together):
        map.step(x, p, 0)
        map.observe(x, p, 0, ("loss",))
    kinds = [{kind: size for kind, size in map._bytes.items() if kind[0] == "step"} for map in (alone, together)]
    assert kinds[0] == kinds[1]


def test_patience_is_longer_than_what_is_tried_at_birth() -> None:
    map = trained()
    assert all(known.calls < PATIENCE for known in map._traces._kinds.values())


def test_a_replay_gives_nothing_that_lies_in_its_arguments() -> None:
    """A rule that returns its x: who writes into the next state wrote into the present one."""
    map = nnflow.TensorMap(lambda x, p, t: x, dim=2)
    x, p = torch.ones(1, 2, dtype=torch.float64), torch.empty(1, 0, dtype=torch.float64)
    for t in range(40):
        map.step(x, p, t).zero_()
        assert x.tolist() == [[1.0, 1.0]]


SOME = torch.tensor([-1 if row in (31, 33, 58) else int(k) for row, k in enumerate(RNG.integers(0, 3, 60))])


def present(o: Tensor, y: Tensor) -> Tensor:
    """The mean over classes that are there."""
    classes = [k for k in range(3) if len(y[y == k])]
    return sum(F.cross_entropy(o, torch.full_like(y, k), reduction="none")[y == k].mean() for k in classes)  # type: ignore[return-value]


OF_SIZES: dict[str, Any] = {
    "count": lambda o, y: F.cross_entropy(o, y, ignore_index=-1, reduction="sum") / y[y >= 0].numel(),
    "classes": lambda o, y: F.cross_entropy(o, y, ignore_index=-1) * len(torch.unique(y)),
    "nonzero": lambda o, y: F.cross_entropy(o, y, ignore_index=-1) * (1 + len((y < 0).nonzero())),
    "where": lambda o, y: F.cross_entropy(o, y, ignore_index=-1) * (1 + torch.where(y < 0)[0].shape[0]),
    "bincount": lambda o, y: F.cross_entropy(o, y, ignore_index=-1) * torch.bincount(y + 1).shape[0],
    "branch": lambda o, y: F.cross_entropy(o, y, ignore_index=-1) + (o[y < 0].pow(2).sum() if len(o[y < 0]) else 0),
    "present": present,
    "chosen": lambda o, y: F.cross_entropy(o, y.clamp(min=0), reduction="none")[y >= 0].mean(),
}


@pytest.mark.parametrize("name", OF_SIZES)
def test_sizes_that_depend_on_the_data_are_not_those_of_the_first_batches(soon: None, name: str) -> None:
    """Batches before row 31 have no missing label: a trace of them would have their sizes for good."""
    loss, x = OF_SIZES[name], torch.tensor(RNG.normal(size=(60, 4)))
    user = module(nn.Tanh()).double()

    def followed() -> Any:
        map = nnflow.training_map(user, loss, x, SOME, backend="tensor", batch=3, eta=0.1)
        return nnflow.Ensemble.from_module(map, user).advance(40).states[0]

    with pytest.warns(UntracedWarning, match="the size of what .* depends on the numbers"):
        found = followed()
    optimizer = torch.optim.SGD(user.parameters(), lr=0.1)
    for t in range(40):
        rows = slice(3 * t % 60, 3 * t % 60 + 3)
        optimizer.zero_grad()
        loss(user(x[rows]), SOME[rows]).backward()
        optimizer.step()
    known = nn.utils.parameters_to_vector(user.parameters()).detach().numpy()
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["count", "branch", "chosen"])
def test_sizes_of_constants_are_constants(soon: None, name: str) -> None:
    """On the full batch a mask of the targets is the same in each step."""
    map = nnflow.training_map(module(nn.Tanh()), OF_SIZES[name], RNG.normal(size=(60, 4)), SOME, backend="tensor")
    start = nnflow.Ensemble.grid(map)
    start.advance(20)
    assert "step" in trusted(map)


def itself(x: Tensor) -> Tensor:
    mask = x > 0
    return x * len(mask[mask])


@pytest.mark.parametrize("function", [lambda x: x.sum() * len(x[x > 0]), itself])
def test_a_graph_of_changing_sizes_is_refused(function: Any) -> None:
    """What else: a mask that chooses from itself, which is one argument of two."""
    with pytest.raises(nnflow.Refusal, match="size of what"):
        trace.traced(function, True, torch.arange(3.0))


@pytest.mark.parametrize("name", ["one-hot", "whole indices"])
def test_what_has_one_size_is_traced(soon: None, name: str) -> None:
    losses: dict[str, Any] = {
        "one-hot": lambda o, y: F.mse_loss(o, F.one_hot(y, 3).to(o.dtype)),
        "whole indices": lambda o, y: -F.log_softmax(o, 1)[torch.arange(len(y)), y].mean(),
    }
    map = nnflow.training_map(module(nn.Tanh()), losses[name], X, LABELS, backend="tensor", batch=8)
    nnflow.Ensemble.grid(map).advance(20)
    assert "step" in trusted(map)


def test_operations_are_called_by_shorter_ways(soon: None) -> None:
    """Plain functions of torch in place of operations, and no view that undoes another one."""
    map = trained()
    nnflow.Ensemble.grid(map).advance(20)
    known = next(known for kind, known in map._traces._kinds.items() if kind[0] == "step" and known.replay)
    code = known.replay.__self__.code
    assert "torch.addmm(" in code
    assert "aten.addmm" not in code
    assert code.count("torch.t(") <= 8


def test_a_replay_that_fails_is_given_up(soon: None) -> None:
    map = trained()
    start = nnflow.Ensemble.grid(map)
    start.advance(20)
    known = map._traces._kinds

    def broken(*flat: Tensor) -> Tensor:
        raise RuntimeError("no")

    for each in known.values():
        each.replay = broken
    with pytest.warns(UntracedWarning, match="a replay of its operations fails: no"):
        found = start.advance(3).states
    np.testing.assert_array_equal(found, nnflow.Ensemble.grid(trained()).advance(3).states)


def test_a_replay_is_kept_where_the_function_fails_itself() -> None:
    """A matrix without a factor is no fault of the replay, and other threads go on with it."""
    traces = trace.Traces("m")
    draws: list[float] = []

    @contextmanager
    def drawing() -> Iterator[None]:
        draws.append(1.0)
        yield

    good = torch.eye(3, dtype=torch.float64)
    for k in range(PATIENCE + TRIALS + 1):
        traces.call("step", drawing, torch.linalg.cholesky, (2.0 + k) * good)
    assert traces.trusted("step", good)
    with pytest.raises(RuntimeError, match="cholesky"):
        traces.call("step", drawing, torch.linalg.cholesky, -good)
    assert traces.trusted("step", good)


def test_a_strangers_operation_is_not_taken_for_torchs_own() -> None:
    """It bears the name of one of torch's, and does the same below 6."""

    @torch.library.custom_op("strangers::relu", mutates_args=())
    def relu(x: Tensor) -> Tensor:
        return x.clamp(0.0, 6.0)

    x = torch.arange(4.0)
    graph = trace.shortened(trace.traced(lambda x: relu(x) + 1, True, x), (x,))
    assert torch.equal(graph(x + 10), torch.full((4,), 7.0))


def test_a_constant_result_is_the_callers_own(soon: None) -> None:
    """A graph gave its own tensor, and what was written into it came back at the next call."""
    shift = torch.tensor([0.25, 0.5], dtype=torch.float64)
    map = nnflow.TensorMap(lambda x, p, t: 2 * shift, dim=2, observables={"c": lambda x, p, t: shift.sum() * 1})
    x, p = np.array([[0.1, 0.2]]), np.zeros((1, 0))
    for _ in range(2 + TRIALS):
        map.step(x, p, 0)
        map.observable("c", x, p, 0)
    out, seen = map.step(x, p, 0), map.observable("c", x, p, 0)
    assert len(trusted(map)) == 2
    out += 100
    seen += 100
    assert map.step(x, p, 0).tolist() == [[0.5, 1.0]]
    assert map.observable("c", x, p, 0).tolist() == [0.75]
