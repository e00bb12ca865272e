"""What one watches of a network in training, over a whole data set: loss, accuracy, outputs, units that are stuck."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nnflow.compiled.ways import kernel
from nnflow.systems.perceptron.costs import Gradient, Job
from nnflow.systems.perceptron.rows import dot_rows, nan_unless_finite, new_sheet, sum_row
from nnflow.typing import Array

Observable = Callable[[Array, Any], float]


def loss_of(job: Job) -> Observable:
    """(w, data): the loss over all samples."""
    place, height, batch = job.place, job.height, job.batch
    load, forward, cost = job.cost.load, job.passes.forward, job.cost.loss

    @kernel
    def loss(w: Array, data: Any) -> float:
        inputs, targets, weights, counts, first, last = batch(data[place], 0)
        t = new_sheet(height, inputs.shape[2])
        total = nan_unless_finite(w)
        for block in range(first, last):
            load(t, inputs, weights, block)
            forward(w, t)
            total += cost(t, targets, counts, block)
        return total

    return loss


def watch_of(job: Job, outputs: int, last: int, floor: Array, ceiling: Array) -> Callable[[Array, Any, Array], None]:
    """(w, data, out): what one pass over all samples shows of the units, in the order of `watched`."""
    place, height, batch = job.place, job.height, job.batch
    load, forward = job.cost.load, job.passes.forward
    hidden, top = job.first + job.inputs, job.first + job.inputs + job.units - outputs

    @kernel
    def watch(w: Array, data: Any, out: Array) -> None:
        inputs, _, weights, counts, first, end = batch(data[place], 0)
        labels, share, length = data[place][4], 1.0 / np.sum(counts), inputs.shape[2]
        t = new_sheet(height, length)
        above, below = np.ones(floor.size, np.bool_), np.ones(floor.size, np.bool_)
        low, high = np.full(outputs, np.inf), np.full(outputs, -np.inf)
        out[:] = nan_unless_finite(w)
        right, answers, kept = 0, 0.0, 0.0
        for block in range(first, end):
            load(t, inputs, weights, block)
            forward(w, t)
            for c in range(outputs):
                out[3 + c] += share * sum_row(t, top + c, counts[block])
                for s in range(counts[block]):
                    a = t[top + c, s]
                    answers += 0.0 * a
                    low[c], high[c] = min(low[c], a), max(high[c], a)
            for u in range(last):
                out[4 + outputs] += share * dot_rows(t, top - last + u, top - last + u, counts[block])
            for u in range(floor.size):
                for s in range(length):
                    a = t[hidden + u, s]
                    kept += 0.0 * a
                    above[u] &= a > ceiling[u]
                    below[u] &= a < floor[u]
            for s in range(counts[block]):
                best = 0
                for c in range(outputs):
                    best = c if t[top + c, s] > t[top + best, s] else best
                right += best == labels[block, s]
        out[0] += answers + right * share
        out[1] += kept + np.sum(above)
        out[2] += kept + np.sum(above | below)
        out[3 + outputs] += np.max(high - low)

    return watch


def watched(outputs: int) -> tuple[str, ...]:
    """The names of what `watch_of` writes."""
    return ("accuracy", "stuck_on", "saturated", *(f"output[{c}]" for c in range(outputs)), "output_range",
            "hidden_square")  # fmt: skip


def predictions_of(job: Job, outputs: int) -> Callable[[Array, Any, Array], None]:
    """(w, data, out): the outputs for all rows, one row after the other."""
    place, height, batch = job.place, job.height, job.batch
    load, forward, first_output = job.cost.load, job.passes.forward, job.first + job.inputs + job.units - outputs

    @kernel
    def predictions(w: Array, data: Any, out: Array) -> None:
        inputs, _, weights, counts, first, last = batch(data[place], 0)
        t = new_sheet(height, inputs.shape[2])
        i = 0
        for block in range(first, last):
            load(t, inputs, weights, block)
            forward(w, t)
            for s in range(counts[block]):
                for c in range(outputs):
                    out[i] = t[first_output + c, s]
                    i += 1

    return predictions


@kernel
def l1(w: Array, data: Any) -> float:
    """Σ |w|."""
    total: float = nan_unless_finite(w) + np.sum(np.abs(w))
    return total


@kernel
def l2(w: Array, data: Any) -> float:
    """√(Σ w²)."""
    return nan_unless_finite(w) + math.sqrt(np.sum(w * w))


def gradient_norm_of(gradient: Gradient) -> Observable:
    """(w, data): the Euclidean norm of a gradient at step 0."""

    @kernel
    def gradient_norm(w: Array, data: Any) -> float:
        g = np.empty(w.size)
        gradient(w, 0, data, g)
        return math.sqrt(np.sum(g * g))

    return gradient_norm
