"""What code reads: names of its module, and attributes of what it has by a name."""

from __future__ import annotations

import dis
import itertools
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")
NAME = ("LOAD_GLOBAL", "LOAD_NAME")


def codes(code: CodeType) -> list[CodeType]:
    """A code object and those within it."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return [code, *(found for const in inner for found in codes(const))]


def globals_of(function: FunctionType) -> dict[str, Any]:
    """The names of its module that a function reads, with what they mean now."""
    return {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> list[str]:
    steps = (step for part in codes(code) for step in dis.get_instructions(part))
    return sorted({step.argval for step in steps if step.opname in NAME})


@lru_cache(maxsize=4096)
def attributes(code: CodeType) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """What is read of each name, and every name that code has.

    Args:
        code: Of a function.

    Returns:
        Name → the attributes that are read of it at once; all that there are, where it is handed on.
    """
    everything = frozenset(name for part in codes(code) for name in part.co_names)
    found: dict[str, frozenset[str]] = {}
    for part in codes(code):
        steps = [step for step in dis.get_instructions(part) if step.opname not in ("CACHE", "EXTENDED_ARG")]
        for step, after in itertools.pairwise(steps):
            if step.opname in (*NAME, "LOAD_DEREF"):
                read = {after.argval} if after.opname in ATTRIBUTE else everything
                found[step.argval] = found.get(step.argval, frozenset()) | read
    return found, everything
