"""What torch raises where a module, a loss or a rule fails, and how it is told."""

from __future__ import annotations

from typing import Any

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError)


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return str(error).partition("\n")[0] or type(error).__name__


def described(value: Any) -> str:
    """What a loss returned, in a few words: a number, or the shape of a tensor."""
    shape = tuple(getattr(value, "shape", ()))
    return f"a tensor of shape {shape}" if shape else repr(value)
