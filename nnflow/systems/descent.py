"""Descent on a given loss as a map: w' = w − η∇L(w) and its kin, for a torch loss and for named losses of one weight.

The optimizers are those of `optimisers`; their memory is part of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from nnflow.compiled import CompiledMap
from nnflow.map import generator
from nnflow.names import Refusal, shown
from nnflow.room import room
from nnflow.settings import checked, numbers
from nnflow.systems.optimisers import (
    LIMITS,
    Descent,
    compiled_descent,
    memory_names,
    optimiser,
    tensor_descent,
)
from nnflow.systems.schedules import Schedule, name_of, taken
from nnflow.typing import Array

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.systems.modules import TensorDescent
    from nnflow.tensor import TensorMap


class CompiledDescent(Descent, CompiledMap):
    """An optimizer on a compiled loss."""


def is_repeating(optimizer: str, schedule: Schedule | None, *seeds: int | None) -> bool:
    """Whether the rule is the same in each epoch: no bias correction, no schedule, no random order, no noise."""
    return optimizer not in ("adam", "adamw") and schedule is None and all(seed is None for seed in seeds)


def marked(map: Any, **attributes: Any) -> Any:
    """A map that was just made, with these attributes."""
    for name, value in attributes.items():
        object.__setattr__(map, name, value)
    return map


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
    from nnflow.systems.witness import differentiate

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
        differentiate(map, drawn, names.__getitem__)
    return map


def _descent_on(
    loss: Callable[[Tensor], Tensor], optimizer: str, schedule: Schedule | None, weights: int, **settings: Any
) -> TensorDescent:
    """The map of an optimizer on a loss of so many weights."""
    import torch
    from torch.func import grad

    from nnflow.systems.modules import TensorDescent

    gradient = grad(loss)
    map: TensorDescent = TensorDescent(
        tensor_descent(lambda w, t: gradient(w), optimizer, schedule),
        gradient=lambda w, t: gradient(w),
        limits=LIMITS,
        repeats=is_repeating(optimizer, schedule),
        structure=structure_of(optimizer, schedule),
        observables={
            "loss": lambda x, p, t: loss(x[:weights]),
            "gradient_norm": lambda x, p, t: torch.linalg.vector_norm(gradient(x[:weights])),
        },
        **settings,
    )
    marked(map, optimizer=optimizer, schedule=schedule)
    return map


def _try_loss(loss: Callable[[Tensor], Tensor], weights: Tensor) -> None:
    """Refuse a loss that fails at these weights, or does not return a finite scalar tensor."""
    import torch

    from nnflow.tensor import everyday

    try:
        with everyday(), torch.enable_grad():
            value = loss(weights)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise Refusal(f"the loss fails on a tensor of shape {tuple(weights.shape)}: {reason}") from error
    if not isinstance(value, torch.Tensor) or value.shape != () or not torch.isfinite(value):
        raise Refusal(f"the loss returned {described(value)} at a drawn state: it must return a finite scalar tensor")


def structure_of(optimizer: str, schedule: Schedule | None, **rest: Any) -> dict[str, Any]:
    """What is fixed when a map of descent is made; a schedule by its name, what is None left out."""
    named = None if schedule is None else name_of(schedule)
    given = {"schedule": named, **rest}
    return {"optimizer": optimizer, **{key: value for key, value in given.items() if value is not None}}


def described(value: Any) -> str:
    """What a loss returned, in a few words: a number, or the shape of a tensor."""
    shape = tuple(getattr(value, "shape", ()))
    return f"a tensor of shape {shape}" if shape else repr(value)


def normal_weights(size: int, memory: int) -> Callable[[int, int], Array]:
    """Initial states: weights N(0, 1), optimizer memory 0."""

    def draw(n: int, seed: int) -> Array:
        weights = generator(seed, "states").standard_normal((n, size))
        return np.hstack([weights, np.zeros((n, memory))])

    return draw


# -- named losses of one weight ----------------------------------------------------------------------------------


@njit
def _cubic_gradient(w: Array, t: int, c: Any, g: Array) -> None:
    g[0] = w[0] - w[0] * w[0]


@njit
def _cubic_products(w: Array, t: int, c: Any, g: Array, V: Array, out: Array) -> None:
    g[0] = w[0] - w[0] * w[0]
    for j in range(V.shape[0]):
        out[j, 0] = (1.0 - 2.0 * w[0]) * V[j, 0]


def _cubic_loss(x: Array, p: Array, t: int, c: Any) -> float:
    return 0.5 * float(x[0]) ** 2 - float(x[0]) ** 3 / 3.0


@njit
def _well_gradient(w: Array, t: int, c: Any, g: Array) -> None:
    g[0] = w[0] * (w[0] * w[0] - 1.0)


@njit
def _well_products(w: Array, t: int, c: Any, g: Array, V: Array, out: Array) -> None:
    g[0] = w[0] * (w[0] * w[0] - 1.0)
    for j in range(V.shape[0]):
        out[j, 0] = (3.0 * w[0] * w[0] - 1.0) * V[j, 0]


def _well_loss(x: Array, p: Array, t: int, c: Any) -> float:
    return 0.25 * (float(x[0]) ** 2 - 1.0) ** 2


def cubic_descent(optimizer: str = "heavy_ball", box: Any = None, **parameters: float) -> CompiledMap:
    """Descent on L = w²/2 − w³/3, which is a classic map in disguise.

    With plain gradient descent (`optimizer="gd"`, or beta = 0) it is the logistic map with r = 1 + eta, by x = eta (1 −
    w)/(1 + eta); with heavy ball (the default; state (w, velocity)) the Hénon map with b = −beta and a = (eta² − (1 +
    beta)²)/4.

    Args:
        optimizer: See `nnflow.systems.optimisers`.
        box: (low, high) of the initial w, each a list (default: 0.1 to 0.5; memory 0).
        **parameters: Parameter → its default (eta: 2.5, beta: 0).

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer or parameter, or a box of another shape.
    """
    functions = (_cubic_gradient, _cubic_products, _cubic_loss)
    return _one_weight(
        "cubic_descent",
        functions,
        optimizer,
        box if box is not None else ([0.1], [0.5]),
        {"eta": 2.5, "beta": 0.0},
        {"eta": (0.1, 3.0), "beta": (-0.3, 0.9)},
        "L''(0) = 1: first period doubling at eta = 2 (1 + beta)",
        parameters,
    )


def double_well_descent(optimizer: str = "heavy_ball", box: Any = None, **parameters: float) -> CompiledMap:
    """Descent on the double well L = (w² − 1)²/4; with beta = 0, u = √eta w obeys u' = (1 + eta) u − u³.

    The minima at ±1 have L'' = 2: first period doubling at eta = 1 + beta.

    Args:
        optimizer: See `nnflow.systems.optimisers`.
        box: (low, high) of the initial w, each a list (default: 0.2 to 0.9; memory 0).
        **parameters: Parameter → its default (eta: 1.5, beta: 0).

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer or parameter, or a box of another shape.
    """
    functions = (_well_gradient, _well_products, _well_loss)
    return _one_weight(
        "double_well_descent",
        functions,
        optimizer,
        box if box is not None else ([0.2], [0.9]),
        {"eta": 1.5, "beta": 0.0},
        {"eta": (0.05, 2.0), "beta": (-0.5, 0.9)},
        "L''(1) = 2: first period doubling at eta = 1 + beta",
        parameters,
    )


def _one_weight(
    name: str,
    functions: tuple[Any, Any, Any],
    optimizer: str,
    box: Any,
    defaults: dict[str, float],
    ranges: dict[str, tuple[float, float]],
    source: str,
    given: dict[str, float],
) -> CompiledDescent:
    gradient, products, loss = functions
    known = optimiser(optimizer, {}, decay=False)
    known = optimiser(optimizer, {key: defaults.get(key, known[key]) for key in known} | given, decay=False)
    memory = memory_names(optimizer, ("w",))
    sides = numbers("box", box)
    if sides.ndim != 2 or len(sides) != 2:
        raise Refusal(f"box = {shown(box)}: give (low, high), each a number for each component")
    low, high = sides.tolist()
    padding = [0.0] * (1 + len(memory) - len(low))
    made = CompiledDescent(
        *compiled_descent(gradient, products, 1, optimizer, known),
        constants=(),
        name=name,
        dim=1 + len(memory),
        parameters=known,
        limits=LIMITS,
        repeats=is_repeating(optimizer, None),
        coordinates=("w", *memory),
        observables={"loss": loss},
        box=(low + padding, high + padding),
        ranges={key: ranges[key] for key in known if key in ranges},
        memory=len(memory),
        structure={"optimizer": optimizer},
        source=source,
    )
    marked(made, optimizer=optimizer, schedule=None)
    return made
