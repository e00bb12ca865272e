"""What a torch module, its loss and its data must satisfy to be a map, tried out before anything runs."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nnflow.systems.descent import described
from nnflow.systems.losses import batch_loss, plain_attention, seeded

if TYPE_CHECKING:
    import numpy.typing as npt

    from nnflow.systems.modules import Training
    from nnflow.tensor import TensorMap

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError)


def copied(module: nn.Module) -> nn.Module:
    """A deep copy. Raises ValueError for a module that holds a computed tensor: a pruned or weight-normed layer."""
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        raise ValueError(f"the module cannot be copied: {_line(error)}") from error


def refuse(module: nn.Module, noise: int | None) -> None:
    """Refuse modules that are no fixed function of trainable parameters."""
    if not any(True for _ in module.parameters()):
        raise ValueError("the module has no parameters: there is nothing to train")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter {name} has no shape yet: call the module once on its inputs")
        if not parameter.requires_grad:
            raise ValueError(
                f"parameter {name} does not require gradients: the state holds all parameters, so none may be frozen; "
                "make it a buffer (register_buffer) if it is a constant"
            )
    for name, part in module.named_modules():
        kind = f"{name or 'the module'} is a {type(part).__name__} in training mode"
        if part.training and isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"{kind}: its running averages would be a state of their own: call module.eval()")
        if part.training and isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 and noise is None:
            raise ValueError(
                f"{kind}, so a step is no fixed map: call module.eval(), or give noise=, the seed of a random map"
            )


def check(task: Training) -> None:
    """Evaluate the loss on all data and see that it is one number, finite, repeatable, and of all parameters.

    Raises ValueError with what does not fit.
    """
    loss, named = _loss_of(task, task.inputs, task.targets, "")
    again, _ = _loss_of(task, task.inputs, task.targets, "")
    if not torch.isclose(loss, again, rtol=1e-6):
        raise ValueError(
            "the loss is another one each time, so a step is no fixed map: call module.eval(), or give noise=, the "
            "seed of a random map (torch's random numbers then follow it)"
        )
    if missing := _unused(loss, named):
        raise ValueError(
            f"the loss does not depend on {', '.join(missing)}: use each parameter in forward, or make it a buffer"
        )
    if task.test is not None:
        _loss_of(task, *task.test, "test ")
    if task.microbatch < len(task.inputs):
        _check_mean(task, loss.item())


def _unused(loss: Tensor, named: dict[str, nn.Parameter]) -> list[str]:
    """The parameters that the loss was computed without. Raises ValueError if torch cannot tell."""
    if not loss.requires_grad:
        return list(named)
    try:
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    except FAILURES as error:
        raise ValueError(f"torch cannot differentiate the loss: {_line(error)}") from error
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


def _loss_of(
    task: Training, inputs: npt.NDArray[Any], targets: npt.NDArray[Any], kind: str
) -> tuple[Tensor, dict[str, nn.Parameter]]:
    """The loss on some data with torch's own gradients, and the parameters it was computed with."""
    if len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} {kind}inputs and {len(targets)} {kind}targets: give one target an input")
    module, x = copy.deepcopy(task.module).to(task.device), task.data(inputs)
    before, buffers = x.clone(), [b.clone() for b in module.buffers()]
    shape: Any = "?"
    try:
        with warnings.catch_warnings(), plain_attention(), seeded(task.noise, 0, task.device):
            warnings.filterwarnings("error", message="Using a target size")  # torch would broadcast, and go on
            outputs = module(x)
            shape = tuple(getattr(outputs, "shape", ())) or type(outputs).__name__
            loss = task.loss_fn(outputs, task.data(targets))
    except (*FAILURES, UserWarning) as error:
        raise ValueError(
            f"the module and the loss do not fit the {kind}data: inputs {inputs.shape} of {inputs.dtype}, "
            f"outputs {shape}, targets {targets.shape} of {targets.dtype}: {_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.shape != ():
        raise ValueError(f"the loss returned {described(loss)}: it must return one number, a scalar tensor")
    if not torch.isfinite(loss):
        raise ValueError(f"the loss on the {kind}data is {loss.item()}: check inputs and targets for NaN or inf")
    if not torch.equal(x, before) or not all(map(torch.equal, module.buffers(), buffers)):
        changed = "its inputs" if not torch.equal(x, before) else "its buffers"
        raise ValueError(f"the module changes {changed} in place, so a step is no fixed map: write into a copy")
    return loss, dict(module.named_parameters())


def _check_mean(task: Training, whole: float) -> None:
    """Refuse microbatches for a loss that is no mean over samples."""
    if task.noise is not None or task.order.batches > 1:
        return  # other numbers are drawn, other rows seen: nothing to compare
    w = torch.cat([p.detach().ravel() for p in task.module.parameters()]).to(task.device)
    with torch.no_grad():
        parts = float(batch_loss(task)(w, 0))
    if not np.isclose(parts, whole, rtol=1e-4 if task.dtype == torch.float32 else 1e-8):
        raise ValueError(
            f"microbatch = {task.microbatch}: the loss of all samples is {whole:g}, the mean over microbatches is "
            f"{parts:g}: only a loss that is a mean over independent samples can be cut"
        )


def try_step(map: TensorMap, task: Training) -> None:
    """One step and one tangent vector from the module's own weights, to see that both can be computed.

    Raises ValueError with the reason, or if torch's own gradient is another one.
    """
    flat = torch.cat([p.detach().ravel() for p in task.module.parameters()])
    x = map.native(torch.cat([flat, flat.new_zeros(map.memory)])[None])
    p = np.array([list(map.parameters.values())])
    try:
        map.step(x, p, 0)
        tangent = map.tangent(x, p, 0, torch.ones_like(x)[:, None])
    except FAILURES as error:
        raise ValueError(
            f"the module has no map: torch cannot batch it, or differentiate it forward: {_line(error)}"
        ) from error
    if not tangent.isfinite().all():
        raise ValueError("the tangent map at the module's own weights is not finite: the loss is not smooth there")


def _line(error: BaseException) -> str:
    """The first line of an error."""
    return str(error).partition("\n")[0] or type(error).__name__
