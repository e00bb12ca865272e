"""Time in blocks: how many steps one call of a verb takes, and who hears of them: for progress bars and Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

CALL = 0.15  # seconds that one call of a verb is meant to take

_listener: ContextVar[Callable[[int], None] | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Callable[[int], None] | None) -> Iterator[None]:
    """In this thread and inside: who is told of the work that is done, in steps of members; it may raise, to end it."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tick(steps: int = 0) -> None:
    """Tell who listens of so many steps of members; 0 lets Ctrl-C through in work that takes no steps."""
    if (listener := _listener.get()) is not None:
        listener(steps)


def blocks(
    paces: dict[Hashable, float], verb: Hashable, members: int, every: int, count: int, most: int | None = None
) -> Iterator[int]:
    """Cut `count` times `every` steps of a verb into calls of a fraction of a second.

    Args:
        paces: Of each verb how many steps of members a second were seen last (`Map.paces`).
        verb: The verb, and what else decides how long a step takes.
        members: How many.
        every: Steps of a record.
        count: How many records.
        most: At most so many in a call.

    Yields:
        Steps, multiples of `every`, that add up.
    """
    left = count
    while left > 0:
        began = time.perf_counter()
        pace = CALL * paces.get(verb, 0.0) / (max(1, members) * every)
        size = min(left, most or left, max(1, int(pace)))
        yield size * every
        left -= size
        paces[verb] = members * size * every / max(time.perf_counter() - began, 1e-6)
