"""What a torch module, its loss and its data must satisfy to be a map, tried out before anything runs."""

from __future__ import annotations

import copy
import warnings
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nnflow.names import Refusal
from nnflow.systems.descent import described
from nnflow.systems.losses import plain_attention, seeded

if TYPE_CHECKING:
    import numpy.typing as npt

    from nnflow.systems.modules import Training
    from nnflow.tensor import TensorMap

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, NotImplementedError)


def converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A deep copy on the cpu in another number type; complex buffers stay complex, of that precision.

    Args:
        module: It stays as it is.
        dtype: A floating torch dtype.

    Returns:
        The copy.

    Raises:
        Refusal: for a module that holds a computed tensor: a pruned or weight-normed layer.
    """
    try:
        own = copy.deepcopy(module).to(device="cpu")
    except FAILURES as error:
        raise Refusal(
            f"the module cannot be copied: {first_line(error)} (an old weight_norm, spectral_norm or pruned layer: "
            "take those of torch.nn.utils.parametrizations, or prune.remove it)"
        ) from error
    waves = {name: buffer.to(dtype.to_complex()) for name, buffer in own.named_buffers() if buffer.is_complex()}
    for name, buffer in waves.items():
        path, _, leaf = name.rpartition(".")
        setattr(own.get_submodule(path), leaf, buffer.real)  # .to() would drop the imaginary part, with a warning
    own.to(dtype=dtype)
    for name, buffer in waves.items():
        path, _, leaf = name.rpartition(".")
        setattr(own.get_submodule(path), leaf, buffer)
    return own


def refuse(module: nn.Module, noise: int | None) -> None:
    """Refuse modules that are no fixed function of trainable parameters."""
    if isinstance(module, torch.jit.ScriptModule | nn.DataParallel):
        raise Refusal(
            f"module is a {type(module).__name__}, whose parameters torch cannot replace: give the module in it"
        )
    if not any(True for _ in module.parameters()):
        raise Refusal("the module has no parameters: there is nothing to train")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Refusal(f"parameter {name} has no shape yet: call the module once on its inputs")
        if not parameter.requires_grad:
            raise Refusal(
                f"parameter {name} does not require gradients: the state holds all parameters, so none may be frozen; "
                "make it a buffer (register_buffer) if it is a constant"
            )
        if parameter.is_complex():
            raise Refusal(f"parameter {name} is complex: a state is real; make it two parameters, torch.complex(a, b)")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise Refusal(
                f"parameter {name} has a hook on its gradient, which the map would not call: remove it, and mask or "
                "scale in forward or in the loss"
            )
    _refuse_shared_memory(module)
    for name, part in module.named_modules():
        kind = f"{name or 'the module'} is a {type(part).__name__} in training mode"
        if part.training and isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            raise Refusal(f"{kind}: its running averages would be a state of their own: call module.eval()")
        if part.training and _drops(part) and noise is None:
            raise Refusal(
                f"{kind}, so a step is no fixed map: call module.eval(), or give noise=, the seed of a random map"
            )


def _drops(part: nn.Module) -> bool:
    """Whether a layer in training mode draws what it drops."""
    if isinstance(part, nn.RNNBase):
        return part.dropout > 0 and part.num_layers > 1
    p = part.p if isinstance(part, nn.modules.dropout._DropoutNd) else getattr(part, "dropout", 0.0)
    return (
        isinstance(p, float | int) and p > 0 and isinstance(part, nn.modules.dropout._DropoutNd | nn.MultiheadAttention)
    )


def _refuse_shared_memory(module: nn.Module) -> None:
    """Refuse parameters that lie in the same memory without being one: a step of torch would move both."""
    spans = sorted(
        (
            p.data_ptr(),
            p.data_ptr() + (1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))) * p.itemsize,
            name,
        )
        for name, p in module.named_parameters()
        if p.numel()
    )
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            raise Refusal(f"parameters {one} and {other} share their memory: make them one parameter, or copies")


def check(task: Training) -> None:
    """Evaluate the loss on all data and see that it is one number, finite, repeatable, and of all parameters.

    Args:
        task: The training.

    Raises:
        Refusal: (a ValueError) with what does not fit.
    """
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
        before = torch.random.get_rng_state()
        loss, named = _loss_of(task, task.inputs, task.targets, "")
        drawn = not torch.equal(before, torch.random.get_rng_state())
        again, _ = _loss_of(task, task.inputs, task.targets, "")
    if drawn or not torch.isclose(loss, again, rtol=1e-6, atol=0.0):
        raise Refusal(
            "the loss is another one each time, so a step is no fixed map: call module.eval(), or give noise=, the "
            "seed of a random map (torch's random numbers then follow it)"
        )
    if missing := _unused(loss, named):
        raise Refusal(
            f"the loss does not depend on {', '.join(missing)}: use each parameter in forward, or make it a buffer"
        )
    if task.test is not None:
        _loss_of(task, *task.test, "test ")


def _unused(loss: Tensor, named: dict[str, nn.Parameter]) -> list[str]:
    """The parameters that the loss was computed without. Raises ValueError if torch cannot tell."""
    if not loss.requires_grad:
        return list(named)
    try:
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    except FAILURES as error:
        raise Refusal(f"torch cannot differentiate the loss: {first_line(error)}") from error
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]


def _loss_of(
    task: Training, inputs: npt.NDArray[Any], targets: npt.NDArray[Any], kind: str
) -> tuple[Tensor, dict[str, nn.Parameter]]:
    """The loss on some data with torch's own gradients, and the parameters it was computed with."""
    if len(inputs) != len(targets):
        raise Refusal(f"{len(inputs)} {kind}inputs and {len(targets)} {kind}targets: give one target an input")
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
        raise Refusal(
            f"the module and the loss do not fit the {kind}data: inputs {inputs.shape} of {inputs.dtype}, "
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
        "its inputs": torch.equal(x, before),
        "its buffers": all(map(torch.equal, module.buffers(), buffers)),
        "its parameters": all(torch.equal(p.cpu(), own) for p, own in weights),
    }
    if changed := [name for name, equal in same.items() if not equal]:
        raise Refusal(f"the module changes {changed[0]} in place, so a step is no fixed map: write into a copy")
    return loss, dict(module.named_parameters())


def try_step(map: TensorMap, task: Training) -> None:
    """One step and one tangent vector from the module's own weights, to see that both can be computed.

    Args:
        map: The map.
        task: The training.

    Raises:
        Refusal: (a ValueError) with the reason, or if torch's own gradient is another one.
    """
    flat = torch.cat([p.detach().ravel() for p in task.module.parameters()])
    x = map.native(torch.cat([flat, flat.new_zeros(map.memory)])[None])
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


def first_line(error: BaseException) -> str:
    """The first line of an error."""
    return str(error).partition("\n")[0] or type(error).__name__
