"""A local variable that is not assigned on the way taken is NaN: the member escapes, where numba would go on from 0.

What else could go wrong: the variable is a whole number, and is used as an index; it belongs to a helper; it is
assigned in a loop that does not run, or before an earlier pass of it; a rule that always assigns is refused, or gets
other bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import nnflow

TABLE = np.array([0.1, 0.2, 0.3])


def late(x: Any, p: Any, t: int, out: Any) -> None:
    if x[0] < 0.7:
        factor = p[0]
    out[0] = factor * x[0] * (1.0 - x[0])


@numba.njit
def factor_of(x: float, r: float) -> float:
    if x < 0.7:
        factor = r
    return factor


def helped(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = factor_of(x[0], p[0]) * x[0] * (1.0 - x[0])


def looped(x: Any, p: Any, t: int, out: Any) -> None:
    for _ in range(0 if x[0] > 0.7 else 2):
        factor = p[0]
    out[0] = factor * x[0] * (1.0 - x[0])


def counted(x: Any, p: Any, t: int, out: Any) -> None:
    if x[0] < 0.7:
        count = 2
    out[0] = p[0] * x[0] * (1.0 - x[0]) + 0.0 * count


def indexed(x: Any, p: Any, t: int, out: Any) -> None:
    if x[0] < 0.7:
        place = 2 - t
    out[0] = TABLE[place] * p[0] * x[0] * (1.0 - x[0])


def assigned(x: Any, p: Any, t: int, out: Any) -> None:
    n = 0
    while n < 3:
        factor = p[0]
        n += 1
    out[0] = factor * x[0] * (1.0 - x[0])


@pytest.mark.parametrize("rule", [late, helped, looped])
def test_it_is_nan_where_python_knows_no_value(rule: Any) -> None:
    logistic = nnflow.CompiledMap(rule, dim=1, parameters={"r": 3.9}, box=([0.1], [0.2]))
    states = np.array([[0.3], [0.71]])
    known = [3.9 * 0.3 * 0.7, np.nan]
    after = nnflow.Ensemble.grid(logistic, states=states).advance(1)
    np.testing.assert_array_equal(after.states[:, 0], known)
    assert after.escaped.tolist() == [-1, 1]


def test_a_whole_number_leads_out_of_sight() -> None:
    count = nnflow.CompiledMap(counted, dim=1, parameters={"r": 3.9}, box=([0.1], [0.2]))
    assert nnflow.Ensemble.grid(count, states=[[0.3]]).advance(1).states[0, 0] == 3.9 * 0.3 * 0.7
    index = nnflow.CompiledMap(indexed, dim=1, parameters={"r": 3.9}, box=([0.1], [0.2]))
    with pytest.raises(nnflow.Refusal, match="out of bounds"):
        nnflow.Ensemble.grid(index, states=[[0.71]]).advance(1)


def test_what_is_always_assigned_keeps_its_bits() -> None:
    orbit = nnflow.CompiledMap(assigned, dim=1, parameters={"r": 3.9}, box=([0.1], [0.2]))
    found = nnflow.Ensemble.grid(orbit, states=[[0.3]]).orbit(1000)[0]
    known = nnflow.Ensemble.grid(nnflow.maps["logistic"](r=3.9), states=[[0.3]]).orbit(1000)[0]
    np.testing.assert_array_equal(found, known)
