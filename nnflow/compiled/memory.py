"""Room for small arrays on the stack, where the processor holds them in registers; arrays that cannot be written to."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nnflow.internals import impl_ret_borrowed, populate_array
from nnflow.typing import Array


def _stack(context, rows, columns):  # type: ignore[no-untyped-def]
    """A float64 array (rows, columns), both constants, on the stack and on a cache line."""
    shape = rows.literal_value, columns.literal_value

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.DoubleType(), shape[0] * shape[1]))
        memory.align = 64
        array = context.make_array(signature.return_type)(context, builder)
        integers = [context.get_constant(types.intp, value) for value in (*shape, 8 * shape[1], 8)]
        pointer = builder.bitcast(memory, array.data.type)
        populate_array(array, pointer, integers[:2], integers[2:], integers[3], None)
        return array._getvalue()

    return types.Array(types.float64, 2, "C")(rows, columns), build


stack = cast(Callable[[int, int], Array], intrinsic(prefer_literal=True)(_stack))


def _sealed(context, array):  # type: ignore[no-untyped-def]
    """The same array, to be read only: numba compiles no function that writes to it."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return impl_ret_borrowed(context, builder, signature.return_type, arguments[0])  # counts one more reference

    return array.copy(readonly=True)(array), build


sealed = cast(Callable[[Array], Array], intrinsic(_sealed))
