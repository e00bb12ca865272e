"""The gradient of a network's loss, and the Hessian's products with vectors, block after block on one sheet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnflow.compiled.ways import kernel
from nnflow.systems.perceptron.costs import Gradient, Job
from nnflow.systems.perceptron.passes import PassesAlong
from nnflow.systems.perceptron.rows import nan_unless_finite, new_sheet
from nnflow.typing import Array


def gradient_of(job: Job) -> Gradient:
    """(w, t, data, g): the gradient on the batch of step t."""
    place, height, batch = job.place, job.height, job.batch
    load, _, errors, _ = job.cost
    forward, backward, collect = job.passes

    @kernel
    def gradient(w: Array, t: int, data: Any, g: Array) -> None:
        inputs, targets, weights, _, first, last = batch(data[place], t)
        sheet = new_sheet(height, inputs.shape[2])
        g[:] = nan_unless_finite(w)
        for block in range(first, last):
            load(sheet, inputs, weights, block)
            forward(w, sheet)
            errors(sheet, targets, block)
            backward(w, sheet)
            collect(sheet, g)

    return gradient


def products_of(job: Job, along: PassesAlong) -> Callable[[Array, int, Any, Array, Array, Array], None]:
    """The gradient and the products of the Hessian with the rows of V, from one pass forward and backward."""
    place, height, batch = job.place, job.height + 4 * job.units, job.batch
    load, _, errors, cost_along = job.cost
    forward, backward, collect = job.passes
    bend, push, pull = along

    @kernel
    def gradient_and_products(w: Array, t: int, data: Any, g: Array, V: Array, out: Array) -> None:
        inputs, targets, weights, _, first, last = batch(data[place], t)
        sheet = new_sheet(height, inputs.shape[2])
        g[:] = nan_unless_finite(w)
        for j in range(len(V)):
            out[j] = g[0] + nan_unless_finite(V[j])
        for block in range(first, last):
            load(sheet, inputs, weights, block)
            forward(w, sheet)
            errors(sheet, targets, block)
            backward(w, sheet)
            collect(sheet, g)
            bend(sheet)
            for j in range(len(V)):
                push(w, V[j], sheet)
                cost_along(sheet)
                pull(w, V[j], sheet, out[j])

    return gradient_and_products
