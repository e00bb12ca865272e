"""Whether work fits into memory and time, found out before it starts: who fills the memory is killed by the system."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from nnflow.names import Refusal
from nnflow.workers import cores

GROUP = Path("/sys/fs/cgroup")  # of a container, which sees the whole machine's memory otherwise
COPIES = 3
FASTEST = 0.5e-9  # seconds: no map takes less for a step of a member on one core (the logistic map: 2 ns)
MONTH = 30 * 86400.0  # seconds: what takes longer at the fastest is a slip of the pen
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def available() -> int:
    """Bytes that may be taken at present."""
    from psutil import virtual_memory  # for large work alone

    free = int(virtual_memory().available)  # type: ignore[no-untyped-call]
    with suppress(OSError, ValueError, KeyError):  # no such group, or "max"
        limit = int((GROUP / "memory.max").read_text())
        taken = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        free = min(free, limit - int(taken["anon"]))  # what files are cached in is given back
    return free


def room(what: str, *shape: int) -> None:
    """Refuse an array of so many 8-byte numbers if memory cannot hold it and two like it, which work on it will need.

    Args:
        what: What it is, for the message.
        *shape: Of the array.

    Raises:
        Refusal: with what is asked for.
    """
    size = COPIES * 8 * math.prod(shape)
    if size > 2**20 and size > (free := available()):
        numbers = " x ".join(map(str, shape))
        taken = f"{numbers} numbers and work on them take {_bytes(size)}"
        raise Refusal(f"{what}: {taken}, but {_bytes(free)} of memory are free: ask for less")


def refuse_endless(member_steps: float) -> None:
    """Refuse work that no clock could finish: more than a month if each step of a member took the least it can.

    Args:
        member_steps: Steps × members.

    Raises:
        Refusal: with the time.
    """
    seconds = member_steps * FASTEST / cores()
    if not seconds <= MONTH:
        raise Refusal(
            f"{member_steps:.3g} steps of members (members × steps, with the transient) would take "
            f"{seconds / 86400:.3g} days or more: give fewer steps or members"
        )


def _bytes(size: int) -> str:
    power = min(len(UNITS) - 1, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.3g} {UNITS[power]}"
