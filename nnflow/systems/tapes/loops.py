"""A tape: a function of a few numbers as a list of instructions, and the two loops that run any such list.

    register 0 … K − 1      numbers that are fixed; the first is 0
    register K … K + n − 1  the arguments w
    register K + n + i      what instruction i makes of up to three registers before it

The tape is data, handed to machine code that is the same for all tapes: a new function compiles nothing. `values` runs
it. `slopes` carries k tangent vectors along (dual numbers): row r of the matrix D holds the derivatives of one register
in k directions, row 0 those of all registers that do not depend on w, which are 0. As in torch's forward mode, what an
instruction does not depend on, and what a choice leaves aside, adds nothing, not even 0 · inf.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from nnflow.compiled.ways import kernel, part, part_by_llvm
from nnflow.typing import Array, Integers

# of up to three numbers x, y, z
ADD, SUBTRACT, MULTIPLY, DIVIDE, ADD_PRODUCT, CHOOSE, LARGER, SMALLER, POWER, ATAN2, REMAINDER, FMOD = range(12)
# of two, 1 or 0
LESS, AT_MOST, EQUAL, UNEQUAL = range(12, 16)
# of one, in steps; HOLD is the number without its derivative
SIGN, FLOOR, CEIL, ROUND, TRUNC, HOLD = range(16, 22)
# of one, smooth
NEGATE, ABS, SQRT, EXP, EXPM1, LOG, LOG1P, LOG2, LOG10, SIGMOID, ERF, ERFC = range(22, 34)
SIN, COS, TAN, ASIN, ACOS, ATAN, SINH, COSH, TANH, ASINH, ACOSH, ATANH = range(34, 46)

FLAT = range(LESS, NEGATE)  # whose derivative is 0
PER_ROOT = 2.0 / math.sqrt(math.pi)


class Tape(NamedTuple):
    """A function of w as data.

    Attributes:
        numbers: What is fixed, ``(K,)``.
        code: A row an instruction, ``(instruction, 7)``: what it does, its three registers, and their rows of D.
        out: Registers of the result.
        rows: Their rows of D.
    """

    numbers: Array
    code: Integers
    out: Integers
    rows: Integers


@part_by_llvm
def _of_three(op: int, x: float, y: float, z: float) -> float:
    if op == ADD:
        return x + y
    if op == SUBTRACT:
        return x - y
    if op == MULTIPLY:
        return x * y
    if op == DIVIDE:
        return x / y
    if op == ADD_PRODUCT:
        return z + x * y
    if op == CHOOSE:
        return y if x != 0.0 else z
    if op == LARGER:
        return x if x > y or x != x else y
    if op == SMALLER:
        return x if x < y or x != x else y
    if op == POWER:
        return x**y  # type: ignore[no-any-return]
    if op == ATAN2:
        return np.arctan2(x, y)  # type: ignore[no-any-return]
    return np.remainder(x, y) if op == REMAINDER else np.fmod(x, y)  # type: ignore[no-any-return]


@part_by_llvm
def _in_steps(op: int, x: float, y: float) -> float:
    if op == LESS:
        return 1.0 if x < y else 0.0
    if op == AT_MOST:
        return 1.0 if x <= y else 0.0
    if op == EQUAL:
        return 1.0 if x == y else 0.0
    if op == UNEQUAL:
        return 1.0 if x != y else 0.0
    if op == SIGN:
        return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)
    if op == FLOOR:
        return np.floor(x)  # type: ignore[no-any-return]
    if op == CEIL:
        return np.ceil(x)  # type: ignore[no-any-return]
    if op == HOLD:
        return x
    return np.rint(x) if op == ROUND else np.trunc(x)  # type: ignore[no-any-return]


@part_by_llvm
def _of_one(op: int, x: float) -> float:
    if op == NEGATE:
        return -x
    if op == ABS:
        return abs(x)
    if op == SQRT:
        return np.sqrt(x)  # type: ignore[no-any-return]
    if op == EXP:
        return np.exp(x)  # type: ignore[no-any-return]
    if op == EXPM1:
        return np.expm1(x)  # type: ignore[no-any-return]
    if op == LOG:
        return np.log(x)  # type: ignore[no-any-return]
    if op == LOG1P:
        return np.log1p(x)  # type: ignore[no-any-return]
    if op == LOG2:
        return np.log2(x)  # type: ignore[no-any-return]
    if op == LOG10:
        return np.log10(x)  # type: ignore[no-any-return]
    if op == SIGMOID:
        return 1.0 / (1.0 + np.exp(-x))  # type: ignore[no-any-return]
    return math.erf(x) if op == ERF else math.erfc(x)


@part_by_llvm
def _of_an_angle(op: int, x: float) -> float:
    if op == SIN:
        return np.sin(x)  # type: ignore[no-any-return]
    if op == COS:
        return np.cos(x)  # type: ignore[no-any-return]
    if op == TAN:
        return np.tan(x)  # type: ignore[no-any-return]
    if op == ASIN:
        return np.arcsin(x)  # type: ignore[no-any-return]
    if op == ACOS:
        return np.arccos(x)  # type: ignore[no-any-return]
    if op == ATAN:
        return np.arctan(x)  # type: ignore[no-any-return]
    if op == SINH:
        return np.sinh(x)  # type: ignore[no-any-return]
    if op == COSH:
        return np.cosh(x)  # type: ignore[no-any-return]
    if op == TANH:
        return np.tanh(x)  # type: ignore[no-any-return]
    if op == ASINH:
        return np.arcsinh(x)  # type: ignore[no-any-return]
    return np.arccosh(x) if op == ACOSH else np.arctanh(x)  # type: ignore[no-any-return]


@part_by_llvm
def _slope_of_one(op: int, x: float, v: float) -> float:
    """The derivative of v(x)."""
    if op == NEGATE:
        return -1.0
    if op == ABS:
        return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)
    if op == SQRT:
        return 0.5 / v
    if op == EXP:
        return v
    if op == EXPM1:
        return v + 1.0
    if op == LOG:
        return 1.0 / x
    if op == LOG1P:
        return 1.0 / (1.0 + x)
    if op == LOG2:
        return 1.4426950408889634 / x
    if op == LOG10:
        return 0.4342944819032518 / x
    if op == SIGMOID:
        return v * (1.0 - v)
    return (PER_ROOT if op == ERF else -PER_ROOT) * np.exp(-x * x)  # type: ignore[no-any-return]


@part_by_llvm
def _slope_of_an_angle(op: int, x: float, v: float) -> float:
    """The derivative of v(x)."""
    if op == SIN:
        return np.cos(x)  # type: ignore[no-any-return]
    if op == COS:
        return -np.sin(x)  # type: ignore[no-any-return]
    if op == TAN:
        return 1.0 + v * v
    if op == ASIN:
        return 1.0 / np.sqrt(1.0 - x * x)  # type: ignore[no-any-return]
    if op == ACOS:
        return -1.0 / np.sqrt(1.0 - x * x)  # type: ignore[no-any-return]
    if op == ATAN:
        return 1.0 / (1.0 + x * x)
    if op == SINH:
        return np.cosh(x)  # type: ignore[no-any-return]
    if op == COSH:
        return np.sinh(x)  # type: ignore[no-any-return]
    if op == TANH:
        return 1.0 - v * v
    if op == ASINH:
        return 1.0 / np.sqrt(x * x + 1.0)  # type: ignore[no-any-return]
    return 1.0 / np.sqrt(x * x - 1.0) if op == ACOSH else 1.0 / (1.0 - x * x)


@part_by_llvm
def _slopes_of_power(x: float, y: float, v: float) -> tuple[float, float]:
    """The derivatives of xʸ by x and by y; 0 where the other makes it constant, as in torch."""
    by_x = 0.0 if y == 0.0 else y * x ** (y - 1.0)
    by_y = 0.0 if x == 0.0 and y >= 0.0 else v * np.log(x)
    return by_x, by_y


@part_by_llvm
def _slopes_of_two(op: int, x: float, y: float, v: float) -> tuple[float, float]:
    """The derivatives of v(x, y) by x and by y."""
    if op == ADD:
        return 1.0, 1.0
    if op == SUBTRACT:
        return 1.0, -1.0
    if op in (MULTIPLY, ADD_PRODUCT):
        return y, x
    if op == DIVIDE:
        return 1.0 / y, -v / y
    if op == POWER:
        return _slopes_of_power(x, y, v)
    if op == ATAN2:
        square = x * x + y * y
        return y / square, -x / square
    if op in (LARGER, SMALLER):
        return (0.5, 0.5) if x == y else ((1.0, 0.0) if v == x else (0.0, 1.0))
    return 1.0, -np.floor(x / y) if op == REMAINDER else -np.trunc(x / y)


@kernel
def values(code: Integers, r: Array, first: int) -> None:
    """Run a tape: instruction i writes r[first + i]."""
    for i in range(code.shape[0]):
        op, x = code[i, 0], r[code[i, 1]]
        if op < LESS:
            value = _of_three(op, x, r[code[i, 2]], r[code[i, 3]])
        elif op < NEGATE:
            value = _in_steps(op, x, r[code[i, 2]])
        else:
            value = _of_one(op, x) if op < SIN else _of_an_angle(op, x)
        r[first + i] = value


@kernel
def slopes(code: Integers, r: Array, first: int, D: Array, begin: int) -> None:
    """Carry derivatives along a tape that was run: those by instruction i go to row begin + i of D."""
    for i in range(code.shape[0]):
        op, a, b, base, by_x, by_y = code[i, 0], code[i, 4], code[i, 5], 0, 0.0, 0.0
        if a == 0 and b == 0 and code[i, 6] == 0:
            continue  # it does not depend on w: nobody asks
        x, y, v = r[code[i, 1]], r[code[i, 2]], r[first + i]
        if op == CHOOSE:
            base, a, b = b if x != 0.0 else code[i, 6], 0, 0
        elif op < LESS:
            by_x, by_y = _slopes_of_two(op, x, y, v)
            base = code[i, 6]
        else:
            by_x = _slope_of_one(op, x, v) if op < SIN else _slope_of_an_angle(op, x, v)
        by_x, by_y = by_x if a > 0 else 0.0, by_y if b > 0 else 0.0
        for j in range(D.shape[1]):
            D[begin + i, j] = D[base, j] + (by_x * D[a, j] + by_y * D[b, j])


@part
def registers(tape: Tape, w: Array) -> Array:
    """All registers of a tape that is run on w."""
    numbers, code = tape[0], tape[1]
    first = numbers.shape[0] + w.shape[0]
    r = np.empty(first + code.shape[0])
    for i in range(numbers.shape[0]):
        r[i] = numbers[i]
    for i in range(w.shape[0]):
        r[numbers.shape[0] + i] = w[i]
    values(code, r, first)
    return r


@kernel
def run(w: Array, t: int, c: Any, out: Array) -> None:
    """The result of the first tape of c on w."""
    tape = c[0]
    r = registers(tape, w)
    for i in range(tape[2].shape[0]):
        out[i] = r[tape[2][i]]


@kernel
def run_with_slopes(w: Array, t: int, c: Any, out: Array, V: Array, W: Array) -> None:
    """The result of the first tape of c on w, and its derivatives along the rows of V as the rows of W."""
    tape, n = c[0], w.shape[0]
    r = registers(tape, w)
    D = np.empty((1 + n + tape[1].shape[0], V.shape[0]))
    for j in range(V.shape[0]):
        D[0, j] = 0.0
        for i in range(n):
            D[1 + i, j] = V[j, i]
    slopes(tape[1], r, tape[0].shape[0] + n, D, 1 + n)
    for i in range(tape[2].shape[0]):
        out[i] = r[tape[2][i]]
        for j in range(V.shape[0]):
            W[j, i] = D[tape[3][i], j]


@kernel
def single(w: Array, c: Any) -> float:
    """The only result of the second tape of c on w."""
    tape = c[1]
    return registers(tape, w)[tape[2][0]]  # type: ignore[no-any-return]


@kernel
def norm(w: Array, c: Any) -> float:
    """The L2 norm of the result of the first tape of c on w."""
    tape = c[0]
    r, total = registers(tape, w), 0.0
    for i in range(tape[2].shape[0]):
        total += r[tape[2][i]] * r[tape[2][i]]
    return np.sqrt(total)  # type: ignore[no-any-return]
