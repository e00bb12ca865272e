"""A compiled map's functions as plain Python, once, before anything is compiled: machine code checks no index.

A rule that reads `p[1]` of one parameter would get its neighbor's; one that writes past `out`, somebody else's memory.
Here its arrays have bounds, `x`, `p` and the tangent vectors cannot be written to, and what is to be written is filled
with a mark that has to be gone afterwards. Helpers run as plain Python, too. Arithmetic that Python refuses (1/0,
math.log(0)) gives inf or NaN in compiled code, so it is no fault; the rest of such a call is not tried. Ways that were
not taken are read: those of functions without loops (see `straight`); others keep bounds checks when compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from nnflow.frozen import plain
from nnflow.names import Refusal
from nnflow.straight import fault
from nnflow.typing import Array

MARK = np.array(0x7FF8_5EED_0F0F_0001).view(np.float64)  # a NaN of its own: what is computed from it is still it
VECTORS = 2  # of a frame


class Call(NamedTuple):
    """A function with the shapes of what it reads after (x, p, t), and of what it writes."""

    kind: str
    function: Callable[..., Any]
    reads: tuple[tuple[int, ...], ...] = ()
    writes: tuple[tuple[int, ...], ...] = ()


def try_out(
    calls: Sequence[Call], name: str, states: Array, parameters: Mapping[str, float], behind: tuple[Any, ...] = ()
) -> None:
    """Call each function once at each state, at t = 0, 1, ….

    Args:
        calls: The functions, with what they read and write.
        name: The map, for messages.
        states: ``(n, dim)``.
        parameters: Name → value.
        behind: What stands behind t in a call.

    Raises:
        Refusal: with function and reason, for one that takes other arguments, looks out of bounds, changes what it is
            given, leaves a part of its result unwritten, returns no number where it has to, or cannot run as plain
            Python.
    """
    for call in calls:
        if reason := _misfit(call, "c" if behind else ""):
            raise Refusal(f"the {call.kind} of {name!r} {reason}")
        sizes = (
            len(states[0]),
            len(parameters),
            None,
            *(None for _ in behind),
            *(shape[0] for shape in (*call.reads, *call.writes)),
        )
        flat = all(len(shape) == 1 for shape in (*call.reads, *call.writes))
        if flat and (reason := fault(call.function, sizes, len(sizes) - 1 if call.writes else None)):
            raise Refusal(f"the {call.kind} of {name!r} {reason} (read in its bytecode; check=False leaves this out)")
    for call in (call._replace(function=plain(call.function)) for call in calls):
        for t, state in enumerate(states):
            reason = _fault(call, state, parameters, t, behind)
            if reason or (reason := _changed(call, state, parameters, t, behind)):
                raise Refusal(
                    f"the {call.kind} of {name!r} {reason} (tried as plain Python at t = {t}, with x of {len(state)} "
                    f"components and p of {len(parameters)}: {', '.join(parameters) or 'no parameters'}; "
                    "check=False leaves this out)"
                )


def _misfit(call: Call, constants: str) -> str:
    """How a function is to be written that cannot be called with so many arguments; nothing if it can."""
    reads = ("v" if len(shape) == 1 else "V" for shape in call.reads)
    wanted = ["x", "p", "t", *constants, *reads, *("out", "W")[: len(call.writes)]]
    found = inspect.signature(getattr(call.function, "py_func", call.function))
    try:
        found.bind(*wanted)
    except TypeError:
        short = call.kind.partition(" ")[0]
        returning = "" if call.writes else ", returning a number"
        missing = " (there are no constants)" if "c" in found.parameters and not constants else ""
        return f"takes {found}{missing}: write it as {short}({', '.join(wanted)}){returning}"
    return ""


def _arguments(call: Call, state: Array, parameters: Mapping[str, float]) -> tuple[list[Array], list[Array]]:
    """What a function reads, which cannot be written to, and what it writes, which is marked."""
    rng = np.random.default_rng(0)
    read = [state.copy(), np.array(list(parameters.values())), *(rng.standard_normal(shape) for shape in call.reads)]
    for array in read:
        array.flags.writeable = False
    return read, [np.full(shape, MARK) for shape in call.writes]


def _changed(call: Call, state: Array, parameters: Mapping[str, float], t: int, behind: tuple[Any, ...]) -> str:
    """Whether two calls with the same arguments give two results: a draw, or a count of calls."""
    seen: list[list[Array]] = []
    for _ in range(2):
        read, written = _arguments(call, state, parameters)
        with np.errstate(all="ignore"), suppress(Exception):
            value = call.function(*read[:2], t, *behind, *read[2:], *written)
            seen.append([*written, np.array(0.0 if value is None else value, dtype=np.float64)])
    if len(seen) < 2 or all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*seen, strict=True)):
        return ""
    return "gives another result each time: take random numbers from (seed, t), and keep nothing between calls"


def _fault(call: Call, state: Array, parameters: Mapping[str, float], t: int, behind: tuple[Any, ...]) -> str:
    read, written = _arguments(call, state, parameters)
    try:
        with np.errstate(all="ignore"):
            value = call.function(*read[:2], t, *behind, *read[2:], *written)
    except IndexError as error:
        return f"reads or writes out of bounds: {error}"
    except Exception as error:
        return _meaning(error)
    if not call.writes and not isinstance(value, (int, float, np.number, np.bool_)):
        return f"returns {value!r:.60}, no number"
    missing = [where for array in written for where in np.argwhere(array.view(np.uint64) == MARK.view(np.uint64))]
    if missing:
        return f"does not write out[{', '.join(map(str, missing[0]))}], or reads it before"
    return ""


def _meaning(error: Exception) -> str:
    """What an exception says of a function; nothing, if compiled code goes on with inf or NaN there."""
    if is_arithmetic(error) or is_intrinsic(error):
        return ""
    if "read-only" in str(error):
        return "changes x, p or the vectors that it is given: write into out only"
    return f"fails: {type(error).__name__}: {error}"


def is_arithmetic(error: Exception) -> bool:
    """Whether Python refuses arithmetic that gives inf or NaN in compiled code: 1/0, math.exp(1e4), (-1.0)**0.5.

    Args:
        error: Its words are those of `math`, of Python before 3.14 and since.

    Returns:
        Whether it is one of those errors.
    """
    words = ("math domain error", "math range error", "expected a ", "expected argument ")
    if isinstance(error, TypeError):  # (-1.0)**0.5 is NaN among floats
        return "complex" in str(error)
    if str(error).startswith(("integer ", "int ")):  # 1 // 0, and numbers beyond 64 bits: neither inf nor NaN
        return False
    return isinstance(error, ArithmeticError) or (type(error) is ValueError and str(error).startswith(words))


def is_intrinsic(error: Exception) -> bool:
    """Whether a function cannot run as plain Python, since a part of it is machine code by definition."""
    return isinstance(error, NotImplementedError) and "pure-python" in str(error)


def call_plain(function: Any, *arguments: Any, out: Array | None = None) -> Any:
    """Call a function of a map from Python with numba's meaning of bad arithmetic: NaN in `out`, and for the value."""
    with np.errstate(all="ignore"):
        try:
            return function(*arguments) if out is None else function(*arguments, out)
        except (ArithmeticError, TypeError, ValueError) as error:
            if not is_arithmetic(error):
                raise
    if out is not None:
        out[...] = np.nan
    return np.nan
