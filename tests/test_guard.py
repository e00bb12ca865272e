"""A rule is tried as plain Python when the map is made; what machine code would do in silence is refused there.

Of this kind: reading or writing x, p, v and out beyond their ends, in the rule, the tangent, a frame, an observable or
a helper; out left unwritten, or read before; x, p or v changed; names that do not exist; an index that grows with t,
the state or a parameter, and leaves its array only on the way.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from numba import njit

import nnflow
from nnflow.differences import misfit
from nnflow.typing import Array

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
    with pytest.raises(nnflow.CompilationError, match=r"^a function of 'rule' changes x, p or a vector"):
        nnflow.Ensemble.grid(map).advance(3)


def test_a_wrong_tangent_is_refused() -> None:
    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0], out[1] = 3.0 * v[0], v[1]

    def frame_tangent(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        for j in range(V.shape[0]):
            out[j, 0], out[j, 1] = 3.0 * V[j, 0], V[j, 1]

    for kind, function in {"tangent": tangent, "frame_tangent": frame_tangent}.items():
        wrong = {kind: function}
        with pytest.raises(nnflow.Refusal, match=f"the {kind} of 'good' says that x0 changes by"):
            nnflow.CompiledMap(good, dim=2, parameters={"a": 0.5}, **wrong)
        assert nnflow.CompiledMap(good, dim=2, parameters={"a": 3.0}, **wrong).exact_tangent


def test_a_rule_that_draws_is_refused() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = np.random.rand()  # noqa: NPY002

    def late(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] if t < 5 else np.random.rand()  # noqa: NPY002

    def counting(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = next(counts)

    counts = itertools.count()
    for drawn in (rule, late):
        with pytest.raises(nnflow.Refusal, match="draws random numbers"):
            nnflow.CompiledMap(drawn)
    with pytest.raises(nnflow.Refusal, match="gives another result each time"):
        nnflow.CompiledMap(counting)


def unaided(x: float) -> float:
    return x


def test_a_plain_helper_is_named_with_the_cure() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = unaided(x[0])

    with pytest.raises(nnflow.Refusal, match=r"unaided is a plain function, .* numba\.njit"):
        nnflow.CompiledMap(rule)


def test_arithmetic_that_python_refuses_is_no_fault() -> None:
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


def logistic(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = p[0] * x[0] * (1.0 - x[0])


def slope(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
    for j in range(V.shape[0]):
        out[j, 0] = p[0] * (1.0 - 2.0 * x[0]) * V[j, 0]


def both(step: float, stretch: float) -> Any:
    def joint(x: Array, p: Array, t: int, V: Array, out: Array, W: Array) -> None:
        out[0] = step * p[0] * x[0] * (1.0 - x[0])
        for j in range(V.shape[0]):
            W[j, 0] = stretch * p[0] * (1.0 - 2.0 * x[0]) * V[j, 0]

    return joint


def test_what_a_joint_says_is_what_rule_and_tangent_say() -> None:
    """Without this, an exponent of any size comes out of it: it is what the verbs run."""
    settings: dict[str, Any] = {"frame_tangent": slope, "parameters": {"r": 3.9}}
    for wrong, message in (
        (both(0.5, 1.0), "leads to .*the rule to"),
        (both(1.0, 7.0), "the joint of .* says that x0"),
    ):
        with pytest.raises(nnflow.Refusal, match=message):
            nnflow.CompiledMap(logistic, joint=wrong, **settings)
    right = nnflow.CompiledMap(logistic, joint=both(1.0, 1.0), **settings)
    apart = nnflow.CompiledMap(logistic, **settings)
    found, known = (nnflow.run("lyapunov_spectrum", map, steps=1000).exponent for map in (right, apart))
    assert found.item() == pytest.approx(known.item(), rel=1e-9)


def test_a_joint_alone_has_nothing_to_agree_with() -> None:
    with pytest.raises(nnflow.Refusal, match="joint without a tangent"):
        nnflow.CompiledMap(logistic, joint=both(1.0, 1.0), parameters={"r": 3.9})


def test_ways_around_the_bounds_are_refused() -> None:
    """numba looks at no index of these, whatever it is told: `x.flat[9]` was whatever stood in memory."""

    def read(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] if t < 5 else x.flat[9]

    def written(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0]
        if t > 3:
            out.flat[40] = 7.0

    @njit
    def helper(x: Array) -> float:
        return x.flat[9]

    def called(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] if t < 5 else helper(x)

    for rule in (read, written, called):
        with pytest.raises(nnflow.Refusal, match="uses flat, where compiled code does not look"):
            nnflow.CompiledMap(rule)
    flat = 0.5

    def named(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = flat * x[0]

    assert nnflow.Ensemble.grid(nnflow.CompiledMap(named), states=[[1.0]]).advance(1).states == 0.5


def test_bounds_hold_in_the_mapping_for_other_toolkits() -> None:
    table = np.array([0.1, 0.2, 0.3])

    def late(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.0 * x[0] + table[t]

    mapping, _ = nnflow.numba_mapping(nnflow.CompiledMap(late), clock=True)
    assert mapping(np.array([0.3, 2.0]), np.zeros(0))[0] == 0.3
    with pytest.raises(IndexError, match="out of bounds"):
        mapping(np.array([0.3, 3.0]), np.zeros(0))


def test_arguments_beyond_those_of_a_rule() -> None:
    def defaults(x: Array, p: Array, t: int, out: Array, c: Any = (2.0, 3.0)) -> None:
        out[0] = c[1] * x[0]

    def several(*arguments: Any) -> None:
        arguments[3][0] = 3.0 * arguments[0][0]

    def keyword(x: Array, p: Array, t: int, out: Array, *, c: float = 3.0) -> None:
        out[0] = c * x[0]

    for rule, free in ((defaults, True), (several, False)):
        map = nnflow.CompiledMap(rule)
        assert map.autonomous == free
        assert nnflow.Ensemble.grid(map, states=[[0.5]]).advance(1).states == 1.5
    with pytest.raises(nnflow.Refusal, match="keyword-only arguments"):
        nnflow.CompiledMap(keyword)


def test_what_python_and_compiled_code_understand_otherwise() -> None:
    """A ufunc with `out`, the root of a negative number, an observable that is not defined somewhere."""

    def product(x: Array, p: Array, t: int, out: Array) -> None:
        np.multiply(x, 2.0, out)

    def root(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = float(x[0] - 1.0) ** 0.5

    assert nnflow.Ensemble.grid(nnflow.CompiledMap(product), states=[[0.5]]).advance(1).states == 1.0
    assert np.isnan(nnflow.Ensemble.grid(nnflow.CompiledMap(root), states=[[0.5]]).advance(1).states).all()
    map = nnflow.CompiledMap(product, observables={"log": lambda x, p, t: math.log(x[0])})
    assert np.isnan(map.observable("log", np.zeros((1, 1)), np.zeros((1, 0)), 0)).all()


def test_an_error_of_the_users_own_names_the_map() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        if t >= 5:
            raise ValueError("enough")
        out[0] = x[0]

    with pytest.raises(nnflow.Refusal, match="a function of 'rule' fails on the way: ValueError: enough"):
        nnflow.Ensemble.grid(nnflow.CompiledMap(rule)).advance(10)


def test_a_right_tangent_passes_however_steep_or_close_to_a_kink() -> None:
    """Rounding of x is stretched by the slope; at a kink, differences say nothing."""
    for factor in (10.0, 1000.0, 16807.0):
        for x in np.random.default_rng(0).random(300):
            assert not misfit(lambda x, k=factor: (k * x) % 1.0, lambda x, v, k=factor: k * v, x[None], 2.0**-52)
    for x in 0.5 + np.linspace(-1e-5, 1e-5, 300):
        assert not misfit(lambda x: np.abs(x - 0.5), lambda x, v: np.sign(x - 0.5) * v, x[None], 2.0**-52)


# -- what happens only later, or only in machine code ----------------------------------------------------------------


def test_a_frame_of_fewer_vectors_than_were_tried_has_bounds() -> None:
    """Rows written by number: with one vector, the second row was somebody else's memory."""

    def shrink(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(20):
            out[i] = 0.5 * x[i]

    def two_rows(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        out[1] = 0.5 * V[1]
        out[0] = 0.5 * V[0]

    map = nnflow.CompiledMap(shrink, frame_tangent=two_rows, dim=20)
    with pytest.raises(nnflow.Refusal, match="out of bounds"):
        nnflow.run("lyapunov_spectrum", map, k=1, steps=10)


def test_what_is_left_unwritten_is_nan_as_in_python() -> None:
    """It was what stood there: another member's state, or nothing at all."""

    def sometimes(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(2):
            if x[i] > -1.0:
                out[i] = 0.9 * x[i]

    map = nnflow.CompiledMap(sometimes, dim=2, box=([0.1, 0.1], [1.0, 1.0]))
    states = np.array([[0.5, 0.7], [-2.0, 0.3]])
    after = nnflow.Ensemble.grid(map, states=states).advance(1)
    np.testing.assert_array_equal(after.states[0], map.step(states, np.zeros((2, 0)), 0)[0])
    assert after.escaped.tolist() == [-1, 1]

    def early(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        for i in range(1):
            if t < 2:
                out[i] = p[0] * (1.0 - 2.0 * x[0]) * v[0]

    tangent = nnflow.CompiledMap(logistic, early, parameters={"r": 3.7})
    assert np.isnan(nnflow.run("lyapunov_spectrum", tangent, steps=10, transient=0).exponent.item())


def test_what_is_given_cannot_be_changed_later() -> None:
    def seen(x: Array, p: Array, t: int) -> float:
        for i in range(1):
            if t > 2:
                x[i] = 5.0
        return x[0]

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(1):
            if t > 2:
                x[i] = 0.5
            out[i] = 0.5 * x[i]

    watched = nnflow.CompiledMap(logistic, parameters={"r": 3.7}, observables={"w": seen})
    for use in (
        lambda: nnflow.Ensemble.grid(watched).orbit(3, observe="w"),
        lambda: nnflow.Ensemble.grid(nnflow.CompiledMap(rule)).advance(2),
    ):
        with pytest.raises(nnflow.CompilationError, match="changes x, p or a vector"):
            use()


def test_arguments_of_another_kind_are_told_how_to_write_it() -> None:
    """Also: of the tangent, with constants and without, of observables; defaults and *arguments are fine."""

    def rule(x: Array, p: Array, t: int, out: Array, half: float = 0.5) -> None:
        out[0] = half * x[0]

    def with_constants(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        out[0] = c[0] * x[0]

    for make, wanted in (
        (lambda: nnflow.CompiledMap(lambda x, p, t: 0.5 * x), "rule(x, p, t, out)"),
        (lambda: nnflow.CompiledMap(lambda x: x), "rule(x, p, t, out)"),
        (lambda: nnflow.CompiledMap(rule, lambda x, p, t, out: None), "tangent(x, p, t, v, out)"),
        (lambda: nnflow.CompiledMap(lambda x, p, t, out: None, constants=(2.0,)), "rule(x, p, t, c, out)"),
        (lambda: nnflow.CompiledMap(with_constants), "(there are no constants): write it as rule(x, p, t, out)"),
        (lambda: nnflow.CompiledMap(rule, observables={"w": lambda x, p, t, out: 1.0}), "observable(x, p, t), return"),
    ):
        with pytest.raises(nnflow.Refusal, match=re.escape(wanted)):
            make()
    assert nnflow.CompiledMap(rule, lambda *given: rule(given[3], *given[1:3], given[4])).exact_tangent


def test_what_is_left_unwritten_is_nan_without_a_check_too() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.5 * x[0]
        if x[0] > 0.3:
            out[1] = x[0]

    unchecked = nnflow.CompiledMap(rule, dim=2, check=False)
    after = nnflow.Ensemble.grid(unchecked, states=[[0.7, 0.0], [0.1, 0.0]]).advance(1)
    np.testing.assert_array_equal(after.states, [[0.35, 0.7], [np.nan, np.nan]])


def test_numbas_own_reasons_are_not_taken_for_ours() -> None:
    """Its messages print the type of x, which is read-only."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[:] = np.linalg.norm(x, axis=0)

    with pytest.raises(nnflow.CompilationError, match="axis") as error:
        nnflow.Ensemble.grid(nnflow.CompiledMap(rule, check=False)).advance(1)
    assert "changes x, p" not in str(error.value)


def test_whole_numbers_that_mean_something_else_in_machine_code() -> None:
    def decaying(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] * 2 ** (-t)

    def divided(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.0 * x[0] + 7 // (t - 1)

    def counted(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.1 * ((x[0] > 0.0) + (x[0] > -1.0))

    for rule in (decaying, counted):
        scan = nnflow.Ensemble.grid(nnflow.CompiledMap(rule))
        for _ in range(2):  # what is refused once is refused again
            with pytest.raises(nnflow.Refusal, match="as plain Python and .* when compiled"):
                scan.advance(1)
    with pytest.raises(nnflow.Refusal, match="ZeroDivisionError: integer"):
        nnflow.CompiledMap(divided)


def test_so_does_every_verb_and_whatever_it_compiles() -> None:
    def halved(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.5 * x[0]

    def decaying(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] * 2 ** (-t - 1)

    def halved_tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = 0.5 * v[0] if t == 0 else v[0] * 2**-t

    def weight(x: Array, p: Array, t: int) -> float:
        return float(x[0] + 2 ** (-t))

    wrong = nnflow.Ensemble.grid(nnflow.CompiledMap(decaying))
    turned = nnflow.Ensemble.grid(nnflow.CompiledMap(halved, halved_tangent))
    for use, name in (
        (lambda: wrong.separation_orbit(wrong.perturbed(1e-6), 2), "rule"),
        (lambda: wrong.with_frame(1).tangent_orbit(2), "rule"),
        (lambda: turned.with_frame(1).tangent_orbit(2), "tangent"),
        (
            lambda: nnflow.Ensemble.grid(nnflow.CompiledMap(halved, observables={"w": weight})).orbit(2, observe="w"),
            "w",
        ),
    ):
        with pytest.raises(nnflow.Refusal, match=f"the .*{name} of .* as plain Python and .* when compiled"):
            use()


def test_a_joint_that_leads_elsewhere_later_is_refused() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.5 * x[0]

    def joint(x: Array, p: Array, t: int, V: Array, out: Array, W: Array) -> None:
        out[0] = 0.5 * x[0] + (0.1 if t == 1 else 0.0)
        for j in range(V.shape[0]):
            W[j, 0] = 0.5 * V[j, 0]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = 0.5 * v[0]

    both = nnflow.CompiledMap(rule, tangent, joint=joint)
    with pytest.raises(nnflow.Refusal, match="the joint of 'rule' leads to"):
        nnflow.Ensemble.grid(both).with_frame(1).tangent_orbit(3)


def test_rounding_in_another_order_means_the_same() -> None:
    def kept(x: Array, p: Array, t: int, out: Array) -> None:
        out[:] = x

    def drift(x: Array, p: Array, t: int) -> float:  # NumPy adds in pairs, numba one by one
        return float(x.sum() - sum(x))

    still = nnflow.CompiledMap(kept, dim=50, observables={"drift": drift})
    records, _ = nnflow.Ensemble.grid(still, inits=3).orbit(2, observe="drift")
    assert np.abs(records).max() < 1e-13


def test_helpers_that_drop_errors_are_refused() -> None:
    @numba.guvectorize(["void(f8[:], f8[:])"], "(n)->(n)")
    def rows(v: Array, out: Array) -> None:
        for i in range(v.shape[0]):
            out[i] = v[i]

    @numba.vectorize
    def root(a: float) -> float:
        if a < 0.0:
            raise ValueError
        return a**0.5

    @numba.njit(boundscheck=False)
    def look(x: Array, t: int) -> float:
        return x[t]

    def by_rows(x: Array, p: Array, t: int, out: Array) -> None:
        out[:] = rows(x)

    def by_root(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = root(x[0])

    def by_look(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] if t < 2 else look(x, t)

    for rule in (by_rows, by_root):
        with pytest.raises(nnflow.Refusal, match=r"decorate it with numba\.njit"):
            nnflow.CompiledMap(rule)
    with pytest.raises(nnflow.Refusal, match="out of bounds"):
        nnflow.Ensemble.grid(nnflow.CompiledMap(by_look)).advance(4)


def test_a_time_that_goes_round_a_loop_is_read() -> None:
    def carried(x: Array, p: Array, t: int, out: Array) -> None:
        s = 0.0
        for _ in range(2):
            out[0] = 0.5 * x[0] + s
            s = t

    assert not nnflow.CompiledMap(carried).autonomous


def in_singles(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = np.float32(3.9 * x[0] * (1.0 - x[0]))


def singles_inside(x: Array, p: Array, t: int, out: Array) -> None:
    y = float(np.float32(x[0]))
    out[0] = 3.9 * y * (1.0 - y)


def rounded(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = np.round(3.9 * x[0] * (1.0 - x[0]), 6)


def rounded_finely(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = np.round(3.9 * x[0] * (1.0 - x[0]), 10)


@pytest.mark.parametrize("rule", [in_singles, singles_inside, rounded, rounded_finely])
def test_a_rule_in_coarser_numbers_is_refused(rule: Any) -> None:
    """Differences of it are 0, and its exponent was −inf; what else: one component of several, and other backends."""
    with pytest.raises(nnflow.Refusal, match="computes x0 in coarser numbers than float64"):
        nnflow.CompiledMap(rule, dim=1)
    assert nnflow.CompiledMap(rule, dim=1, check=False).dim == 1

    def step(x: Array, p: Array, t: int) -> Array:
        out = np.empty_like(x)
        for row, result in zip(x, out, strict=True):
            rule(row, p, t, result)
        return out

    class InNumpy(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            return step(x, p, t)

    with pytest.raises(nnflow.Refusal, match="computes x0 in coarser"):
        nnflow.run("series", InNumpy(name="in_numpy", dim=1, parameters={}), steps=3)


def test_a_tensor_rule_in_singles_is_refused() -> None:
    map = nnflow.TensorMap(lambda x, p, t: (3.9 * x * (1 - x)).float().double(), dim=1)
    with pytest.raises(nnflow.Refusal, match="computes x0 in coarser"):
        nnflow.Ensemble.grid(map).advance(1)


def test_what_is_flat_or_jumps_is_not_coarse() -> None:
    def flat(x: Array, p: Array, t: int, out: Array) -> None:
        out[0], out[1], out[2] = 0.25, np.floor(10.0 * x[1]) / 10.0, 1e8 + 1e-7 * x[2]
        out[3] = np.tanh(30.0 * x[3])

    assert nnflow.CompiledMap(flat, dim=4).dim == 4


def test_whole_numbers_of_parameters_are_compared_at_those_that_are_scanned() -> None:
    """n³ fits a machine number at the default, and not at 3e6; what else: each verb, observables, several members."""

    def cubed(x: Array, p: Array, t: int, out: Array) -> None:
        n = int(p[0])
        out[0] = 0.5 * x[0] + n * n * n * 1e-20

    def seen(x: Array, p: Array, t: int) -> float:
        n = int(p[0])
        return n * n * n * 1e-20

    map = nnflow.CompiledMap(cubed, dim=1, parameters={"n": 2.0}, observables={"seen": seen})
    assert nnflow.Ensemble.grid(map, n=[1.0, 3.0]).advance(1).states.shape == (2, 1)
    large = nnflow.Ensemble.grid(map, n=[2.0, 3e6])
    verbs: list[Any] = [
        lambda: large.advance(1),
        lambda: large.orbit(2, observe="seen"),
        lambda: large.with_frame(1).tangent_orbit(2),
        lambda: large.separation_orbit(large.perturbed(1e-3, 1), 2),
    ]
    for verb in verbs:
        with pytest.raises(nnflow.Refusal, match="gives .* as plain Python and .* when compiled"):
            verb()


def test_parameters_are_those_of_members() -> None:
    """n² m wraps around at the corner of a grid, which the members of a diagonal do not have."""

    def product(x: Array, p: Array, t: int, out: Array) -> None:
        n, m = int(p[0]), int(p[1])
        out[0] = 0.5 * x[0] + n * n * m * 1e-20

    map = nnflow.CompiledMap(product, dim=1, parameters={"n": 1.0, "m": 1.0})
    grid = nnflow.Ensemble.grid(map, n=[1.0, 3e6], m=[1.0, 3e6])
    assert grid.take([1, 2]).advance(1).states.shape == (2, 1)
    with pytest.raises(nnflow.Refusal, match="gives .* as plain Python and .* when compiled"):
        grid.advance(1)


def test_a_start_on_a_border_is_not_coarse() -> None:
    """A kink with a flat side changes nothing to that side, and something to the other."""

    def border(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.3 - 1.5 * max(-x[0], 0.0)

    assert nnflow.CompiledMap(border, dim=1, box=([0.0], [0.0])).dim == 1
    clamped = nnflow.TensorMap(lambda x, p, t: x.clamp(max=1.0), dim=1)
    assert nnflow.Ensemble.grid(clamped, states=[[1.0]]).advance(1).states == [[1.0]]


def descent(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = x[0] - p[0] * x[0] ** 3


def of_descent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
    out[0] = (1.0 - 3.0 * p[0] * x[0] ** 2) * v[0]


def test_a_hessian_that_is_another_one_when_compiled_is_refused() -> None:
    """Rule and tangent were compared with plain Python, the Hessian with nothing: 2 ** -t is 0 when compiled."""

    def halved(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        for j in range(V.shape[0]):
            out[j, 0] = 2**-t * V[j, 0] * 3.0 * x[0] ** 2

    def copied(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        y = np.empty_like(x)
        y[0] = 1.5 * x[0]
        for j in range(V.shape[0]):
            out[j, 0] = 2.0 * x[0] * y[0] * V[j, 0]

    settings: Any = {"dim": 1, "parameters": {"eta": 0.1}}
    one, p, v = np.array([[3]]), np.array([[0.1]]), np.ones((1, 1, 1))
    with pytest.raises(nnflow.Refusal, match="the hessian of .* as plain Python and 0 when compiled"):
        nnflow.CompiledMap(descent, of_descent, hessian=halved, **settings).curvature(one, p, 2, v)
    right = nnflow.CompiledMap(descent, of_descent, hessian=copied, **settings)
    for x in (one, one.astype(float), np.asfortranarray(one.astype(np.float32))):  # whole states are floats, too
        assert right.curvature(x, p, 0, v).item() == 27.0
