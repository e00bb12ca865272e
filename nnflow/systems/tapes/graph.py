"""A function of a small tensor as a tape: its torch operations are traced, and each is written in scalar instructions.

Three kinds of operations are known by name. What moves numbers about (`MOVES`: views, indices, stacks, zeros filled in)
is done by torch itself, on tensors of registers in place of numbers. What is done number by number (`ELEMENTWISE`) and
what sums (`REDUCTIONS`) is written out. What depends on no argument is computed by torch. Anything else is taken apart
by torch's own decompositions; what is left then is refused by its name, as are numbers of another type than float64.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Node

from nnflow.internals import decomposition_table, make_fx
from nnflow.systems.tapes.elementwise import ELEMENTWISE, LOGICAL, PLAIN
from nnflow.systems.tapes.loops import Tape
from nnflow.systems.tapes.reductions import OF_ALL, REDUCTIONS
from nnflow.systems.tapes.writer import MOST, Unwritable, Writer
from nnflow.tensor.graph import refuse_changing_sizes

MOVES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ("alias", "as_strided", "clone", "detach", "diag_embed", "diagonal", "diagonal_backward", "expand", "flip",
         "gather", "index", "index_select", "lift_fresh_copy", "narrow", "permute", "repeat", "reshape", "roll",
         "select", "select_backward", "slice", "slice_backward", "split", "split_with_sizes", "squeeze", "t", "take",
         "broadcast_in_dim", "transpose", "tril", "triu", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view",
         "contiguous"), (0,)),
    **dict.fromkeys(("cat", "stack"), (0,)),
    **dict.fromkeys(("as_strided_scatter", "diagonal_scatter", "select_scatter", "slice_scatter", "copy"), (0, 1)),
    "constant_pad_nd": (0, 2), "scatter": (0, 3),
}  # fmt: skip
"""Name in aten → the places of its arguments that hold numbers which are moved."""

SHAPES = frozenset(
    ["empty_like", "fill", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros",
     "ones_like", "zeros_like"]
)  # fmt: skip
"""What looks at the shape of its first argument alone."""
PLACES = {"index_put": 1, "scatter_add": 2}
"""Where a reduction is told places, which are no numbers."""
STRIDED = ("as_strided", "as_strided_scatter", "contiguous")
CASTS = ("_to_copy", "convert_element_type", "to")
WHOLE = frozenset(["where", "sum", "add", "sub", "rsub", "mul", "neg"])
"""What keeps whole numbers exact as float64; no other operation may make any."""


@dataclass(frozen=True)
class Held:
    """A tensor that depends on the arguments: its registers, and what it is in an example."""

    registers: Tensor
    example: Tensor


MANY = 6 * MOST  # numbers of one tensor: two instructions for each one that is left out, of three registers each
TRUTHS = (*CASTS, "any", "all")


def written(function: Callable[[Tensor], Any], w: Tensor) -> tuple[Tape, ...]:
    """A function of ``(n,)`` that returns a tensor or several, as tapes.

    Args:
        function: Of torch tensors.
        w: An example of what it is called with, float64.

    Returns:
        A tape for each tensor.

    Raises:
        Unwritable: for a function that cannot be traced, and for an operation that has no scalar form, by its name.
    """
    writer = Writer(len(w))
    values: dict[Node, Any] = {}
    graph = _traced(function, w)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = Held(torch.arange(1, 1 + len(w)), w)
        elif node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(graph)
        elif node.op == "call_function":
            args, options = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = _attempted(writer, node.target, args, options)
        elif node.op == "output":
            found = torch.fx.map_arg(node.args[0], values.__getitem__)
            return tuple(writer.tape(_registers(writer, each).reshape(-1).tolist()) for each in _leaves(found))
    raise Unwritable("it returns nothing")


def _traced(function: Callable[[Tensor], Any], w: Tensor) -> Any:
    """The graph of a function, what has no entry here decomposed. Raises Unwritable."""

    def of_weights(w: Tensor) -> Any:  # a function with defaults has more arguments than the trace knows
        return function(w)

    parts: Any = {op: rule for op, rule in decomposition_table.items() if _name(op) not in KNOWN}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            graph = make_fx(functionalize(of_weights), decomposition_table=parts)(w.clone())
        refuse_changing_sizes(graph)
    except Exception as error:  # whatever it is: tensors may do it
        raise Unwritable(f"it cannot be traced: {str(error).partition(chr(10))[0]:.200}") from error
    graph.graph.eliminate_dead_code()
    return graph


def _name(target: Any) -> str:
    return str(getattr(getattr(target, "_schema", None), "name", getattr(target, "__name__", target))).split("::")[-1]


KNOWN = frozenset([*ELEMENTWISE, *REDUCTIONS, *MOVES, *SHAPES, *CASTS])


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def _attempted(w: Writer, target: Any, args: Any, options: Any) -> Any:
    """What a torch operation gives. Raises Unwritable, also for a form of it that is not known here."""
    try:
        return _done(w, target, args, options)
    except Unwritable:
        raise
    except Exception as error:
        raise Unwritable(f"{target} has no compiled form with these arguments") from error


def _done(w: Writer, target: Any, args: Any, options: Any) -> Any:
    """What a torch operation gives. Raises Unwritable, with its name."""
    if target is operator.getitem:
        return args[0][args[1]]
    held = [leaf for leaf in _leaves([*args, *options.values()]) if isinstance(leaf, Held)]
    if target._schema.is_mutable:
        raise Unwritable(f"{target} writes into a tensor that the loss has not made")
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise Unwritable(f"{target} draws random numbers")
    if not held:
        return target(*args, **options)
    name, plain = _name(target), _examples((args, options))
    if name == "fill" and isinstance(args[1], Held):
        return Held(_registers(w, args[1]).expand(args[0].shape), target(*plain[0]))
    if name in SHAPES:
        return target(*plain[0], **plain[1])
    if name not in KNOWN or (name in OF_ALL and target._overloadname != "default"):
        raise Unwritable(f"{target} has no compiled form")
    example = target(*plain[0], **plain[1])
    _look_at_types(target, name, example, held)
    found = _registers_of(w, target, name, args, options)
    return _together(found, example, str(target))


def _examples(value: Any) -> Any:
    """Arguments with examples in place of registers."""
    if isinstance(value, Held):
        return value.example
    if isinstance(value, dict):
        return {key: _examples(each) for key, each in value.items()}
    return [_examples(each) for each in value] if isinstance(value, (list, tuple)) else value


def _look_at_types(target: Any, name: str, example: Any, held: list[Held]) -> None:
    """Refuse numbers that a tape cannot hold: the only whole ones are truths and what is counted by them."""
    counting = all(part.example.dtype != torch.float64 for part in held) or name == "where"
    for each in _leaves(example):
        whole = each.dtype == torch.int64 and counting and name in (*WHOLE, *MOVES, *CASTS)
        truth = each.dtype == torch.bool and (
            name in LOGICAL or (counting and name not in ELEMENTWISE) or name in TRUTHS
        )
        if not (each.dtype == torch.float64 or whole or truth):
            raise Unwritable(f"{target} makes {str(each.dtype).removeprefix('torch.')}, and float64 is compiled")


def _registers_of(w: Writer, target: Any, name: str, args: Any, options: Any) -> Any:
    """The registers of what an operation makes."""
    if name in CASTS:
        return _cast(
            w, args[0], options.get("dtype") or next((a for a in args[1:] if isinstance(a, torch.dtype)), None)
        )
    if name in MOVES:
        return _moved(w, target, name, args, options)
    if name in REDUCTIONS:
        plain = {key: value for key, value in options.items() if not key.endswith("dtype")}  # as the example has it
        return REDUCTIONS[name](w, *_operands(w, name, args), **plain)
    return _number_by_number(w, name, args, options)


def _operands(w: Writer, name: str, args: Any) -> list[Any]:
    """Tensors as registers; but places are places."""
    place = PLACES.get(name)
    if place is not None and any(isinstance(leaf, Held) for leaf in _leaves([args[place]])):
        raise Unwritable(f"aten.{name} takes its places from w, and has no compiled form")
    return [_registers(w, arg) if isinstance(arg, (Tensor, Held)) and i != place else arg for i, arg in enumerate(args)]


def _number_by_number(w: Writer, name: str, args: Any, options: Any) -> Tensor:
    """An elementwise operation, its operands broadcast."""
    plain = {key: value for key, value in options.items() if key in PLAIN}
    named = {key: value for key, value in options.items() if key not in PLAIN}
    given = [*args, *named.values()]
    operands = [None if arg is None else _registers(w, arg) for arg in given]
    shape = np.broadcast_shapes(*(each.shape for each in operands if each is not None))
    flat = [[None] * math.prod(shape) if each is None else each.expand(shape).reshape(-1).tolist() for each in operands]
    found = [
        ELEMENTWISE[name](w, *row[: len(args)], **dict(zip(named, row[len(args) :], strict=True)), **plain)
        for row in zip(*flat, strict=True)
    ]
    return torch.tensor(found, dtype=torch.int64).reshape(shape)


def _moved(w: Writer, target: Any, name: str, args: Any, options: Any) -> Any:
    """The same operation on registers."""
    if name in STRIDED and args[0].registers.stride() != args[0].example.stride():
        raise Unwritable(f"{target} of a tensor that is laid out in another way has no compiled form")
    if any(key == "reduce" for key in options):
        raise Unwritable(f"{target} with reduce={options['reduce']!r} has no compiled form")
    given = [_registers_in(w, arg) if i in MOVES[name] else arg for i, arg in enumerate(args)]
    if any(isinstance(leaf, Held) for leaf in _leaves([*given, *options.values()])):
        raise Unwritable(f"{target} takes its places from w, and has no compiled form")
    return target(*given, **options)


def _registers_in(w: Writer, value: Any) -> Any:
    """Registers in place of numbers, also within lists."""
    if isinstance(value, (list, tuple)):
        return [_registers(w, each) for each in value]
    registers = _registers(w, value)
    return registers if isinstance(value, (Held, Tensor)) else int(registers)


def _cast(w: Writer, x: Held, dtype: torch.dtype | None) -> Tensor:
    """As float64 nothing changes; as a truth, whether it is not 0."""
    if dtype != torch.bool:
        return x.registers
    return _number_by_number(w, "logical_or", [x, x], {})


def _registers(w: Writer, value: Any) -> Tensor:
    """The registers of a tensor or a number. Raises Unwritable for complex ones."""
    if isinstance(value, Held):
        return value.registers
    if isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex()):
        raise Unwritable("complex numbers have no compiled form")
    numbers = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if numbers.numel() > MANY:
        raise Unwritable(f"it computes with {numbers.numel()} numbers, and {MANY} at most are compiled")
    flat = [w.number(float(each)) for each in numbers.reshape(-1).tolist()]
    return torch.tensor(flat, dtype=torch.int64).reshape(numbers.shape)


def _together(found: Any, example: Any, what: str) -> Any:
    """Registers with the example that has their shape."""
    if isinstance(example, (list, tuple)):
        return [_together(*pair, what) for pair in zip(found, example, strict=True)]
    if found.shape != example.shape:
        raise Unwritable(f"{what} has no compiled form with these arguments")
    return Held(found, example)
