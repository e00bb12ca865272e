"""What a module, its loss and its data must satisfy together to be a map, tried out before anything runs."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnflow.names import Refusal
from nnflow.systems.derivatives import resting
from nnflow.systems.failures import FAILURES, described, first_line
from nnflow.systems.training.dropout import WrittenOut, written_out
from nnflow.systems.training.inputs import Inputs, outputs_of, parts, told
from nnflow.systems.training.losses import plain_attention
from nnflow.systems.training.task import Task
from nnflow.tensor import TensorMap
from nnflow.tensor.modes import drawing_apart, seeded


def try_out(task: Task) -> None:
    """Evaluate the loss on all data and see that it is one number, finite, repeatable, and of all parameters.

    Args:
        task: The training.

    Raises:
        Refusal: (a ValueError) with what does not fit.
    """
    with drawing_apart(task.device):
        before = torch.random.get_rng_state()
        loss, named = _loss_of(task, task.inputs, task.targets, "")
        drawn = not torch.equal(before, torch.random.get_rng_state())
        again, _ = _loss_of(task, task.inputs, task.targets, "")
    if drawn or not torch.isclose(loss, again, rtol=1e-6, atol=0.0):
        raise Refusal(
            "the loss is another one each time, so a step is no fixed map: call module.eval(), or give noise=, the "
            "seed of a random map (torch's random numbers then follow it)"
        )
    if task.noise is not None and not _draws(task):
        raise Refusal(
            f"noise = {task.noise}: nothing in the module draws random numbers: leave it out, or call .train()"
        )
    if missing := _unused(loss, named):
        raise Refusal(
            f"the loss does not depend on {', '.join(missing)}: use each parameter in forward, or make it a buffer"
        )
    if task.test is not None:
        _loss_of(task, *task.test, "test ")
    for name, function in task.observables.items():
        _try_observable(task, name, function)


def _try_observable(task: Task, name: str, function: Any) -> None:
    """Refuse an observable of the user's own that is no number of outputs and targets."""
    if not callable(function):
        raise Refusal(f"observable {name} = {function!r}: give a function of (outputs, targets)")
    outputs, targets = task.outputs(task.inputs), task.data(task.targets)
    try:
        value, again = (function(outputs, targets) for _ in range(2))
    except FAILURES as error:
        raise Refusal(f"observable {name} fails on outputs and targets: {first_line(error)}") from error
    if not isinstance(value, Tensor) or value.shape != () or value.is_complex():
        raise Refusal(f"observable {name} returned {described(value)}: it must return one number, a scalar tensor")
    if not torch.equal(value.nan_to_num(), again.nan_to_num()):
        raise Refusal(f"observable {name} gives other numbers each time: let it depend on outputs and targets alone")


def _draws(task: Task) -> bool:
    """Whether the loss draws random numbers; on a device that has its own, that is not asked."""
    with seeded(task.noise, 0, task.device), plain_attention(), WrittenOut():
        before = torch.random.get_rng_state()
        module = copy.deepcopy(task.module).to(task.device)
        task.loss_fn(outputs_of(module, task.data(task.inputs)), task.data(task.targets))
        return task.device.type != "cpu" or not torch.equal(before, torch.random.get_rng_state())


def _unused(loss: Tensor, named: dict[str, nn.Parameter]) -> list[str]:
    """The parameters that the loss was computed without. Raises Refusal if torch cannot tell."""
    if not loss.requires_grad:
        return list(named)
    try:
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    except FAILURES as error:
        raise Refusal(f"torch cannot differentiate the loss: {first_line(error)}") from error
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


def _loss_of(
    task: Task, inputs: Inputs, targets: npt.NDArray[Any], kind: str
) -> tuple[Tensor, dict[str, nn.Parameter]]:
    """The loss on some data with torch's own gradients, and the parameters it was computed with."""
    if len(inputs) != len(targets):
        raise Refusal(f"{len(inputs)} {kind}inputs and {len(targets)} {kind}targets: give one target an input")
    module, x = copy.deepcopy(task.module).to(task.device), task.data(inputs)
    moving = {name.rpartition(".")[0] for name, _ in task.averages}
    buffers = [b for name, b in module.named_buffers() if name.rpartition(".")[0] not in moving]
    before, held = [part.clone() for part in parts(x)], [b.clone() for b in buffers]
    shape: Any = "?"
    try:
        with warnings.catch_warnings(), plain_attention(), seeded(task.noise, 0, task.device), written_out(task.noise):
            warnings.filterwarnings("error", message="Using a target size")  # torch would broadcast, and go on
            outputs = outputs_of(module, x)
            shape = tuple(getattr(outputs, "shape", ())) or type(outputs).__name__
            loss = task.loss_fn(outputs, task.data(targets))
    except (*FAILURES, UserWarning) as error:
        raise Refusal(
            f"the module and the loss do not fit the {kind}data: inputs {told(inputs)}, "
            f"outputs {shape}, targets {targets.shape} of {targets.dtype}: {first_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise Refusal(f"the loss returned {described(loss)}: it must return one number, a scalar tensor")
    if loss.dtype != task.dtype:
        raise Refusal(f"the loss is of {loss.dtype}, the map works in {task.dtype}: convert nothing on the way to it")
    if not torch.isfinite(loss):
        raise Refusal(f"the loss on the {kind}data is {loss.item()}: check inputs and targets for NaN or inf")
    weights = zip(module.parameters(), task.module.parameters(), strict=True)
    same = {
        "its inputs": all(map(torch.equal, parts(x), before)),
        "its buffers": all(map(torch.equal, buffers, held)),
        "its parameters": all(torch.equal(p.cpu(), own) for p, own in weights),
    }
    if changed := [name for name, equal in same.items() if not equal]:
        raise Refusal(f"the module changes {changed[0]} in place, so a step is no fixed map: write into a copy")
    return loss, dict(module.named_parameters())


def try_step(map: TensorMap, task: Task) -> None:
    """One step and one tangent vector from the module's own weights, to see that both can be computed.

    Args:
        map: The map.
        task: The training.

    Raises:
        Refusal: (a ValueError) with the reason, or if torch's own gradient is another one.
    """
    x = map.native(np.concatenate([task.weights, resting(map)])[None])
    p = np.array([list(map.parameters.values())])
    try:
        map.step(x, p, 0)
        tangent, _ = map.unchecked_tangent(x, p, 0, torch.ones_like(x)[:, None])
    except FAILURES as error:
        raise Refusal(
            f"the module has no map: torch cannot batch it, or differentiate it forward: {first_line(error)}: write "
            "that part in other operations of torch"
        ) from error
    if not tangent.isfinite().all():
        raise Refusal("the tangent map at the module's own weights is not finite: the loss is not smooth there")
