"""Descent on a torch loss as a map: w' = w − η∇L(w) and its kin.

    loss → its gradient, traced → a tape (`tapes`) → the compiled map; where there is none, the tensor map

The compiled map means what the loss meant when it was made. Its tangent is carried along the operations of the
gradient, and so is the derivative of what is iterated, whatever the loss keeps from torch's own (`detach`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, grad_and_value

from nnflow.compiled import CompiledMap, glue
from nnflow.compiled.loops import Constants
from nnflow.differences import misfit
from nnflow.frozen import plain
from nnflow.guard import call_plain
from nnflow.map import generator
from nnflow.names import Refusal, unknown
from nnflow.room import room
from nnflow.schedules import Schedule, factors, taken
from nnflow.settings import checked
from nnflow.systems.derivatives import differentiate
from nnflow.systems.failures import FAILURES, described, first_line
from nnflow.systems.moments import Clock
from nnflow.systems.optimisers.compiled import compiled_descent
from nnflow.systems.optimisers.stability import Descent
from nnflow.systems.optimisers.table import CLIPS, is_repeating, limits_of, memory_names, optimiser, structure_of
from nnflow.systems.optimisers.tensor import tensor_descent
from nnflow.systems.tapes import loops
from nnflow.systems.tapes.graph import written
from nnflow.systems.tapes.loops import Tape
from nnflow.systems.tapes.writer import Unwritable
from nnflow.systems.written import Written
from nnflow.tensor import TensorMap, everyday, placed
from nnflow.tensor.modes import threads_of_torch
from nnflow.typing import Array

BACKENDS = ("auto", "compiled", "tensor")
TRIALS = 6  # states at which a tape is compared with torch: drawn ones, far and near ones, and 0
CLOSE = 1e-9  # how far it may be off, of the largest component: torch sums in another order

Loss = Callable[[Tensor], Tensor]


class TensorDescent(TensorMap, Descent):
    """An optimizer on a torch loss."""

    backend = "tensor"


class CompiledGradient(CompiledMap, Descent):
    """An optimizer on a torch loss that is written on a tape."""

    backend = "compiled"

    def handed(self, t: int, steps: int) -> Constants:
        """The tapes, and what the schedule multiplies eta by in these steps: no part of the machine code."""
        tapes = super().handed(t, steps)
        return tapes if self.schedule is None else (*tapes, t, factors(self.schedule, t, steps))

    def behind(self, t: int) -> tuple[Any, ...]:
        """What stands behind t in a call of one of the functions, at t or at the step after it."""
        return (self.handed(t, 2),)


@checked
def gradient_map(
    loss: Callable[[Tensor], Tensor],
    dim: int,
    optimizer: str = "gd",
    *,
    backend: str = "auto",
    name: str | None = None,
    schedule: Schedule | None = None,
    device: Any = None,
    dtype: Any = None,
    check: bool = True,
    compile: bool = False,
    **defaults: float,
) -> CompiledGradient | TensorDescent:
    """Descent on a loss as a map, w' = w − η∇L(w) and its kin; the state is w, then the optimizer's memory.

    Weights are drawn N(0, 1), memory 0. Observables: loss, gradient_norm (L2).

    A loss of a few weights is compiled: its gradient is traced, and what it does is run as scalar operations, the same
    machine code for all losses. It agrees with torch to rounding, and means what it meant when the map was made. Other
    losses run on tensors: where an operation has no scalar form, where there are more than 4096 of them, on other
    devices and in float32. `map.backend` and `structure`, which is in results, say which it is, and why.

    The tangent is the derivative of the map's own step. Compiled, it is carried along the operations of the gradient,
    compared with differences when the map is made; on tensors, it is by forward over reverse differentiation, compared
    at a drawn state, and wherever the loss uses `detach`.

    Args:
        loss: Takes a torch tensor ``(dim,)`` and returns a scalar tensor.
        dim: How many weights.
        optimizer: "gd", "heavy_ball", "nesterov", "adam", "adamw" or "rmsprop" (see `nnflow.systems.optimisers`).
        backend: "compiled", "tensor", or "auto": the compiled one where there is one.
        name: What the map is called (default: as the loss).
        schedule: A function of t that multiplies eta.
        device: Of states (default: cpu).
        dtype: Of states (default: torch.float64).
        check: False goes without the comparisons, and `structure` says so.
        compile: Whether the loss goes to tensors, and its steps are compiled by torch's Inductor, see `TensorMap`.
        **defaults: Defaults of the optimizer's parameters eta, beta, beta1, beta2, epsilon, weight_decay.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer, parameter or backend, a negative eta, a schedule that is no
            function of t, a dim below 1, a loss that fails, does not return a finite scalar at a drawn state or gives
            another gradient each time, one whose gradient torch cannot differentiate, and with backend="compiled" one
            that cannot be compiled, by the name of the operation.

    >>> bowl = gradient_map(lambda w: (w * w).sum(), dim=2, eta=0.25)  # w' = w - 0.25 * 2w
    >>> bowl.advance(bowl.native([[1.0, 2.0]]), np.array([[0.25, 0.0]]), 0, 1).states.tolist()
    [[0.5, 1.0]]
    >>> bowl.backend
    'compiled'
    """
    schedule = taken(schedule)
    if backend not in BACKENDS:
        raise Refusal(unknown("backend", backend, BACKENDS))
    if compile and backend == "compiled":
        raise Refusal("compile = True is for backend='tensor': what backend='compiled' runs is compiled by numba")
    if not callable(loss) or dim < 1:
        raise Refusal(f"loss = {loss!r}, dim = {dim!r}: give a function of a tensor (dim,), and dim >= 1")
    room("weights (each has a name and a box)", dim, 25)
    parameters = optimiser(optimizer, defaults)
    names = tuple(f"w{i}" for i in range(dim)) if dim > 1 else ("w",)
    memory = memory_names(optimizer, names)
    place, kind = placed(device, dtype)
    settings: dict[str, Any] = {
        "dim": dim + len(memory),
        "name": name or getattr(loss, "__name__", "loss"),
        "parameters": parameters,
        "limits": limits_of(parameters),
        "coordinates": (*names, *memory),
        "initial": normal_weights(dim, len(memory)),
        "memory": len(memory),
        "repeats": is_repeating(optimizer, schedule),
        "optimizer": optimizer,
        "schedule": schedule,
        "check": check,
    }
    drawn = settings["initial"](1, 0)[0, :dim]
    with threads_of_torch(1):
        _try_loss(loss, torch.as_tensor(drawn, device=place, dtype=kind))
        made = None if compile or backend == "tensor" else _compiled(loss, dim, place, kind, settings)
    if isinstance(made, CompiledGradient):
        return made
    if made and backend == "compiled":
        raise Refusal(f"backend = 'compiled': {made}; use backend='tensor'")
    map = _on_tensors(loss, dim, place, kind, made, {**settings, "compile": compile})
    if check:
        with map.uncompiled():
            differentiate(map, drawn)
        map.remember()
    return map


# -- compiled --------------------------------------------------------------------------------------------------------


def _compiled(
    loss: Loss, size: int, device: torch.device, dtype: torch.dtype, settings: dict[str, Any]
) -> CompiledGradient | str:
    """The compiled map; where there is none, the reason."""
    if device.type != "cpu" or dtype != torch.float64:
        return f"device = {device}, dtype = {dtype}: float64 on the CPU is compiled"
    if clips := [name for name in CLIPS if name in settings["parameters"]]:
        return f"{clips[0]}: gradients are clipped on tensors"
    states = _trials(size)
    try:
        with everyday(), torch.enable_grad():
            tapes = written(grad_and_value(_written_out(loss)), torch.tensor(states[0]))
            if settings["check"]:
                _attest(tapes, loss, states, settings["name"])
    except Unwritable as reason:
        return str(reason)
    return _on_tapes(tapes, size, settings)


def _on_tapes(tapes: tuple[Tape, ...], size: int, settings: dict[str, Any]) -> CompiledGradient:
    """The map of an optimizer on the gradient and the loss as tapes."""
    optimizer, schedule = settings["optimizer"], settings["schedule"]

    @glue
    def value(x: Array, p: Array, t: int, c: Any) -> float:
        return loops.single(x[:size], c)

    @glue
    def gradient_norm(x: Array, p: Array, t: int, c: Any) -> float:
        return loops.norm(x[:size], c)

    parameters, scheduled = settings["parameters"], schedule is not None
    return CompiledGradient(
        *compiled_descent(loops.run, loops.run_with_slopes, size, optimizer, parameters, scheduled),
        constants=tuple(map(tuple, tapes)),
        structure=structure_of(optimizer, schedule, backend="compiled"),
        observables={"loss": value, "gradient_norm": gradient_norm},
        **settings,
    )


def _trials(size: int) -> Array:
    """States at which a tape is compared with torch."""
    drawn: Array = generator(0, "trials").standard_normal((TRIALS, size))
    scales: Array = np.array([1.0, 1.0, 1.0, 5.0, 0.01, 0.0])
    return drawn * scales[:, None]


def _attest(tapes: tuple[Tape, ...], loss: Loss, states: Array, name: str) -> None:
    """Compare gradient and loss on tapes with torch, and what is said of their slopes with differences.

    Raises:
        Unwritable: if torch has another gradient.
        Refusal: if torch has another one each time, or the slopes are none.
    """
    run, run_with_slopes, single, c = *map(plain, (loops.run, loops.run_with_slopes, loops.single)), tuple(tapes)

    def slopes(w: Array) -> Array:
        out = np.empty_like(w)
        for row, result in zip(w, out, strict=True):
            call_plain(run, row, 0, c, out=result)
        return out

    def products(w: Array, V: Array) -> Array:
        out = np.empty_like(V)
        call_plain(run_with_slopes, w[0], 0, c, np.empty_like(w[0]), V, out=out)
        return out

    for w, gradient in zip(states, slopes(states), strict=True):
        found = np.append(gradient, call_plain(single, w, c))
        known, again = (_asked(loss, w) for _ in range(2))
        if not np.array_equal(known, again, equal_nan=True):
            raise Refusal(
                f"the loss of {name!r} is {known[-1]:.9g} with the gradient {known[:-1][:3]} at {w[:3]}, and "
                f"{again[-1]:.9g} with {again[:-1][:3]} when it is asked again: let it depend on w "
                "alone, count no calls and draw no random numbers"
            )
        size = np.abs(known[:-1][np.isfinite(known[:-1])]).max(initial=0.0)
        if not np.allclose(found, known, rtol=CLOSE, atol=CLOSE * size, equal_nan=True):
            raise Unwritable("its traced operations give other numbers than torch at another state")
    if wrong := misfit(slopes, products, states[0], float(np.finfo(np.float64).eps)):
        raise Refusal(wrong.said(f"the curvature of {name!r}", "gradient", [f"w{i}" for i in range(len(w))], states[0]))


def _asked(loss: Loss, w: Array) -> Array:
    """Torch's gradient, and the loss behind it. Raises Unwritable where there is none."""
    try:
        gradient, value = grad_and_value(loss)(torch.tensor(w))
        return np.append(gradient.detach().numpy(), float(value))
    except FAILURES as error:
        raise Unwritable(f"it fails at another state: {first_line(error)}") from error


# -- on tensors ------------------------------------------------------------------------------------------------------


def _on_tensors(
    loss: Loss, weights: int, device: torch.device, dtype: torch.dtype, reason: str | None, settings: dict[str, Any]
) -> TensorDescent:
    """The map of an optimizer on a loss of so many weights; `reason` says why it is not compiled."""
    seen, optimizer, schedule = _written_out(loss), settings["optimizer"], settings["schedule"]
    gradient = grad(seen)
    return TensorDescent(
        tensor_descent(lambda w, now: gradient(w), optimizer),
        gradient=lambda w, now: gradient(w),
        clock=Clock(schedule, None, device, dtype),
        device=device,
        dtype=dtype,
        calls=(loss,),
        structure=structure_of(optimizer, schedule, backend="tensor", backend_reason=reason),
        observables={
            "loss": lambda x, p, t: seen(x[:weights]),
            "gradient_norm": lambda x, p, t: torch.linalg.vector_norm(gradient(x[:weights])),
        },
        **settings,
    )


def _written_out(loss: Loss) -> Loss:
    """The loss with functions of torch that lack a second derivative, or its rules, written out."""

    def seen(w: Tensor) -> Tensor:
        with Written():
            return loss(w)

    return seen


def _try_loss(loss: Callable[[Tensor], Tensor], weights: Tensor) -> None:
    """Refuse a loss that fails at these weights, or does not return a finite scalar tensor."""
    try:
        with everyday(), torch.enable_grad():
            value, again = loss(weights), loss(weights)
    except FAILURES as error:
        raise Refusal(f"the loss fails on a tensor of shape {tuple(weights.shape)}: {first_line(error)}") from error
    if not isinstance(value, torch.Tensor) or value.shape != () or not torch.isfinite(value):
        raise Refusal(f"the loss returned {described(value)} at a drawn state: it must return a finite scalar tensor")
    if not torch.equal(value, again):
        raise Refusal(
            f"the loss is {value.item():.9g} at a drawn state, and {again.item():.9g} when it is asked again: let it "
            "depend on w alone, count no calls and draw no random numbers"
        )


def normal_weights(size: int, memory: int) -> Callable[[int, int], Array]:
    """Initial states: weights N(0, 1), optimizer memory 0."""

    def draw(n: int, seed: int) -> Array:
        weights = generator(seed, "states").standard_normal((n, size))
        return np.hstack([weights, np.zeros((n, memory))])

    return draw
