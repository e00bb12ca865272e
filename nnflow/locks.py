"""Locks of a process: free again in a process that is forked, where whoever held them is not.

Whoever holds one shares no work out to other threads, which might wait for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

from nnflow.workers import among

_all: WeakSet[Lock] = WeakSet()


class Lock:
    """A lock which the thread that holds it can take again: `with lock(): …`."""

    def __init__(self) -> None:
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Be free, whoever holds it."""
        self._lock = threading.RLock()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold it, once no other thread does."""
        with self._lock, among(others=True):
            yield


def _renew_all() -> None:
    for lock in list(_all):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


one_at_a_time = Lock()
"""For what a process has one of: what is looked at when a map is first used, machine code that is built; of torch,
random numbers, choices of kernels, levels of forward mode. One lock for all of them, for each may be asked for within
another, in any order: so no two threads wait for each other's."""
