"""Linear algebra without threads of its own.

How many threads a BLAS uses changes the last bits of an eigenvector, and threads within our threads get in each other's
way. The setting is one for the whole process: it is put back when the last of those who asked for it is done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController

from nnflow.locks import Lock

_limits = ExitStack()
_users = 0
_lock = Lock()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """While it lasts, linear algebra runs in the thread that calls it, in all threads of this process."""
    global _users
    with _lock():
        _users += 1
        _limits.enter_context(_libraries(len(sys.modules)).limit(limits=1, user_api="blas"))
    try:
        yield
    finally:
        with _lock():
            _users -= 1
            if not _users:
                _limits.close()


@lru_cache(maxsize=1)
def _libraries(modules: int) -> Any:
    """The libraries with threads of their own, looked for again (a millisecond) once there are other `modules`."""
    return ThreadpoolController()  # type: ignore[no-untyped-call]
