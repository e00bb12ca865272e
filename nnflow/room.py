"""Whether an array fits into memory, found out before it is made: the system gives it, and kills who fills it."""

from __future__ import annotations

import math
from pathlib import Path

import psutil

from nnflow.names import Refusal

LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container, which sees the whole machine's memory otherwise
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def available() -> int:
    """Bytes that may be taken at present."""
    free = int(psutil.virtual_memory().available)
    limit = LIMIT.read_text().strip() if LIMIT.exists() else "max"
    return min(free, int(limit)) if limit.isdigit() else free


def room(what: str, *shape: int) -> None:
    """Refuse an array of so many 8-byte numbers if memory cannot hold it. Raises Refusal with what is asked for."""
    size = 8 * math.prod(shape)
    if size > 2**20 and size > (free := available()):
        entries = " x ".join(map(str, shape))
        raise Refusal(
            f"{what}: {entries} numbers take {_bytes(size)}, and {_bytes(free)} of memory are free: ask for less"
        )


def _bytes(size: int) -> str:
    power = min(len(UNITS) - 1, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.3g} {UNITS[power]}"
