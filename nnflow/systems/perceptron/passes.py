"""The passes of a fully connected network over a sheet (see `perceptron`), and their derivatives along a vector.

Forward: activations and slopes of every unit; backward: dL/dz of every unit; collect: the gradient. Along a vector v of
weights, the derivatives of all of these, which make a Hessian-vector product (Pearlmutter 1994).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nnflow.arithmetic import fma
from nnflow.compiled.ways import part
from nnflow.systems.perceptron.rows import (  # names, not the module: a name is a constant to numba
    add_products,
    affine,
    combine,
    copy_rows,
    dots,
    multiply_rows,
    relu_rows,
    sigmoid_rows,
    softplus_rows,
    tanh_rows,
)
from nnflow.typing import Array, Integers

# -------------------------------------------------------------------------------------------------------------- layers
# The activations of `rows`, and here their curvatures: bend = delta f''(z) / f'(z) = dL/da f''(z), written without the
# division. Both find the regions of a unit at multiples of `gap`, the number of units: slope 1, delta 2, bend 3.


@part
def _no_rows(t: Array, a: int, count: int, gap: int) -> None:
    pass


@part
def _straight(t: Array, a: int, count: int, gap: int) -> None:
    for r in range(count):
        for s in range(t.shape[1]):
            t[a + 3 * gap + r, s] = 0.0


@part
def _sigmoid_bend(t: Array, a: int, count: int, gap: int) -> None:
    for r in range(count):
        for s in range(t.shape[1]):
            t[a + 3 * gap + r, s] = t[a + 2 * gap + r, s] * fma(-2.0, t[a + r, s], 1.0)


@part
def _tanh_bend(t: Array, a: int, count: int, gap: int) -> None:
    for r in range(count):
        for s in range(t.shape[1]):
            t[a + 3 * gap + r, s] = t[a + 2 * gap + r, s] * (-2.0 * t[a + r, s])


@part
def _softplus_bend(t: Array, a: int, count: int, gap: int) -> None:
    for r in range(count):
        for s in range(t.shape[1]):
            t[a + 3 * gap + r, s] = t[a + 2 * gap + r, s] * (1.0 - t[a + gap + r, s])


_Rows = Callable[[Array, int, int, int], None]
CURVES: dict[str, tuple[_Rows, _Rows]] = {  # name -> the activation, its bend
    "identity": (_no_rows, _no_rows),
    "sigmoid": (sigmoid_rows, _sigmoid_bend),
    "tanh": (tanh_rows, _tanh_bend),
    "relu": (relu_rows, _straight),
    "softplus": (softplus_rows, _softplus_bend),
}
ACTIVATIONS = tuple(CURVES)
IDENTITY = ACTIVATIONS.index("identity")


def _by_code(codes: frozenset[int], which: int) -> Callable[[Array, int, int, int, int], None]:
    """A kernel that chooses by code among those that occur: what a network does not use is not compiled."""
    code = max(codes)
    chosen = CURVES[ACTIVATIONS[code]][which]

    @part
    def alone(t: Array, this: int, a: int, count: int, gap: int) -> None:
        chosen(t, a, count, gap)

    if len(codes) == 1:
        return alone
    others = _by_code(codes - {code}, which)

    @part
    def choice(t: Array, this: int, a: int, count: int, gap: int) -> None:
        if this == code:
            chosen(t, a, count, gap)
        else:
            others(t, this, a, count, gap)

    return choice


class _Layout(NamedTuple):
    """Where layer i + 1 finds its things; closures take these arrays as constants."""

    n: Integers  # units of layer i; 0 is the inputs
    row: Integers  # row of its first unit
    matrix: Integers  # its weights, in the flat vector
    bias: Integers
    step: Integers  # between the weights that lead to one unit: 1 (as a literal, numba would compile for it once more)
    none: Integers  # -1: no bias


def _layout(sizes: tuple[int, ...], first: int) -> _Layout:
    n = np.array(sizes)
    row = first + np.cumsum(n) - n
    ends = np.cumsum(n[1:] * (n[:-1] + 1))
    return _Layout(n, row, ends - n[1:] * (n[:-1] + 1), ends - n[1:], np.ones_like(ends), -np.ones_like(ends))


class Passes(NamedTuple):
    """The passes of a gradient over a sheet that is loaded with a block of samples."""

    forward: Callable[[Array, Array], None]  # (w, t): a, slope
    backward: Callable[[Array, Array], None]  # (w, t): delta, from the dL/da of the outputs
    collect: Callable[[Array, Array], None]  # (t, g): g += the gradient


def gradient_passes(sizes: tuple[int, ...], codes: tuple[int, ...], first: int) -> Passes:
    """Compile the passes for layers of these sizes; `first` is the row of the first input, `codes` the activations."""
    layers, gap, code = len(codes), sum(sizes[1:]), np.array(codes)
    n, row, matrix, bias, step, none = _layout(sizes, first)
    activate = _by_code(frozenset(codes), 0)

    @part
    def forward(w: Array, t: Array) -> None:
        for i in range(layers):
            a = row[i + 1]
            affine(t, a, n[i + 1], row[i], n[i], w, matrix[i], n[i], step[i], bias[i])
            activate(t, code[i], a, n[i + 1], gap)

    @part
    def backward(w: Array, t: Array) -> None:
        for i in range(layers - 1, -1, -1):
            a, before = row[i + 1], row[i]
            if code[i] != IDENTITY:
                multiply_rows(t, a + 2 * gap, n[i + 1], a + gap)
            if i > 0:
                affine(t, before + 2 * gap, n[i], a + 2 * gap, n[i + 1], w, matrix[i], step[i], n[i], none[i])

    @part
    def collect(t: Array, g: Array) -> None:
        for i in range(layers):
            delta = row[i + 1] + 2 * gap
            dots(t, delta, n[i + 1], row[i], n[i], g, matrix[i], bias[i])

    return Passes(forward, backward, collect)


class PassesAlong(NamedTuple):
    """The derivatives of those passes along a vector v of weights."""

    bend: Callable[[Array], None]  # (t): bend; needs no v
    push: Callable[[Array, Array, Array], None]  # (w, v, t): rz, ra
    pull: Callable[[Array, Array, Array, Array], None]  # (w, v, t, g): rd, from that of the outputs; g += H v


def passes_along(sizes: tuple[int, ...], codes: tuple[int, ...], first: int) -> PassesAlong:
    """Compile their derivatives along a vector of weights, for the same sheet."""
    layers, gap, code = len(codes), sum(sizes[1:]), np.array(codes)
    n, row, matrix, bias, step, none = _layout(sizes, first)
    bend_rows = _by_code(frozenset(codes), 1)

    @part
    def bend(t: Array) -> None:
        for i in range(layers):
            bend_rows(t, code[i], row[i + 1], n[i + 1], gap)

    @part
    def push(w: Array, v: Array, t: Array) -> None:
        for i in range(layers):
            a, before = row[i + 1], row[i]
            rz, ra = a + 4 * gap, a + 5 * gap
            affine(t, rz, n[i + 1], before, n[i], v, matrix[i], n[i], step[i], bias[i])
            if i > 0:
                combine(t, rz, n[i + 1], before + 5 * gap, n[i], w, matrix[i], n[i], step[i])
            copy_rows(t, ra, n[i + 1], rz)
            if code[i] != IDENTITY:
                multiply_rows(t, ra, n[i + 1], a + gap)

    @part
    def pull(w: Array, v: Array, t: Array, g: Array) -> None:
        for i in range(layers - 1, -1, -1):
            a, before = row[i + 1], row[i]
            rd = a + 6 * gap
            if code[i] != IDENTITY:
                multiply_rows(t, rd, n[i + 1], a + gap)
                add_products(t, rd, n[i + 1], a + 3 * gap, a + 4 * gap)
            dots(t, rd, n[i + 1], before, n[i], g, matrix[i], bias[i])
            if i > 0:
                dots(t, a + 2 * gap, n[i + 1], before + 5 * gap, n[i], g, matrix[i], none[i])
                affine(t, before + 6 * gap, n[i], rd, n[i + 1], w, matrix[i], step[i], n[i], none[i])
                combine(t, before + 6 * gap, n[i], a + 2 * gap, n[i + 1], v, matrix[i], step[i], n[i])

    return PassesAlong(bend, push, pull)
