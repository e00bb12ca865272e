"""Arithmetic in a fixed order, at full speed: fused multiply-adds by name, and sums over eight lanes.

A compiler that may re-order sums or fuse products chooses anew wherever a loop is put in place: another verb, another
version or another processor, other bits. So nothing here is left to it. `fma(a, b, c)` rounds a b + c once. `Eight` is
eight numbers that are added up lane by lane: lane i holds entries i, i + 8, i + 16, …, and `sum_of_lanes` adds the
lanes in pairs. Processors without such instructions give the same bits, more slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8
_vector = ir.VectorType(ir.DoubleType(), LANES)


class Eight(types.Type):
    """Eight float64 numbers in vector registers."""

    def __init__(self) -> None:
        super().__init__(name="eight")


eight_type = Eight()


@register_model(Eight)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _vector)  # type: ignore[no-untyped-call]


def _number(function: Any) -> Callable[..., float]:
    """An intrinsic whose value is a number."""
    return cast(Callable[..., float], intrinsic(function))


def _lanes(function: Any) -> Callable[..., Eight]:
    """An intrinsic whose value is eight of them."""
    return cast(Callable[..., Eight], intrinsic(function))


@_number
def fma(context, a, b, c):  # type: ignore[no-untyped-def]
    """a b + c, rounded once."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values = [context.cast(builder, v, k, types.float64) for v, k in zip(arguments, (a, b, c), strict=True)]
        return builder.fma(*values)

    return types.float64(a, b, c), build


@_lanes
def eight(context):  # type: ignore[no-untyped-def]
    """Eight zeros."""
    return eight_type(), lambda context, builder, signature, arguments: ir.Constant(_vector, [0.0] * LANES)


def _pointer(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    kind, array = signature.args[0], context.make_array(signature.args[0])(context, builder, arguments[0])
    places = [context.cast(builder, v, k, types.intp) for v, k in zip(arguments[1:], signature.args[1:], strict=True)]
    return builder.bitcast(cgutils.get_item_pointer(context, builder, kind, array, places), _vector.as_pointer())


def _load(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    loaded = builder.load(_pointer(context, builder, signature, arguments))  # type: ignore[no-untyped-call]
    loaded.align = 8
    return loaded


@_lanes
def eight_of(context, array, i):  # type: ignore[no-untyped-def]
    """array[i : i + 8] of a contiguous vector."""
    return eight_type(array, i), _load


@_lanes
def eight_at(context, array, i, j):  # type: ignore[no-untyped-def]
    """array[i, j : j + 8] of a matrix whose rows are contiguous."""
    return eight_type(array, i, j), _load


@_lanes
def add_product(context, total, a, b):  # type: ignore[no-untyped-def]
    """total + a b, lane by lane, each rounded once."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        sums, left, right = arguments
        kind = ir.FunctionType(_vector, [_vector] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f64")
        return builder.call(function, [left, right, sums])

    return eight_type(total, a, b), build


@_lanes
def add(context, total, a):  # type: ignore[no-untyped-def]
    """total + a, lane by lane."""
    return eight_type(total, a), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@_number
def sum_of_lanes(context, lanes):  # type: ignore[no-untyped-def]
    """((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)): the lanes, added in pairs."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        (sums,) = arguments
        for half in (4, 2, 1):
            nothing, places = ir.Constant(sums.type, ir.Undefined), ir.VectorType(ir.IntType(32), half)
            low, high = (
                builder.shuffle_vector(sums, nothing, ir.Constant(places, list(range(first, first + half))))
                for first in (0, half)
            )
            sums = builder.fadd(low, high)
        return builder.extract_element(sums, ir.Constant(ir.IntType(32), 0))

    return types.float64(lanes), build
