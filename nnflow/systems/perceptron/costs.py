"""The first rows of a sheet, and the losses on it: their value, dL/da of the outputs, and its derivative along ra."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nnflow.arithmetic import fma
from nnflow.compiled.ways import part
from nnflow.systems.perceptron.batches import Batch
from nnflow.systems.perceptron.passes import Passes
from nnflow.systems.perceptron.rows import (  # names, not the module: a name is a constant to numba
    exponentials,
    log_sum,
    softmax_derivative,
    softmax_less_target,
    sum_row,
)
from nnflow.typing import Array, Integers

Gradient = Callable[[Array, int, Any, Array], None]  # (w, t, data, g)

TOP, TOTAL, WEIGHT, P = range(4)  # first rows of a sheet


class Cost(NamedTuple):
    """A loss on a sheet t."""

    load: Callable[[Array, Array, Array, int], None]  # (t, inputs, weights, block)
    loss: Callable[[Array, Array, Integers, int], float]  # (t, targets, counts, block)
    errors: Callable[[Array, Array, int], None]  # (t, targets, block): dL/da of the outputs
    cost_along: Callable[[Array], None]  # (t): the derivative of dL/da along ra


def cost_of(features: int, outputs: int, loss: str, first: int, out: int, units: int) -> Cost:
    """A loss by name, on a sheet whose inputs begin at row `first`, its outputs at `out`, of so many units."""
    delta, ra, rd = out + 2 * units, out + 5 * units, out + 6 * units

    @part
    def load(t: Array, inputs: Array, weights: Array, block: int) -> None:
        for s in range(t.shape[1]):
            t[WEIGHT, s] = weights[block, s]
        for r in range(features):
            for s in range(t.shape[1]):
                t[first + r, s] = inputs[block, r, s]

    @part
    def cross_entropy(t: Array, targets: Array, counts: Integers, block: int) -> float:
        exponentials(t, P, outputs, out, TOP, TOTAL)
        total: float = log_sum(t, TOTAL, counts[block]) * t[WEIGHT, 0]
        for s in range(t.shape[1]):
            t[TOTAL, s] = 0.0
        for c in range(outputs):
            for s in range(t.shape[1]):
                margin = t[out + c, s] - t[TOP, s]  # -inf where logits differ by more than float64 holds
                lost = fma(targets[block, c, s], margin, t[TOTAL, s])
                t[TOTAL, s] = lost if targets[block, c, s] > 0.0 else t[TOTAL, s]
        return total - sum_row(t, TOTAL, t.shape[1])

    @part
    def cross_entropy_errors(t: Array, targets: Array, block: int) -> None:
        exponentials(t, P, outputs, out, TOP, TOTAL)
        softmax_less_target(t, P, outputs, TOTAL, WEIGHT, delta, targets[block])

    @part
    def squared_error(t: Array, targets: Array, counts: Integers, block: int) -> float:
        for s in range(t.shape[1]):
            t[TOTAL, s] = 0.0
        for c in range(outputs):
            for s in range(t.shape[1]):
                error = t[out + c, s] - targets[block, c, s]
                t[TOTAL, s] = fma(0.5 * t[WEIGHT, s] * error, error, t[TOTAL, s])
        for s in range(counts[block], t.shape[1]):
            t[TOTAL, s] = 0.0  # where an output is infinite, no weight of zero makes it vanish
        return sum_row(t, TOTAL, t.shape[1])

    @part
    def squared_errors(t: Array, targets: Array, block: int) -> None:
        for c in range(outputs):
            for s in range(t.shape[1]):
                t[delta + c, s] = t[WEIGHT, s] * (t[out + c, s] - targets[block, c, s])

    @part
    def cross_entropy_along(t: Array) -> None:
        softmax_derivative(t, rd, outputs, ra, P, WEIGHT, TOP)

    @part
    def squared_error_along(t: Array) -> None:
        for c in range(outputs):
            for s in range(t.shape[1]):
                t[rd + c, s] = t[WEIGHT, s] * t[ra + c, s]

    if loss == "mse":
        return Cost(load, squared_error, squared_errors, squared_error_along)
    return Cost(load, cross_entropy, cross_entropy_errors, cross_entropy_along)


class Job(NamedTuple):
    """What is done with one of the data sets: its batches, its passes, the rows of its sheet."""

    place: int  # among the data sets
    batch: Batch
    passes: Passes
    cost: Cost
    first: int  # row of the inputs
    inputs: int
    units: int
    height: int  # rows that a gradient needs
