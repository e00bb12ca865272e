"""Which rules run straight through, so that nobody has to look at where their members go."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import nnflow
from nnflow.straight import lasting, straight

LAST = 1
TABLE = np.arange(4.0)
floats = st.floats(allow_nan=True, allow_infinity=True)


def branches(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0] if x[0] > 0.5 and t % 2 == 0 else -p[0]
    if out[0] < 0:
        out[0] += math.sin(x[LAST]) + np.exp(min(abs(x[0]), TABLE[2]))
    out[LAST] = float(t)


@njit
def compiled(x: Any) -> Any:
    return np.sqrt(abs(x))


def calls(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = compiled(x[0])


def hands_arrays_on(x: Any, p: Any, t: int, out: Any) -> None:
    branches(x, p, t, out)  # whose indices were written for arrays that nobody knows


@pytest.mark.parametrize("rule", [branches, calls, compiled, math.cos, np.tanh, abs])
def test_straight(rule: Callable[..., Any]) -> None:
    assert straight(rule)


def goes_round(x: Any, p: Any, t: int, out: Any) -> None:
    for i in range(2):
        out[i] = x[i]


def may_never_end(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    while out[0] > p[0]:
        out[0] -= p[0]


def looks_up(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = TABLE[int(x[0])]


def writes_anywhere(x: Any, p: Any, t: int, out: Any) -> None:
    out[int(x[0])] = 1.0


def refuses(x: Any, p: Any, t: int, out: Any) -> None:
    if x[0] > 1.0:
        raise ValueError
    out[0] = x[0]


def calls_another(x: Any, p: Any, t: int, out: Any) -> None:
    looks_up(x, p, t, out)


@njit(fastmath=True)
def fast(x: Any) -> Any:
    return x * x + 1.0


def calls_fast(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = fast(x[0])


def no_numba(x: Any, p: Any, t: int, out: Any) -> None:
    with open("/dev/null"):
        out[0] = x[0]


@pytest.mark.parametrize(
    "rule",
    [
        goes_round,
        may_never_end,
        looks_up,
        writes_anywhere,
        refuses,
        hands_arrays_on,
        calls_another,
        calls_fast,
        no_numba,
        print,
        int,
    ],
)
def test_not_straight(rule: Callable[..., Any]) -> None:
    assert not straight(rule)


def test_the_classic_maps_are_and_training_is_not() -> None:
    rules = {name: nnflow.maps[name]().functions.rule for name in ("logistic", "henon", "ikeda", "tent", "iris")}
    assert {name: straight(rule) for name, rule in rules.items()} == {name: name != "iris" for name in rules}


def by_name(state: Any, numbers: Any, clock: int, after: Any) -> None:
    first, second = state[0], state[1]
    target = after
    target[-1] = -first * numbers[0] + clock
    after[0] = 1.0 - second
    after[0] += target[1] * 2.0


@pytest.mark.parametrize("rule", [by_name, njit(by_name), nnflow.maps["henon"]().functions.rule])
def test_what_is_not_finite_lasts(rule: Callable[..., Any]) -> None:
    assert lasting(rule, 2)


def divides(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 1.0 / x[0] + x[1]
    out[1] = x[1] * 0.5


def forgets(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = p[0] * x[1]
    out[1] = 0.5


def writes_over(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0] + x[1]
    out[1] = x[1]
    out[0] = x[1]


def chooses(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0] if x[0] < 1.0 else 1.0
    out[1] = x[1]


def compares(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = p[0] * (x[0] < 1.0)
    out[1] = x[1]


def hands_on(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    out[1] = x[1]
    divides(x, p, t, out)


def writes_elsewhere(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    out[1] = x[1]
    x[0] = 0.0


def in_place(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    out[1] = x[1]
    out **= -1.0


def in_place_by_another_name(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    out[1] = x[1]
    turned = out.T
    turned /= x


HEALING = [divides, forgets, writes_over, chooses, compares, hands_on, writes_elsewhere, in_place]


@pytest.mark.parametrize("rule", [*HEALING, in_place_by_another_name])
def test_what_may_heal(rule: Callable[..., Any]) -> None:
    assert straight(rule) == (rule is not hands_on)  # which hands its arrays on
    assert not lasting(rule, 2)


@given(x=floats, y=floats, a=floats)
def test_the_promise_holds(x: float, y: float, a: float) -> None:
    """Of any numbers at all."""
    after = np.empty(2)
    with np.errstate(all="ignore"):
        by_name(np.array([x, y]), np.array([a]), 1, after)
    assert np.isfinite([x, y]).all() or not np.isfinite(after).all()
