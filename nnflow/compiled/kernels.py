"""Which loop a map gets: each is built once a process, under the fingerprint of the functions that go in."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import Any, NamedTuple, cast

from nnflow.compiled import lanes, loops, observing
from nnflow.compiled.loops import Shape
from nnflow.compiled.ways import Function, Rule, part, rule
from nnflow.frozen import fingerprint, own
from nnflow.internals import Dispatcher
from nnflow.locks import one_at_a_time
from nnflow.straight import lasting, straight


class Functions(NamedTuple):
    """What a compiled map is made of: functions of one member."""

    rule: Rule
    tangent: Rule | None = None
    frame_tangent: Rule | None = None
    hessian: Rule | None = None
    joint: Rule | None = None


def once(build: Function) -> Function:
    """Build the same once a process, whichever threads ask for it."""
    built = lru_cache(maxsize=256)(build)

    @wraps(build)
    def found(*arguments: Any) -> Any:
        with one_at_a_time():
            return built(*arguments)

    return cast(Function, found)


def glue(function: Function) -> Function:
    """Mark a rule that hands its arguments on to compiled functions: it is not compiled by itself but put in place.

    Each compiled function in a chain of calls optimizes all that it calls once more.

    Args:
        function: It must not allocate: the loops count no references.

    Returns:
        The same function.
    """
    function.glue = True  # type: ignore[attr-defined]
    return function


@once
def compiled(function: Rule, checked: bool, ignoring: int | None = None, rows: bool = False) -> Rule:
    """A rule as numba's dispatcher: one for all the loops it enters, so that its own code is compiled once a process.

    Args:
        function: The rule, plain or compiled.
        checked: Unless all of its ways are `known`, each index is looked at.
        ignoring: The rule knows of no constants, and so many arguments stand behind (x, p, t).
        rows: Whether an argument is a matrix.

    Returns:
        The dispatcher.
    """
    if ignoring is not None:
        return loops.without_constants(compiled(function, checked, None, rows), ignoring)

    def passed_on(*arguments: Any) -> Any:
        return function(*arguments)

    if getattr(function, "glue", False):
        return part(function)
    bounds = {"boundscheck": True} if checked and not known(function, rows, checked) else {}
    return rule(passed_on if isinstance(function, Dispatcher) else function, **bounds)


def known(function: Rule, rows: bool, checked: bool) -> bool:
    """Whether a function does on all of its ways what it has to: it is the package's own, or `guard` has read it whole.

    Args:
        function: The rule, plain or compiled.
        rows: Whether an argument is a matrix; then it was not read.
        checked: Whether it was read.

    Returns:
        True for the package's own, and for one that was `checked`, runs straight through and takes no matrix.
    """
    return own(getattr(function, "py_func", function)) or (checked and straight(function) and not rows)


def writing(function: Rule, shape: Shape, checked: bool, arguments: int, rows: bool = False) -> Rule:
    """A function that writes its last argument; what it may leave out is NaN, and not what stood there before."""
    made = compiled(function, checked, shape.ignoring(arguments), rows)
    return made if known(function, rows, checked) else loops.from_nothing(made, arguments, rows)


def frame_tangent(functions: Functions, shape: Shape, checked: bool) -> Rule:
    """The tangent map on the rows of a frame: as given, vector by vector, or by differences of the rule."""
    if functions.frame_tangent is not None:
        return writing(functions.frame_tangent, shape, checked, 2, rows=True)
    if functions.tangent is not None:
        return loops.one_by_one(writing(functions.tangent, shape, checked, 2))
    return loops.by_differences(writing(functions.rule, shape, checked, 1), shape)


@once
def orbit(step: Rule, shape: Shape, checked: bool, many: bool) -> Rule:
    """The loop of `advance` and `orbit`; that of `many` members has them side by side, and takes longer to compile."""
    mark, made = fingerprint(step, shape, checked), writing(step, shape, checked, 1)
    if many and shape.small and straight(step):
        return lanes.side_by_side_loop(mark, made, shape, lasting(step, shape.dim, 4 if shape.constants else 3))
    return loops.orbit_loop(mark, made, shape)


@once
def tangent_orbit(functions: Functions, shape: Shape, checked: bool) -> Rule:
    """The loop of `tangent_orbit`."""
    if functions.joint is not None:
        joint = writing(functions.joint, shape, checked, 3, rows=True)
    else:
        step = writing(functions.rule, shape, checked, 1)
        joint = loops.one_after_the_other(step, frame_tangent(functions, shape, checked))
    return loops.tangent_loop(fingerprint(functions, shape, checked), joint, shape)


@once
def separation_orbit(step: Rule, shape: Shape, checked: bool) -> Rule:
    """The loop of `separation_orbit`."""
    return loops.separation_loop(fingerprint(step, shape, checked), writing(step, shape, checked, 1), shape)


@once
def curvature(hessian: Rule, shape: Shape, checked: bool) -> Rule:
    """The loop of `curvature`."""
    mark = fingerprint(hessian, shape.constants, checked)
    return loops.curvature_loop(mark, writing(hessian, shape, checked, 2, rows=True))


@once
def observe(function: Rule, size: int | None, shape: Shape, checked: bool) -> Rule:
    """The loop of an observable, or of a function that writes several."""
    mark = fingerprint(function, size, shape.constants, checked)
    if size is None:
        return observing.observing_loop(mark, observing.single(compiled(function, checked, shape.ignoring(0))), 1)
    return observing.observing_loop(mark, writing(function, shape, checked, 1), size)
