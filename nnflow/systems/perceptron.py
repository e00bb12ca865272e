"""Small fully connected networks, compiled: loss, gradient, Hessian-vector products and what one watches in training.

The whole pass runs on one *sheet* (see ``rows``): a scratch array with one row per unit and one column per sample, which
stays in the first-level cache. Long data sets are cut into blocks of samples, each a sheet of its own. The sheet holds

    top, total, inverse   scratch of the softmax          slope   f'(z) of every unit
    weight                weight of every sample          delta   dL/dz, on its way dL/da
    p                     softmax probabilities           bend    dL/da f''(z)
    a                     inputs, then every unit         rz, ra, rd   derivatives of z, a and delta along a vector

and every region of units has the same order, so that the row of a unit in one region is its row in another plus a
multiple of the number of units. Hessian-vector products are the derivative of the gradient along v (Pearlmutter 1994,
"Fast exact multiplication by the Hessian"): slope, delta and bend are computed once, then each v costs one more pass.

Weights are flat in torch's order (``parameters_to_vector`` of Linear, activation, Linear, …): W1 by rows (out, in), b1,
W2, b2, …
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.systems import rows
from nnflow.systems.rows import Array, kernel

ACTIVATIONS = ("identity", "sigmoid", "tanh", "relu", "softplus")
IDENTITY, SIGMOID, TANH, RELU, SOFTPLUS = range(5)
LIMITS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}  # of the bounded ones
LOSSES = ("cross_entropy", "mse")
TOP, TOTAL, INVERSE, WEIGHT, P = range(5)  # first rows of a sheet
LONGEST = 256  # samples in a block

Observable = Callable[[Array], float]


class Kernels(NamedTuple):
    """Compiled functions of the flat weights, for Python and for other compiled code."""

    gradient: Callable[[Array, Array], float]
    """gradient(w, g) -> loss: writes dL/dw into g (dim,)."""
    hessian_products: Callable[[Array, Array, Array], None]
    """hessian_products(w, V, out): writes H V[j] into out[j]; V and out are (k, dim)."""
    observables: dict[str, Observable]
    """name -> f(w)."""


# -------------------------------------------------------------------------------------------------------------- layers


@kernel
def _activate(t: Array, code: int, z: int, count: int, slope: int) -> None:
    if code == SIGMOID:
        rows.sigmoid_rows(t, z, count, slope)
    elif code == TANH:
        rows.tanh_rows(t, z, count, slope)
    elif code == RELU:
        rows.relu_rows(t, z, count, slope)
    elif code == SOFTPLUS:
        rows.softplus_rows(t, z, count, slope)


@kernel
def _bend(t: Array, code: int, bend: int, count: int, a: int, slope: int, delta: int) -> None:
    """bend = delta f''(z), by way of a and f'(z)."""
    for r in range(count):
        rows.fill_row(t, bend + r, 0.0)
        for s in range(t.shape[1]):
            if code == SIGMOID:
                t[bend + r, s] = t[delta + r, s] * t[slope + r, s] * (1.0 - 2.0 * t[a + r, s])
            elif code == TANH:
                t[bend + r, s] = t[delta + r, s] * t[slope + r, s] * (-2.0 * t[a + r, s])
            elif code == SOFTPLUS:
                t[bend + r, s] = t[delta + r, s] * t[slope + r, s] * (1.0 - t[slope + r, s])


class _Passes(NamedTuple):
    """The passes over a sheet that is loaded with a block of samples; `first` is the row of the inputs."""

    forward: Callable[[Array, Array], None]  # (w, t): a, slope
    backward: Callable[[Array, Array, bool], None]  # (w, t, bent): delta (from dL/da of the outputs) and bend
    collect: Callable[[Array, Array], None]  # (t, g): g += the gradient
    push: Callable[[Array, Array, Array], None]  # (w, v, t): rz, ra
    pull: Callable[[Array, Array, Array, Array], None]  # (w, v, t, g): rd (from that of the outputs), g += H v


def _passes(sizes: tuple[int, ...], codes: tuple[int, ...], first: int) -> _Passes:
    layers, units = len(codes), sum(sizes[1:])
    n = np.array(sizes)
    row = first + np.concatenate(([0], np.cumsum(n[:-1])))  # of the outputs of layer l; 0 is the inputs
    matrix = np.concatenate(([0], np.cumsum(n[1:] * (n[:-1] + 1))))[:-1]  # where the weights of layer l + 1 begin
    bias = matrix + n[1:] * n[:-1]
    code = np.array(codes)
    slope, delta, bend, rz, ra, rd = (units * i for i in range(1, 7))

    @kernel
    def forward(w: Array, t: Array) -> None:
        for i in range(layers):
            z = row[i + 1]
            for o in range(n[i + 1]):
                rows.fill_row(t, z + o, w[bias[i] + o])
            rows.combine(t, z, n[i + 1], row[i], n[i], w, matrix[i], n[i], 1)
            _activate(t, code[i], z, n[i + 1], z + slope)

    @kernel
    def backward(w: Array, t: Array, bent: bool) -> None:
        for i in range(layers - 1, -1, -1):
            a, d = row[i + 1], row[i + 1] + delta
            if bent:
                _bend(t, code[i], a + bend, n[i + 1], a, a + slope, d)
            if code[i] != IDENTITY:
                rows.multiply_rows(t, d, n[i + 1], a + slope)
            if i > 0:
                for o in range(n[i]):
                    rows.fill_row(t, row[i] + delta + o, 0.0)
                rows.combine(t, row[i] + delta, n[i], d, n[i + 1], w, matrix[i], 1, n[i])

    @kernel
    def collect(t: Array, g: Array) -> None:
        for i in range(layers):
            d = row[i + 1] + delta
            rows.dots(t, d, n[i + 1], row[i], n[i], g, matrix[i])
            rows.add_sums(t, d, n[i + 1], g, bias[i])

    @kernel
    def push(w: Array, v: Array, t: Array) -> None:
        for i in range(layers):
            z = row[i + 1] + rz
            for o in range(n[i + 1]):
                rows.fill_row(t, z + o, v[bias[i] + o])
            rows.combine(t, z, n[i + 1], row[i], n[i], v, matrix[i], n[i], 1)
            if i > 0:
                rows.combine(t, z, n[i + 1], row[i] + ra, n[i], w, matrix[i], n[i], 1)
            rows.copy_rows(t, row[i + 1] + ra, n[i + 1], z)
            if code[i] != IDENTITY:
                rows.multiply_rows(t, row[i + 1] + ra, n[i + 1], row[i + 1] + slope)

    @kernel
    def pull(w: Array, v: Array, t: Array, g: Array) -> None:
        for i in range(layers - 1, -1, -1):
            a, d = row[i + 1], row[i + 1] + rd
            if code[i] != IDENTITY:
                rows.multiply_rows(t, d, n[i + 1], a + slope)
                rows.add_products(t, d, n[i + 1], a + bend, a + rz)
            rows.dots(t, d, n[i + 1], row[i], n[i], g, matrix[i])
            rows.add_sums(t, d, n[i + 1], g, bias[i])
            if i > 0:
                rows.dots(t, a + delta, n[i + 1], row[i] + ra, n[i], g, matrix[i])
                for o in range(n[i]):
                    rows.fill_row(t, row[i] + rd + o, 0.0)
                rows.combine(t, row[i] + rd, n[i], d, n[i + 1], w, matrix[i], 1, n[i])
                rows.combine(t, row[i] + rd, n[i], a + delta, n[i + 1], v, matrix[i], 1, n[i])

    return _Passes(forward, backward, collect, push, pull)


# ---------------------------------------------------------------------------------------------------------------- data


class _Data(NamedTuple):
    """Samples in blocks (block, row, sample), each block filled up with copies of the first sample, of weight zero."""

    inputs: Array
    targets: Array  # one-hot rows times the weight, or the target values
    weights: Array  # (block, sample): 1/n for cross-entropy, 2/(n outputs) for the squared error
    counts: npt.NDArray[np.int64]  # samples of weight > 0
    labels: npt.NDArray[np.int64]  # (block, sample), of cross-entropy


def _blocks(inputs: Array, targets: npt.NDArray[Any], outputs: int, loss: str) -> _Data:
    n = len(inputs)
    blocks = -(-n // LONGEST)
    length = -(-n // (8 * blocks)) * 8
    length = length if length <= 24 else -(-length // 32) * 32
    place = np.arange(blocks * length).reshape(blocks, length)
    source = np.where(place < n, place, 0)
    real = (place < n).astype(np.float64)
    counts = np.clip(n - length * np.arange(blocks), 0, length)
    data = np.ascontiguousarray(inputs[source].transpose(0, 2, 1))
    if loss == "mse":
        values = np.ascontiguousarray(targets[source].transpose(0, 2, 1))
        return _Data(data, values, real * (2.0 / (n * outputs)), counts, np.zeros_like(place))
    weights = real / n
    labels = targets[source].astype(np.int64)
    hot = (labels[:, None, :] == np.arange(outputs)[:, None]) * weights[:, None, :]
    return _Data(data, np.ascontiguousarray(hot), weights, counts, labels)


class _Cost(NamedTuple):
    load: Callable[[Array, int], None]  # (t, block): inputs and weights
    cost: Callable[[Array, int], float]  # (t, block): the loss, and dL/da of the outputs
    cost_along: Callable[[Array], None]  # (t): the derivative of dL/da along ra


def _cost(data: _Data, loss: str, first: int, out: int, units: int) -> _Cost:
    inputs, targets, weights, counts, _ = data
    features, outputs = inputs.shape[1], targets.shape[1]
    delta, ra, rd = out + 2 * units, out + 5 * units, out + 6 * units

    @kernel
    def load(t: Array, block: int) -> None:
        for s in range(t.shape[1]):
            t[WEIGHT, s] = weights[block, s]
        for r in range(features):
            for s in range(t.shape[1]):
                t[first + r, s] = inputs[block, r, s]

    @kernel
    def cross_entropy(t: Array, block: int) -> float:
        rows.softmax_rows(t, P, outputs, out, TOP, TOTAL, INVERSE)
        total = rows.log_sum(t, TOTAL, counts[block]) * t[WEIGHT, 0]
        for c in range(outputs):
            for s in range(t.shape[1]):
                total -= targets[block, c, s] * (t[out + c, s] - t[TOP, s])
                t[delta + c, s] = t[WEIGHT, s] * t[P + c, s] - targets[block, c, s]
        return total

    @kernel
    def squared_error(t: Array, block: int) -> float:
        total = 0.0
        for c in range(outputs):
            for s in range(t.shape[1]):
                error = t[out + c, s] - targets[block, c, s]
                total += 0.5 * t[WEIGHT, s] * error * error
                t[delta + c, s] = t[WEIGHT, s] * error
        return total

    @kernel
    def cross_entropy_along(t: Array) -> None:
        rows.softmax_derivative(t, rd, outputs, ra, P, WEIGHT, TOP)

    @kernel
    def squared_error_along(t: Array) -> None:
        for c in range(outputs):
            for s in range(t.shape[1]):
                t[rd + c, s] = t[WEIGHT, s] * t[ra + c, s]

    if loss == "mse":
        return _Cost(load, squared_error, squared_error_along)
    return _Cost(load, cross_entropy, cross_entropy_along)


# -------------------------------------------------------------------------------------------------------- observables


class _Sheet(NamedTuple):
    """Everything about one data set: its blocks, its passes, the size of its sheet."""

    data: _Data
    passes: _Passes
    cost: _Cost
    first: int  # row of the inputs
    units: int
    height: int  # rows that a gradient needs


def _loss(sheet: _Sheet) -> Observable:
    blocks, length = sheet.data.weights.shape
    height, load, forward, cost = sheet.height, sheet.cost.load, sheet.passes.forward, sheet.cost.cost

    @kernel
    def loss(w: Array) -> float:
        t = rows.sheet(height, length)
        total = rows.nan_unless_finite(w)
        for block in range(blocks):
            load(t, block)
            forward(w, t)
            total += cost(t, block)
        return total

    return loss


def _accuracy(sheet: _Sheet, out: int, outputs: int) -> Observable:
    labels, counts = sheet.data.labels, sheet.data.counts
    blocks, length = sheet.data.weights.shape
    height, load, forward, share = sheet.height, sheet.cost.load, sheet.passes.forward, 1.0 / int(counts.sum())

    @kernel
    def accuracy(w: Array) -> float:
        t = rows.sheet(height, length)
        right, broken = 0, rows.nan_unless_finite(w)
        for block in range(blocks):
            load(t, block)
            forward(w, t)
            for s in range(counts[block]):
                best = 0
                for c in range(outputs):
                    broken += 0.0 * t[out + c, s]
                    best = c if t[out + c, s] > t[out + best, s] else best
                right += best == labels[block, s]
        return broken + right * share

    return accuracy


def _held_units(sheet: _Sheet, floor: Array, ceiling: Array, hidden: int) -> Observable:
    """Number of hidden units that stay above their ceiling or below their floor for every training input."""
    blocks, length = sheet.data.weights.shape
    height, load, forward = sheet.height, sheet.cost.load, sheet.passes.forward

    @kernel
    def held(w: Array) -> float:
        t = rows.sheet(height, length)
        above, below = np.ones(floor.size, np.bool_), np.ones(floor.size, np.bool_)
        broken = rows.nan_unless_finite(w)
        for block in range(blocks):
            load(t, block)
            forward(w, t)
            for u in range(floor.size):
                for s in range(length):
                    a = t[hidden + u, s]
                    broken += 0.0 * a
                    above[u] &= a > ceiling[u]
                    below[u] &= a < floor[u]
        return broken + np.sum(above | below)

    return held


@kernel
def _l1(w: Array) -> float:
    return rows.nan_unless_finite(w) + np.sum(np.abs(w))


@kernel
def _l2(w: Array) -> float:
    return rows.nan_unless_finite(w) + math.sqrt(np.sum(w * w))


def _gradient_norm(gradient: Callable[[Array, Array], float]) -> Observable:
    @kernel
    def gradient_norm(w: Array) -> float:
        g = np.empty(w.size)
        gradient(w, g)
        return math.sqrt(np.sum(g * g))

    return gradient_norm


# ------------------------------------------------------------------------------------------------------------- kernels


def _gradient(sheet: _Sheet) -> Callable[[Array, Array], float]:
    blocks, length = sheet.data.weights.shape
    height, load, cost = sheet.height, sheet.cost.load, sheet.cost.cost
    forward, backward, collect = sheet.passes.forward, sheet.passes.backward, sheet.passes.collect

    @kernel
    def gradient(w: Array, g: Array) -> float:
        t = rows.sheet(height, length)
        loss = rows.nan_unless_finite(w)
        g[:] = loss
        for block in range(blocks):
            load(t, block)
            forward(w, t)
            loss += cost(t, block)
            backward(w, t, False)
            collect(t, g)
        return loss

    return gradient


def _hessian_products(sheet: _Sheet) -> Callable[[Array, Array, Array], None]:
    blocks, length = sheet.data.weights.shape
    height, load, cost, cost_along = sheet.height + 4 * sheet.units, *sheet.cost
    forward, backward, _, push, pull = sheet.passes

    @kernel
    def hessian_products(w: Array, V: Array, out: Array) -> None:
        t = rows.sheet(height, length)
        broken = rows.nan_unless_finite(w)
        for j in range(len(V)):
            out[j] = broken + rows.nan_unless_finite(V[j])
        for block in range(blocks):
            load(t, block)
            forward(w, t)
            cost(t, block)
            backward(w, t, True)
            for j in range(len(V)):
                push(w, V[j], t)
                cost_along(t)
                pull(w, V[j], t, out[j])

    return hessian_products


@dataclass(frozen=True, eq=False)
class Perceptron:
    """A fully connected network, its loss and its data: mean over all training samples, one full batch.

    sizes: units of every layer, inputs first: (4, 10, 3). Any depth; two numbers are a linear model.
    activation: of the hidden layers, one name or one a layer: "sigmoid", "tanh", "relu", "softplus", "identity".
    loss: "cross_entropy" (of the softmax of the outputs, log-sum-exp form, mean over samples) or "mse" (mean over
        samples and outputs, as ``torch.nn.MSELoss``).
    inputs: (n, sizes[0]). targets: for "cross_entropy" integer labels (n,), for "mse" values (n, sizes[-1]).
    test_inputs, test_targets: the same, only watched.
    output_activation: applied before the loss; "identity" unless a module ends with one.

    "softplus" is ln(1 + e^x) everywhere; torch's is x beyond its threshold of 20, a difference below 2.1e-9.
    Raises ValueError for anything that does not fit together.
    """

    sizes: tuple[int, ...]
    activation: str | tuple[str, ...]
    loss: str
    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    test_inputs: npt.NDArray[Any] | None = None
    test_targets: npt.NDArray[Any] | None = None
    output_activation: str = "identity"

    def __post_init__(self) -> None:
        sizes = tuple(int(n) for n in self.sizes)
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes = {self.sizes}: give at least two layer sizes, inputs first, each 1 or more")
        object.__setattr__(self, "sizes", sizes)
        if self.loss not in LOSSES:
            raise ValueError(f"loss = {self.loss!r}: choose one of {', '.join(LOSSES)}")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(f"activation = {name!r}: choose among {', '.join(ACTIVATIONS)}")
        if len(self.activations) != len(sizes) - 1:
            raise ValueError(
                f"activation has {len(self.activations) - 1} names: give one name, or one for each of the "
                f"{len(sizes) - 2} hidden layers of sizes = {sizes}"
            )
        self._check("", self.inputs, self.targets)
        if (self.test_inputs is None) != (self.test_targets is None):
            raise ValueError("test data are incomplete: give both test_inputs and test_targets, or neither")
        if self.test_inputs is not None and self.test_targets is not None:
            self._check("test_", self.test_inputs, self.test_targets)

    def _check(self, kind: str, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        """Check one data set and keep a copy: float64 inputs and values, int64 labels."""
        x, y = np.array(inputs, dtype=np.float64, order="C"), np.array(targets)
        if x.ndim != 2 or x.shape[1] != self.sizes[0] or len(x) == 0:
            raise ValueError(f"{kind}inputs have shape {x.shape}: give (samples, {self.sizes[0]}), as in sizes")
        if not np.isfinite(x).all():
            raise ValueError(f"{kind}inputs hold {np.sum(~np.isfinite(x))} values that are not finite: remove them")
        check = _check_values if self.loss == "mse" else _check_labels
        object.__setattr__(self, f"{kind}inputs", x)
        object.__setattr__(self, f"{kind}targets", check(f"{kind}targets", y, len(x), self.sizes[-1]))

    @property
    def activations(self) -> tuple[str, ...]:
        """Of every layer after the inputs, the output layer's last."""
        hidden = (self.activation,) * (len(self.sizes) - 2) if isinstance(self.activation, str) else self.activation
        return (*hidden, self.output_activation)

    @property
    def dim(self) -> int:
        """Number of weights, biases included."""
        return sum(outputs * (inputs + 1) for inputs, outputs in pairwise(self.sizes))

    def kernels(self) -> Kernels:
        """Build the compiled functions; each compiles at its first call."""
        train = self._sheet(self.inputs, self.targets)
        gradient = _gradient(train)
        return Kernels(gradient, _hessian_products(train), self._observables(train, gradient))

    def _sheet(self, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> _Sheet:
        units, outputs = sum(self.sizes[1:]), self.sizes[-1]
        first = P + outputs
        data = _blocks(inputs, targets, outputs, self.loss)
        passes = _passes(self.sizes, tuple(ACTIVATIONS.index(name) for name in self.activations), first)
        cost = _cost(data, self.loss, first, first + sum(self.sizes[:-1]), units)
        return _Sheet(data, passes, cost, first, units, first + self.sizes[0] + 3 * units)

    def _observables(self, train: _Sheet, gradient: Callable[[Array, Array], float]) -> dict[str, Observable]:
        sheets = {"": train}
        if self.test_inputs is not None and self.test_targets is not None:
            sheets["test_"] = self._sheet(self.test_inputs, self.test_targets)
        found: dict[str, Observable] = {}
        for kind, sheet in sheets.items():
            found[f"{kind}loss"] = _loss(sheet)
            if self.loss == "cross_entropy":
                found[f"{kind}accuracy"] = _accuracy(sheet, train.first + sum(self.sizes[:-1]), self.sizes[-1])
        found |= {"l1": _l1, "l2": _l2, "gradient_norm": _gradient_norm(gradient)}
        names = np.repeat(self.activations[:-1], self.sizes[1:-1]).tolist()
        if any(name in LIMITS for name in names):
            low, high = np.array([LIMITS.get(name, (-np.inf, np.inf)) for name in names]).T.copy()
            hidden = train.first + self.sizes[0]
            found["stuck_on"] = _held_units(train, np.full_like(low, -np.inf), high - 0.01, hidden)
            found["saturated"] = _held_units(train, low + 0.01, high - 0.01, hidden)
        return found


def _check_values(name: str, y: npt.NDArray[Any], samples: int, outputs: int) -> npt.NDArray[Any]:
    if y.shape != (samples, outputs):
        raise ValueError(f"{name} have shape {y.shape}: with the loss mse, give ({samples}, {outputs})")
    values = y.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} hold {np.sum(~np.isfinite(values))} values that are not finite: remove them")
    return values


def _check_labels(name: str, y: npt.NDArray[Any], samples: int, outputs: int) -> npt.NDArray[Any]:
    if y.shape != (samples,) or y.dtype.kind not in "iu":
        raise ValueError(f"{name} are {y.dtype} of shape {y.shape}: with cross_entropy, give {samples} integer labels")
    if y.min() < 0 or y.max() >= outputs:
        raise ValueError(
            f"{name} run from {y.min()} to {y.max()}: number the {outputs} classes from 0 to {outputs - 1}"
        )
    return y.astype(np.int64)
