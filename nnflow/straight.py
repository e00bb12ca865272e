"""What can be told of a rule's text: whether it runs straight through, what is not finite lasts, the time is read.

Straight through: no loop, and no index that is not written down as a number.

Such a rule can be called with any numbers, NaN and infinity among them: it returns, and it touches nothing but its own
arrays. Members that run side by side (`lanes.py`) need that, since for a while nobody looks at where they go. Numba's
own reading of the bytecode tells, whatever the version of Python; what it cannot tell counts as not straight.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
from numba.core.errors import NumbaError, UnsupportedBytecodeError

from nnflow.frozen import own
from nnflow.internals import ConstantInferenceError, Dispatcher, ir, run_frontend

UNREADABLE = (NumbaError, UnsupportedBytecodeError)  # numba does not derive the second from the first
KNOWN = (Dispatcher, FunctionType, BuiltinFunctionType, type, np.ufunc)  # what may run straight through
BUILTINS = (abs, bool, float, max, min, pow, round)
EXPRESSIONS = ("binop", "build_tuple", "cast", "getattr", "inplace_binop", "unary")
ARITHMETIC = tuple(getattr(operator, name) for name in ("add", "sub", "mul", "iadd", "isub", "imul", "neg", "pos"))
STATE, NEXT = "x", "out"
NOTHING: frozenset[int] = frozenset()


@lru_cache(maxsize=256)
def _read(function: FunctionType) -> Any:
    """The bytecode of a function as numba reads it: blocks of statements."""
    return run_frontend(function)


@lru_cache(maxsize=256)
def straight(function: Callable[..., Any], callers: tuple[Any, ...] = ()) -> bool:
    """Whether a rule, or a function that it calls, runs straight through; one that calls itself does not.

    With fast math a state could get other numbers by itself than side by side with others: that is not straight either.

    Args:
        function: The rule, plain or compiled.
        callers: The functions that led to it.

    Returns:
        False also where that cannot be told.
    """
    if isinstance(function, Dispatcher):
        return not function.targetoptions.get("fastmath") and straight(function.py_func, callers)
    if function in callers:
        return False
    callers = (*callers, function)
    if isinstance(function, FunctionType):
        if function.__defaults__ or function.__kwdefaults__:  # of any size, and nobody looks
            return False
        try:
            code = _read(function)
        except UNREADABLE:
            return False
        return all(_goes_on(code, label, step, callers) for label, block in code.blocks.items() for step in block.body)
    return function in BUILTINS or isinstance(function, np.ufunc) or function in vars(math).values()


def _goes_on(code: Any, label: int, step: Any, callers: tuple[Any, ...]) -> bool:
    """Whether a statement of the block at `label` neither goes back nor looks anywhere unforeseen."""
    if isinstance(step, (ir.Jump, ir.Branch)):
        targets: Any = step.get_targets()  # type: ignore[no-untyped-call]
        return all(target > label for target in targets)
    if isinstance(step, ir.SetItem):
        return _foreseen(code, step.target, step.index, callers)
    if isinstance(step, ir.Assign) and isinstance(step.value, ir.Expr):
        if step.value.op == "getitem":
            return _foreseen(code, step.value.value, step.value.index, callers)
        if step.value.op == "call":
            function = _constant(code, step.value.func)
            if isinstance(function, np.ufunc) and len(step.value.args) + len(step.value.kws) > function.nin:
                return False  # it writes into an array
            return isinstance(function, KNOWN) and straight(function, callers)
        return step.value.op in EXPRESSIONS
    return isinstance(step, (ir.Assign, ir.Del, ir.Return))


def _foreseen(code: Any, array: ir.Var, index: ir.Var, callers: tuple[Any, ...]) -> bool:
    """Whether an index is a number, of an array whose size is known: an argument of the rule (see `fault`), a constant.

    Returns:
        False for arguments of a function that the rule calls: they are known to this package's own functions only.
    """
    if not isinstance(number := _constant(code, index), int):
        return False
    if (values := _constant(code, array)) is not None:
        return hasattr(values, "__len__") and -len(values) <= number < len(values)
    return own(callers[-1]) or (len(callers) == 1 and _argument(code, array) is not None)


def _argument(code: Any, array: ir.Var) -> int | None:
    """The position of the argument that a variable always is; None for anything else."""
    found = {step.value for block in code.blocks.values() for step in block.find_insts(ir.Assign)
             if step.target.name == array.name}  # fmt: skip
    (value,) = found if len(found) == 1 else (None,)
    if isinstance(value, ir.Var):
        return _argument(code, value)
    return value.index if isinstance(value, ir.Arg) else None


def fault(function: Callable[..., Any], sizes: Sequence[int | None], out: int | None) -> str:
    """What a function that runs straight through would do wrong on any of its ways.

    No index is beyond, nothing else is written, and each entry of out is written on every way, and not read before. Of
    other functions nothing is said.

    Args:
        function: A plain function.
        sizes: Of its arguments.
        out: The position of the one that it writes.

    Returns:
        The fault in words; "" if there is none.
    """
    function = getattr(function, "py_func", function)
    if not straight(function):
        return ""
    code, entries = _read(function), set(range(sizes[out] or 0)) if out is not None else set()
    written: dict[int, list[set[int]]] = {min(code.blocks): [set()]}  # block -> what is on each way into it
    for label in sorted(code.blocks):
        done = set(entries).intersection(*written[label]) if label in written else set(entries)
        for step in code.blocks[label].body:
            if isinstance(step, (ir.Jump, ir.Branch)):
                targets: Any = step.get_targets()  # type: ignore[no-untyped-call]
                for target in targets:
                    written.setdefault(target, []).append(set(done))
            elif isinstance(step, ir.Return) and entries - done:
                return f"does not write {code.arg_names[out]}[{min(entries - done)}] on every way"
            elif reason := _wrong(code, step, sizes, out, done):
                return reason
    return ""


def _wrong(code: Any, step: Any, sizes: Sequence[int | None], out: int | None, done: set[int]) -> str:
    """What is wrong with a statement, after which `done` holds the entries of out that are written."""
    write = isinstance(step, ir.SetItem)
    value: Any = step if write else getattr(step, "value", None)
    if not (write or (isinstance(value, ir.Expr) and value.op == "getitem")):
        return ""
    at = _argument(code, step.target if write else value.value)
    if at is None or (size := sizes[at]) is None:
        return ""
    index, name = _constant(code, value.index), code.arg_names[at]
    if not -size <= index < size:
        return f"reads or writes out of bounds: {name}[{index}], of {size} entries"
    if write and at != out:
        return f"changes {name}[{index}], which it is given: write into out only"
    if write:
        done.add(index % size)
    return f"reads {name}[{index}] before it writes it" if at == out and index % size not in done else ""


def _constant(code: Any, variable: ir.Var) -> Any:
    """What a variable stands for if it is a constant, a global or an attribute of one; else None."""
    try:
        return code.infer_constant(variable)
    except ConstantInferenceError:
        return None


def lasting(function: Callable[..., Any], dim: int, out: int = 3) -> bool:
    """Whether a state that is not finite is followed by none that is: then the last state of many tells of all.

    A sum, a difference or a product with NaN or infinity is one of them again. So each component of the state has to
    reach the next state by these alone.

    Args:
        function: A rule (x, p, t, out).
        dim: Components of a state.
        out: The position of the argument that it writes.

    Returns:
        False also for a rule with branches or calls, of which nothing is known.
    """
    code = _read(getattr(function, "py_func", function))
    if len(code.blocks) > 1:
        return False
    known: dict[str, Any] = {}  # variable -> the components that reach it, or which array it is
    ends: dict[int, frozenset[int]] = {}  # the same of the entries of the next state
    for step in code.blocks[min(code.blocks)].body:
        if isinstance(step, ir.Assign):
            if _may_write(step.value):
                return False
            known[step.target.name] = _reaching(code, step.value, known, ends, dim, out)
        elif isinstance(step, ir.SetItem):
            if known[step.target.name] != NEXT:
                return False
            ends[_constant(code, step.index) % dim] = known[step.value.name]
    return NOTHING.union(*ends.values()) == frozenset(range(dim))


def _may_write(value: Any) -> bool:
    """Whether an expression may change an array: a call, or an operation in place that can make a number finite."""
    if not isinstance(value, ir.Expr):
        return False
    return value.op == "call" or (value.op == "inplace_binop" and value.fn not in ARITHMETIC)


def _reaching(code: Any, value: Any, known: dict[str, Any], ends: dict[int, frozenset[int]], dim: int, out: int) -> Any:
    """What is known of a value."""
    if isinstance(value, ir.Arg):
        return {0: STATE, out: NEXT}.get(value.index, NOTHING)
    if isinstance(value, ir.Var):
        return known[value.name]
    if not isinstance(value, ir.Expr):
        return NOTHING
    if value.op == "getitem":
        array, index = known[value.value.name], _constant(code, value.index) % dim
        return frozenset([index]) if array == STATE else ends.get(index, NOTHING) if array == NEXT else NOTHING
    if value.op in ("binop", "inplace_binop", "unary") and value.fn in ARITHMETIC:
        operands: Any = value.list_vars()
        parts = [known[operand.name] for operand in operands]
        return NOTHING.union(*(part for part in parts if isinstance(part, frozenset)))
    return NOTHING


def reads(function: Any, position: int, inside: frozenset[Any] = frozenset()) -> bool:
    """Whether a function looks at its argument of this position, itself or in a function that it hands it on to.

    Args:
        function: The function, plain or compiled.
        position: Of the argument.
        inside: The functions whose calls are being followed.

    Returns:
        True also for what cannot be told.
    """
    function = getattr(function, "py_func", function)
    if (function, position) in inside:
        return False
    try:
        code = _read(function) if isinstance(function, FunctionType) else None
    except UNREADABLE:
        code = None
    if code is None or position >= function.__code__.co_argcount:  # among *args
        return True
    if code.arg_names[position] in function.__code__.co_cellvars:
        return True
    held, inside = set[str](), inside | {(function, position)}  # variables that hold the argument
    while True:  # a loop may use at its beginning what it sets at its end
        count = len(held)
        if _used(code, position, held, inside):
            return True
        if len(held) == count:
            return False


def _used(code: Any, position: int, held: set[str], inside: frozenset[Any]) -> bool:
    """Whether one of the variables in `held` is looked at; those that come to hold the argument are added."""
    for label in sorted(code.blocks):
        for step in code.blocks[label].body:
            value = getattr(step, "value", None)
            if isinstance(value, ir.Arg) and value.index == position:
                held.add(step.target.name)
            elif isinstance(step, ir.Assign) and isinstance(value, ir.Var):
                held |= {step.target.name} if value.name in held else set()
            elif isinstance(value, ir.Expr) and value.op == "call" and not (value.kws or value.vararg):
                given = [i for i, argument in enumerate(value.args) if argument.name in held]
                if given and any(reads(_constant(code, value.func), i, inside) for i in given):
                    return True
            elif not isinstance(step, ir.Del) and any(variable.name in held for variable in step.list_vars()):
                return True
    return False
