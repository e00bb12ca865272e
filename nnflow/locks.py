"""Locks of a process: free again in a process that is forked, where whoever held them is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

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
        with self._lock:
            yield


def _renew_all() -> None:
    for lock in list(_all):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
