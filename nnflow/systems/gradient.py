"""Descent on a torch loss as a map: w' = w − η∇L(w) and its kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad

from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.room import room
from nnflow.schedules import Schedule, taken
from nnflow.settings import checked
from nnflow.systems.derivatives import differentiate
from nnflow.systems.failures import FAILURES, described, first_line
from nnflow.systems.moments import Clock
from nnflow.systems.optimisers.stability import Descent
from nnflow.systems.optimisers.table import is_repeating, limits_of, memory_names, optimiser, structure_of
from nnflow.systems.optimisers.tensor import tensor_descent
from nnflow.tensor import TensorMap, everyday, placed
from nnflow.typing import Array


class TensorDescent(TensorMap, Descent):
    """An optimizer on a torch loss."""


@checked
def gradient_map(
    loss: Callable[[Tensor], Tensor],
    dim: int,
    optimizer: str = "gd",
    *,
    name: str | None = None,
    schedule: Schedule | None = None,
    device: Any = None,
    dtype: Any = None,
    check: bool = True,
    **defaults: float,
) -> TensorMap:
    """Descent on a loss as a map, w' = w − η∇L(w) and its kin; the state is w, then the optimizer's memory.

    Weights are drawn N(0, 1), memory 0. Observables: loss, gradient_norm (L2). The tangent is by forward over reverse
    differentiation; it is compared with differences of the step at a drawn state, and wherever the loss uses `detach`.

    Args:
        loss: Takes a torch tensor ``(dim,)`` and returns a scalar tensor.
        dim: How many weights.
        optimizer: "gd", "heavy_ball", "nesterov", "adam", "adamw" or "rmsprop" (see `nnflow.systems.optimisers`).
        name: What the map is called (default: as the loss).
        schedule: A function of t that multiplies eta.
        device: Of states (default: cpu).
        dtype: Of states (default: torch.float64).
        check: False goes without the comparison, and `structure` says so.
        **defaults: Defaults of the optimizer's parameters eta, beta, beta1, beta2, epsilon, weight_decay.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer or parameter, a negative eta, a schedule that is no function of
            t, a dim below 1, a loss that fails or does not return a finite scalar at a drawn state, or one whose
            gradient torch cannot differentiate.

    >>> bowl = gradient_map(lambda w: (w * w).sum(), dim=2, eta=0.25)  # w' = w - 0.25 * 2w
    >>> bowl.advance(bowl.native([[1.0, 2.0]]), np.array([[0.25, 0.0]]), 0, 1).states.tolist()
    [[0.5, 1.0]]
    """
    schedule = taken(schedule)
    if not callable(loss) or dim < 1:
        raise Refusal(f"loss = {loss!r}, dim = {dim!r}: give a function of a tensor (dim,), and dim >= 1")
    room("weights (each has a name and a box)", dim, 25)
    parameters = optimiser(optimizer, defaults)
    names = tuple(f"w{i}" for i in range(dim)) if dim > 1 else ("w",)
    memory = memory_names(optimizer, names)
    map = _descent_on(
        loss,
        optimizer,
        schedule,
        dim,
        device=device,
        dtype=dtype,
        dim=dim + len(memory),
        name=name or getattr(loss, "__name__", "loss"),
        parameters=parameters,
        coordinates=(*names, *memory),
        initial=normal_weights(dim, len(memory)),
        memory=len(memory),
        check=check,
    )
    drawn = map.initial_states(1, 0)[0, :dim]
    _try_loss(loss, map.native(drawn))
    if check:
        differentiate(map, drawn)
    return map


def _descent_on(
    loss: Callable[[Tensor], Tensor],
    optimizer: str,
    schedule: Schedule | None,
    weights: int,
    device: Any,
    dtype: Any,
    **settings: Any,
) -> TensorDescent:
    """The map of an optimizer on a loss of so many weights."""
    gradient = grad(loss)
    return TensorDescent(
        tensor_descent(lambda w, now: gradient(w), optimizer),
        gradient=lambda w, now: gradient(w),
        clock=Clock(schedule, None, *placed(device, dtype)),
        device=device,
        dtype=dtype,
        limits=limits_of(settings["parameters"]),
        repeats=is_repeating(optimizer, schedule),
        structure=structure_of(optimizer, schedule),
        observables={
            "loss": lambda x, p, t: loss(x[:weights]),
            "gradient_norm": lambda x, p, t: torch.linalg.vector_norm(gradient(x[:weights])),
        },
        optimizer=optimizer,
        schedule=schedule,
        **settings,
    )


def _try_loss(loss: Callable[[Tensor], Tensor], weights: Tensor) -> None:
    """Refuse a loss that fails at these weights, or does not return a finite scalar tensor."""
    try:
        with everyday(), torch.enable_grad():
            value = loss(weights)
    except FAILURES as error:
        raise Refusal(f"the loss fails on a tensor of shape {tuple(weights.shape)}: {first_line(error)}") from error
    if not isinstance(value, torch.Tensor) or value.shape != () or not torch.isfinite(value):
        raise Refusal(f"the loss returned {described(value)} at a drawn state: it must return a finite scalar tensor")


def normal_weights(size: int, memory: int) -> Callable[[int, int], Array]:
    """Initial states: weights N(0, 1), optimizer memory 0."""

    def draw(n: int, seed: int) -> Array:
        weights = generator(seed, "states").standard_normal((n, size))
        return np.hstack([weights, np.zeros((n, memory))])

    return draw
