"""Learning-rate schedules: a function of the step index t by which eta is multiplied; any function of t is one.

A schedule is structure: it is fixed when the map is made, and eta stays the parameter that is scanned. It is asked in
Python for each t, also by compiled maps, which get its values as an array. With a schedule the map depends on t, and
exponents are means over the steps that were taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

from nnflow.frozen import frozen
from nnflow.names import Refusal
from nnflow.typing import Array

Schedule = Callable[[int], float]
TRIED = (0, 1, 2, 7, 1000)  # the t at which a schedule is tried


def taken(schedule: Schedule | None) -> Schedule | None:
    """A schedule as it is now.

    Args:
        schedule: A function of t alone: it must give one finite number, the same in any order of t.

    Returns:
        A copy that nobody changes, or None for None.

    Raises:
        Refusal: for what is no function of t alone.
    """
    if schedule is None:
        return None
    if not callable(schedule):
        raise Refusal(
            f"schedule = {name_of(schedule)}: give a function of t that multiplies eta; of a torch scheduler write its "
            "values into a table, and give lambda t: table[min(t, len(table) - 1)]"
        )
    there = [_value(schedule, t) for t in TRIED]
    back = [_value(schedule, t) for t in reversed(TRIED)][::-1]
    for t, first, again in zip(TRIED, there, back, strict=True):
        if not math.isfinite(first) or first != again:
            raise Refusal(
                f"schedule = {name_of(schedule)}: gives {first}, {again} at t = {t}: give a function of t alone"
            )
    return frozen(schedule) if isinstance(schedule, FunctionType) else deepcopy(schedule)


def factors(schedule: Schedule, t: int, steps: int) -> Array:
    """Its values for so many steps from t on. Raises Refusal where it fails."""
    return np.array([_value(schedule, s) for s in range(t, t + steps)])


def _value(schedule: Schedule, t: int) -> float:
    try:
        return float(schedule(t))
    except Exception as error:
        raise Refusal(f"schedule = {name_of(schedule)}: fails at t = {t}: {type(error).__name__}: {error}") from error


def compiled(schedule: Schedule) -> Any:
    """A schedule as numba compiles it. Raises Refusal for what it cannot compile, or compiles to other numbers."""
    if not isinstance(schedule, FunctionType):
        raise Refusal(f"schedule = {name_of(schedule)}: only a plain function can be compiled")
    made: Any = njit(schedule)
    try:
        same = all(math.isclose(made(t), schedule(t), rel_tol=1e-12, abs_tol=1e-300) for t in TRIED)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise Refusal(f"schedule = {name_of(schedule)}: numba cannot compile it: {reason}") from error
    if not same:
        raise Refusal(f"schedule = {name_of(schedule)}: compiled, it gives other numbers")
    return made


def name_of(schedule: Any) -> str:
    """The name of a schedule: of its function, or of the class of a callable object."""
    if isinstance(schedule, partial):
        return name_of(schedule.func)
    return str(getattr(schedule, "__name__", type(schedule).__name__))


def constant() -> Schedule:
    """1 for all t."""

    def constant(t: int) -> float:
        return 1.0

    return constant


def step(every: int, factor: float = 0.1) -> Schedule:
    """The factor to the power t // every.

    Args:
        every: Steps between two changes.
        factor: Of each change.

    Returns:
        The function of t.

    Raises:
        Refusal: (a ValueError) for every < 1.
    """
    _at_least_one(every=every)

    def step(t: int) -> float:
        return float(factor ** (t // every))

    return step


def cosine(steps: int, least: float = 0.0) -> Schedule:
    """From 1 down to `least` along half a cosine in `steps` steps, and `least` from then on.

    Args:
        steps: How long it falls.
        least: Where it ends.

    Returns:
        The function of t, least + (1 − least)(1 + cos(π min(t, steps)/steps))/2.

    Raises:
        Refusal: (a ValueError) for steps < 1.

    Source:
        I. Loshchilov, F. Hutter, ICLR 2017, arXiv:1608.03983.
    """
    _at_least_one(steps=steps)

    def cosine(t: int) -> float:
        return least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * min(t, steps) / steps))

    return cosine


def cyclic(up: int, down: int | None = None, least: float = 0.1) -> Schedule:
    """A triangle between `least` and 1, again and again.

    Args:
        up: Steps of the way up.
        down: Steps of the way down (default: as many).
        least: Where it starts.

    Returns:
        The function of t.

    Raises:
        Refusal: (a ValueError) for up or down < 1.

    Source:
        L. N. Smith, WACV 2017, arXiv:1506.01186.
    """
    fall = up if down is None else down
    _at_least_one(up=up, down=fall)

    def cyclic(t: int) -> float:
        place = t % (up + fall)
        height = place / up if place <= up else (up + fall - place) / fall
        return least + (1.0 - least) * height

    return cyclic


def warm_up(steps: int, least: float = 0.0) -> Schedule:
    """A straight line from `least` at t = 0 to 1 at t = steps, and 1 from then on.

    Args:
        steps: How long it rises.
        least: Where it starts.

    Returns:
        The function of t.

    Raises:
        Refusal: (a ValueError) for steps < 1.
    """
    _at_least_one(steps=steps)

    def warm_up(t: int) -> float:
        return least + (1.0 - least) * min(t, steps) / steps

    return warm_up


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise Refusal(f"{name} = {count}: give 1 or more steps")
