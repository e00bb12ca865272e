"""What a function reads beside its arguments: names of its module and of the functions around it, as they were.

A replay holds what a name meant when it was traced, a call what it means now: a rule whose constant is changed later
would be another one for some members than for others. So it is remembered what the rule reads, and looked at again
before each verb. Numbers, texts and small arrays are compared, also within lists, dicts, objects and modules, of which
more may be appended; of large tensors the version; of anything else that it is the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
MOST = 2**12  # entries of a container, or numbers of an array, that are looked at
DEEP = 6
LIBRARIES = ("torch", "numpy", "nnflow", "math", "builtins")

Seen = tuple[str, Callable[[], Any], Any]


class Outside:
    """What functions read beside their arguments, as it is when this is made.

    Args:
        functions: Those of the user, partial ones and methods among them; what else can be called is left aside.
    """

    def __init__(self, functions: Iterable[Any]) -> None:
        self._seen = [seen for function in functions for seen in _read_by(function, set(), 0)]

    def changed(self) -> str:
        """The name of something that is another one now; "" if nothing is."""
        return next((name for name, now, before in self._seen if not _same(before, _held(now))), "")


def _read_by(function: Any, known: set[int], depth: int) -> Iterator[Seen]:
    """What a function reads, and what is read by the functions that it reads; of a library's, what is handed to it."""
    while not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        if isinstance(function, MethodType):
            yield _noted(type(function.__self__).__name__, partial(getattr, function, "__self__"))
            function = function.__func__
        elif isinstance(function, partial):
            yield _noted("an argument", partial(getattr, function, "args"))
            yield _noted("an argument", partial(getattr, function, "keywords"))
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return
    if id(function) in known or depth > DEEP:
        return
    known.add(id(function))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    read: dict[str, Callable[[], Any]] = {name: partial(getattr, cell, "cell_contents") for name, cell in cells}
    if not _of_library(function):
        space = function.__globals__
        read |= {name: partial(space.__getitem__, name) for name in _names(function.__code__) if name in space}
        yield _noted("a default", partial(getattr, function, "__defaults__"))
    for name, now in read.items():
        value = _held(now)
        if not (isinstance(value, (ModuleType, type)) or _of_library(function)):
            yield _noted(name, now)
        if isinstance(value, (FunctionType, MethodType, partial)) and (depth == 0 or not _of_library(value)):
            yield from _read_by(value, known, depth + 1)


def _of_library(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).split(".")[0] in LIBRARIES


def _noted(name: str, now: Callable[[], Any]) -> Seen:
    return name, now, _kept(_held(now), 0)


def _names(code: CodeType) -> Iterator[str]:
    """The names that code, and what is defined in it, may look up in its module."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _held(now: Callable[[], Any]) -> Any:
    try:
        return now()
    except (KeyError, ValueError):  # a name that is gone, or not yet there
        return None


def _kept(value: Any, depth: int) -> Any:
    """What is remembered of a value: (kind, …), to be compared by `_same`."""
    if isinstance(value, PLAIN):
        return ("plain", value)
    if isinstance(value, Tensor):
        small = value.numel() <= MOST and value.device.type == "cpu"
        return ("tensor", value, value._version, value.detach().numpy(force=True).copy() if small else None)
    if isinstance(value, np.ndarray) and value.size <= MOST and value.dtype.kind != "O":
        return ("array", value.copy())
    if isinstance(value, nn.Module):
        return ("module", value, [_kept(each, depth) for each in (*value.parameters(), *value.buffers())])
    if depth >= DEEP:
        return ("object", value)
    if isinstance(value, (list, tuple)):
        return ("row", type(value), [_kept(each, depth + 1) for each in value[:MOST]])
    if isinstance(value, dict):
        return ("table", value, {key: _kept(each, depth + 1) for key, each in list(value.items())[:MOST]})
    if not isinstance(value, FunctionType) and not _of_library(type(value)) and hasattr(value, "__dict__"):
        return ("fields", value, {key: _kept(each, depth + 1) for key, each in vars(value).items()})
    return ("object", value)


def _same(before: Any, value: Any) -> bool:
    """Whether a value is what was remembered."""
    kind, known, *rest = before
    if kind == "plain":
        return type(value) is type(known) and (value == known or value != value)
    if kind == "array":
        return isinstance(value, np.ndarray) and np.array_equal(value, known, equal_nan=known.dtype.kind in "fc")
    if kind == "row":
        parts = rest[0]
        return type(value) is known and len(value) >= len(parts) and all(map(_same, parts, value))
    if value is not known:
        return False
    if kind == "tensor":
        held = value.detach().numpy(force=True) if rest[1] is not None else None
        return bool(value._version == rest[0]) and (held is None or np.array_equal(held, rest[1], equal_nan=True))
    if kind == "module":
        return all(map(_same, rest[0], (*value.parameters(), *value.buffers())))
    held = vars(value) if kind == "fields" else value
    return kind == "object" or all(key in held and _same(part, held[key]) for key, part in rest[0].items())
