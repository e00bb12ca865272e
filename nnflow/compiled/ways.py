"""The ways in which anything is compiled: by itself, in place, or as an entry point.

| way | what it is for | how | may allocate | kept on disk |
|---|---|---|---|---|
| `rule` | what a map is made of, and what is as large | a function of its own | yes | within the loops |
| `kernel` | formulas of this package, a network's rows | a function of its own | yes | within the loops |
| `part` | a piece of a loop | put in place: by numba, or (`part_by_llvm`) by LLVM | no | within the loops |
| `nnflow.machine.loop` | an entry point, called from Python | by itself, GIL released | if asked to | yes |

Each compiled function in a chain of calls optimizes all that it calls once more, so parts are put in place *before*
compilation. LLVM does that later, for parts whose inner loop it is to vectorize by itself.

Loops own no array (scratch comes in as an argument, or lies on the stack), so that they and their parts are compiled
without reference counting (numba's `_nrt`), which would cost more than a step of a small map.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

from nnflow.unassigned import Careful

Function = TypeVar("Function", bound=Callable[..., Any])
Rule = Callable[..., Any]  # what a map is made of, and what is made of that


def rule(function: Function, **options: Any) -> Function:
    """A function of its own, which may allocate."""
    settings: dict[str, Any] = {
        "nogil": True, "error_model": "numpy", "_nrt": True, "pipeline_class": Careful, **options
    }  # fmt: skip
    return cast(Function, njit(**settings)(function))


def kernel(function: Function) -> Function:
    """A loop or a formula of this package, which assigns what it reads; a division by zero gives inf or NaN."""
    # a C callback of each of some thirty kernels would cost a tenth of the compile time
    settings: dict[str, Any] = {"error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": True}
    return cast(Function, njit(**settings)(function))


def part(function: Function) -> Function:
    """A piece of a loop, put in place before the loop is compiled."""
    return cast(Function, njit(inline="always", error_model="numpy")(function))


def part_by_llvm(function: Function, **options: Any) -> Function:
    """A piece that LLVM optimizes by itself and then puts in place."""
    settings: dict[str, Any] = {"error_model": "numpy", "_nrt": False, "forceinline": True, **options}
    return cast(Function, njit(**settings)(function))
