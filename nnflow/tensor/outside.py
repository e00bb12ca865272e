"""What a function reads beside its arguments: names of its module and of the functions around it, as they were.

A replay holds what a name meant when it was traced, a call what it means now: a rule whose constant is changed later
would be another one for some members than for others. So it is remembered what the rule reads, and looked at again
before each verb. Numbers, texts and small arrays are compared, also within lists, dicts, objects and modules, of which
more may be appended; of large tensors the version; of anything else, large arrays too, that it is the same object.
Functions and methods are followed into what they call, but into no library.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnflow.reads import attributes, globals_of

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
MOST = 2**12  # entries of a container, or numbers of an array, that are looked at
DEEP = 6
CALLED = frozenset(("forward", "__call__"))  # methods that are called without being named
LIBRARIES = frozenset(("torch", "numpy", "nnflow")) | sys.stdlib_module_names
SPACES = (argparse.Namespace, SimpleNamespace)  # of the standard library, and hold what others put there

Seen = tuple[str, Callable[[], Any], Any]


class Outside:
    """What functions read beside their arguments, as it is when this is made.

    Args:
        functions: Those of the user, partial ones and methods among them; of a class, its methods. What else can be
            called is left aside.
    """

    def __init__(self, functions: Iterable[Any]) -> None:
        self._seen = [seen for function in functions for seen in _read_by(function, set(), 0)]

    def changed(self) -> str:
        """The name of something that is another one now; "" if nothing is."""
        return next((name for name, now, before in self._seen if not _same(before, _held(now))), "")


def _read_by(function: Any, known: set[Any], depth: int) -> Iterator[Seen]:
    """What a function reads, and what is read by the functions that it reads; of a library's, what is handed to it."""
    while not isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        if isinstance(function, MethodType):
            names = attributes(code)[1] if (code := getattr(function.__func__, "__code__", None)) else frozenset[str]()
            holder = partial(getattr, function, "__self__")
            yield from _read_of(type(function.__self__).__name__, holder, known, depth, names, names)
            function = function.__func__
        elif isinstance(function, partial):
            yield _noted("an argument", partial(getattr, function, "args"))
            yield _noted("an argument", partial(getattr, function, "keywords"))
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            if isinstance(function, type):
                yield from _read_by_methods(function, known, depth)
            elif not _of_library(type(function)):
                yield from _read_of(type(function).__name__, partial(_itself, function), known, depth)
            return
    if id(function) in known or depth > DEEP:
        return
    known.add(id(function))
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    read: dict[str, Callable[[], Any]] = {name: partial(getattr, cell, "cell_contents") for name, cell in cells}
    if not _of_library(function):
        read |= {name: partial(function.__globals__.__getitem__, name) for name in globals_of(function)}
        yield _noted("a default", partial(getattr, function, "__defaults__"))
    of, everything = attributes(function.__code__)
    for name, now in read.items():
        value = _held(now)
        if not _of_library(function):
            yield from _read_of(name, now, known, depth, of.get(name, everything), everything)
        elif isinstance(value, (FunctionType, MethodType, partial)) and (depth == 0 or not _of_library(value)):
            yield from _read_by(value, known, depth + 1)


def _read_of(
    name: str,
    now: Callable[[], Any],
    known: set[Any],
    depth: int,
    used: frozenset[str] = frozenset(),
    within: frozenset[str] = frozenset(),
) -> Iterator[Seen]:
    """What is read of a thing: itself, or of a module or a class those contents that are used, and theirs within."""
    value = _held(now)
    if isinstance(value, (ModuleType, type)):
        if _of_library(value) or (id(value), used) in known or depth > DEEP:
            return
        known.add((id(value), used))
        for part in sorted(used & _contents(value).keys()):
            yield from _read_of(f"{name}.{part}", partial(_content, value, part), known, depth + 1, within, within)
        return
    yield _noted(name, now)
    if isinstance(value, (FunctionType, MethodType, partial)):
        if depth == 0 or not _of_library(value):
            yield from _read_by(value, known, depth + 1)
        return
    for part in _within(value, depth):
        if isinstance(part, FunctionType) and not _of_library(part):
            yield from _read_by(part, known, depth + 1)
        elif not _of_library(type(part)):
            yield from _read_by_methods(type(part), known, depth + 1, CALLED | used)


def _read_by_methods(kind: type, known: set[Any], depth: int, named: frozenset[str] = CALLED) -> Iterator[Seen]:
    """What the methods of a class read that are named, and those that they name; also of the class itself."""
    methods = {name: value for name, value in _contents(kind).items() if isinstance(value, FunctionType)}
    reached, new = frozenset[str](), named
    while new:
        reached |= new
        called = [methods[name] for name in new & methods.keys()]
        new = frozenset(name for method in called for name in attributes(method.__code__)[1]) - reached
    yield from _read_of(kind.__name__, partial(_itself, kind), known, depth, reached, reached)


def _within(value: Any, depth: int) -> Iterator[Any]:
    """A thing, and the functions and objects that it holds, of a module also its parts."""
    yield value
    if depth < DEEP and isinstance(value, (list, tuple, dict)):
        for each in list(value.values() if isinstance(value, dict) else value)[:MOST]:
            if not isinstance(each, (*PLAIN, Tensor, np.ndarray)):
                yield from _within(each, depth + 1)
    elif isinstance(value, nn.Module):
        for part in value.modules():
            yield from (part, *(held for held in _own_fields(part).values() if isinstance(held, FunctionType)))
    elif depth < DEEP and not _of_library(type(value)) and hasattr(value, "__dict__"):
        yield from (held for held in vars(value).values() if isinstance(held, FunctionType))


def _own_fields(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside what torch keeps for it."""
    return {name: held for name, held in vars(module).items() if not name.startswith("_")}


def _contents(holder: ModuleType | type) -> dict[str, Any]:
    """What a module or a class holds by name, and the classes that it is derived from, but for a library's."""
    return {name: _content(holder, name) for own in _spaces(holder) for name in vars(own)}


def _content(holder: ModuleType | type, name: str) -> Any:
    """What it holds under a name; of a method of the class, or a property, the function. Raises KeyError if nothing."""
    for own in _spaces(holder):
        if name in vars(own):
            value = vars(own)[name]
            return getattr(value, "__func__", getattr(value, "fget", value))
    raise KeyError(name)


def _spaces(holder: ModuleType | type) -> list[Any]:
    return [holder] if isinstance(holder, ModuleType) else [own for own in holder.__mro__ if not _of_library(own)]


def _of_library(value: Any) -> bool:
    home = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", "")
    return str(home).split(".")[0] in LIBRARIES


def _itself(value: Any) -> Any:
    return value


def _noted(name: str, now: Callable[[], Any]) -> Seen:
    return name, now, _kept(_held(now), 0, [MOST])


def _held(now: Callable[[], Any]) -> Any:
    try:
        return now()
    except (KeyError, ValueError, AttributeError):  # a name that is gone, or not yet there
        return None


def _kept(value: Any, depth: int, room: list[int]) -> Any:
    """What is remembered of a value: (kind, …), to be compared by `_same`; of so many parts, while there is room."""
    room[0] -= 1
    if isinstance(value, PLAIN):
        return ("plain", value)
    if isinstance(value, Tensor):
        small = value.numel() <= MOST and value.device.type == "cpu"
        return ("tensor", value, value._version, value.detach().numpy(force=True).copy() if small else None)
    if isinstance(value, np.ndarray) and value.size <= MOST and value.dtype.kind != "O":
        return ("array", value.copy())
    if isinstance(value, nn.Module):
        parts = [_kept(each, depth, room) for each in (*value.parameters(), *value.buffers())]
        return ("module", value, parts, _fields(value, depth, room))
    if depth >= DEEP or room[0] < 0:
        return ("object", value)
    if isinstance(value, (list, tuple, deque)):
        return ("row", type(value), [_kept(each, depth + 1, room) for each in list(value)[:MOST]])
    if isinstance(value, (set, frozenset)):
        return ("set", frozenset(value))
    if isinstance(value, dict):
        return ("table", value, {key: _kept(each, depth + 1, room) for key, each in list(value.items())[:MOST]})
    told = isinstance(value, SPACES) or not (isinstance(value, FunctionType) or _of_library(type(value)))
    if told and hasattr(value, "__dict__"):
        return ("fields", value, {key: _kept(each, depth + 1, room) for key, each in vars(value).items()})
    return ("object", value)


def _fields(module: nn.Module, depth: int, room: list[int]) -> list[dict[str, Any]]:
    """What a module and its parts hold beside parameters and buffers: whether it trains, rates, tables, functions."""
    parts = map(_own_fields, module.modules())
    return [{name: _kept(held, depth + 1, room) for name, held in part.items()} for part in parts]


def _same(before: Any, value: Any) -> bool:
    """Whether a value is what was remembered."""
    kind, known, *rest = before
    if kind == "plain":
        return type(value) is type(known) and (value == known or value != value)
    if kind == "array":
        return isinstance(value, np.ndarray) and np.array_equal(value, known, equal_nan=known.dtype.kind in "fc")
    if kind == "set":
        return isinstance(value, (set, frozenset)) and known == value
    if kind == "row":
        parts = rest[0]
        return type(value) is known and len(value) >= len(parts) and all(map(_same, parts, value))
    if value is not known:
        return False
    if kind == "tensor":
        held = value.detach().numpy(force=True) if rest[1] is not None else None
        return bool(value._version == rest[0]) and (held is None or np.array_equal(held, rest[1], equal_nan=True))
    if kind == "module":
        parts = [*value.parameters(), *value.buffers()]
        if len(parts) != len(rest[0]) or not all(map(_same, rest[0], parts)):
            return False
        return all(
            name in held and _same(before, held[name])
            for fields, held in zip(rest[1], map(_own_fields, value.modules()), strict=False)
            for name, before in fields.items()
        )
    held = vars(value) if kind == "fields" else value
    return kind == "object" or all(key in held and _same(part, held[key]) for key, part in rest[0].items())
