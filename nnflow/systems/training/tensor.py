"""Any torch module in training as a tensor map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnflow.data.order import Order
from nnflow.map import generator
from nnflow.schedules import Schedule
from nnflow.systems.failures import FAILURES
from nnflow.systems.moments import Clock, Moment
from nnflow.systems.optimisers.table import OPTIMISERS, is_repeating, limits_of, optimiser, structure_of
from nnflow.systems.optimisers.tensor import tensor_descent, tensor_step
from nnflow.systems.training import losses
from nnflow.systems.training.checks import try_step
from nnflow.systems.training.state import TrainingMap, coordinate_names, last_layer
from nnflow.systems.training.task import Task
from nnflow.tensor import Named, TensorMap
from nnflow.tensor.modes import seeded


class TensorTraining(TensorMap, TrainingMap):
    """A torch module in training, on tensors.

    Members go as many at a time as their values on the way fit into 8 MiB, on every machine alike; at least one.
    """

    grouped = True
    differentiated = True  # see `witness`


def tensor_training(
    task: Task,
    optimizer: str,
    schedule: Schedule | None,
    defaults: Mapping[str, float],
    reason: str = "",
    **settings: Any,
) -> TensorTraining:
    """The tensor map of a task, `reason` being why it is one; `settings` are those of a `TensorMap`."""
    order = Order(task.order.samples)
    without = replace(task, order=order, microbatch=task.rows if task.batch_norm else task.microbatch)
    again = partial(tensor_training, without, optimizer, schedule, defaults, reason, **settings)
    parameters = optimiser(optimizer, defaults, groups=task.groups)
    coordinates = coordinate_names(task.layout, optimizer, task.averages)
    size, order = sum(task.sizes), task.order
    memory = len(OPTIMISERS[optimizer].memory) * size
    gradient = losses.batch_gradient(task)
    made = TensorTraining(
        _rule(task, optimizer, gradient),
        gradient=gradient,
        device=task.device,
        dtype=task.dtype,
        dim=len(coordinates),
        name=task.name,
        entries=task.entries,
        parameters=parameters,
        limits=limits_of(parameters),
        repeats=is_repeating(optimizer, schedule, order.shuffle, task.noise),
        epoch=order.batches,
        coordinates=coordinates,
        observables=losses.observables(task),
        initial=task.initial(memory),
        memory=len(coordinates) - size,
        structure=_structure(task, optimizer, schedule, reason),
        start=np.concatenate([task.weights, task.rest(memory)]),
        clock=Clock(schedule, order, task.device, task.dtype),
        noise=task.noise,
        calls=task.functions,
        optimizer=optimizer,
        schedule=schedule,
        groups=task.groups,
        without_batches=None if order.batch is None else again,
        layout=task.layout,
        averages=task.averages,
        softmax=_softmax(task),
        classes=task.classes,
        **settings,
    )
    with made.uncompiled():
        try_step(made, task)
    return made


def _structure(task: Task, optimizer: str, schedule: Schedule | None, reason: str) -> dict[str, Any]:
    return structure_of(
        optimizer,
        schedule,
        batch=task.order.batch,
        shuffle=task.order.shuffle,
        noise=task.noise,
        backend="tensor",
        backend_reason=reason or None,
        groups=dict(task.groups.held) or None,
        batch_norm=task.batch_norm,
    )


def _rule(task: Task, optimizer: str, gradient: Callable[[Tensor, Moment], Tensor]) -> Callable[..., Tensor]:
    """The step of an optimizer; of running averages as well, if they are in the state."""
    if not task.averages:
        return tensor_descent(gradient, optimizer, task.groups, task.device)
    step, both = tensor_step(optimizer, task.groups, task.device), losses.batch_gradient_and_averages(task)
    size, last = sum(task.sizes), sum(int(np.prod(shape)) for _, shape in task.averages)

    def rule(x: Tensor, p: Named, now: Moment) -> Tensor:
        g, averages = both(x[:size], x[-last:], now)
        return torch.cat((step(x[:-last], lambda w: g, p, now), averages))

    return rule


def _softmax(task: Task) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The last layer, if the loss does not see a constant that is added to all its outputs. Without biases, too.

    Tried out with large constants, on the loss that a step descends on, at three drawn weight vectors: at one alone, a
    zero head say, the loss may not see a layer for another reason.

    Returns:
        For each parameter of that layer its place in the state and its shape; none if the loss sees it.
    """
    found = last_layer(task.layout)
    matrix = [(start, shape) for start, shape in found if len(shape) == 2]
    if not matrix or found[-1][1][0] != matrix[-1][1][0]:
        return ()
    found = found[found.index(matrix[-1]) :]
    if not all(map(math.prod, (shape for _, shape in found))):  # a parameter without numbers
        return ()
    shift = torch.zeros(sum(task.sizes), dtype=task.dtype, device=task.device)
    for start, shape in found:
        part = shift[start : start + int(np.prod(shape))].view(shape)
        part += torch.linspace(-1.0, 2.0, part[0].numel(), dtype=task.dtype, device=task.device).view(part[0].shape)
    own = torch.cat([p.detach().ravel() for p in task.module.parameters()]).to(task.device)
    drawn = torch.as_tensor(generator(0, "symmetry").standard_normal((3, len(own)))).to(own)
    step, now = losses.batch_loss(task), task.moment(0)

    def loss(w: Tensor) -> Tensor:
        with seeded(task.noise, 0, task.device):
            return step(w, now)

    unseen = all(_unseen(loss, own + 0.5 * move, shift, shift * move) for move in drawn)
    return found if unseen else ()


def _unseen(loss: Callable[[Tensor], Tensor], w: Tensor, shift: Tensor, other: Tensor) -> bool:
    """Whether a loss has the same value at w and at w + shift: up to rounding, and beside what another shift does."""
    try:
        with torch.no_grad():
            before, after, elsewhere = (float(loss(w + by)) for by in (0.0 * shift, shift, other))
    except FAILURES:  # drawn weights may be none that the module can take
        return False
    change, seen, rounding = abs(after - before), abs(elsewhere - before), 1e3 * torch.finfo(w.dtype).eps
    return change < 1e-3 * seen and change <= rounding * max(seen, abs(before))
