"""Maps in several threads, and in a process that is forked beside them: the same numbers, and nobody waits for ever.

What could go wrong in this way, and is tried: two locks that two threads take in another order; random numbers of
torch, one state for the whole process, drawn by two threads at a time; a lock that was held when a process was forked.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.locks import Lock, one_at_a_time
from nnflow.tensor.modes import forward_mode, seeded
from nnflow.workers import on_all_cores

PATIENCE = 60.0  # seconds
X = np.random.default_rng(0).normal(size=(20, 2))
LABELS = (X[:, 0] > 0).astype(int)


def module(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), *layers, nn.Linear(8, 2))


def trained(module: nn.Module, **settings: Any) -> Any:
    return nnflow.training_map(module, cross_entropy, X, LABELS, backend="tensor", **settings)


def together(*calls: Callable[[], object]) -> None:
    """Call each in a thread of its own, again and again; fails if one does not end."""
    failed: list[BaseException] = []

    def often(call: Callable[[], object]) -> None:
        try:
            for _ in range(3):
                call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=often, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "two threads wait for each other"
    if failed:
        raise failed[0]


def test_maps_with_noise_and_without_do_not_wait_for_each_other() -> None:
    def run(module: nn.Module, **settings: Any) -> None:
        map = trained(module, **settings)
        nnflow.run("lyapunov_spectrum", map, k=1, steps=20, transient=0, progress=False)

    drops, plain = module(nn.Dropout(0.2)), module()
    together(lambda: run(drops, noise=3), lambda: run(plain))


def test_two_locks_are_not_taken_in_another_order() -> None:
    """One thread draws by an init that advances another map; the other looks at a tangent for the first time."""
    inner = nnflow.TensorMap(lambda x, p, t: 0.5 * torch.sin(x), dim=42)
    begun, within = threading.Event(), threading.Event()

    def warmed(seed: int) -> Any:
        if begun.is_set():
            within.set()
            other.join(0.5)  # it waits for what this thread holds, or goes on
        fresh = nnflow.TensorMap(lambda x, p, t: 0.5 * torch.sin(x), dim=42)
        start = nnflow.Ensemble.grid(fresh, states=np.full((1, 42), 0.1 + seed % 7))
        return start.with_frame(1).tangent_orbit(1)[1].states[0]

    def look() -> None:
        within.wait(PATIENCE)
        nnflow.Ensemble.grid(inner, states=np.full((1, 42), 0.1)).with_frame(1).tangent_orbit(1)

    map = trained(module(), init=warmed)
    begun.set()
    other = threading.Thread(target=look, daemon=True)
    drawing = threading.Thread(target=lambda: map.initial_states(2, 0), daemon=True)
    for thread in (other, drawing):
        thread.start()
    for thread in (other, drawing):
        thread.join(PATIENCE)
    assert not (other.is_alive())
    assert not (drawing.is_alive())


def test_who_holds_a_lock_shares_nothing_out() -> None:
    """Those who work for it might wait for it, for random numbers say."""
    with one_at_a_time():
        assert on_all_cores(lambda task: threading.get_ident(), range(4)) == [threading.get_ident()] * 4


def draws() -> dict[str, Callable[[], object]]:
    """What draws by torch, or sees whether somebody does."""
    plain, own, data = (
        trained(module()),
        module(),
        torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(LABELS)),
    )
    return {
        "initial states": lambda: plain.initial_states(3, 0),
        "by init": lambda: trained(own, init=lambda seed: torch.rand(42)),
        "a map": lambda: trained(own),
        "a dataset": lambda: nnflow.training_map(own, cross_entropy, data, backend="tensor"),
    }


@pytest.mark.parametrize("name", ["initial states", "by init", "a map", "a dataset"])
def test_nobody_draws_while_another_thread_does(name: str) -> None:
    call, begun, ended = draws()[name], threading.Event(), threading.Event()

    def drawing() -> None:
        begun.set()
        call()
        ended.set()

    with seeded(1, 0, torch.device("cpu")):
        alone = torch.rand(4)
    with seeded(1, 0, torch.device("cpu")):
        other = threading.Thread(target=drawing, daemon=True)
        other.start()
        begun.wait(PATIENCE)
        assert not ended.wait(0.5)
        assert torch.equal(torch.rand(4), alone)
    assert ended.wait(PATIENCE)


def held(lock: Callable[[], AbstractContextManager[None]], done: threading.Event) -> threading.Thread:
    """A thread that is within a lock."""
    begun = threading.Event()

    def hold() -> None:
        with lock():
            begun.set()
            done.wait(2 * PATIENCE)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    begun.wait(PATIENCE)
    return thread


def exponents() -> None:
    map = nnflow.TensorMap(lambda x, p, t: p.a * torch.sin(x), dim=1, parameters={"a": 1.5})
    nnflow.Ensemble.grid(map, a=[1.0, 1.5]).with_frame(1).tangent_orbit(3)


def loop() -> None:
    nnflow.Ensemble.grid(nnflow.maps["logistic"]()).advance(3)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
@pytest.mark.parametrize(
    ("lock", "call"),
    [(forward_mode, exponents), (one_at_a_time, exponents), (one_at_a_time, loop)],
    ids=["forward mode", "random numbers", "machine code"],
)
def test_a_fork_does_not_wait_for_a_thread_that_it_does_not_have(lock: Any, call: Callable[[], None]) -> None:
    done = threading.Event()
    thread = held(lock, done)
    child = multiprocessing.get_context("fork").Process(target=call)
    child.start()
    child.join(PATIENCE)
    stuck = child.is_alive()
    child.kill()
    done.set()
    thread.join(PATIENCE)
    assert not stuck
    assert child.exitcode == 0


def test_who_forks_within_a_lock_leaves_it() -> None:
    lock = Lock()
    with lock():
        lock.renew()  # as in a child
        with lock():
            pass
