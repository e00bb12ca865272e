"""Rules that read the step index: found out from their bytecode, where a toolkit would freeze it at 0."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import nnflow
from nnflow.straight import reads


def ramp(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0] + t


def first(a: float, b: float) -> float:
    return a


def product(a: float, b: float) -> float:
    return a * b


first_compiled, product_compiled = numba.njit(first), numba.njit(product)


def seldom(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    if x[0] > 1e9:
        s = t
        out[0] = product(s, 2.0)


def handed_on(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = first(x[0], t) + first_compiled(0.5, t)


def handed_on_and_read(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = product_compiled(x[0], t)


def by_name(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = product(x[0], b=t)


def again(a: float, t: int) -> float:
    return a if a > 1.0 else again(a + 1.0, t)


def recursive(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = again(x[0], t)


def in_a_closure(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = (lambda a: a * t)(x[0])


@pytest.mark.parametrize(
    ("rule", "looks"),
    [
        (ramp, True),
        (seldom, True),
        (handed_on, False),
        (handed_on_and_read, True),
        (by_name, True),
        (recursive, False),
        (in_a_closure, True),
        (len, True),  # nothing is known of it
    ],
)
def test_whether_a_rule_looks_at_the_time(rule: Any, looks: bool) -> None:
    assert reads(rule, 2) is looks


def test_a_rule_that_reads_the_time_is_not_frozen_at_its_beginning() -> None:
    """Also in this way: t in a branch seldom taken, in a helper, in a closure, by name; in the tangent alone."""
    map = nnflow.CompiledMap(ramp, dim=1)
    with pytest.raises(ValueError, match="clock=True"):
        nnflow.numba_mapping(map)
    mapping, _ = nnflow.numba_mapping(map, clock=True)
    u = np.array([0.0, 0.0])
    for _ in range(4):
        u = mapping(u, np.empty(0))
    assert u.tolist() == [0.0 + 1 + 2 + 3, 4.0]

    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = 0.5 * x[0]

    def tangent(x: Any, p: Any, t: int, v: Any, out: Any) -> None:
        out[0] = (0.5 + t) * v[0]

    with pytest.raises(ValueError, match="clock=True"):
        nnflow.numba_mapping(nnflow.CompiledMap(rule, tangent, dim=1))


def test_a_map_that_says_that_it_repeats_is_believed() -> None:
    """Training on all data at each step hands t on to what would choose a batch: its author knows that there is one."""
    assert nnflow.maps["iris"]().autonomous
    nnflow.numba_mapping(nnflow.maps["iris"]())
    nnflow.numba_mapping(nnflow.CompiledMap(ramp, dim=1, repeats=True))
    for name in ("henon", "logistic", "baker", "softmax", "double_well_descent"):
        nnflow.numba_mapping(nnflow.maps[name]())
