"""A local variable that is not assigned on the way taken is NaN in machine code, and no 0.

Python raises UnboundLocalError; numba takes 0, which looks like a result. Which ways a rule takes shows only along the
orbit. So here such a variable is NaN, or, if it holds whole numbers, the least of them, which is no index either.
(A whole number that is one constant wherever it is assigned stands for itself as an index: numba puts it in place.)
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nnflow.internals import Compiler, Lower, NativeLowering, register_pass

FLOATS = (ir.DoubleType, ir.FloatType)


class _Lowering(Lower):
    def lower_expr(self, resty: Any, expr: Any) -> Any:
        """A value; numba says where it knows of none."""
        kind = self.context.get_value_type(resty)
        if expr.op in ("null", "undef") and isinstance(kind, FLOATS):
            return ir.Constant(kind, float("nan"))
        if expr.op in ("null", "undef") and isinstance(kind, ir.IntType) and kind.width >= 32:
            return ir.Constant(kind, -(2 ** (kind.width - 1)))
        return super().lower_expr(resty, expr)  # type: ignore[no-untyped-call]


@register_pass(mutates_CFG=True, analysis_only=False)
class _LoweringPass(NativeLowering):
    _name = "native_lowering_unassigned"

    @property
    def lowering_class(self) -> type[Lower]:
        return _Lowering


class Careful(Compiler):
    """numba's compiler, with that."""

    def define_pipelines(self) -> list[Any]:
        """numba's own, with one pass in place of another."""
        (pipeline,) = super().define_pipelines()  # type: ignore[no-untyped-call]
        pipeline.passes = [(_LoweringPass if kind is NativeLowering else kind, says) for kind, says in pipeline.passes]
        pipeline.finalize()
        return [pipeline]
