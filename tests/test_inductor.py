"""Compiled tensor maps: the same numbers to rounding, the same bits from the first call on, and no silent other way."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow
from nnflow.tensor import inductor

RNG = np.random.default_rng(5)
X, LABELS = RNG.normal(size=(24, 4)), RNG.integers(0, 3, 24)


def bowl(w: Tensor) -> Tensor:
    return (w.cos() * torch.arange(1.0, 4.0, dtype=w.dtype)).sum()


def trained(compile: bool, *layers: nn.Module, **settings: Any) -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *layers, nn.Linear(5, 3))
    return nnflow.training_map(module, F.cross_entropy, X, LABELS, backend="tensor", compile=compile, **settings)


# ----------------------------------------------------------------------------------- refused when it is made


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(nnflow.Refusal, match="no C\\+\\+ compiler 'no-such-compiler' here: install one"):
        nnflow.gradient_map(bowl, dim=3, compile=True)
    assert nnflow.gradient_map(bowl, dim=3).compiled == ""


def test_without_headers_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inductor.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(inductor.shutil, "which", lambda name: name)
    with pytest.raises(nnflow.Refusal, match=r"no Python\.h"):
        nnflow.gradient_map(bowl, dim=3, compile=True)


@pytest.fixture
def with_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a compiler: it is not called."""
    monkeypatch.setattr("nnflow.tensor.map.compiler", lambda device, noise: "inductor")


@pytest.mark.usefixtures("with_compiler")
def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(nnflow.Refusal, match="looks at t"):
        nnflow.TensorMap(lambda x, p, t: x + t, compile=True)
    with pytest.raises(nnflow.Refusal, match="compile = True is for backend='tensor'"):
        nnflow.training_map(nn.Linear(4, 3), F.cross_entropy, X, LABELS, backend="compiled", compile=True)
    cut = nnflow.TensorMap(lambda x, p, t: 0.5 * x + 0 * x.detach(), compile=True)
    with pytest.raises(nnflow.Refusal, match="does not see through"), cut.uncompiled():
        cut.tangent(np.ones((1, 1)), np.empty((1, 0)), 0, np.ones((1, 1, 1)))


def test_devices_have_compilers_of_their_own() -> None:
    assert inductor.compiler(torch.device("cuda"), None).startswith("CUDA graphs")
    with pytest.raises(nnflow.Refusal, match="noise = 3"):
        inductor.compiler(torch.device("cuda"), 3)
    with pytest.raises(nnflow.Refusal, match="device = 'meta'"):
        inductor.compiler(torch.device("meta"), None)


# ----------------------------------------------------------------------------------- compared with the map


def _off_by(factor: float) -> Any:
    return lambda graph, flat: lambda *given: graph.forward(*given) * factor


@pytest.mark.usefixtures("with_compiler")
def test_other_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for factor, wrong in ((1.0, False), (1.0 + 2**-50, False), (1.0 + 1e-9, True), (float("nan"), True)):
        monkeypatch.setattr(inductor, "_by_inductor", _off_by(factor))
        start = nnflow.Ensemble.grid(nnflow.gradient_map(bowl, dim=3, compile=True, eta=0.1), inits=2)
        if wrong:
            with pytest.raises(nnflow.Refusal, match="the compiled step of 'bowl' gives"):
                start.advance(1)
        else:
            start.advance(5)


def test_room_is_what_rounding_needs() -> None:
    """A sum in another order passes even where its terms cancel; a term that is left out does not."""
    terms = torch.tensor(RNG.normal(size=(3, 1000)))
    terms[:, ::2] = -terms[:, 1::2] * (1 + 1e-9)
    known, other = terms.sum(dim=1, keepdim=True), terms.flip(1).cumsum(dim=1)[:, -1:]
    moved = inductor._moved((terms,))[0].sum(dim=1, keepdim=True)
    assert bool((inductor._excess(other, known, moved) <= 0).all())
    missing = terms[:, 1:].sum(dim=1, keepdim=True)
    assert bool((inductor._excess(missing, known, moved) > 0).all())


def test_what_is_moved_keeps_its_sign() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1e-300, 2.0]], dtype=torch.float64)
    moved, count, (none,) = inductor._moved((x, torch.tensor(3), (torch.tensor([True]),)))
    assert count == 3
    assert none.item() is True
    assert (moved.sign()[1:] == x.sign()[1:]).all()
    assert (moved[0] > 0).all()
    assert (moved != x).sum() == 5


@pytest.mark.usefixtures("with_compiler")
def test_what_inductor_fails_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: Any, flat: Any) -> Any:
        raise RuntimeError("no code\nfor it")

    monkeypatch.setattr(inductor, "_by_inductor", failing)
    start = nnflow.Ensemble.grid(nnflow.gradient_map(bowl, dim=3, compile=True), inits=2)
    with pytest.raises(nnflow.Refusal, match=r"the step of 'bowl' cannot be compiled.*\(RuntimeError: no code\)"):
        start.advance(1)


# ----------------------------------------------------------------------------------- compiled indeed

compiling = pytest.mark.skipif(inductor.shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")


@compiling
@pytest.mark.slow
def test_verbs_agree_to_rounding_and_bits_stay() -> None:
    """Adam on batches, two members: whatever was called before, in any thread; and what results say."""
    settings: dict[str, Any] = {"optimizer": "adam", "batch": 8, "shuffle": 1, "eta": 0.01}
    compiled, plain = (nnflow.Ensemble.grid(trained(way, **settings), inits=2) for way in (True, False))

    def followed(start: Any) -> list[Any]:
        records, after = start.with_frame(2).tangent_orbit(6)
        return [start.advance(6).states, records.log_stretches, after.states]

    first, known = followed(compiled), followed(plain)
    for one, other in zip(first, known, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)  # six tame steps from rounding
    seen: list[list[Any]] = []
    threads = [threading.Thread(target=lambda: seen.append(followed(compiled))) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(seen) == 3
    for again in seen:
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
    kinds = {kind[0] for kind in compiled.map._codes._kinds}  # type: ignore[attr-defined]
    assert kinds == {"step", "both"}
    found = nnflow.run("series", compiled, observe=("l2",), steps=6)
    assert found.attrs["compiled"] == f"inductor {torch.__version__}"
    assert '"compile": true' in found.attrs["structure"]
    assert "compiled" not in nnflow.run("series", plain, observe=("l2",), steps=6).attrs


@compiling
@pytest.mark.slow
def test_dropout_is_drawn_as_without() -> None:
    drops = {"noise": 5, "eta": 0.1}
    one, other = (
        nnflow.Ensemble.grid(trained(way, nn.Dropout(0.5), **drops)).advance(5).states for way in (True, False)
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


SCRIPT = """
import hashlib, torch, nnflow
loss = lambda w: (w.cos() * torch.arange(1.0, 4.0, dtype=w.dtype)).sum() + torch.logsumexp(torch.outer(w, w), 1).sum()
start = nnflow.Ensemble.grid(nnflow.gradient_map(loss, dim=3, compile=True, eta=0.1), inits=40)
print(hashlib.sha256(start.advance(20).states.tobytes()).hexdigest())
"""


@compiling
@pytest.mark.slow
def test_processes_have_the_same_bits(tmp_path: Path) -> None:
    """Two at once with an empty cache, then one with what they left, and any number of threads."""

    def started(threads: int) -> subprocess.Popen[str]:
        folders = {"NNFLOW_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
        surroundings = {**os.environ, **folders, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen([sys.executable, "-c", SCRIPT], env=surroundings, stdout=subprocess.PIPE, text=True)

    cold = [started(1), started(2)]
    marks = [each.communicate(timeout=600)[0] for each in cold]
    marks.append(started(1).communicate(timeout=600)[0])
    assert len(set(marks)) == 1
    assert len(marks[0].strip()) == len(hashlib.sha256().hexdigest())
    assert list((tmp_path / "cache").glob("inductor-*"))
    assert not list(tmp_path.glob("torchinductor*"))


@pytest.mark.usefixtures("with_compiler")
def test_a_rehearsal_and_observables_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes for one member alone took as long as the run; and where members go one after the other in a process of a
    pool, what observed them left the thread without its compiled steps."""
    made: list[Any] = []

    def counting(graph: Any, flat: Any) -> Any:
        made.append(tuple(flat[-1].shape))
        return graph.forward

    monkeypatch.setattr(inductor, "_by_inductor", counting)
    monkeypatch.setattr("nnflow.workers.parent_process", object)
    nnflow.run("sharpness", nnflow.Ensemble.grid(trained(True), inits=6), k=1, steps=2, every=1)
    assert {shape[0] for shape in made} == {6}
    monkeypatch.setattr("nnflow.tensor.members.ROOM", 2**14)  # for one member
    start = nnflow.Ensemble.grid(trained(True), inits=3)
    calls: list[Any] = []
    call = inductor.Compiled.call
    monkeypatch.setattr(inductor.Compiled, "call", lambda self, *given: calls.append(given[0]) or call(self, *given))
    start.orbit(40, observe="loss")
    after = len(calls)
    start.orbit(1, observe="loss")
    assert len(calls) > after
