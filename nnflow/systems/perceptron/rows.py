"""Row kernels: the inner loops of small networks, written so that LLVM turns each of them into vector instructions.

A *sheet* is a C-contiguous ``(row, sample)`` array of float64: one row holds one unit's values for all samples. A
kernel names rows by number and runs along the samples, so every inner loop is contiguous, without branch and without
library call. Samples that only fill a row up are ordinary samples of weight zero.

``math.exp`` in such a loop would be a call per element; here e^x is a polynomial and two bit operations (0.4 ns an
element with AVX-512). Every sum has an order and every fused product is written down (see `arithmetic`), so that a
network follows the same orbit in every verb, in every process and on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from nnflow.arithmetic import add, add_product, eight, eight_at, eight_of, fma, sum_of_lanes
from nnflow.compiled.ways import kernel
from nnflow.typing import Array

# ------------------------------------------------------------------------------------------ functions of one number

LOWEST, HIGHEST = -708.3, 710.4  # round(LOWEST / ln 2) = -1022 gives 2^-1023 = 0 (flushed), HIGHEST gives inf
PER_OCTAVE = 1.4426950408889634  # 1 / ln 2
ROUND = 6755399441055744.0  # 1.5 · 2^52: adding it rounds to an integer, which then stands in the low bits
LN2_HIGH, LN2_LOW = 0.6931471806019545, -4.2009150726810846e-11  # the high part has 32 bits: k · high is exact


@kernel
def _split(x: float) -> tuple[float, float]:
    """Split x = k ln 2 + r, |r| ≤ ln 2 / 2, into r and 2^(k-1); x must lie in [LOWEST, HIGHEST] or be NaN."""
    shifted = fma(x, PER_OCTAVE, ROUND)
    k = shifted - ROUND
    bits = (np.float64(shifted).view(np.int64) + 1022) << 52
    return fma(-k, LN2_LOW, fma(-k, LN2_HIGH, x)), np.int64(bits).view(np.float64)


@kernel
def _twice_expm1(r: float) -> float:
    """2 (e^r - 1) = 2 r + 2 r² q(r) for |r| ≤ ln 2 / 2; q is a Chebyshev interpolant of degree 9, 1.3e-17 off."""
    q = 5.0200848314010134e-08
    q = fma(q, r, 5.524027743946799e-07)
    q = fma(q, r, 5.5114536757368385e-06)
    q = fma(q, r, 4.960304238043546e-05)
    q = fma(q, r, 0.00039682539726211937)
    q = fma(q, r, 0.0027777777834563588)
    q = fma(q, r, 0.016666666666660102)
    q = fma(q, r, 0.08333333333324798)
    q = fma(q, r, 0.33333333333333337)
    q = fma(q, r, 1.0000000000000002)
    return fma(q, r, 2.0) * r


@kernel
def exp(x: float) -> float:
    """e^x within 1 ulp for -708 ≤ x ≤ 709.78; 0 below -708.05 (no subnormals), inf above 709.79, NaN of NaN.

    The power of two is halved and its factor doubled, so that results up to the largest float64 stay finite.

    Returns:
        e^x.
    """
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    r, half_power = _split(x)
    return (_twice_expm1(r) + 2.0) * half_power


@kernel
def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) within 3 ulp, tails included, down to 1e-308 at -709; 0 below."""
    return 1.0 / (1.0 + exp(-x))


@kernel
def tanh(x: float) -> float:
    """(e^2x - 1) / (e^2x + 1) within 4 ulp, small x included: e^2x - 1 is never formed from e^2x."""
    x = -20.0 if x < -20.0 else x
    x = 20.0 if x > 20.0 else x
    r, half_power = _split(2.0 * x)
    excess = fma(half_power, _twice_expm1(r), fma(2.0, half_power, -1.0))
    return excess / (excess + 2.0)


@kernel
def log1p_unit(u: float) -> float:
    """ln(1 + u) for 0 ≤ u ≤ 1 within 3 ulp: 2 artanh(s) with s = u / (2 + u), a polynomial of degree 10 in s²."""
    s = u / (2.0 + u)
    v = s * s
    q = 0.1616404561194353
    q = fma(q, v, 0.08800738486144674)
    q = fma(q, v, 0.12001072809590713)
    q = fma(q, v, 0.13314144209654935)
    q = fma(q, v, 0.15385570064958623)
    q = fma(q, v, 0.18181789436132859)
    q = fma(q, v, 0.22222222717427864)
    q = fma(q, v, 0.2857142856710876)
    q = fma(q, v, 0.40000000000014585)
    q = fma(q, v, 0.6666666666666666)
    return fma(q, v, 2.0) * s


@kernel
def softplus(x: float) -> float:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|) within 4 ulp, tails included; 0 below -708.05."""
    return (x if x > 0.0 else 0.0) + log1p_unit(exp(-abs(x)))


# --------------------------------------------------------------------- activations of `count` rows of a sheet, in place
# Each overwrites z by f(z) and writes f'(z) `gap` rows further down.


def in_place(function: Callable[[float], float]) -> Callable[[Array, int, int], None]:
    """Build what applies a function to `count` rows from the row `first` on.

    Four rows at once: e^x has more constants than many a processor has registers, and so they are loaded for four.

    Returns:
        A function of (rows, first, count).
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
            t[z + gap + r, s] = fma(-t[z + r, s], t[z + r, s], 1.0)


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
            t[out + r, s] = fma(t[left + r, s], t[right + r, s], t[out + r, s])


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
                t[o, s] = fma(a, t[r, s], start)
        elif head == 2:
            for s in range(t.shape[1]):
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], start))
        elif head == 3:
            c = w[p + 2 * step]
            for s in range(t.shape[1]):
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], fma(c, t[r + 2, s], start)))
        else:
            c, d = w[p + 2 * step], w[p + 3 * step]
            for s in range(t.shape[1]):
                last = fma(c, t[r + 2, s], fma(d, t[r + 3, s], start))
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], last))
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
                total = fma(e, t[r + 4, s], fma(f, t[r + 5, s], fma(g, t[r + 6, s], fma(h, t[r + 7, s], t[o, s]))))
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], fma(c, t[r + 2, s], fma(d, t[r + 3, s], total))))
            p, r = p + 8 * step, r + 8
        while r + 4 <= row + rows:
            a, b, c, d = w[p], w[p + step], w[p + 2 * step], w[p + 3 * step]
            for s in range(t.shape[1]):
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], fma(c, t[r + 2, s], fma(d, t[r + 3, s], t[o, s]))))
            p, r = p + 4 * step, r + 4
        left = row + rows - r
        if left == 3:
            a, b, c = w[p], w[p + step], w[p + 2 * step]
            for s in range(t.shape[1]):
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], fma(c, t[r + 2, s], t[o, s])))
        elif left == 2:
            a, b = w[p], w[p + step]
            for s in range(t.shape[1]):
                t[o, s] = fma(a, t[r, s], fma(b, t[r + 1, s], t[o, s]))
        elif left == 1:
            a = w[p]
            for s in range(t.shape[1]):
                t[o, s] = fma(a, t[r, s], t[o, s])


@kernel
def sum_row(t: Array, row: int, count: int) -> float:
    """The sum of the first `count` samples."""
    whole, lanes = count - count % 8, eight()
    for s in range(0, whole, 8):
        lanes = add(lanes, eight_at(t, row, s))
    total = sum_of_lanes(lanes)
    for s in range(whole, count):
        total += t[row, s]
    return total


@kernel
def dot_rows(t: Array, left: int, right: int, count: int) -> float:
    """t[left] · t[right] over the first `count` samples."""
    whole, lanes = count - count % 8, eight()
    for s in range(0, whole, 8):
        lanes = add_product(lanes, eight_at(t, left, s), eight_at(t, right, s))
    total = sum_of_lanes(lanes)
    for s in range(whole, count):
        total = fma(t[left, s], t[right, s], total)
    return total


@kernel
def dots(t: Array, left: int, lefts: int, right: int, rights: int, g: Array, at: int, sums: int) -> None:
    """g[at + i rights + j] += t[left + i] · t[right + j], the outer product of two layers, summed over samples.

    g[sums + i] += the sum of t[left + i], unless sums < 0.
    """
    whole = t.shape[1] - t.shape[1] % 8
    for i in range(lefts):
        j, p, row = 0, at + i * rights, left + i
        while j + 4 <= rights:
            first, second, third, fourth = eight(), eight(), eight(), eight()
            for s in range(0, whole, 8):
                x = eight_at(t, row, s)
                first = add_product(first, x, eight_at(t, right + j, s))
                second = add_product(second, x, eight_at(t, right + j + 1, s))
                third = add_product(third, x, eight_at(t, right + j + 2, s))
                fourth = add_product(fourth, x, eight_at(t, right + j + 3, s))
            a, b, c, d = sum_of_lanes(first), sum_of_lanes(second), sum_of_lanes(third), sum_of_lanes(fourth)
            for s in range(whole, t.shape[1]):
                a, b = fma(t[row, s], t[right + j, s], a), fma(t[row, s], t[right + j + 1, s], b)
                c, d = fma(t[row, s], t[right + j + 2, s], c), fma(t[row, s], t[right + j + 3, s], d)
            g[p + j] += a
            g[p + j + 1] += b
            g[p + j + 2] += c
            g[p + j + 3] += d
            j += 4
        while j < rights:
            g[p + j] += dot_rows(t, row, right + j, t.shape[1])
            j += 1
        if sums >= 0:
            g[sums + i] += sum_row(t, row, t.shape[1])


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
            t[out + c, s] = fma(t[weight, s], share, -target[c, s])


@kernel
def softmax_derivative(t: Array, out: int, count: int, v: int, p: int, weight: int, mean: int) -> None:
    """out = weight p (v - Σ p v): the derivative of the rows weight · softmax along v; `mean` is scratch."""
    for s in range(t.shape[1]):
        t[mean, s] = 0.0
    for c in range(count):
        for s in range(t.shape[1]):
            t[mean, s] = fma(t[p + c, s], t[v + c, s], t[mean, s])
    for c in range(count):
        for s in range(t.shape[1]):
            t[out + c, s] = t[weight, s] * t[p + c, s] * (t[v + c, s] - t[mean, s])


@kernel
def log_sum(t: Array, row: int, count: int) -> float:
    """Σ ln t[row, s] over the first `count` samples, entries in [1, 1e9]: one logarithm of the product of each 32."""
    total = 0.0
    for first in range(0, count, 32):
        a, b, c, d = 1.0, 1.0, 1.0, 1.0  # four products at a time do not wait for one another
        last = min(first + 32, count)
        for s in range(first, last - 3, 4):
            a, b, c, d = a * t[row, s], b * t[row, s + 1], c * t[row, s + 2], d * t[row, s + 3]
        for s in range(last - (last - first) % 4, last):
            a *= t[row, s]
        total += math.log((a * b) * (c * d))
    return total


@kernel
def nan_unless_finite(w: Array) -> float:
    """0.0 if every entry is finite, else NaN: added to a result, it hides no broken weight behind a saturated unit."""
    whole, lanes, zero = w.size - w.size % 8, eight(), eight()
    for i in range(0, whole, 8):
        lanes = add_product(lanes, eight_of(w, i), zero)
    total = sum_of_lanes(lanes)
    for i in range(whole, w.size):
        total += w[i] * 0.0
    return total


@kernel
def new_sheet(height: int, length: int) -> Array:
    """An uninitialized sheet whose rows begin on a cache line when length is a multiple of 8: twice as fast to load."""
    flat = np.empty(height * length + 8)
    skip = (-(flat.ctypes.data >> 3)) & 7
    return flat[skip : skip + height * length].reshape(height, length)
