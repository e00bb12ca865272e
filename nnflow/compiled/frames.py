"""Gram–Schmidt on the rows of a frame, in a fixed order of arithmetic, for maps of one dimension."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from nnflow.arithmetic import add_product, eight, eight_at, fma, sum_of_lanes
from nnflow.compiled.ways import part, part_by_llvm, rule
from nnflow.typing import Array

LEAST, MOST = 1e-280, 1e280  # squared lengths that have all their digits

Orthonormalise = Callable[[Array, Array, Array], None]
Dot = Callable[[Array, int, int], float]


@lru_cache(maxsize=64)
def inner_product(dim: int) -> Dot:
    """Build the inner product of two rows of a matrix of so many columns."""
    whole = dim - dim % 8  # so many components go in lanes of eight

    @part_by_llvm
    def dot(v: Array, i: int, j: int) -> float:
        lanes = eight()
        for c in range(0, whole, 8):
            lanes = add_product(lanes, eight_at(v, i, c), eight_at(v, j, c))
        total = sum_of_lanes(lanes)
        for c in range(whole, dim):
            total = fma(v[i, c], v[j, c], total)
        return total

    return dot


@lru_cache(maxsize=64)
def projection(dim: int) -> Callable[[Array, int, Array], float]:
    """Build what takes from row j its components along the rows before it, and adds them to the factor R.

    Four rows at a time: their sums do not wait for one another, and row j is read and written a quarter as often.

    Args:
        dim: Numbers of a row.

    Returns:
        A function that returns the squared length left.
    """
    dot, whole = inner_product(dim), dim - dim % 8

    @part_by_llvm
    def project(v: Array, j: int, r: Array) -> float:
        i = 0
        while i + 4 <= j:
            first, second, third, fourth = eight(), eight(), eight(), eight()
            for n in range(0, whole, 8):
                x = eight_at(v, j, n)
                first = add_product(first, eight_at(v, i, n), x)
                second = add_product(second, eight_at(v, i + 1, n), x)
                third = add_product(third, eight_at(v, i + 2, n), x)
                fourth = add_product(fourth, eight_at(v, i + 3, n), x)
            a, b, c, d = sum_of_lanes(first), sum_of_lanes(second), sum_of_lanes(third), sum_of_lanes(fourth)
            for n in range(whole, dim):
                a, b = fma(v[i, n], v[j, n], a), fma(v[i + 1, n], v[j, n], b)
                c, d = fma(v[i + 2, n], v[j, n], c), fma(v[i + 3, n], v[j, n], d)
            for n in range(dim):
                v[j, n] = fma(-a, v[i, n], fma(-b, v[i + 1, n], fma(-c, v[i + 2, n], fma(-d, v[i + 3, n], v[j, n]))))
            r[i, j] += a
            r[i + 1, j] += b
            r[i + 2, j] += c
            r[i + 3, j] += d
            i += 4
        while i < j:
            a = dot(v, i, j)
            for n in range(dim):
                v[j, n] = fma(-a, v[i, n], v[j, n])
            r[i, j] += a
            i += 1
        return dot(v, j, j)

    return project


@part
def orthonormalise_plane(v: Array, r: Array) -> bool:
    """Two vectors in the plane: the second becomes the first, turned by a right angle. False if its size is extreme."""
    a, b, c, d = v[0, 0], v[0, 1], v[1, 0], v[1, 1]
    square = a * a + b * b
    if not LEAST < square < MOST:
        return False
    length = np.sqrt(square)
    a, b = a / length, b / length
    area = a * d - b * c
    r[0, 0], r[0, 1], r[1, 0], r[1, 1] = length, a * c + b * d, 0.0, abs(area)
    turn = -1.0 if area < 0.0 else 1.0
    v[0, 0], v[0, 1], v[1, 0], v[1, 1] = a, b, -turn * b, turn * a
    return True


@lru_cache(maxsize=64)
def gram_schmidt(dim: int) -> Orthonormalise:
    """Build Gram–Schmidt on the rows of v (k, dim), repeated where cancellation asks for it; r (k, k) is the factor R.

    A row that vanishes is replaced by a unit vector, made orthonormal to the rows before it. One whose square would be
    0 or infinite is measured in units of its largest component.

    Args:
        dim: Numbers of a row.

    Returns:
        A function that works in place; its `spare (k, k)` is scratch.
    """
    dot, project = inner_product(dim), projection(dim)

    @part_by_llvm
    def divide(v: Array, j: int, divisor: float) -> None:
        for c in range(dim):
            v[j, c] /= divisor

    @rule
    def unit_of(v: Array, j: int) -> float:
        """The largest component of row j, which is divided by it; 1 of a row that is zero."""
        unit = 0.0
        for c in range(dim):
            unit = max(unit, abs(v[j, c]))
        unit = unit if unit > 0.0 else 1.0
        for c in range(dim):
            v[j, c] /= unit
        return unit

    @rule
    def replace(v: Array, j: int, spare: Array) -> None:
        """In place of row j, the unit vector farthest from the rows before it."""
        for c in range(dim):
            for i in range(dim):
                v[j, i] = 1.0 if i == c else 0.0
            left = project(v, j, spare)
            if left * (2 * dim) >= 1.0:  # of all unit vectors, the squares of what is left add up to at least 1
                project(v, j, spare)
                break
        divide(v, j, np.sqrt(dot(v, j, j)))

    @part_by_llvm
    def orthonormalise(v: Array, r: Array, spare: Array) -> None:
        if dim == 2 and v.shape[0] == 2 and orthonormalise_plane(v, r):
            return
        for j in range(v.shape[0]):
            for i in range(v.shape[0]):
                r[i, j] = 0.0
            before, unit = dot(v, j, j), 1.0
            if not LEAST < before < MOST:
                unit = unit_of(v, j)
                before = dot(v, j, j)
            after = project(v, j, r) if j > 0 else before
            for _ in range(3):
                if after >= 0.25 * before or after == 0.0:
                    break
                before = after
                after = project(v, j, r)
            r[j, j] = np.sqrt(after)
            if r[j, j] > 0.0:
                divide(v, j, r[j, j])
            else:
                replace(v, j, spare)
            if unit != 1.0:
                for i in range(j + 1):
                    r[i, j] *= unit

    return orthonormalise
