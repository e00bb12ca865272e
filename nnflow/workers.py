"""Threads that nobody has to wait for: neither `run` after Ctrl-C, nor the interpreter at its end.

A thread deep in a kernel cannot be stopped. `ThreadPoolExecutor` joins its threads when the interpreter ends, however
long they take; these are daemons, and whoever has been interrupted goes on without them.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing import parent_process
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")
_here = threading.local()


class Workers(Executor):
    """An executor of daemon threads.

    Args:
        count: How many.

    Raises:
        OSError: if the system starts no more threads.
    """

    def __init__(self, count: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._ended = False
        self._threads = [threading.Thread(target=_work, args=(self._tasks,), daemon=True) for _ in range(count)]
        try:
            for thread in self._threads:
                thread.start()
        except RuntimeError as error:
            self.shutdown(wait=False)
            raise OSError(errno.EAGAIN, f"{error}: too little memory, or too many threads") from error

    def submit(self, function: Callable[..., T], /, *arguments: Any, **keywords: Any) -> Future[T]:
        """The future of a call. Raises RuntimeError after `shutdown`."""
        if self._ended:
            raise RuntimeError("cannot submit after shutdown")
        future: Future[T] = Future()
        self._tasks.put((future, partial(function, *arguments, **keywords)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let each thread end after what has been submitted, or with `cancel_futures` has begun, and wait for that."""
        self._ended = True
        with suppress(Empty):
            while cancel_futures:
                if (task := self._tasks.get_nowait()) is not None:
                    task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads if wait else ():
            thread.join()


def _work(tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    while (task := tasks.get()) is not None:
        future, call = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        del task, future, call  # a result is not kept while the thread waits for the next task


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def among(others: bool) -> Iterator[None]:
    """While it lasts, this thread shares nothing out, if others work beside it on the same."""
    before, _here.among = getattr(_here, "among", False), others
    try:
        yield
    finally:
        _here.among = before


def on_all_cores(function: Callable[[S], T], tasks: Sequence[S]) -> list[T]:
    """What a function gives for each task, on all cores; where other threads or processes of a pool have them, not."""
    if len(tasks) == 1 or parent_process() is not None or getattr(_here, "among", False):
        return list(map(function, tasks))

    def beside(task: S) -> T:
        with among(others=True):
            return function(task)

    return [future.result() for future in [_crew().submit(beside, task) for task in tasks]]


def shares(members: int, least: int = 1) -> list[slice]:
    """Members in about as many equal shares as there are cores, of a multiple of `least`."""
    size = max(1, -(-members // (cores() * least))) * least
    return [slice(first, first + size) for first in range(0, members, size)]


@cache
def _crew() -> Workers:
    return Workers(cores())


os.register_at_fork(after_in_child=_crew.cache_clear)  # its threads are not in the child
