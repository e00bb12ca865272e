"""Row kernels: the inner loops of small networks, written so that LLVM turns each of them into vector instructions.

A *sheet* is a C-contiguous ``(row, sample)`` array of float64: one row holds one unit's values for all samples. A
kernel names rows by number and runs along the samples, so every inner loop is contiguous, without branch and without
library call. Samples that only fill a row up are ordinary samples of weight zero.

``math.exp`` in such a loop would be a call per element; here e^x is a polynomial and two bit operations (0.4 ns an
element with AVX-512). The flags allow sums to be re-ordered, never NaN or infinity to be assumed away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[..., object])


# A C callback for each of some thirty kernels would cost a tenth of the compile time. They may allocate, also where
# they are called from loops that do not count references (`_nrt`).
OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cfunc_wrapper": True, "_nrt": True}
FAST = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Function) -> Function:
    """Compile a loop whose sums may be re-ordered; a division by zero gives inf or NaN, never an exception."""
    return cast(Function, numba.njit(fastmath=FAST, **OPTIONS)(function))


def exact(function: Function) -> Function:
    """Compile a formula whose order of operations is its point: only fused multiply-adds are allowed."""
    return cast(Function, numba.njit(fastmath={"contract"}, **OPTIONS)(function))


# ------------------------------------------------------------------------------------------ functions of one number

LOWEST, HIGHEST = -708.3, 710.4  # round(LOWEST / ln 2) = -1022 gives 2^-1023 = 0 (flushed), HIGHEST gives inf
PER_OCTAVE = 1.4426950408889634  # 1 / ln 2
ROUND = 6755399441055744.0  # 1.5 · 2^52: adding it rounds to an integer, which then stands in the low bits
LN2_HIGH, LN2_LOW = 0.6931471806019545, -4.2009150726810846e-11  # the high part has 32 bits: k · high is exact


@exact
def _split(x: float) -> tuple[float, float]:
    """Split x = k ln 2 + r, |r| ≤ ln 2 / 2, into r and 2^(k-1); x must lie in [LOWEST, HIGHEST] or be NaN."""
    shifted = x * PER_OCTAVE + ROUND
    k = shifted - ROUND
    bits = (np.float64(shifted).view(np.int64) + 1022) << 52
    return (x - k * LN2_HIGH) - k * LN2_LOW, np.int64(bits).view(np.float64)


@exact
def _twice_expm1(r: float) -> float:
    """2 (e^r - 1) = 2 r + 2 r² q(r) for |r| ≤ ln 2 / 2; q is a Chebyshev interpolant of degree 9, 1.3e-17 off."""
    q = 5.0200848314010134e-08
    q = q * r + 5.524027743946799e-07
    q = q * r + 5.5114536757368385e-06
    q = q * r + 4.960304238043546e-05
    q = q * r + 0.00039682539726211937
    q = q * r + 0.0027777777834563588
    q = q * r + 0.016666666666660102
    q = q * r + 0.08333333333324798
    q = q * r + 0.33333333333333337
    q = q * r + 1.0000000000000002
    return (q * r + 2.0) * r


@exact
def exp(x: float) -> float:
    """e^x within 1 ulp for -708 ≤ x ≤ 709.78; 0 below -708.05 (no subnormals), inf above 709.79, NaN of NaN.

    Without fused multiply-adds (x86 before 2013), 2 ulp. The power of two is halved and its factor doubled, so that
    results up to the largest float64 stay finite.
    """
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    r, half_power = _split(x)
    return (_twice_expm1(r) + 2.0) * half_power


@exact
def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) within 3 ulp, tails included, down to 1e-308 at -709; 0 below."""
    return 1.0 / (1.0 + exp(-x))


@exact
def tanh(x: float) -> float:
    """(e^2x - 1) / (e^2x + 1) within 4 ulp, small x included: e^2x - 1 is never formed from e^2x."""
    x = -20.0 if x < -20.0 else x
    x = 20.0 if x > 20.0 else x
    r, half_power = _split(2.0 * x)
    excess = half_power * _twice_expm1(r) + (2.0 * half_power - 1.0)
    return excess / (excess + 2.0)


@exact
def log1p_unit(u: float) -> float:
    """ln(1 + u) for 0 ≤ u ≤ 1 within 3 ulp: 2 artanh(s) with s = u / (2 + u), a polynomial of degree 10 in s²."""
    s = u / (2.0 + u)
    v = s * s
    q = 0.1616404561194353
    q = q * v + 0.08800738486144674
    q = q * v + 0.12001072809590713
    q = q * v + 0.13314144209654935
    q = q * v + 0.15385570064958623
    q = q * v + 0.18181789436132859
    q = q * v + 0.22222222717427864
    q = q * v + 0.2857142856710876
    q = q * v + 0.40000000000014585
    q = q * v + 0.6666666666666666
    return (q * v + 2.0) * s


@exact
def softplus(x: float) -> float:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|) within 4 ulp, tails included; 0 below -708.05."""
    return (x if x > 0.0 else 0.0) + log1p_unit(exp(-abs(x)))


# --------------------------------------------------------------------- activations of `count` rows of a sheet, in place
# Each overwrites z by f(z) and writes f'(z) `gap` rows further down.


def in_place(function: Callable[[float], float]) -> Callable[[Array, int, int], None]:
    """Build what applies a function to `count` rows from the row `first` on.

    Four rows at once: e^x has more constants than many a processor has registers, and so they are loaded for four.
    """

    @kernel
    def rows(t: Array, first: int, count: int) -> None:
        r, end = first, first + count
        while r + 4 <= end:
            for s in range(t.shape[1]):
                a, b, c, d = function(t[r, s]), function(t[r + 1, s]), function(t[r + 2, s]), function(t[r + 3, s])
                t[r, s], t[r + 1, s], t[r + 2, s], t[r + 3, s] = a, b, c, d
            r += 4
        while r + 2 <= end:
            for s in range(t.shape[1]):
                t[r, s], t[r + 1, s] = function(t[r, s]), function(t[r + 1, s])
            r += 2
        if r < end:
            for s in range(t.shape[1]):
                t[r, s] = function(t[r, s])

    return rows


_sigmoids, _tanhs, _exps = in_place(sigmoid), in_place(tanh), in_place(exp)


@kernel
def sigmoid_rows(t: Array, z: int, count: int, gap: int) -> None:
    """f = 1 / (1 + e^-z), f' = f (1 - f)."""
    _sigmoids(t, z, count)
    for r in range(count):
        for s in range(t.shape[1]):
            t[z + gap + r, s] = t[z + r, s] * (1.0 - t[z + r, s])


@kernel
def tanh_rows(t: Array, z: int, count: int, gap: int) -> None:
    """f = tanh z, f' = 1 - f²."""
    _tanhs(t, z, count)
    for r in range(count):
        for s in range(t.shape[1]):
            t[z + gap + r, s] = 1.0 - t[z + r, s] * t[z + r, s]


@kernel
def softplus_rows(t: Array, z: int, count: int, gap: int) -> None:
    """f = ln(1 + e^z), f' = sigmoid(z)."""
    for r in range(count):
        for s in range(t.shape[1]):
            x = t[z + r, s]
            u = exp(-abs(x))
            t[z + r, s] = (x if x > 0.0 else 0.0) + log1p_unit(u)
            t[z + gap + r, s] = (u if x < 0.0 else 1.0) / (1.0 + u)


@kernel
def relu_rows(t: Array, z: int, count: int, gap: int) -> None:
    """f = max(z, 0), f' = 1 where z > 0, else 0; NaN stays NaN."""
    for r in range(count):
        for s in range(t.shape[1]):
            x = t[z + r, s]
            t[z + r, s] = 0.0 if x < 0.0 else x
            t[z + gap + r, s] = 1.0 if x > 0.0 else 0.0


# ------------------------------------------------------------------------------------------------- products of rows


@kernel
def copy_rows(t: Array, out: int, count: int, source: int) -> None:
    """t[out + i] = t[source + i]."""
    for r in range(count):
        for s in range(t.shape[1]):
            t[out + r, s] = t[source + r, s]


@kernel
def multiply_rows(t: Array, out: int, count: int, factor: int) -> None:
    """t[out + i] *= t[factor + i]."""
    for r in range(count):
        for s in range(t.shape[1]):
            t[out + r, s] *= t[factor + r, s]


@kernel
def add_products(t: Array, out: int, count: int, left: int, right: int) -> None:
    """t[out + i] += t[left + i] * t[right + i]."""
    for r in range(count):
        for s in range(t.shape[1]):
            t[out + r, s] += t[left + r, s] * t[right + r, s]


@kernel
def affine(
    t: Array, out: int, outs: int, row: int, rows: int, w: Array, at: int, out_step: int, step: int, bias: int
) -> None:
    """t[out + o] = w[bias + o] + Σ_i w[at + o out_step + i step] t[row + i]; with bias < 0, without one."""
    head = (rows - 1) % 4 + 1
    for o in range(out, out + outs):
        p, r, start = at + (o - out) * out_step, row, w[bias + o - out] if bias >= 0 else 0.0
        a, b = w[p], w[p + step] if head > 1 else 0.0
        if head == 1:
            for s in range(t.shape[1]):
                t[o, s] = start + a * t[r, s]
        elif head == 2:
            for s in range(t.shape[1]):
                t[o, s] = start + (a * t[r, s] + b * t[r + 1, s])
        elif head == 3:
            c = w[p + 2 * step]
            for s in range(t.shape[1]):
                t[o, s] = (start + a * t[r, s]) + (b * t[r + 1, s] + c * t[r + 2, s])
        else:
            c, d = w[p + 2 * step], w[p + 3 * step]
            for s in range(t.shape[1]):
                t[o, s] = (start + a * t[r, s]) + (b * t[r + 1, s] + (c * t[r + 2, s] + d * t[r + 3, s]))
    combine(t, out, outs, row + head, rows - head, w, at + head * step, out_step, step)


@kernel
def combine(t: Array, out: int, outs: int, row: int, rows: int, w: Array, at: int, out_step: int, step: int) -> None:
    """t[out + o] += Σ_i w[at + o out_step + i step] t[row + i]: a matrix, or with swapped steps its transpose.

    Four or eight rows a pass, so that the sums are loaded and stored less often.
    """
    for o in range(out, out + outs):
        p, r = at + (o - out) * out_step, row
        while r + 8 <= row + rows:
            a, b, c, d = w[p], w[p + step], w[p + 2 * step], w[p + 3 * step]
            e, f, g, h = w[p + 4 * step], w[p + 5 * step], w[p + 6 * step], w[p + 7 * step]
            for s in range(t.shape[1]):
                t[o, s] += ((a * t[r, s] + b * t[r + 1, s]) + (c * t[r + 2, s] + d * t[r + 3, s])) + (
                    (e * t[r + 4, s] + f * t[r + 5, s]) + (g * t[r + 6, s] + h * t[r + 7, s])
                )
            p, r = p + 8 * step, r + 8
        while r + 4 <= row + rows:
            a, b, c, d = w[p], w[p + step], w[p + 2 * step], w[p + 3 * step]
            for s in range(t.shape[1]):
                t[o, s] += (a * t[r, s] + b * t[r + 1, s]) + (c * t[r + 2, s] + d * t[r + 3, s])
            p, r = p + 4 * step, r + 4
        left = row + rows - r
        if left == 3:
            a, b, c = w[p], w[p + step], w[p + 2 * step]
            for s in range(t.shape[1]):
                t[o, s] += a * t[r, s] + b * t[r + 1, s] + c * t[r + 2, s]
        elif left == 2:
            a, b = w[p], w[p + step]
            for s in range(t.shape[1]):
                t[o, s] += a * t[r, s] + b * t[r + 1, s]
        elif left == 1:
            a = w[p]
            for s in range(t.shape[1]):
                t[o, s] += a * t[r, s]


@kernel
def dots(t: Array, left: int, lefts: int, right: int, rights: int, g: Array, at: int, sums: int) -> None:
    """g[at + i rights + j] += t[left + i] · t[right + j], the outer product of two layers, summed over samples.

    g[sums + i] += the sum of t[left + i], unless sums < 0.
    """
    for i in range(lefts):
        j, p, total = 0, at + i * rights, 0.0
        while j + 4 <= rights:
            a, b, c, d, total = 0.0, 0.0, 0.0, 0.0, 0.0
            for s in range(t.shape[1]):
                x = t[left + i, s]
                a += x * t[right + j, s]
                b += x * t[right + j + 1, s]
                c += x * t[right + j + 2, s]
                d += x * t[right + j + 3, s]
                total += x
            g[p + j] += a
            g[p + j + 1] += b
            g[p + j + 2] += c
            g[p + j + 3] += d
            j += 4
        while j + 2 <= rights:
            a, b, total = 0.0, 0.0, 0.0
            for s in range(t.shape[1]):
                x = t[left + i, s]
                a += x * t[right + j, s]
                b += x * t[right + j + 1, s]
                total += x
            g[p + j] += a
            g[p + j + 1] += b
            j += 2
        if j < rights:
            a, total = 0.0, 0.0
            for s in range(t.shape[1]):
                x = t[left + i, s]
                a += x * t[right + j, s]
                total += x
            g[p + j] += a
        if sums >= 0:
            g[sums + i] += total


# ------------------------------------------------------------------------------------------- softmax cross-entropy


@kernel
def exponentials(t: Array, p: int, count: int, z: int, top: int, total: int) -> None:
    """p = e^(z - top) over `count` rows, top = max z, total = Σ p: what a softmax is made of; nothing overflows."""
    for s in range(t.shape[1]):
        t[top, s] = t[z, s]
        t[total, s] = 0.0
    for c in range(1, count):
        for s in range(t.shape[1]):
            t[top, s] = t[z + c, s] if t[z + c, s] > t[top, s] else t[top, s]
    for c in range(count):
        for s in range(t.shape[1]):
            t[p + c, s] = t[z + c, s] - t[top, s]
    _exps(t, p, count)
    for c in range(count):
        for s in range(t.shape[1]):
            t[total, s] += t[p + c, s]


@kernel
def softmax_less_target(t: Array, p: int, count: int, total: int, weight: int, out: int, target: Array) -> None:
    """From `exponentials`: p becomes the softmax, out = weight · p − target (count, sample); total is used up."""
    for s in range(t.shape[1]):
        t[total, s] = 1.0 / t[total, s]
    for c in range(count):
        for s in range(t.shape[1]):
            share = t[p + c, s] * t[total, s]
            t[p + c, s] = share
            t[out + c, s] = t[weight, s] * share - target[c, s]


@kernel
def softmax_derivative(t: Array, out: int, count: int, v: int, p: int, weight: int, mean: int) -> None:
    """out = weight p (v - Σ p v): the derivative of the rows weight · softmax along v; `mean` is scratch."""
    for s in range(t.shape[1]):
        t[mean, s] = 0.0
    for c in range(count):
        for s in range(t.shape[1]):
            t[mean, s] += t[p + c, s] * t[v + c, s]
    for c in range(count):
        for s in range(t.shape[1]):
            t[out + c, s] = t[weight, s] * t[p + c, s] * (t[v + c, s] - t[mean, s])


@kernel
def log_sum(t: Array, row: int, count: int) -> float:
    """Σ ln t[row, s] over the first `count` samples, entries in [1, 1e9]: one logarithm of the product of each 32."""
    total = 0.0
    for first in range(0, count, 32):
        product = 1.0
        for s in range(first, min(first + 32, count)):
            product *= t[row, s]
        total += math.log(product)
    return total


@kernel
def nan_unless_finite(w: Array) -> float:
    """0.0 if every entry is finite, else NaN: added to a result, it hides no broken weight behind a saturated unit."""
    total = 0.0
    for i in range(w.size):
        total += w[i] * 0.0
    return total


@kernel
def new_sheet(height: int, length: int) -> Array:
    """An uninitialised sheet whose rows begin on a cache line when length is a multiple of 8: twice as fast to load."""
    flat = np.empty(height * length + 8)
    skip = (-(flat.ctypes.data >> 3)) & 7
    return flat[skip : skip + height * length].reshape(height, length)
