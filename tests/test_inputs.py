"""What a module is trained on: several inputs, datasets and loaders, targets that tell classes; and where it starts."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

import nnflow
from nnflow.__main__ import main

RNG = np.random.default_rng(5)
X, Z, WORDS = RNG.normal(size=(22, 4)), RNG.normal(size=(22, 3)), RNG.integers(0, 5, (22, 2))
LABELS = RNG.integers(0, 3, 22)
HOT = np.eye(3)[LABELS]
SOFT = 0.8 * HOT + 0.2 / 3
SIDES = (X[:, 0] > 0) * 1.0


class Two(nn.Module):
    """Two tables, one of them of words, and a mask of bools."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.out = nn.Embedding(5, 3), nn.Linear(4, 6), nn.Linear(9, 3)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = self.words(words)
        seen = seen.sum(1) if mask is None else (seen * mask[..., None]).sum(1)
        return self.out(torch.cat([self.first(x).tanh(), seen], 1))


def trained(module: nn.Module, loss: Any, given: Any, targets: Any, rows: Any, steps: int = 50) -> Any:
    """The weights after so many steps of torch's own SGD on the rows of each step."""
    theirs = copy.deepcopy(module).double()
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.2)
    y = torch.as_tensor(targets)
    for t in range(steps):
        sgd.zero_grad()
        chosen = rows(t)
        parts = {k: torch.as_tensor(v)[chosen] for k, v in given.items()}
        loss(theirs(*parts.values()), y[chosen]).backward()
        sgd.step()
    return nn.utils.parameters_to_vector(theirs.parameters()).detach().numpy()


def two() -> nn.Module:
    torch.manual_seed(3)
    return Two()


GIVEN = {"x": X, "words": WORDS, "mask": WORDS > 1}


@pytest.mark.parametrize("keywords", [False, True])
@pytest.mark.parametrize("batch", [None, 6])
def test_several_inputs_train_as_in_torch(keywords: bool, batch: int | None) -> None:
    """By position or by keyword, all rows or mini-batches (the last of four rows), and the tangent is exact."""
    from nnflow.data.order import Order

    inputs: Any = {k: GIVEN[k] for k in ("words", "x", "mask")} if keywords else tuple(GIVEN.values())
    test = ({k: v[:5] for k, v in inputs.items()} if keywords else tuple(v[:5] for v in inputs)), LABELS[:5]
    module = two()
    map = nnflow.training_map(
        module, F.cross_entropy, inputs, LABELS, eta=0.2, batch=batch, test=test, probe=test[0], microbatch=5
    )
    after = nnflow.Ensemble.grid(map).advance(50)
    expected = trained(module, F.cross_entropy, GIVEN, LABELS, Order(22, batch).rows)
    np.testing.assert_allclose(after.states[0], expected, rtol=0, atol=1e-13)
    v = np.random.default_rng(5).normal(size=(1, 1, map.dim))
    ahead, behind = (map.to_numpy(map.step(after.states + h * v[:, 0], after.parameters, 0)) for h in (1e-6, -1e-6))
    exact = map.to_numpy(map.tangent(after.state, after.parameters, 0, v))[:, 0]
    np.testing.assert_allclose((ahead - behind) / 2e-6, exact, rtol=0, atol=1e-8 * np.abs(exact).max())
    names = ("accuracy", "test_accuracy", "probe[4,2]")
    found = after.orbit(1, observe=names)[0][0, 0]
    with torch.no_grad():
        out = map.load_state(module, after.states[0])(*map_tensors())
    right = (out.argmax(1).numpy() == LABELS) * 1.0
    np.testing.assert_allclose(found, [right.mean(), right[:5].mean(), out[4, 2].item()], atol=1e-13)


def map_tensors() -> list[Tensor]:
    return [torch.as_tensor(part) for part in GIVEN.values()]


def test_one_input_in_a_tuple_or_by_keyword_is_that_input() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    maps = [nnflow.training_map(module, F.cross_entropy, given, LABELS) for given in (X, (X,), {"input": X})]
    ends = [nnflow.Ensemble.grid(map).advance(20).states for map in maps]
    np.testing.assert_allclose(ends[1:], [ends[0]] * 2, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((X, WORDS[:20]), r"inputs have 22, 20 rows: give each of them one row a sample"),
        ({"x": X, 3: WORDS}, "inputs have the keys 'x', 3: give the keywords"),
        ((X, WORDS.astype(str)), r"inputs\[1\] of shape \(22, 2\) and <U"),
        ({"x": X, "word": WORDS}, "do not fit the data: inputs x .*unexpected keyword argument 'word'"),
        ((X[:20], WORDS[:20]), "20 inputs and 22 targets"),
        ({}, r"inputs of shape \(\) and object"),
    ],
)
def test_inputs_that_do_not_go_together_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.training_map(two(), F.cross_entropy, inputs, LABELS)


# ------------------------------------------------------------------------------------------------- losses, accuracies

IGNORED = np.where(np.arange(22) % 5 == 0, 1, LABELS)
WEIGHTS = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
KINDS: dict[str, tuple[int, Any, Any, Any]] = {  # outputs, loss, targets, whether an answer is right
    "weights": (3, nn.CrossEntropyLoss(weight=WEIGHTS), LABELS, lambda o: o.argmax(1) == LABELS),
    "weights, smoothed": (
        3, nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1), LABELS, lambda o: o.argmax(1) == LABELS,
    ),
    "ignored": (
        3, nn.CrossEntropyLoss(ignore_index=1), IGNORED, lambda o: (o.argmax(1) == IGNORED)[IGNORED != 1],
    ),
    "soft": (3, nn.CrossEntropyLoss(), SOFT, lambda o: o.argmax(1) == LABELS),
    "one-hot": (3, nn.MSELoss(), HOT, lambda o: o.argmax(1) == LABELS),
    "one-hot, cross-entropy": (3, nn.CrossEntropyLoss(), HOT, lambda o: o.argmax(1) == LABELS),
    "divergence": (
        3, lambda o, y: F.kl_div(o.log_softmax(1), y, reduction="batchmean"), SOFT, lambda o: o.argmax(1) == LABELS,
    ),
    "binary": (1, nn.BCEWithLogitsLoss(), SIDES[:, None], lambda o: (o[:, 0] > 0) == (SIDES > 0)),
    "binary, weighted": (
        1, partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(3.0)), SIDES[:, None],
        lambda o: (o[:, 0] > 0) == (SIDES > 0),
    ),
    "many labels": (3, nn.BCEWithLogitsLoss(), (Z > 0) * 1.0, None),
    "shares of a regression": (3, nn.MSELoss(), Z, None),
    "one output": (1, nn.MSELoss(), SIDES[:, None], None),
}  # fmt: skip


COMPILED = ("one-hot", "shares of a regression", "one output")


@pytest.mark.parametrize(
    ("name", "backend"), [*((name, "tensor") for name in KINDS), *((name, "compiled") for name in COMPILED)]
)
def test_losses_of_classes_train_as_in_torch_and_tell_their_accuracy(name: str, backend: str) -> None:
    outputs, loss, targets, right = KINDS[name]
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs)).double()
    test = (X[:7], targets[:7])
    map = nnflow.training_map(module, loss, X, targets, eta=0.2, backend=backend, test=test)
    after = nnflow.Ensemble.grid(map).advance(50)
    expected = trained(module, loss, {"x": X}, targets, lambda t: slice(None))
    np.testing.assert_allclose(after.states[0], expected, rtol=0, atol=1e-13)
    assert ("accuracy" in map.observables) == ("test_accuracy" in map.observables) == (right is not None)
    if right is not None:
        out = map.load_state(module, after.states[0])(torch.tensor(X)).detach().numpy()
        assert after.orbit(1, observe="accuracy")[0].item() == pytest.approx(right(out).mean(), abs=1e-13)


def test_probabilities_are_parted_at_a_half() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Flatten(0)).double()
    map = nnflow.training_map(module, nn.BCELoss(), X, SIDES, eta=0.2)
    out = module(torch.tensor(X)).detach().numpy()
    found = nnflow.Ensemble.grid(map).orbit(1, observe="accuracy")[0].item()
    assert found == pytest.approx(((out > 0.5) == (SIDES > 0)).mean())
    with pytest.raises(
        nnflow.Refusal, match="accuracy needs targets that are class indices.*or 0 and 1 under a binary"
    ):
        nnflow.Ensemble.grid(nnflow.training_map(nn.Linear(4, 3), nn.MSELoss(), X, Z)).orbit(1, observe="accuracy")


# ---------------------------------------------------------------------------------------------- datasets and loaders

TABLE = TensorDataset(torch.tensor(X), torch.tensor(LABELS))


class Pairs(Dataset[Any]):
    """Samples of two inputs, in one of the ways that torch's collate knows."""

    def __init__(self, keywords: bool) -> None:
        self.keywords = keywords

    def __len__(self) -> int:
        return 22

    def __getitem__(self, i: int) -> Any:
        given: Any = {"words": WORDS[i], "x": X[i]} if self.keywords else (X[i], WORDS[i])
        return given, int(LABELS[i])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("backend", ["tensor", "compiled"])
def test_a_loader_in_order_is_its_batches(drop_last: bool, backend: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    loader = DataLoader(TABLE, batch_size=6, drop_last=drop_last)
    map = nnflow.training_map(module, F.cross_entropy, loader, eta=0.2, backend=backend, test=TABLE)
    theirs = copy.deepcopy(module)
    sgd, done = torch.optim.SGD(theirs.parameters(), lr=0.2), 0
    while done < 50:
        for x, y in loader:
            sgd.zero_grad()
            F.cross_entropy(theirs(x), y).backward()
            sgd.step()
            if (done := done + 1) == 50:
                break
    after = nnflow.Ensemble.grid(map).advance(50)
    np.testing.assert_allclose(after.states[0], map.state_of(theirs), rtol=0, atol=1e-13)
    assert (map.epoch, map.structure["batch"]) == (3 if drop_last else 4, 6)
    assert after.orbit(1, observe="test_loss")[0].item() == pytest.approx(
        F.cross_entropy(theirs(torch.tensor(X)), torch.tensor(LABELS)).item(), abs=1e-13
    )


@pytest.mark.parametrize("keywords", [False, True])
def test_samples_of_several_inputs(keywords: bool) -> None:
    ours = nnflow.training_map(two(), F.cross_entropy, Pairs(keywords), shuffle=3, batch=6)
    theirs = nnflow.training_map(two(), F.cross_entropy, (X, WORDS), LABELS, shuffle=3, batch=6)
    ends = [nnflow.Ensemble.grid(map).advance(9).states for map in (ours, theirs)]
    assert np.array_equal(*ends)
    whole = nnflow.training_map(two(), F.cross_entropy, DataLoader(Pairs(keywords), batch_size=64))
    assert whole.epoch == 1


class Wild(Pairs):
    """A random transform."""

    def __getitem__(self, i: int) -> Any:
        return X[i] + np.random.default_rng().normal(), int(LABELS[i])


class Torchy(Pairs):
    """One that draws by torch, as most do."""

    def __getitem__(self, i: int) -> Any:
        return torch.tensor(X[i]) + torch.randn(4), int(LABELS[i])


class Doubling(DataLoader[Any]):
    def __iter__(self) -> Any:
        return ((2 * x, y) for x, y in super().__iter__())


class Fetching(Pairs):
    """What torch asks for several samples at once, if it is there."""

    def __getitems__(self, places: list[int]) -> Any:
        return [(torch.tensor(2 * X[i]), int(LABELS[i])) for i in places]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        raise AssertionError


class Ragged(Pairs):
    def __getitem__(self, i: int) -> Any:
        return np.zeros(i), int(LABELS[i])


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (DataLoader(TABLE, batch_size=6, shuffle=True), {}, r"order of its own \(shuffle=True\).*shuffle=… \(a seed\)"),
        (DataLoader(TABLE, sampler=torch.utils.data.SubsetRandomSampler([1, 2])), {}, "order of its own"),
        (DataLoader(TABLE, batch_size=None), {}, "order of its own"),
        (DataLoader(TABLE, batch_size=6), {"batch": 3}, "batch = 3: the DataLoader has batches of its own"),
        (DataLoader(TABLE, batch_size=6), {"targets": LABELS}, "targets of its own: leave targets out"),
        (DataLoader(TABLE, batch_size=6, drop_last=True), {"shuffle": 1}, "leaves the same 4 rows out for ever"),
        (DataLoader(TABLE, batch_size=64, drop_last=True), {}, "gives no samples"),
        (Endless(), {}, "Endless has no length"),
        (Wild(False), {}, "gives other numbers when it is read again"),
        (Torchy(False), {}, "gives other numbers when it is read again"),
        (TABLE, {"batch": 0}, "batch = 0"),
        (Doubling(TABLE, batch_size=5), {}, "Doubling has an __iter__ of its own"),
        (DataLoader(TABLE, batch_size=5, sampler=SequentialSampler(range(10))), {}, "sampler is of other data"),
        (Ragged(False), {}, "cannot be put together"),
        (TensorDataset(torch.tensor(X)), {}, "are no pairs: give"),
        (TensorDataset(torch.tensor(X), torch.tensor(WORDS), torch.tensor(LABELS)), {}, "are no pairs: give"),
        (X, {}, "targets are missing"),
        (X, {"targets": LABELS, "test": 3}, "test is a int: give a pair"),
    ],
)
def test_what_is_no_fixed_data_is_refused(data: Any, settings: Any, message: str) -> None:
    module, before = nn.Linear(4, 3), torch.random.get_rng_state()
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.training_map(module, F.cross_entropy, data, **settings)
    assert torch.equal(before, torch.random.get_rng_state())


# ------------------------------------------------------------------------------------------------------ initial states


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def orthogonal(seed: int) -> nn.Module:
    """By the generator that torch was given for this seed."""
    made = small()
    nn.init.orthogonal_(made[0].weight)
    return made


INITS: dict[str, Any] = {
    "module": orthogonal,
    "state_dict": lambda seed: orthogonal(seed).state_dict(),
    "array": lambda seed: np.random.default_rng(seed).normal(size=43),
    "tensor": lambda seed: torch.randn(43),
}


@pytest.mark.parametrize("backend", ["tensor", "compiled"])
@pytest.mark.parametrize("name", INITS)
def test_initial_weights_by_a_function_of_a_seed(name: str, backend: str) -> None:
    map = nnflow.training_map(small(), F.cross_entropy, X, LABELS, "heavy_ball", init=INITS[name], backend=backend)
    states = map.initial_states(4, 7)
    assert np.array_equal(states[:2], map.initial_states(2, 7))
    assert len(np.unique(states[:, 0])) == 4
    assert not np.array_equal(states, map.initial_states(4, 8))
    assert not states[:, 43:].any()
    if name in ("module", "state_dict"):
        kernel = states[0, :20].reshape(5, 4)
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(4), atol=1e-6)
    drawn = nnflow.Ensemble.grid(map, inits=2, seed=7)
    assert np.array_equal(drawn.states, states[:2])
    assert np.array_equal(nnflow.Ensemble.grid(map).states[0], map.start)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (lambda seed: np.zeros(43), "the same weights for different seeds"),
        (lambda seed: np.random.default_rng().normal(size=43), "other weights for the same seed"),
        (lambda seed: np.zeros(42), r"array of shape \(42,\): give \(43,\)"),
        (lambda seed: nn.Linear(4, 3), "the module has parameters of shapes"),
        (lambda seed: nn.Linear(4, 3).state_dict(), "the checkpoint does not fit: 0.weight is missing"),
        (lambda seed: np.full(43, np.nan), "not finite, for the seed"),
        (lambda: np.zeros(43), "init fails for the seed"),
        (np.zeros(43), "init"),
    ],
)
def test_what_gives_no_weights_is_refused(init: Any, message: str) -> None:
    with pytest.raises((nnflow.Refusal, TypeError), match=message):
        nnflow.training_map(small(), F.cross_entropy, X, LABELS, init=init)


def test_there_is_one_way_to_draw() -> None:
    with pytest.raises(nnflow.Refusal, match="scale = 1.0: give one of them"):
        nnflow.training_map(small(), F.cross_entropy, X, LABELS, init=INITS["array"], scale=1.0)


# -------------------------------------------------------------------------------------------------- the command line

ARGUMENTS = ["run", "series", "--map", "iris", "--steps", "5"]


def checkpoints(folder: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(4)
    module = nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3))
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(3):
        adam.zero_grad()
        F.cross_entropy(module(torch.tensor(X).float()), torch.tensor(LABELS)).backward()
        adam.step()
    torch.save(module.state_dict(), folder / "model.pt")
    torch.save({"model": module.state_dict(), "optimizer": adam.state_dict(), "epoch": 3}, folder / "both.pt")
    torch.save(module, folder / "module.pt")
    torch.save([1, 2], folder / "list.pt")
    return module, adam


def test_a_run_starts_from_a_checkpoint(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    module, adam = checkpoints(tmp_path)
    assert main([*ARGUMENTS, "--start", "model.pt", "--scan", "eta=0.1,0.2", "-o", "out.nc"]) == 0
    iris = nnflow.maps["iris"]()
    scan = nnflow.Ensemble.from_module(iris, module, eta=[0.1, 0.2])
    found, expected = nnflow.load("out.nc"), nnflow.run("series", scan, steps=5)
    assert found.equals(expected)
    assert found.attrs["initial_states"] == "those of a module, from model.pt"
    assert expected.attrs["initial_states"] == "those of a module"
    assert main([*ARGUMENTS, "--set", "optimizer=adam", "--start", "both.pt", "-o", "adam.nc"]) == 0
    assert "both.pt: epoch beside model and optimizer: not used" in capsys.readouterr().err
    map = nnflow.maps["iris"](optimizer="adam")
    assert nnflow.load("adam.nc").equals(nnflow.run("series", nnflow.Ensemble.from_module(map, module, adam), steps=5))


def test_a_run_goes_on_from_a_result(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    first = [*ARGUMENTS, "--scan", "eta=0.1,5.0", "--inits", "2", "--return-states", "-o", "first.nc"]
    assert main(first) == 0
    assert main([*ARGUMENTS, "--start", "first.nc", "--return-states", "-o", "second.nc"]) == 0
    assert main(["run", "series", "--map", "iris", "--steps", "10", *first[6:-1], "whole.nc"]) == 0
    capsys.readouterr()
    second, whole = nnflow.load("second.nc"), nnflow.load("whole.nc")
    assert second.state.identical(whole.state)
    assert np.array_equal(second.value, whole.value[..., 5:])
    assert second.attrs["initial_states"] == "drawn from the seed, then 5 steps"
    assert main([*ARGUMENTS, "--start", "first.nc", "--scan", "eta=1,2"]) == 2
    assert "has its own axes and parameters; leave --scan out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--start", "none.pt"], "none.pt: no such file"),
        (["--start", "module.pt"], "no weights can be read from it"),
        (["--start", "list.pt"], "it holds a list"),
        (["--start", "model.pt", "--inits", "2"], "--inits draws others; give one of them"),
        (["--start", "model.pt", "--map", "digits"], "the checkpoint does not fit: W1"),
        (["--start", "model.pt", "--map", "henon"], "give a training map"),
        (["--start", "both.pt"], "optimizer is a state_dict of another kind"),
    ],
)
def test_what_no_run_can_start_from_is_refused(
    options: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints(tmp_path)
    given = ARGUMENTS if "--map" not in options else [*ARGUMENTS[:2], *ARGUMENTS[4:]]
    assert main([*given, *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("nnflow: ") - errors.count("warning") == 1


def test_samples_are_fetched_as_torch_fetches_them() -> None:
    module = nn.Linear(4, 3).double()
    taken = nnflow.training_map(module, F.cross_entropy, DataLoader(Fetching(False), batch_size=5), eta=0.1)
    known = nnflow.training_map(module, F.cross_entropy, 2 * X, LABELS, batch=5, eta=0.1)
    np.testing.assert_array_equal(*(nnflow.Ensemble.grid(map).advance(6).states for map in (taken, known)))
