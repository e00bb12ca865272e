"""Maps on several cores: members side by side, compiled or in groups of tensors, and torch without threads of its own.

What could go wrong in this way, and is tried: torch's number of threads changes the last bits of a product, a QR or a
sum; groups side by side give other bits than one after the other; the number that the caller set is not put back; an
error in one of the groups is lost; a process of a pool starts threads of its own; a forked child waits for threads that
its parent had; what shares members out waits for threads that share them out themselves.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nnflow
import nnflow.compiled.map
import nnflow.tensor.members
from nnflow.workers import on_all_cores

MEMBERS, LEARNT = 12, 30  # steps until all is replayed


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of a few members each."""
    monkeypatch.setattr(nnflow.tensor.members, "ROOM", 2**18)


@cache
def scan() -> nnflow.Ensemble:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 51), nn.Tanh(), nn.Linear(51, 40), nn.Tanh(), nn.Linear(40, 3))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(6, 10)), rng.integers(0, 3, 6)
    map = nnflow.training_map(module, nn.CrossEntropyLoss(), *data, backend="tensor")
    return nnflow.Ensemble.grid(map, inits=MEMBERS, eta=[0.5])


def numbers(start: nnflow.Ensemble) -> list[np.ndarray]:
    records, after = start.orbit(LEARNT, observe=("loss", "l2", "gradient_norm"))
    stretches, end = after.with_frame(25).tangent_orbit(3)
    distances, _ = after.separation_orbit(after.perturbed(1e-3, 2), 3)
    return [records, after.states, stretches.log_stretches, end.frames, distances]


def test_the_number_of_torchs_threads_changes_nothing(threads: None) -> None:
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(numbers(scan()))
        assert torch.get_num_threads() == count
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_torchs_threads_are_the_maps_own(threads: None) -> None:
    module = nn.Sequential(nn.Linear(10, 51), nn.Tanh(), nn.Linear(51, 3))
    data = np.ones((6, 10)), np.zeros(6, dtype=int)
    map = nnflow.training_map(module, nn.CrossEntropyLoss(), *data, torch_threads=2)
    assert map.structure["torch_threads"] == 2
    seen = []
    watched = nnflow.TensorMap(lambda x, p, t: (seen.append(torch.get_num_threads()), x / 2)[1], dim=1, torch_threads=3)
    torch.set_num_threads(1)
    nnflow.Ensemble.grid(watched, states=[[1.0]]).advance(2)
    assert set(seen) == {3}
    with pytest.raises(nnflow.Refusal, match="torch_threads = 2: the compiled backend"):
        nnflow.training_map(module, nn.CrossEntropyLoss(), *data, backend="compiled", torch_threads=2)
    with pytest.raises(nnflow.Refusal, match="torch_threads = 0"):
        nnflow.training_map(module, nn.CrossEntropyLoss(), *data, torch_threads=0)


def test_groups_side_by_side_give_the_same_bits(small_room: None, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    def watched(function, tasks):  # type: ignore[no-untyped-def]
        counted.append(len(tasks))
        return on_all_cores(function, tasks)

    monkeypatch.setattr(nnflow.tensor.members, "on_all_cores", watched)
    beside = numbers(scan())
    assert min(counted) > 1
    monkeypatch.setattr(nnflow.tensor.members, "on_all_cores", lambda function, tasks: list(map(function, tasks)))
    for a, b in zip(beside, numbers(scan()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_error_in_a_group_comes_out() -> None:
    def call(i: int) -> int:
        return 6 // i

    assert on_all_cores(call, [1, 2, 3]) == [6, 3, 2]
    with pytest.raises(ZeroDivisionError):
        on_all_cores(call, [1, 0, 3])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pool forks no processes")
def test_a_forked_process_of_a_pool_ends(small_room: None) -> None:
    expected = scan().advance(LEARNT + 2).states
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        np.testing.assert_array_equal(pool.submit(_advanced).result(timeout=120), expected)


def _advanced() -> np.ndarray:
    torch.set_num_threads(1)  # torch's own do not survive a fork
    return scan().advance(LEARNT + 2).states


@pytest.mark.parametrize("cores", [2, 7])
@pytest.mark.parametrize("name", ["logistic", "henon", "iris"])
def test_compiled_members_side_by_side_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, name: str, cores: int
) -> None:
    map = nnflow.maps[name]()
    start = nnflow.Ensemble.grid(map, inits=100 if map.dim < 9 else 5)
    names = (map.coordinates[0], "loss") if "loss" in map.observables else map.coordinates

    def found() -> list[np.ndarray]:
        records, after = start.advance(3).orbit(8, 2, names)
        stretches, end = after.with_frame(2 if map.dim > 1 else 1).tangent_orbit(8, 4, keep=("frames", "factors"))
        distances, far = after.separation_orbit(after.perturbed(1e-3, 2), 8)
        kept = [stretches.log_stretches, stretches.frames, stretches.factors]
        return [records, after.states, after.escaped, *kept, end.frames, distances, far.neighbors]

    alone, counts = found(), []

    def counted(of: Any, rows: Any) -> Any:
        counts.append(len(rows))
        return on_all_cores(of, rows)

    monkeypatch.setattr("nnflow.workers.cores", lambda: cores)
    monkeypatch.setattr(nnflow.compiled.map, "on_all_cores", counted)
    for bound in ("WORTH", "WORTH_SMALL"):
        monkeypatch.setattr(nnflow.compiled.map, bound, 1)
    for a, b in zip(alone, found(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert min(counts) > 1


def test_a_run_of_chunks_has_the_bits_of_a_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("WORTH", "WORTH_SMALL"):
        monkeypatch.setattr(nnflow.compiled.map, bound, 1)
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=1, r=np.linspace(3.5, 4.0, 100))
    several = nnflow.run("lyapunov_spectrum", scan, steps=50, chunk=9)
    alone = nnflow.run("lyapunov_spectrum", scan, steps=50, chunk=100)
    np.testing.assert_array_equal(several["exponent"], alone["exponent"])
