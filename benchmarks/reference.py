"""Hand-written kernels for one purpose each: what one would write who needs this map, this size and nothing else.

No rule is passed in, nothing is observed, no member escapes; sizes are constants. Each does the arithmetic of the verb
beside which `test_limits` puts it, in loops that LLVM turns into vector instructions: many members of a small map lie
side by side in local arrays, and Iris has its samples side by side on one flat sheet of rows, in the first-level cache.
Only `exp` is nnflow's own.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from nnflow.systems.perceptron.rows import exp
from nnflow.typing import Array

BLOCK = 256  # members side by side: enough of them to hide the latency of a step; ensembles are multiples of it
FAST = {"reassoc", "contract", "arcp", "nsz"}  # as nnflow's own row kernels


def aligned(size: int) -> Array:
    """Zeros that begin on a cache line: a vector register is then filled from one line, not from two."""
    memory = np.zeros(size + 8)
    skip = -(memory.ctypes.data // 8) % 8
    return memory[skip : skip + size]


# ------------------------------------------------------------------------------------------------------- small maps


@njit(error_model="numpy")
def logistic(states: Array, parameters: Array, steps: int) -> None:
    """Advance all members ``(member, 1)`` in place."""
    x, r = np.empty(BLOCK), np.empty(BLOCK)
    for first in range(0, len(states), BLOCK):
        for j in range(BLOCK):
            x[j], r[j] = states[first + j, 0], parameters[first + j, 0]
        for _ in range(steps):
            for j in range(BLOCK):
                x[j] = r[j] * x[j] * (1.0 - x[j])
        for j in range(BLOCK):
            states[first + j, 0] = x[j]


@njit(error_model="numpy")
def logistic_chain(x: float, r: float, steps: int) -> float:
    """One orbit: every operation waits for the one before."""
    for _ in range(steps):
        x = r * x * (1.0 - x)
    return x


@njit(error_model="numpy")
def henon(states: Array, parameters: Array, steps: int) -> None:
    """Advance all members ``(member, 2)`` in place."""
    x, y, a, b = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for first in range(0, len(states), BLOCK):
        for j in range(BLOCK):
            x[j], y[j] = states[first + j, 0], states[first + j, 1]
            a[j], b[j] = parameters[first + j, 0], parameters[first + j, 1]
        for _ in range(steps):
            for j in range(BLOCK):
                u = x[j]
                x[j] = 1.0 - a[j] * u * u + y[j]
                y[j] = b[j] * u
        for j in range(BLOCK):
            states[first + j, 0], states[first + j, 1] = x[j], y[j]


@njit(error_model="numpy")
def henon_tangent(state: Array, a: float, b: float, frame: Array, stretches: Array) -> None:
    """Carry a frame of two vectors along one orbit; its logarithmic stretches ``(step, 2)``, by Gram–Schmidt."""
    x, y = state
    v0, v1, w0, w1 = frame[0, 0], frame[0, 1], frame[1, 0], frame[1, 1]
    for s in range(len(stretches)):
        slope = -2.0 * a * x
        v0, v1 = slope * v0 + v1, b * v0
        w0, w1 = slope * w0 + w1, b * w0
        first = math.sqrt(v0 * v0 + v1 * v1)
        v0, v1 = v0 / first, v1 / first
        overlap = v0 * w0 + v1 * w1
        w0, w1 = w0 - overlap * v0, w1 - overlap * v1
        second = math.sqrt(w0 * w0 + w1 * w1)
        w0, w1 = w0 / second, w1 / second
        stretches[s, 0], stretches[s, 1] = math.log(first), math.log(second)
        x, y = 1.0 - a * x * x + y, b * x


# ------------------------------------------------------------------------------------- Iris: 4-10-3, sigmoid, softmax
# Weights w (83,): W1 by rows, b1, W2 by rows, b2. Row i of the sheet begins at i · SAMPLES.

SAMPLES, HIDDEN, DIM = 120, 10, 83
B1, W2, B2 = 40, 50, 80  # in w
A, D, HOT = 4, 14, 17  # rows, after the four features: hidden units, dL/dz of the outputs, weighted targets …
RA, RD = 20, 30  # … and the derivatives of A and D along a vector of weights
ROWS = 33


def new_sheet(inputs: Array, labels: npt.NDArray[np.int64]) -> Array:
    """A flat sheet with the features and the targets in place."""
    rows = aligned(ROWS * SAMPLES).reshape(ROWS, SAMPLES)
    rows[:A] = inputs.T
    rows[HOT : HOT + 3] = (labels == np.arange(3)[:, None]) / SAMPLES
    return rows.ravel()


@njit(error_model="numpy", fastmath=FAST)
def _hidden(w: Array, t: Array) -> None:
    """The hidden units."""
    for h in range(HIDDEN):
        w0, w1, w2, w3, bias = w[4 * h], w[4 * h + 1], w[4 * h + 2], w[4 * h + 3], w[B1 + h]
        for s in range(SAMPLES):
            z = bias + (w0 * t[s] + w1 * t[SAMPLES + s]) + (w2 * t[2 * SAMPLES + s] + w3 * t[3 * SAMPLES + s])
            t[(A + h) * SAMPLES + s] = 1.0 / (1.0 + exp(-z))


@njit(error_model="numpy", fastmath=FAST)
def _logits(w: Array, t: Array) -> None:
    """All three logits in one loop over samples; that over the units is unrolled."""
    for s in range(SAMPLES):
        x, y, z = w[B2], w[B2 + 1], w[B2 + 2]
        for h in range(HIDDEN):
            a = t[(A + h) * SAMPLES + s]
            x += w[W2 + h] * a
            y += w[W2 + HIDDEN + h] * a
            z += w[W2 + 2 * HIDDEN + h] * a
        t[D * SAMPLES + s], t[(D + 1) * SAMPLES + s], t[(D + 2) * SAMPLES + s] = x, y, z


@njit(error_model="numpy", fastmath=FAST)
def _errors(t: Array) -> None:
    """From the logits in the rows D to dL/dz = softmax / n - target."""
    for s in range(SAMPLES):
        x, y, z = t[D * SAMPLES + s], t[(D + 1) * SAMPLES + s], t[(D + 2) * SAMPLES + s]
        top = max(x, max(y, z))
        x, y, z = exp(x - top), exp(y - top), exp(z - top)
        share = (1.0 / SAMPLES) / (x + y + z)
        t[D * SAMPLES + s] = share * x - t[HOT * SAMPLES + s]
        t[(D + 1) * SAMPLES + s] = share * y - t[(HOT + 1) * SAMPLES + s]
        t[(D + 2) * SAMPLES + s] = share * z - t[(HOT + 2) * SAMPLES + s]


@njit(error_model="numpy", fastmath=FAST)
def _gradient(w: Array, t: Array, g: Array) -> None:
    """The gradient: for each hidden unit, its backward step and all eight sums over samples in one loop."""
    for h in range(HIDDEN):
        w0, w1, w2 = w[W2 + h], w[W2 + HIDDEN + h], w[W2 + 2 * HIDDEN + h]
        out0, out1, out2, in0, in1, in2, in3, bias = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for s in range(SAMPLES):
            a = t[(A + h) * SAMPLES + s]
            x, y, z = t[D * SAMPLES + s], t[(D + 1) * SAMPLES + s], t[(D + 2) * SAMPLES + s]
            out0 += a * x
            out1 += a * y
            out2 += a * z
            d = (w0 * x + w1 * y + w2 * z) * (a * (1.0 - a))
            bias += d
            in0 += d * t[s]
            in1 += d * t[SAMPLES + s]
            in2 += d * t[2 * SAMPLES + s]
            in3 += d * t[3 * SAMPLES + s]
        g[4 * h], g[4 * h + 1], g[4 * h + 2], g[4 * h + 3], g[B1 + h] = in0, in1, in2, in3, bias
        g[W2 + h], g[W2 + HIDDEN + h], g[W2 + 2 * HIDDEN + h] = out0, out1, out2
    _sums(t, D, g)


@njit(error_model="numpy", fastmath=FAST)
def _sums(t: Array, row: int, g: Array) -> None:
    """The gradient of the three output biases: the sums of three rows."""
    x, y, z = 0.0, 0.0, 0.0
    for s in range(SAMPLES):
        x += t[row * SAMPLES + s]
        y += t[(row + 1) * SAMPLES + s]
        z += t[(row + 2) * SAMPLES + s]
    g[B2], g[B2 + 1], g[B2 + 2] = x, y, z


@njit(error_model="numpy")
def descend(states: Array, eta: float, steps: int, t: Array) -> None:
    """Gradient descent of each member ``(member, 83)`` in place, with a sheet t as scratch."""
    g = np.empty(DIM)
    for m in range(len(states)):
        w = states[m]
        for _ in range(steps):
            _hidden(w, t)
            _logits(w, t)
            _errors(t)
            _gradient(w, t, g)
            for i in range(DIM):
                w[i] -= eta * g[i]


@njit(error_model="numpy", fastmath=FAST)
def _hidden_along(v: Array, t: Array) -> None:
    """The derivatives of the hidden units along v."""
    for h in range(HIDDEN):
        v0, v1, v2, v3, bias = v[4 * h], v[4 * h + 1], v[4 * h + 2], v[4 * h + 3], v[B1 + h]
        for s in range(SAMPLES):
            z = bias + (v0 * t[s] + v1 * t[SAMPLES + s]) + (v2 * t[2 * SAMPLES + s] + v3 * t[3 * SAMPLES + s])
            a = t[(A + h) * SAMPLES + s]
            t[(RA + h) * SAMPLES + s] = z * (a * (1.0 - a))


@njit(error_model="numpy", fastmath=FAST)
def _logits_along(w: Array, v: Array, t: Array) -> None:
    """The derivatives of the logits along v, into the rows RD."""
    for s in range(SAMPLES):
        x, y, z = v[B2], v[B2 + 1], v[B2 + 2]
        for h in range(HIDDEN):
            a, ra = t[(A + h) * SAMPLES + s], t[(RA + h) * SAMPLES + s]
            x += v[W2 + h] * a + w[W2 + h] * ra
            y += v[W2 + HIDDEN + h] * a + w[W2 + HIDDEN + h] * ra
            z += v[W2 + 2 * HIDDEN + h] * a + w[W2 + 2 * HIDDEN + h] * ra
        t[RD * SAMPLES + s], t[(RD + 1) * SAMPLES + s], t[(RD + 2) * SAMPLES + s] = x, y, z


@njit(error_model="numpy", fastmath=FAST)
def _errors_along(t: Array) -> None:
    """From the derivatives of the logits in the rows RD to those of dL/dz; softmax / n is dL/dz + target."""
    for s in range(SAMPLES):
        p = t[D * SAMPLES + s] + t[HOT * SAMPLES + s]
        q = t[(D + 1) * SAMPLES + s] + t[(HOT + 1) * SAMPLES + s]
        r = t[(D + 2) * SAMPLES + s] + t[(HOT + 2) * SAMPLES + s]
        x, y, z = t[RD * SAMPLES + s], t[(RD + 1) * SAMPLES + s], t[(RD + 2) * SAMPLES + s]
        mean = SAMPLES * (p * x + q * y + r * z)
        t[RD * SAMPLES + s] = p * (x - mean)
        t[(RD + 1) * SAMPLES + s] = q * (y - mean)
        t[(RD + 2) * SAMPLES + s] = r * (z - mean)


@njit(error_model="numpy", fastmath=FAST)
def _product(w: Array, v: Array, t: Array, out: Array) -> None:
    """The Hessian times v, from the derivatives of the units and the errors along v."""
    for h in range(HIDDEN):
        w0, w1, w2 = w[W2 + h], w[W2 + HIDDEN + h], w[W2 + 2 * HIDDEN + h]
        v0, v1, v2 = v[W2 + h], v[W2 + HIDDEN + h], v[W2 + 2 * HIDDEN + h]
        out0, out1, out2, in0, in1, in2, in3, bias = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for s in range(SAMPLES):
            a, ra = t[(A + h) * SAMPLES + s], t[(RA + h) * SAMPLES + s]
            x, y, z = t[D * SAMPLES + s], t[(D + 1) * SAMPLES + s], t[(D + 2) * SAMPLES + s]
            rx, ry, rz = t[RD * SAMPLES + s], t[(RD + 1) * SAMPLES + s], t[(RD + 2) * SAMPLES + s]
            out0 += a * rx + ra * x
            out1 += a * ry + ra * y
            out2 += a * rz + ra * z
            d = (w0 * rx + w1 * ry + w2 * rz + v0 * x + v1 * y + v2 * z) * (a * (1.0 - a))
            d += (w0 * x + w1 * y + w2 * z) * (1.0 - 2.0 * a) * ra
            bias += d
            in0 += d * t[s]
            in1 += d * t[SAMPLES + s]
            in2 += d * t[2 * SAMPLES + s]
            in3 += d * t[3 * SAMPLES + s]
        out[4 * h], out[4 * h + 1], out[4 * h + 2], out[4 * h + 3], out[B1 + h] = in0, in1, in2, in3, bias
        out[W2 + h], out[W2 + HIDDEN + h], out[W2 + 2 * HIDDEN + h] = out0, out1, out2
    _sums(t, RD, out)


@njit(error_model="numpy", fastmath=FAST)
def _length(v: Array) -> float:
    total = 0.0
    for i in range(DIM):
        total += v[i] * v[i]
    return math.sqrt(total)


@njit(error_model="numpy")
def descend_with_tangent(w: Array, eta: float, v: Array, stretches: Array, t: Array) -> None:
    """One orbit and one tangent vector, both in place; the units and errors of a step serve both."""
    g, product = np.empty(DIM), np.empty(DIM)
    for s in range(len(stretches)):
        _hidden(w, t)
        _logits(w, t)
        _errors(t)
        _hidden_along(v, t)
        _logits_along(w, v, t)
        _errors_along(t)
        _gradient(w, t, g)
        _product(w, v, t, product)
        for i in range(DIM):
            w[i] -= eta * g[i]
            v[i] -= eta * product[i]
        length = _length(v)
        stretches[s] = math.log(length)
        for i in range(DIM):
            v[i] /= length
