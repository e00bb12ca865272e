"""A compiled map's functions as plain Python, once, before anything is compiled: machine code checks no index.

A rule that reads `p[1]` of one parameter would get its neighbour's; one that writes past `out`, somebody else's memory.
Here its arrays have bounds, `x`, `p` and the tangent vectors cannot be written to, and what is to be written is filled
with a mark that has to be gone afterwards. Helpers run as plain Python, too. Arithmetic that Python refuses (1/0,
math.log(0)) gives inf or NaN in compiled code, so it is no fault; the rest of such a call is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnflow.frozen import plain
from nnflow.map import Array
from nnflow.names import Refusal

MARK = np.array(0x7FF8_5EED_0F0F_0001).view(np.float64)  # a NaN of its own: what is computed from it is still it
VECTORS = 2  # of a frame


class Call(NamedTuple):
    """A function with the shapes of what it reads after (x, p, t), and of what it writes."""

    kind: str
    function: Callable[..., Any]
    reads: tuple[tuple[int, ...], ...] = ()
    writes: tuple[tuple[int, ...], ...] = ()


def try_out(calls: Sequence[Call], name: str, states: Array, parameters: Mapping[str, float]) -> None:
    """Call each function once at each state, at t = 0, 1, ….

    Raises Refusal, with function and reason, for one that looks out of bounds, changes what it is given, leaves a part
    of its result unwritten, returns no number where it has to, or cannot run as plain Python.
    """
    for call in (call._replace(function=plain(call.function)) for call in calls):
        for t, state in enumerate(states):
            if reason := _fault(call, state, parameters, t):
                raise Refusal(
                    f"the {call.kind} of {name!r} {reason} (tried as plain Python at t = {t}, with x of {len(state)} "
                    f"components and p of {len(parameters)}: {', '.join(parameters) or 'no parameters'}; "
                    "check=False leaves this out)"
                )


def _fault(call: Call, state: Array, parameters: Mapping[str, float], t: int) -> str:
    rng = np.random.default_rng(0)
    read = [state.copy(), np.array(list(parameters.values())), *(rng.standard_normal(shape) for shape in call.reads)]
    written = [np.full(shape, MARK) for shape in call.writes]
    for array in read:
        array.flags.writeable = False
    try:
        with np.errstate(all="ignore"):
            value = call.function(*read[:2], t, *read[2:], *written)
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
    if is_arithmetic(error):
        return ""
    if "read-only" in str(error):
        return "changes x, p or the vectors that it is given: write into out only"
    return f"fails: {type(error).__name__}: {error}"


def is_arithmetic(error: Exception) -> bool:
    """Whether Python refuses arithmetic that gives inf or NaN in compiled code: 1/0, math.exp(1e4), math.log(-1).

    The words are those of `math`, of Python before 3.14 and since.
    """
    words = ("math domain error", "math range error", "expected a ", "expected argument ")
    return isinstance(error, ArithmeticError) or (type(error) is ValueError and str(error).startswith(words))
