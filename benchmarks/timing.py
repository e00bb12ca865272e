"""What several benchmarks do: time a call, and share an ensemble out to threads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nnflow import Ensemble


def timed(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_threads(ensemble: Ensemble, pool: ThreadPoolExecutor, verb: Callable[[Ensemble], Any]) -> list[Any]:
    """A verb on an even share of the members in every thread."""
    return list(pool.map(lambda part: verb(part[1]), ensemble.split(-(-len(ensemble) // (os.cpu_count() or 1)))))
