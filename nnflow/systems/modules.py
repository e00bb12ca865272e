"""Any torch module in training as a tensor map, and the recognition of those that have a compiled rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnflow.map import Array
from nnflow.systems import losses
from nnflow.systems.checks import check, copied, refuse, try_step
from nnflow.systems.descent import is_repeating, marked, structure_of
from nnflow.systems.network import Drawn, Layout, TrainingMap, coordinate_names, last_layer
from nnflow.systems.optimisers import LIMITS, Descent, optimiser, tensor_descent
from nnflow.systems.order import Order
from nnflow.systems.perceptron import Perceptron
from nnflow.systems.schedules import Schedule
from nnflow.tensor import TensorMap, placed

ACTIVATIONS = {
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Softplus: "softplus",
    nn.Identity: "identity",
}
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class TensorTraining(TrainingMap, TensorMap):
    """A torch module in training, on tensors.

    Members go as many at a time as their values on the way fit into half a GiB, on every machine alike; at least one.
    """

    grouped = True


class TensorDescent(Descent, TensorMap):
    """An optimiser on a torch loss."""


@dataclass(frozen=True)
class Training:
    """A module with its loss and data, checked: what both backends start from."""

    module: nn.Module
    loss_fn: Callable[[Any, Any], Any]
    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    test: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None
    device: torch.device
    dtype: torch.dtype
    scale: float | None
    order: Order
    noise: int | None
    probe: npt.NDArray[Any] | None
    microbatch: int
    name: str
    layout: Layout

    @classmethod
    def checked(
        cls,
        module: nn.Module,
        loss_fn: Callable[[Any, Any], Any],
        inputs: Any,
        targets: Any,
        test: tuple[Any, Any] | None,
        device: Any,
        dtype: Any,
        scale: float | None,
        batch: int | None,
        shuffle: int | None,
        noise: int | None,
        probe: Any,
        microbatch: int | None,
    ) -> Training:
        """Copy module and data, and evaluate the loss once. Raises ValueError or TypeError with what does not fit."""
        if not isinstance(module, nn.Module):
            raise TypeError(f"module = {module!r}: give a torch.nn.Module")
        if scale is not None and not 0 <= scale < np.inf:
            raise ValueError(f"scale = {scale}: give the standard deviation of the kernels, 0 or larger")
        if test is not None and len(test) != 2:
            raise ValueError(f"test has {len(test)} entries: give a pair, (inputs, targets)")
        if noise is not None and (isinstance(noise, bool) or noise < 0):
            raise ValueError(f"noise = {noise!r}: give the seed of the noise, a whole number from 0 on")
        device, dtype = placed(device, dtype)
        refuse(module, noise)
        own = copied(module).to(device="cpu", dtype=dtype)
        if isinstance(loss_fn, nn.Module):
            loss_fn = copy.deepcopy(loss_fn).to(device=device, dtype=dtype)
        layout = tuple((name, tuple(p.shape)) for name, p in own.named_parameters())
        rows, pair = (
            _array(inputs, "inputs"),
            test and (_array(test[0], "test inputs"), _array(test[1], "test targets")),
        )
        if microbatch is not None and not 1 <= microbatch <= len(rows):
            raise ValueError(f"microbatch = {microbatch}: give 1 to {len(rows)} samples, or None for all at once")
        task = cls(own, loss_fn, rows, _array(targets, "targets"), pair, device, dtype, scale,
                   Order(len(rows), batch, shuffle), noise, None if probe is None else _array(probe, "probe"),
                   microbatch or len(rows), type(module).__name__.lower(), layout)  # fmt: skip
        check(task)
        return task

    @property
    def sizes(self) -> list[int]:
        """How many weights each parameter has."""
        return [int(np.prod(shape)) for _, shape in self.layout]

    def outputs(self, inputs: npt.NDArray[Any]) -> Any:
        """What the module in evaluation mode makes of inputs, with the parameters it has."""
        module = copy.deepcopy(self.module).to(self.device).eval()
        with torch.no_grad(), losses.plain_attention():
            return module(self.data(inputs))

    @property
    def classes(self) -> tuple[int, ...] | None:
        """How many training rows each class has, if there is an accuracy; labels to be ignored, below 0, left out."""
        if not self.classifies:
            return None
        count = self.outputs(self.inputs[:1]).shape[1]
        return tuple(np.bincount(self.targets[self.targets >= 0], minlength=count).tolist())

    @property
    def classifies(self) -> bool:
        """Whether there is an accuracy: one integer label a sample, one output a class."""
        outputs = self.outputs(self.inputs[:1])
        labels = self.targets.ndim == 1 and self.data(self.targets[:1]).dtype in INTEGER
        return labels and isinstance(outputs, Tensor) and outputs.ndim == 2

    def data(self, values: npt.NDArray[Any]) -> Tensor:
        """An array as a tensor on the map's device: integers as int64, the rest in the map's dtype."""
        kind = torch.int64 if values.dtype.kind in "iu" else self.dtype
        return torch.as_tensor(values, dtype=kind, device=self.device)

    def initial(self, memory: int) -> Callable[[int, int], Array]:
        """How states are drawn: with a scale, or by the module's own reset_parameters; optimiser memory 0."""
        if self.scale is None:
            return _Reset(self.module, memory)
        base = [p.detach().numpy().ravel() * ("bias" not in name) for name, p in self.module.named_parameters()]
        return Drawn(self.layout, memory, self.scale, np.concatenate([*base, np.zeros(memory)]))


def _array(values: Any, name: str) -> npt.NDArray[Any]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array.copy()
    if array.dtype.kind not in "fiu" or array.ndim < 1 or not len(array):
        raise ValueError(f"{name} of shape {array.shape} and {array.dtype}: give numbers, one row a sample")
    return array


class _Reset:
    """Initial states by the module's own `reset_parameters`, each from its own seed; optimiser memory 0."""

    def __init__(self, module: nn.Module, memory: int) -> None:
        self.module = module
        self.memory = memory

    def __call__(self, n: int, seed: int) -> Array:
        module = copy.deepcopy(self.module)
        states = np.zeros((n, sum(p.numel() for p in module.parameters()) + self.memory))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for i in range(n):
                torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1))
                module.apply(_reset)  # children first: what holds them has the last word
                flat = torch.cat([p.ravel() for p in module.parameters()])
                states[i, : len(flat)] = flat.numpy()
        return states


def _reset(part: nn.Module) -> None:
    if callable(reset := getattr(part, "reset_parameters", None)):
        reset()
    elif any(True for _ in part.parameters(recurse=False)):
        raise ValueError(f"{type(part).__name__} has parameters but no reset_parameters(): give states, or scale=…")


def recognise(task: Training) -> Perceptron | str:
    """The compiled network that a task amounts to, or the reason why there is none."""
    if task.device.type != "cpu" or task.dtype != torch.float64:
        return f"it runs on the cpu in float64, not on {task.device.type} in {task.dtype}"
    loss = _loss_name(task.loss_fn)
    if loss is None:
        return "the loss is neither cross-entropy nor mean squared error with torch's default options"
    sizes, names = _layers_of(_parts(task.module))
    weights = sum(int(np.prod(shape)) for _, shape in task.layout)
    if not sizes:
        return "the module is no Sequential of plain Linear layers and sigmoid, tanh, ReLU, softplus or identity"
    if task.microbatch < len(task.inputs):
        return "its data go through the network in microbatches"
    test_inputs, test_targets = task.test or (None, None)
    data = task.inputs, task.targets, test_inputs, test_targets
    try:
        network = Perceptron(
            sizes, names[:-1], loss, *data, names[-1], task.order.batch, task.order.shuffle, task.probe
        )
    except ValueError as error:
        return str(error)
    return network if network.dim == weights else "its layers share parameters"


def _parts(module: nn.Module) -> list[nn.Module]:
    """The parts of a Sequential that does what a Sequential does; empty for anything else."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward:
        return []
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    return [] if hooked else list(module)  # hooks change what a layer computes: pruning, spectral norm


def _loss_name(loss_fn: Any) -> str | None:
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


def tensor_training(
    task: Training, optimizer: str, schedule: Schedule | None = None, **defaults: float
) -> TensorTraining:
    """The tensor map of a checked task."""
    parameters = optimiser(optimizer, defaults)
    coordinates = coordinate_names(task.layout, optimizer)
    size, order = sum(task.sizes), task.order
    gradient = losses.batch_gradient(task)
    made = TensorTraining(
        tensor_descent(gradient, optimizer, schedule),
        gradient=gradient,
        device=task.device,
        dtype=task.dtype,
        dim=len(coordinates),
        name=task.name,
        parameters=parameters,
        limits=LIMITS,
        repeats=is_repeating(optimizer, schedule, order.shuffle, task.noise),
        epoch=order.batches,
        coordinates=coordinates,
        observables=losses.observables(task),
        initial=task.initial(len(coordinates) - size),
        memory=len(coordinates) - size,
        structure=structure_of(
            optimizer, schedule, batch=order.batch, shuffle=order.shuffle, noise=task.noise, classes=task.classes
        ),
    )
    random = "error" if task.noise is None else "same"
    marked(made, optimizer=optimizer, schedule=schedule, layout=task.layout, softmax=_softmax(task), randomness=random)
    try_step(made, task)
    return made


def _softmax(task: Training) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The last layer, if the loss does not see a constant that is added to all its outputs: tried out with a large one.

    Weights without biases count, too.
    """
    found = last_layer(task.layout)
    matrix = [(start, shape) for start, shape in found if len(shape) == 2]
    if not matrix or found[-1][1][0] != matrix[-1][1][0]:
        return ()
    found = found[found.index(matrix[-1]) :]
    loss = losses.mean_loss(task, task.inputs, task.targets)
    w = torch.cat([p.detach().ravel() for p in task.module.parameters()]).to(task.device)
    shifted = w.clone()
    for start, shape in found:
        part = shifted[start : start + int(np.prod(shape))].view(shape)
        part += torch.linspace(-1.0, 2.0, part[0].numel(), dtype=w.dtype, device=w.device).view(part[0].shape)
    with torch.no_grad():
        before, after = float(loss(w)), float(loss(shifted))
    return found if abs(after - before) <= 1e3 * torch.finfo(task.dtype).eps * (1 + abs(before)) else ()
