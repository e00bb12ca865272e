"""What a torch module must be to be a map, and its copy in the map's number type."""

from __future__ import annotations

import copy
import re
from itertools import pairwise

import torch
from torch import nn

from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES, first_line


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


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained: those that require gradients, in order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def names_of(module: nn.Module) -> dict[str, str]:
    """All names of the parameters → the first one of each; what is shared has several."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in module.named_parameters(remove_duplicate=False)}


def is_bias(name: str) -> bool:
    """Whether a parameter of this name, dotted, is a bias; also one that is computed from another."""
    own = name.partition("parametrizations.")[2].partition(".")[0] or name.rpartition(".")[2]
    return re.search("(^|_)bias", own) is not None


def fix(module: nn.Module) -> nn.Module:
    """Make constants (buffers) of the parameters that require no gradients, in place."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                delattr(part, name)
                part.register_buffer(name, parameter.detach())
    return module


def refuse(module: nn.Module, noise: int | None) -> None:
    """Refuse modules that are no fixed function of trainable parameters."""
    if isinstance(module, torch.jit.ScriptModule | nn.DataParallel):
        raise Refusal(
            f"module is a {type(module).__name__}, whose parameters torch cannot replace: give the module in it"
        )
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise Refusal(f"parameter {name} has no shape yet: call the module once on its inputs")
        if parameter.is_complex():
            raise Refusal(f"parameter {name} is complex: a state is real; make it two parameters, torch.complex(a, b)")
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise Refusal(
                f"parameter {name} has a hook on its gradient, which the map would not call: remove it, and mask or "
                "scale in forward or in the loss"
            )
    if not trainable(module):
        raise Refusal("the module has no parameters that require gradients: there is nothing to train")
    _refuse_shared_memory(module)
    for name, part in module.named_modules():
        kind = f"{name or 'the module'} is a {type(part).__name__} in training mode"
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
