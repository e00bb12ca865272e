"""A rule is tried as plain Python when the map is made; what machine code would do in silence is refused there.

Of this kind: reading or writing x, p, v and out beyond their ends, in the rule, the tangent, a frame, an observable or
a helper; out left unwritten, or read before; x, p or v changed; names that do not exist; an index that grows with t,
the state or a parameter, and leaves its array only on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

import nnflow
from nnflow.map import Array

TABLE = np.arange(10.0)


@njit
def entry(values: Array, i: int) -> float:
    return values[i]


def rule_of(body: Callable[..., Any]) -> Callable[..., None]:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        body(x, p, t, out)

    return rule


def good(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = p[0] * x[0], x[1]


def reads_beyond_p(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = p[1] * x[0], x[1]


def reads_beyond_x(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = x[2], x[1]


def reads_before_x(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = x[-3], x[1]


def writes_beyond_out(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1], out[2] = x[0], x[1], 0.0


def leaves_out(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = x[0]


def adds_to_out(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] += x[0]
    out[1] = x[1]


def changes_x(x: Array, p: Array, t: int, out: Array) -> None:
    out[:] = x
    x[0] = 0.0


def changes_p(x: Array, p: Array, t: int, out: Array) -> None:
    out[:] = x
    p[0] = 0.0


def names_nothing(x: Array, p: Array, t: int, out: Array) -> None:
    out[:] = undefined * x  # type: ignore[name-defined]  # noqa: F821


def helped_beyond(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = entry(p, 1), x[1]


BAD = {
    reads_beyond_p: r"the rule of 'reads_beyond_p' reads or writes out of bounds: p\[1\], of 1 entries",
    reads_beyond_x: r"out of bounds: x\[2\], of 2 entries",
    reads_before_x: r"out of bounds: x\[-3\]",
    writes_beyond_out: r"out of bounds: out\[2\]",
    leaves_out: r"does not write out\[1\]",
    adds_to_out: r"reads out\[0\] before it writes it",
    changes_x: "changes x, p or the vectors",
    changes_p: "changes x, p or the vectors",
    names_nothing: "fails: NameError: name 'undefined'",
    helped_beyond: "out of bounds: index 1",
}


@pytest.mark.parametrize("rule", BAD, ids=lambda rule: rule.__name__)
def test_a_bad_rule_is_refused_when_the_map_is_made(rule: Any) -> None:
    with pytest.raises(nnflow.Refusal, match=BAD[rule]):
        nnflow.CompiledMap(rule, dim=2, parameters={"a": 1.0})
    loose = nnflow.CompiledMap(rule, dim=2, parameters={"a": 1.0}, check=False)
    assert loose.structure == {"check": False}


def test_what_is_left_out_stands_in_the_result() -> None:
    map = nnflow.CompiledMap(good, dim=2, parameters={"a": 0.5}, check=False)
    assert '"check": false' in nnflow.run("lyapunov_spectrum", map, steps=10).attrs["structure"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tangent": lambda x, p, t, v, out: None}, r"the tangent of 'good' does not write out\[0\]"),
        ({"tangent": lambda x, p, t, v, out: out.__setitem__(2, 1.0)}, "the tangent of 'good' reads or writes out"),
        (
            {"frame_tangent": lambda x, p, t, V, out: out.__setitem__(0, V[0])},
            r"the frame_tangent .* write out\[1, 0\]",
        ),
        ({"frame_tangent": lambda x, p, t, V, out: V.__setitem__(0, x)}, "the frame_tangent of 'good' changes"),
        ({"observables": {"seen": lambda x, p, t: x[2]}}, "the observable seen of 'good' reads or writes out"),
        ({"observables": {"seen": lambda x, p, t: x}}, "the observable seen of 'good' returns array"),
        ({"observables": {"seen": lambda x, p, t: None}}, "the observable seen of 'good' returns None, no number"),
    ],
)
def test_tangents_and_observables_are_tried_as_well(settings: Any, message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.CompiledMap(good, dim=2, parameters={"a": 1.0}, **settings)


def beyond_later(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = x[0], x[1]
    if t > 10:
        out[0] = p[1]


def beyond_elsewhere(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = x[0] if x[0] < 0.9 else x[2], x[1]


def far_beyond(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = x[0], x[1]
    if t == 5:
        out[1000000000] = 1.0


def changes_p_later(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = x[0], x[1]
    if x[0] > 0.9:
        p[0] = 1.0


def leaves_out_at_times(x: Array, p: Array, t: int, out: Array) -> None:
    out[1] = x[1]
    if x[0] < 0.9:
        out[0] = x[0]


def reads_out_first(x: Array, p: Array, t: int, out: Array) -> None:
    out[0], out[1] = 0.2 if out[0] > 0.5 else 0.7, x[1]


def behind_arithmetic(x: Array, p: Array, t: int, out: Array) -> None:
    y = np.log(x[0] - 5.0) / 0.0
    out[0], out[1] = p[1] * y, x[1]


WAYS = {
    beyond_later: r"out of bounds: p\[1\], of 1 entries",
    beyond_elsewhere: r"out of bounds: x\[2\], of 2 entries",
    far_beyond: r"out of bounds: out\[1000000000\]",
    changes_p_later: r"changes p\[0\]",
    leaves_out_at_times: r"does not write out\[0\] on every way",
    reads_out_first: r"reads out\[0\] before it writes it",
    behind_arithmetic: r"out of bounds: p\[1\]",
}


@pytest.mark.parametrize("rule", WAYS, ids=lambda rule: rule.__name__)
def test_ways_that_are_not_taken_are_read(rule: Any) -> None:
    """A neighbour's parameter, somebody else's memory, a segmentation fault: all behind an `if`."""
    with pytest.raises(nnflow.Refusal, match=WAYS[rule]):
        nnflow.CompiledMap(rule, dim=2, parameters={"a": 1.0})


def test_ways_that_are_good_are_not_refused() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        if x[0] < 0.5:
            out[0] = p[0] * x[-2]
        else:
            out[0] = 1.0 - x[0]
        out[1] = out[0] if t > 3 else x[1]

    assert nnflow.CompiledMap(rule, dim=2, parameters={"a": 1.0}).dim == 2


def test_parameters_are_not_a_rules_to_change() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(2):
            out[i] = x[i]
            if x[i] > 1e3:
                p[i] = 0.0

    map = nnflow.CompiledMap(rule, dim=2, parameters={"a": 1.0, "b": 2.0})
    with pytest.raises(nnflow.CompilationError, match="readonly"):
        nnflow.Ensemble.grid(map).advance(3)


def test_a_wrong_tangent_is_refused() -> None:
    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0], out[1] = 3.0 * v[0], v[1]

    def frame_tangent(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        for j in range(V.shape[0]):
            out[j, 0], out[j, 1] = 3.0 * V[j, 0], V[j, 1]

    for wrong in ({"tangent": tangent}, {"frame_tangent": frame_tangent}):
        with pytest.raises(nnflow.Refusal, match="the tangent of 'good' says that x0 changes by"):
            nnflow.CompiledMap(good, dim=2, parameters={"a": 0.5}, **wrong)
        assert nnflow.CompiledMap(good, dim=2, parameters={"a": 3.0}, **wrong).exact_tangent


def test_a_rule_that_draws_is_refused() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = np.random.rand()  # noqa: NPY002

    with pytest.raises(nnflow.Refusal, match="gives another result each time"):
        nnflow.CompiledMap(rule)


def unaided(x: float) -> float:
    return x


def test_a_plain_helper_is_named_with_the_cure() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = unaided(x[0])

    with pytest.raises(nnflow.Refusal, match=r"unaided is a plain function, .* numba\.njit"):
        nnflow.CompiledMap(rule)


def test_arithmetic_that_python_refuses_is_no_fault() -> None:
    import math

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 1.0 / p[0] + math.log(p[0]) + math.exp(1e4) + math.sqrt(-1.0 - p[0])

    assert nnflow.CompiledMap(rule, parameters={"a": 0.0}).dim == 1


def table(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = TABLE[t] + 0.0 * x[0]


def looked_up(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = entry(TABLE, t) + 0.0 * x[0]


def by_parameter(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = TABLE[int(p[0]) + t] + 0.0 * x[0]


@pytest.mark.parametrize("rule", [table, looked_up, by_parameter])
@pytest.mark.parametrize("verb", ["advance", "orbit", "tangent_orbit"])
def test_an_index_that_leaves_its_array_on_the_way_is_refused(rule: Any, verb: str) -> None:
    """It read its neighbour in memory: garbage at first, an abort later."""
    map = nnflow.CompiledMap(rule, parameters={"a": 0.0})
    scan = nnflow.Ensemble.grid(map, inits=30).with_frame(1)
    assert scan.advance(10).states[:, 0].tolist() == [9.0] * 30
    with pytest.raises(nnflow.Refusal, match="out of bounds on the way"):
        getattr(scan, verb)(11)
    with pytest.raises(nnflow.Refusal, match="out of bounds on the way"):
        nnflow.run("lyapunov_spectrum", scan, steps=100, transient=0)
