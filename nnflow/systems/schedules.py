"""Learning-rate schedules: a function of the step index t by which eta is multiplied; any function of t is one.

A schedule is structure: it is fixed when the map is made, and eta stays the parameter that is scanned. Compiled maps
compile it with numba, so it may use `math` and constants. With a schedule the map depends on t, and exponents are means
over the steps that were taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """1 for all t."""

    def constant(t: int) -> float:
        return 1.0

    return constant


def step(every: int, factor: float = 0.1) -> Schedule:
    """`factor` to the power t // every. Raises ValueError for every < 1."""
    _at_least_one(every=every)

    def step(t: int) -> float:
        return float(factor ** (t // every))

    return step


def cosine(steps: int, least: float = 0.0) -> Schedule:
    """From 1 down to `least` along half a cosine in `steps` steps, and `least` from then on.

    (I. Loshchilov, F. Hutter, ICLR 2017, arXiv:1608.03983.) Raises ValueError for steps < 1.
    """
    _at_least_one(steps=steps)

    def cosine(t: int) -> float:
        return least + (1.0 - least) * 0.5 * (1.0 + math.cos(math.pi * min(t, steps) / steps))

    return cosine


def cyclic(up: int, down: int | None = None, least: float = 0.1) -> Schedule:
    """A triangle between `least` and 1: up in `up` steps, down in `down` (default: as many), again and again.

    (L. N. Smith, WACV 2017, arXiv:1506.01186.) Raises ValueError for up or down < 1.
    """
    fall = up if down is None else down
    _at_least_one(up=up, down=fall)

    def cyclic(t: int) -> float:
        place = t % (up + fall)
        height = place / up if place <= up else (up + fall - place) / fall
        return least + (1.0 - least) * height

    return cyclic


def warm_up(steps: int, least: float = 0.0) -> Schedule:
    """A straight line from `least` at t = 0 to 1 at t = steps, and 1 from then on. Raises ValueError for steps < 1."""
    _at_least_one(steps=steps)

    def warm_up(t: int) -> float:
        return least + (1.0 - least) * min(t, steps) / steps

    return warm_up


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} = {count}: give 1 or more steps")
