"""Any torch module in training as a tensor map, and the recognition of those that have a compiled rule.

A task is a module with its loss and its data, copied and tried out once. From it comes the tensor map, for any module;
it is compared with torch on the user's own module, and then stands as the reference. Where the task amounts to a plain
perceptron, which is told by its layers and checked by loss and gradient, a compiled map takes its place, and is itself
compared with the tensor map. What is not recognized stays on tensors: slower, and never another map.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.systems import losses
from nnflow.systems.checks import FAILURES, check, converted, first_line, refuse, try_step
from nnflow.systems.descent import is_repeating, marked, structure_of
from nnflow.systems.network import (
    CompiledTraining,
    Drawn,
    Layout,
    TrainingMap,
    coordinate_names,
    last_layer,
    perceptron_map,
)
from nnflow.systems.optimisers import LIMITS, Descent, optimiser, tensor_descent
from nnflow.systems.order import Order
from nnflow.systems.perceptron import Perceptron
from nnflow.systems.schedules import Schedule
from nnflow.systems.witness import (
    at,
    attest,
    compare_pieces,
    differs,
    peer,
    room_of,
    rounding,
    slope_of_torch,
    witnesses,
)
from nnflow.tensor import TensorMap, placed
from nnflow.typing import Array
from nnflow.values import hidden

ACTIVATIONS = {
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ReLU: "relu",
    nn.Softplus: "softplus",
    nn.Identity: "identity",
}


class TensorTraining(TrainingMap, TensorMap):
    """A torch module in training, on tensors.

    Members go as many at a time as their values on the way fit into half a GiB, on every machine alike; at least one.
    """

    grouped = True
    _differentiated = True  # when the map was made (see `witness`)


class TensorDescent(Descent, TensorMap):
    """An optimizer on a torch loss."""


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
            raise Refusal(f"scale = {scale}: give the standard deviation of the kernels, 0 or larger")
        if test is not None and len(test) != 2:
            raise Refusal(f"test has {len(test)} entries: give a pair, (inputs, targets)")
        if noise is not None and (isinstance(noise, bool) or noise < 0):
            raise Refusal(f"noise = {noise!r}: give the seed of the noise, a whole number from 0 on")
        device, dtype = placed(device, dtype)
        refuse(module, noise)
        own = converted(module, dtype)
        if isinstance(loss_fn, nn.Module):
            if learnt := [name for name, value in loss_fn.named_parameters() if value.requires_grad]:
                raise Refusal(
                    f"the loss has parameters of its own ({', '.join(learnt)}), which would not be trained: let the "
                    "module hold them, or fix them by requires_grad_(False)"
                )
            loss_fn = copy.deepcopy(loss_fn).to(device=device, dtype=dtype)
        layout = tuple((name, tuple(p.shape)) for name, p in own.named_parameters())
        rows, pair = (
            _array(inputs, "inputs"),
            test and (_array(test[0], "test inputs"), _array(test[1], "test targets")),
        )
        if microbatch is not None and not 1 <= microbatch <= len(rows):
            raise Refusal(f"microbatch = {microbatch}: give 1 to {len(rows)} samples, or None for all at once")
        task = cls(own, loss_fn, rows, _array(targets, "targets"), pair, device, dtype, scale,
                   Order(len(rows), batch, shuffle), noise, None if probe is None else _array(probe, "probe"),
                   microbatch or max(len(rows), len(pair[0]) if pair else 0),
                   type(module).__name__.lower(), layout)  # fmt: skip
        check(task)
        return task

    @property
    def sizes(self) -> list[int]:
        """How many weights each parameter has."""
        return [int(np.prod(shape)) for _, shape in self.layout]

    def flat(self, w: Array) -> Tensor:
        """Weights ``(weights,)`` as a tensor of the map."""
        return torch.as_tensor(w, dtype=self.dtype, device=self.device)

    def parameter_at(self, component: int) -> str:
        """The name of the parameter that a component of the weights belongs to."""
        return self.layout[int(np.searchsorted(np.cumsum(self.sizes), component, side="right"))][0]

    def outputs(self, inputs: npt.NDArray[Any]) -> Any:
        """What the module in evaluation mode makes of inputs, with its parameters. Raises Refusal if it fails."""
        module = copy.deepcopy(self.module).to(self.device).eval()
        try:
            with torch.no_grad(), losses.plain_attention():
                return module(self.data(inputs))
        except FAILURES as error:
            raise Refusal(
                f"the module in evaluation mode fails on inputs {inputs.shape} of {inputs.dtype}: {first_line(error)}"
            ) from error

    @property
    def classes(self) -> tuple[int, ...] | None:
        """How many training rows each class has, if there is an accuracy; rows that the loss ignores left out."""
        if self.width is None:
            return None
        labels = self.targets[losses.seen(self, self.targets)]
        return tuple(np.bincount(labels, minlength=self.width).tolist())

    @cached_property
    def width(self) -> int | None:
        """How many classes there are, if there is an accuracy: one integer label a sample, one output a class."""
        if self.targets.ndim != 1 or self.targets.dtype.kind not in "iu":
            return None
        outputs = self.outputs(self.inputs[: self.microbatch])
        return outputs.shape[1] if isinstance(outputs, Tensor) and outputs.ndim == 2 else None

    def data(
        self, values: npt.NDArray[Any], device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An array as a tensor: integers as int64, the rest in a dtype (default: on the map's device, in its dtype)."""
        kind = torch.int64 if values.dtype.kind in "iu" else dtype or self.dtype
        return torch.as_tensor(values, dtype=kind, device=device or self.device)

    def start(self, memory: int) -> Array:
        """The state ``(dim,)`` of the module's own weights, with optimizer memory 0."""
        own = [p.detach().double().numpy().ravel() for p in self.module.parameters()]
        return np.concatenate([*own, np.zeros(memory)])

    def initial(self, memory: int) -> Callable[[int, int], Array]:
        """How states are drawn: with a scale, or by the module's own reset_parameters; optimizer memory 0."""
        if self.scale is None:
            return _Reset(self.module, memory)
        base = [
            p.detach().double().numpy().ravel() * ("bias" not in name) for name, p in self.module.named_parameters()
        ]
        return Drawn(self.layout, memory, self.scale, np.concatenate([*base, np.zeros(memory)]))


def _array(values: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        held = values.detach().cpu()
        held = held.to_dense() if held.layout != torch.strided else held.resolve_conj().resolve_neg()
        values = (held.float() if held.dtype == torch.bfloat16 else held).numpy()
    if hidden(values):
        raise Refusal(f"{name} are masked: leave out the rows with what is missing, or fill it")
    array = np.array(values)
    if array.dtype.kind not in "fiu" or array.ndim < 1 or not len(array):
        raise Refusal(f"{name} of shape {array.shape} and {array.dtype}: give numbers, one row a sample")
    return array


class _Reset:
    """Initial states by the module's own `reset_parameters`, each from its own seed; optimizer memory 0."""

    def __init__(self, module: nn.Module, memory: int) -> None:
        self.module = module
        self.memory = memory

    def __call__(self, n: int, seed: int) -> Array:
        module = copy.deepcopy(self.module)
        states = np.zeros((n, sum(p.numel() for p in module.parameters()) + self.memory))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for i in range(n):
                torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1))
                for name, parameter in module.named_parameters():
                    if "bias" not in name and parameter.ndim > 1:
                        parameter.fill_(torch.nan)
                module.apply(_reset)  # children first: what holds them has the last word
                _all_drawn(module)
                flat = torch.cat([p.ravel() for p in module.parameters()])
                states[i, : len(flat)] = flat.numpy()
        return states


def _reset(part: nn.Module) -> None:
    reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)  # attention has this
    if callable(reset):
        reset()
    elif any(True for _ in part.parameters(recurse=False)):
        raise Refusal(f"{type(part).__name__} has parameters but no reset_parameters(): give states, or scale=…")


def _all_drawn(module: nn.Module) -> None:
    """Refuse kernels that no reset_parameters has written: a weight norm computes them from others, which stay."""
    for name, parameter in module.named_parameters():
        if parameter.isnan().any():
            raise Refusal(f"reset_parameters() does not draw {name}: give states, or scale=…")


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
    if network.dim != weights:
        return "its layers share parameters"
    return network if _is_what_it_says(task, network) else "it computes something else than its layers by themselves"


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


def _is_what_it_says(task: Training, network: Perceptron) -> bool:
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


def tensor_training(
    task: Training, optimizer: str, schedule: Schedule | None = None, check: bool = True, **defaults: float
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
        start=task.start(len(coordinates) - size),
        check=check,
    )
    random = "error" if task.noise is None else "same"
    marked(made, optimizer=optimizer, schedule=schedule, layout=task.layout, softmax=_softmax(task), randomness=random)
    try_step(made, task)
    return made


def attested(
    task: Training,
    module: nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    optimizer: str,
    schedule: Schedule | None,
    check: bool,
    defaults: Mapping[str, float],
) -> TensorTraining:
    """The tensor map of a task, compared with torch on the user's module (unless torch could not train that at all)."""
    compare_pieces(task)
    made = tensor_training(task, optimizer, schedule, check, **defaults)
    if check:
        trainable = not any(p.is_inference() for p in module.parameters())
        attest(made, task, *((module, loss_fn) if trainable else (task.module, task.loss_fn)))
    return made


def compiled_or_why(task: Training, tensor: TensorTraining, check: bool) -> CompiledTraining | str:
    """The compiled map of a task, with its tensor map as peer; or the reason why there is none."""
    network = recognise(task)
    if isinstance(network, str):
        return network
    settings: dict[str, Any] = {"layout": task.layout, "initial": tensor.initial, "start": tensor.start}
    settings |= {**tensor.parameters, "name": task.name} | ({} if check else {"structure": {"check": False}})
    made = perceptron_map(network, tensor.optimizer, schedule=tensor.schedule, **settings)
    return cast(CompiledTraining, marked(made, peer=peer(tensor, task) if check else None))


def _softmax(task: Training) -> tuple[tuple[int, tuple[int, ...]], ...]:
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
    shift = torch.zeros(sum(task.sizes), dtype=task.dtype, device=task.device)
    for start, shape in found:
        part = shift[start : start + int(np.prod(shape))].view(shape)
        part += torch.linspace(-1.0, 2.0, part[0].numel(), dtype=task.dtype, device=task.device).view(part[0].shape)
    own = torch.cat([p.detach().ravel() for p in task.module.parameters()]).to(task.device)
    drawn = torch.as_tensor(generator(0, "symmetry").standard_normal((3, len(own)))).to(own)
    unseen = all(_unseen(losses.batch_loss(task), own + 0.5 * move, shift, shift * move) for move in drawn)
    return found if unseen else ()


def _unseen(loss: Callable[[Tensor, int], Tensor], w: Tensor, shift: Tensor, other: Tensor) -> bool:
    """Whether a loss has the same value at w and at w + shift: up to rounding, and beside what another shift does."""
    try:
        with torch.no_grad():
            before, after, elsewhere = (float(loss(w + by, 0)) for by in (0.0 * shift, shift, other))
    except FAILURES:  # drawn weights may be none that the module can take
        return False
    change, seen, rounding = abs(after - before), abs(elsewhere - before), 1e3 * torch.finfo(w.dtype).eps
    return change < 1e-3 * seen and change <= rounding * max(seen, abs(before))
