"""Threads of the linear algebra change no bit, and are put back as they were.

What else could go wrong: two runs at once, the first of which puts the threads back while the second still computes; a
run that ends in an error; a library loaded only while a run lasts; another process, forked while the lock is held.
"""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import nnflow
from nnflow import blas

IRIS = nnflow.Ensemble.grid(nnflow.maps["iris"](), inits=2, seed=4, eta=[0.5, 5.0])
SETTINGS = {"steps": 10, "transient": 3}


def threads() -> list[int]:
    """The numbers of threads of all libraries for linear algebra in this process."""
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_how_many_there_are_changes_no_bit() -> None:
    found = []
    for count in (1, 2):
        with threadpool_limits(count, user_api="blas"):
            found.append(nnflow.run("clipped_lyapunov", IRIS, chunk=len(IRIS), **SETTINGS))
    for variable in found[0].variables:
        np.testing.assert_array_equal(found[1][variable], found[0][variable], str(variable))


def test_nor_does_another_process() -> None:
    here = nnflow.run("clipped_lyapunov", IRIS, **SETTINGS)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        there = nnflow.run("clipped_lyapunov", IRIS, executor=pool, chunk=len(IRIS), **SETTINGS)
    np.testing.assert_array_equal(there["exponent"], here["exponent"])


def test_one_while_anybody_asks_and_then_as_before() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        first, second = blas.one_blas_thread(), blas.one_blas_thread()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(threads()) == {1}
        second.__exit__(None, None, None)
        assert threads() == before


def test_as_before_after_an_error() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        with pytest.raises(ZeroDivisionError), blas.one_blas_thread():
            1 / 0  # noqa: B018
        assert threads() == before


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_fork_while_another_thread_holds_the_lock_does_not_wait_for_it() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with blas._lock():
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    child = multiprocessing.get_context("fork").Process(target=_enter)
    child.start()
    child.join(60)
    done.set()
    holder.join()
    assert child.exitcode == 0


def _enter() -> None:
    with blas.one_blas_thread():
        assert set(threads()) == {1}
