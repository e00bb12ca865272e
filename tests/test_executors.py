"""Whatever runs the chunks: forked processes after torch has used threads, pools that are closed or lose a worker.

What could go wrong in this way, and is tried: processes that fork after torch's threads (the child waits for threads it
does not have), by fork and by spawn, torch maps and compiled ones; an executor that is none; one that was shut down; a
pool whose worker is killed in the work, or before it; a dask client that was closed; sys.exit() in a worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import started

import nnflow
from nnflow.workers import Workers

FORKED = """
from concurrent.futures import ProcessPoolExecutor
import numpy as np, torch, nnflow
torch.set_num_threads(2)
big = torch.rand(600, 600, dtype=torch.float64)
(big @ big).exp().sum()
torch.rand(1_000_000).exp().sum()  # by two threads: a child that is forked now has none of them
inputs, targets = torch.rand(2000, 30, dtype=torch.float64), torch.randint(0, 3, (2000,))
module = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
map = nnflow.training_map(module, torch.nn.CrossEntropyLoss(), inputs, targets, backend="tensor")
for m in (map, nnflow.maps["henon"]()):
    ensemble = nnflow.Ensemble.grid(m, inits=2)
    with ProcessPoolExecutor(2) as pool:
        found = nnflow.run("lyapunov_spectrum", ensemble, k=1, steps=4, transient=1, chunk=1, executor=pool)
    here = nnflow.run("lyapunov_spectrum", ensemble, k=1, steps=4, transient=1, chunk=1)
    np.testing.assert_allclose(found.exponent, here.exponent, rtol=1e-9)
print("alive", flush=True)
"""


@pytest.mark.slow
def test_processes_forked_after_torchs_threads_do_not_hang(tmp_path: Path) -> None:
    with started("-c", FORKED, folder=tmp_path) as process:
        process.lives()
        assert process.ends()[:2] == (0, "")


@dataclass(frozen=True)
class Dies(nnflow.Analysis):
    """Ends the process it is in."""

    number: int = signal.SIGKILL

    def __call__(self, ensemble: Any) -> Any:
        os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class Exits(nnflow.Analysis):
    """Ends Python."""

    def __call__(self, ensemble: Any) -> Any:
        raise SystemExit(0)


@pytest.fixture
def pair() -> nnflow.Ensemble:
    return nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2)


def spawned() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def test_a_worker_that_is_killed_is_told_and_so_is_the_pool_that_is_left(pair: nnflow.Ensemble) -> None:
    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(BrokenExecutor, match="ProcessPoolExecutor lost a chunk of members .* killed"):
            nnflow.run(Dies(), pair, executor=pool, chunk=1)
        with pytest.raises(nnflow.Refusal, match="takes no work .* give one that is open"):
            nnflow.run("series", pair, executor=pool)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_that_was_shut_down_is_refused(kind: Any, pair: nnflow.Ensemble) -> None:
    pool = kind(1)
    pool.shutdown()
    with pytest.raises(nnflow.Refusal, match="takes no work .* after shutdown"):
        nnflow.run("series", pair, executor=pool)


@pytest.mark.parametrize("executor", [2, "processes", ProcessPoolExecutor, map, multiprocessing])
def test_what_is_no_executor_is_refused(executor: Any, pair: nnflow.Ensemble) -> None:
    with pytest.raises(nnflow.Refusal, match=r"executor = .* give a concurrent\.futures\.Executor"):
        nnflow.run("series", pair, executor=executor)


@pytest.mark.parametrize("pool", [None, ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_analysis_that_ends_python_ends_itself_only(pool: Any, pair: nnflow.Ensemble) -> None:
    executor = pool and pool(1)
    with pytest.raises(nnflow.PluginError, match=r"SystemExit\(0\)"):
        nnflow.run(Exits(), pair, executor=executor)
    if pool:
        executor.shutdown()


def test_a_dask_client_that_was_closed_is_refused(pair: nnflow.Ensemble) -> None:
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        client = Client(cluster)
        executor = client.get_executor()
        expected = nnflow.run("series", pair, steps=3)
        assert nnflow.run("series", pair, steps=3, executor=executor).equals(expected)
        client.close()
        with pytest.raises(nnflow.Refusal, match="takes no work"):
            nnflow.run("series", pair, steps=3, executor=executor)


def test_threads_are_joined_after_a_run_and_an_error_leaves_the_next_run_alone(pair: nnflow.Ensemble) -> None:
    import threading

    before = threading.active_count()
    with pytest.raises(nnflow.PluginError):
        nnflow.run(Exits(), pair)
    assert np.isfinite(nnflow.run("series", pair, steps=3).value.values).all()
    assert threading.active_count() <= before + 1  # tqdm's monitor


def test_tasks_are_cancelled_while_threads_take_them() -> None:
    for _ in range(200):
        workers = Workers(2)
        futures = [workers.submit(int) for _ in range(6)]
        workers.shutdown(cancel_futures=True)
        assert all(future.done() for future in futures)
