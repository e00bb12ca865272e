"""Torch's operations on single numbers, as instructions. `w` is the writer, the others are registers.

NaN and infinity go through them as in torch, and so do derivatives at kinks (0 of |x|, of a sign, of a bound).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any

from nnflow.systems.tapes import loops
from nnflow.systems.tapes.writer import Writer

FEW = 8  # up to this whole number, a power is a product
Operation = Callable[..., int]


def _one(op: int) -> Operation:
    return lambda w, x: w(op, x)


def _two(op: int) -> Operation:
    return lambda w, x, y: w(op, x, y)


def _turned(op: int) -> Operation:
    return lambda w, x, y: w(op, y, x)


def _times(w: Writer, x: int, factor: Any) -> int:
    return x if factor == 1 else w(loops.MULTIPLY, x, w.number(float(factor)))


def _add(w: Writer, x: int, y: int, alpha: Any = 1) -> int:
    return w(loops.ADD, x, _times(w, y, alpha))


def _subtract(w: Writer, x: int, y: int, alpha: Any = 1) -> int:
    return w(loops.SUBTRACT, x, _times(w, y, alpha))


def _divide(w: Writer, x: int, y: int, rounding_mode: str | None = None) -> int:
    quotient = w(loops.DIVIDE, x, y)
    if rounding_mode == "floor":  # of what a remainder leaves, so that the two fit together
        whole = w(loops.ROUND, w(loops.DIVIDE, w(loops.SUBTRACT, x, w(loops.REMAINDER, x, y)), y))
        return w(loops.CHOOSE, negation(w, y), w(loops.FLOOR, quotient), whole)
    return quotient if rounding_mode is None else w(loops.TRUNC, quotient)


def _reciprocal(w: Writer, x: int) -> int:
    return w(loops.DIVIDE, w.number(1.0), x)


def _power(w: Writer, x: int, y: int) -> int:
    """Of small whole numbers as products, of ½ as a root, as torch has the first three."""
    if w.is_number(y, 0.5):
        return w(loops.SQRT, x)
    if w.is_number(y, -0.5):
        return _reciprocal(w, w(loops.SQRT, x))
    if w.is_number(y, -1.0):
        return _reciprocal(w, x)
    whole = next((n for n in range(1, FEW + 1) if w.is_number(y, float(n))), 0)
    return product(w, x, whole) if whole else w(loops.POWER, x, y)


def product(w: Writer, x: int, n: int) -> int:
    """The n-th power of x, n ≥ 1, by squares."""
    if n == 1:
        return x
    half = product(w, x, n // 2)
    square = w(loops.MULTIPLY, half, half)
    return w(loops.MULTIPLY, square, x) if n % 2 else square


def _at_least(w: Writer, x: int, low: int) -> int:
    """With the derivative of x at the bound; NaN if either is."""
    return w(loops.CHOOSE, w(loops.AT_MOST, low, x), x, w(loops.LARGER, x, low))


def _at_most(w: Writer, x: int, high: int) -> int:
    return w(loops.CHOOSE, w(loops.AT_MOST, x, high), x, w(loops.SMALLER, x, high))


def _clamp(w: Writer, x: int, low: int | None = None, high: int | None = None, **by_name: int | None) -> int:
    low, high = by_name.get("min", low), by_name.get("max", high)
    x = x if low is None else _at_least(w, x, low)
    return x if high is None else _at_most(w, x, high)


def _relu(w: Writer, x: int) -> int:
    return w(loops.CHOOSE, w(loops.AT_MOST, x, w.number(0.0)), w.number(0.0), x)


def _above(w: Writer, slope: int, x: int, threshold: int) -> int:
    return w(loops.CHOOSE, w(loops.AT_MOST, x, threshold), w.number(0.0), slope)


def truth(w: Writer, x: int) -> int:
    """1 where x is not 0."""
    return w(loops.UNEQUAL, x, w.number(0.0))


def negation(w: Writer, x: int) -> int:
    """1 where x is 0."""
    return w(loops.EQUAL, x, w.number(0.0))


def both(w: Writer, x: int, y: int) -> int:
    """Of two truths."""
    return w(loops.MULTIPLY, truth(w, x), truth(w, y))


def either(w: Writer, x: int, y: int) -> int:
    """Of two truths."""
    return w(loops.LARGER, truth(w, x), truth(w, y))


def total(w: Writer, terms: Iterable[int]) -> int:
    """The sum, in order."""
    return reduce(partial(w, loops.ADD), list(terms) or [w.number(0.0)])


def products(w: Writer, pairs: Iterable[tuple[int, int]]) -> int:
    """The sum of products, in order."""
    first, *rest = list(pairs) or [(w.number(0.0), w.number(0.0))]
    found = w(loops.MULTIPLY, *first)
    for x, y in rest:
        found = w(loops.ADD_PRODUCT, x, y, found)
    return found


ELEMENTWISE: dict[str, Operation] = {
    "abs": _one(loops.ABS), "neg": _one(loops.NEGATE), "sqrt": _one(loops.SQRT), "exp": _one(loops.EXP),
    "expm1": _one(loops.EXPM1), "log": _one(loops.LOG), "log1p": _one(loops.LOG1P), "log2": _one(loops.LOG2),
    "log10": _one(loops.LOG10), "sigmoid": _one(loops.SIGMOID), "erf": _one(loops.ERF), "erfc": _one(loops.ERFC),
    "sin": _one(loops.SIN), "cos": _one(loops.COS), "tan": _one(loops.TAN), "asin": _one(loops.ASIN),
    "acos": _one(loops.ACOS), "atan": _one(loops.ATAN), "sinh": _one(loops.SINH), "cosh": _one(loops.COSH),
    "tanh": _one(loops.TANH), "asinh": _one(loops.ASINH), "acosh": _one(loops.ACOSH), "atanh": _one(loops.ATANH),
    "sign": _one(loops.SIGN), "sgn": _one(loops.SIGN), "floor": _one(loops.FLOOR), "ceil": _one(loops.CEIL),
    "round": _one(loops.ROUND), "trunc": _one(loops.TRUNC), "positive": lambda w, x: x,
    "frac": lambda w, x: w(loops.SUBTRACT, x, w(loops.TRUNC, x)), "reciprocal": _reciprocal,
    "rsqrt": lambda w, x: _reciprocal(w, w(loops.SQRT, x)), "square": lambda w, x: w(loops.MULTIPLY, x, x),
    "exp2": lambda w, x: w(loops.POWER, w.number(2.0), x), "relu": _relu, "threshold_backward": _above,
    "add": _add, "sub": _subtract, "rsub": lambda w, x, y, alpha=1: _subtract(w, y, x, alpha),
    "mul": _two(loops.MULTIPLY), "div": _divide, "true_divide": _divide, "pow": _power, "atan2": _two(loops.ATAN2),
    "addcmul": lambda w, x, y, z, value=1: w(loops.ADD, x, _times(w, w(loops.MULTIPLY, y, z), value)),
    "addcdiv": lambda w, x, y, z, value=1: w(loops.ADD, x, _times(w, w(loops.DIVIDE, y, z), value)),
    "remainder": _two(loops.REMAINDER), "fmod": _two(loops.FMOD), "maximum": _two(loops.LARGER),
    "minimum": _two(loops.SMALLER), "clamp": _clamp, "clamp_min": _at_least, "clamp_max": _at_most,
    "where": lambda w, c, x, y: w(loops.CHOOSE, c, x, y), "masked_fill": lambda w, x, c, y: w(loops.CHOOSE, c, y, x),
    "lt": _two(loops.LESS), "le": _two(loops.AT_MOST), "gt": _turned(loops.LESS), "ge": _turned(loops.AT_MOST),
    "eq": _two(loops.EQUAL), "ne": _two(loops.UNEQUAL), "isnan": lambda w, x: w(loops.UNEQUAL, x, x),
    "isinf": lambda w, x: w(loops.EQUAL, w(loops.ABS, x), w.number(math.inf)),
    "isfinite": lambda w, x: w(loops.LESS, w(loops.ABS, x), w.number(math.inf)),
    "logical_and": both, "logical_or": either, "logical_not": negation,
    "logical_xor": lambda w, x, y: w(loops.UNEQUAL, truth(w, x), truth(w, y)),
    "bitwise_and": both, "bitwise_or": either, "bitwise_not": negation,
    "bitwise_xor": lambda w, x, y: w(loops.UNEQUAL, truth(w, x), truth(w, y)),
}  # fmt: skip
"""By name in aten."""

LOGICAL = frozenset(
    ["lt", "le", "gt", "ge", "eq", "ne", "isnan", "isinf", "isfinite", "where", "masked_fill", "mul",
     *(name for name in ELEMENTWISE if name.startswith(("logical", "bitwise")))]
)  # fmt: skip
"""Those that may give truths."""
PLAIN = frozenset(["alpha", "value", "rounding_mode"])  # arguments that are no operands
