"""Which torch modules amount to a plain perceptron, for which there is a compiled rule.

Told by its layers, and checked by loss and gradient. What is not recognized stays on tensors: slower, and never another
map.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnflow.systems.perceptron.network import Perceptron
from nnflow.systems.training.inputs import Several
from nnflow.systems.training.task import Task
from nnflow.systems.training.witness import at, differs, room_of, rounding, slope_of_torch, witnesses

ACTIVATIONS = {
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Softplus: "softplus",
    nn.Identity: "identity",
}


class Unrecognized(Exception):
    """Why a task has no compiled rule."""


def recognise(task: Task) -> Perceptron:
    """The compiled network that a task amounts to. Raises Unrecognized with the reason, if there is none."""
    if task.device.type != "cpu" or task.dtype != torch.float64:
        raise Unrecognized(f"it runs on the cpu in float64, not on {task.device.type} in {task.dtype}")
    if task.observables:
        raise Unrecognized("it has observables of its own")
    loss = _loss_name(task.loss_fn)
    if loss is None:
        raise Unrecognized("the loss is neither cross-entropy nor mean squared error with torch's default options")
    sizes, names = _layers_of(_parts(task.module))
    weights = sum(int(np.prod(shape)) for _, shape in task.layout)
    if not sizes:
        raise Unrecognized(
            "the module is no Sequential of plain Linear layers and sigmoid, tanh, ReLU, softplus or identity"
        )
    if isinstance(task.inputs, Several) or isinstance(task.probe, Several):
        raise Unrecognized("it takes several inputs, or keywords")
    if task.microbatch < len(task.inputs):
        raise Unrecognized("its data go through the network in microbatches")
    tests: Any = task.test or (None, None)
    try:
        network = Perceptron(
            sizes,
            names[:-1],
            loss,
            task.inputs,
            task.targets,
            tests[0],
            tests[1],
            names[-1],
            task.order.batch,
            task.order.shuffle,
            task.probe,
        )
    except ValueError as error:
        raise Unrecognized(str(error)) from error
    if len(task.layout) != 2 * (len(sizes) - 1):
        raise Unrecognized("some of its parameters are shared, or require no gradients")
    if network.dim != weights:
        raise Unrecognized("its layers share parameters")
    if not _is_what_it_says(task, network):
        raise Unrecognized("it computes something else than its layers by themselves")
    return network


class _Described(nn.Module):
    """The network that a compiled one computes, by functions: modules might be patched, for all instances even."""

    def __init__(self, network: Perceptron) -> None:
        super().__init__()
        shapes = [shape for i, o in pairwise(network.sizes) for shape in ((o, i), (o,))]
        self.parts = nn.ParameterList([nn.Parameter(torch.empty(shape, dtype=torch.float64)) for shape in shapes])
        self.functions = [getattr(nn.functional, name, lambda x: x) for name in network.activations]

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        weights = list(self.parts)
        for matrix, bias, function in zip(weights[::2], weights[1::2], self.functions, strict=True):
            x = function(nn.functional.linear(x, matrix, bias))
        return x


def _is_what_it_says(task: Task, network: Perceptron) -> bool:
    """Whether the module and the loss have the value and the gradient of the network that they were taken for."""
    loss = nn.functional.cross_entropy if network.loss == "cross_entropy" else nn.functional.mse_loss
    theirs = witnesses(task, lambda w: slope_of_torch(at(task, task.module, w), task.loss_fn, task))
    ours = slope_of_torch(at(task, _Described(network), theirs[1].weights), loss, task)
    return not differs(ours, theirs[1].slope, room_of(rounding(task), *theirs))


def _parts(module: nn.Module) -> list[nn.Module]:
    """The parts of a Sequential that does what a Sequential does; empty for anything else."""
    if not isinstance(module, nn.Sequential) or type(module) is not nn.Sequential:
        return []
    return list(module) if all(map(_as_its_class, module.modules())) else []


def _as_its_class(part: nn.Module) -> bool:
    """Whether a module does what its class does: no hooks (pruning, spectral norm have some), no patched methods."""
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return not hooks and not any(callable(getattr(type(part), name, None)) for name in vars(part))


def _loss_name(loss_fn: Any) -> str | None:
    if isinstance(loss_fn, nn.Module) and not _as_its_class(loss_fn):
        return None
    if loss_fn is nn.functional.cross_entropy or (
        type(loss_fn) is nn.CrossEntropyLoss
        and loss_fn.weight is None
        and (loss_fn.reduction, loss_fn.label_smoothing, loss_fn.ignore_index) == ("mean", 0.0, -100)
    ):
        return "cross_entropy"
    if loss_fn is nn.functional.mse_loss or (type(loss_fn) is nn.MSELoss and loss_fn.reduction == "mean"):
        return "mse"
    return None


def _layers_of(parts: list[nn.Module]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Sizes and activations of Linear layers, each followed by at most one activation; empty for other parts."""
    sizes: list[int] = []
    names: list[str] = []
    fresh = False  # whether the last part was a Linear layer, still without an activation
    for part in parts:
        if type(part) is nn.Linear and part.bias is not None:
            sizes += [part.out_features] if sizes else [part.in_features, part.out_features]
            names.append("identity")
            fresh = True
        elif (
            type(part) in ACTIVATIONS
            and fresh
            and not (type(part) is nn.Softplus and (part.beta, part.threshold) != (1, 20))
        ):
            names[-1] = ACTIVATIONS[type(part)]
            fresh = False
        else:
            return (), ()
    return tuple(sizes), tuple(names)
