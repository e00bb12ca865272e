"""Any torch module in training as a tensor map, and the recognition of those that have a compiled rule."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from nnflow.map import Array
from nnflow.systems.descent import described, memory_names, optimiser, tensor_descent
from nnflow.systems.network import Drawn, Layout, TrainingMap, coordinate_names
from nnflow.systems.perceptron import Perceptron
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
    """A torch module in training, on tensors."""


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
    ) -> Training:
        """Copy module and data, and evaluate the loss once. Raises ValueError or TypeError with what does not fit."""
        if not isinstance(module, nn.Module):
            raise TypeError(f"module = {module!r}: give a torch.nn.Module")
        if scale is not None and not 0 <= scale < np.inf:
            raise ValueError(f"scale = {scale}: give the standard deviation of the kernels, 0 or larger")
        if test is not None and len(test) != 2:
            raise ValueError(f"test has {len(test)} entries: give a pair, (inputs, targets)")
        device, dtype = placed(device, dtype)
        _refuse(module)
        copied = _copied(module).to(device="cpu", dtype=dtype)
        if isinstance(loss_fn, nn.Module):
            loss_fn = copy.deepcopy(loss_fn).to(device=device, dtype=dtype)
        layout = tuple((name, tuple(p.shape)) for name, p in copied.named_parameters())
        pair = None if test is None else (_array(test[0], "test inputs"), _array(test[1], "test targets"))
        task = cls(copied, loss_fn, _array(inputs, "inputs"), _array(targets, "targets"), pair,
                   device, dtype, scale, type(module).__name__.lower(), layout)  # fmt: skip
        task._try_loss(task.inputs, task.targets, "")
        if task.test is not None:
            task._try_loss(*task.test, "test ")
        return task

    def _try_loss(self, inputs: npt.NDArray[Any], targets: npt.NDArray[Any], kind: str) -> None:
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} {kind}inputs and {len(targets)} {kind}targets: give one target an input")
        shape: Any = "?"
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Using a target size")  # torch would broadcast, and go on
                outputs = self.outputs(inputs)
                shape = tuple(getattr(outputs, "shape", ())) or type(outputs).__name__
                loss = self.loss_fn(outputs, self.data(targets))
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, UserWarning) as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"the module and the loss do not fit the {kind}data: inputs {inputs.shape} of {inputs.dtype}, "
                f"outputs {shape}, targets {targets.shape} of {targets.dtype}: {reason}"
            ) from error
        if not isinstance(loss, Tensor) or loss.shape != ():
            raise ValueError(f"the loss returned {described(loss)}: it must return one number, a scalar tensor")
        if not torch.isfinite(loss):
            raise ValueError(f"the loss on the {kind}data is {loss.item()}: check inputs and targets for NaN or inf")
        again = self.loss_fn(self.outputs(inputs), self.data(targets))
        if not torch.isclose(loss, again, rtol=1e-6):
            raise ValueError("the loss is another one each time, so a step is no fixed map: call module.eval()")

    def outputs(self, inputs: npt.NDArray[Any]) -> Any:
        """What the module makes of inputs, with the parameters it has."""
        module = copy.deepcopy(self.module).to(self.device)
        with torch.no_grad():
            return module(self.data(inputs))

    @property
    def classifies(self) -> bool:
        """Whether there is an accuracy: one integer label a sample, one output a class."""
        outputs = self.outputs(self.inputs)
        labels = self.targets.ndim == 1 and self.data(self.targets).dtype in INTEGER
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


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:  # a pruned or weight-normed layer holds a tensor that was computed
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the module cannot be copied: {reason}") from error


def _refuse(module: nn.Module) -> None:
    """Refuse modules that are no fixed function of trainable parameters."""
    if not any(True for _ in module.parameters()):
        raise ValueError("the module has no parameters: there is nothing to train")
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(f"parameter {name} has no shape yet: call the module once on its inputs")
        if not parameter.requires_grad:
            raise ValueError(
                f"parameter {name} does not require gradients: the state holds all parameters, so none may be frozen"
            )
    for name, part in module.named_modules():
        noisy = isinstance(part, (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm))
        if part.training and noisy:
            raise ValueError(
                f"{name or 'the module'} is a {type(part).__name__} in training mode, so a step is no fixed map: "
                "call module.eval()"
            )


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
    test_inputs, test_targets = task.test or (None, None)
    data = task.inputs, task.targets, test_inputs, test_targets
    try:
        network = Perceptron(sizes, names[:-1], loss, *data, names[-1])
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


def tensor_training(task: Training, optimizer: str, **defaults: float) -> TensorTraining:
    """The tensor map of a checked task."""
    parameters = optimiser(optimizer, **defaults)
    coordinates = coordinate_names(task.layout, optimizer)
    size = sum(int(np.prod(shape)) for _, shape in task.layout)
    loss = _loss(task, task.inputs, task.targets)
    gradient = grad(loss)
    made = TensorTraining(
        tensor_descent(gradient, optimizer),
        gradient=gradient,
        device=task.device,
        dtype=task.dtype,
        dim=len(coordinates),
        name=task.name,
        parameters=parameters,
        coordinates=coordinates,
        observables=_observables(task, loss, size),
        initial=task.initial(len(memory_names(optimizer, coordinates[:size]))),
        memory=len(coordinates) - size,
        structure={"optimizer": optimizer},
    )
    object.__setattr__(made, "layout", task.layout)
    return made


def _outputs(task: Training, inputs: npt.NDArray[Any]) -> Callable[[Tensor], Tensor]:
    """The module's outputs as a function of the flat weights."""
    module, data = copy.deepcopy(task.module).to(task.device), task.data(inputs)
    sizes = [int(np.prod(shape)) for _, shape in task.layout]

    def outputs(w: Tensor) -> Tensor:
        parts = zip(task.layout, torch.split(w, sizes), strict=True)
        out: Tensor = functional_call(module, {name: part.view(shape) for (name, shape), part in parts}, (data,))
        return out

    return outputs


def _loss(task: Training, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Callable[[Tensor], Tensor]:
    outputs, wanted = _outputs(task, inputs), task.data(targets)

    def loss(w: Tensor) -> Tensor:
        value: Tensor = task.loss_fn(outputs(w), wanted)
        return value

    return loss


def _accuracy(task: Training, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Callable[[Tensor], Tensor]:
    outputs, wanted = _outputs(task, inputs), task.data(targets)

    def accuracy(w: Tensor) -> Tensor:
        return (outputs(w).argmax(dim=1) == wanted).to(task.dtype).mean()

    return accuracy


def _observables(task: Training, loss: Callable[[Tensor], Tensor], size: int) -> dict[str, Any]:
    found = {"loss": loss}
    classes = task.classifies
    if classes:
        found["accuracy"] = _accuracy(task, task.inputs, task.targets)
    if task.test is not None:
        found["test_loss"] = _loss(task, *task.test)
        if classes:
            found["test_accuracy"] = _accuracy(task, *task.test)
    found |= {
        "l1": lambda w: w.abs().sum(),
        "l2": torch.linalg.vector_norm,
        "gradient_norm": lambda w: torch.linalg.vector_norm(grad(loss)(w)),
    }
    return {name: _of_weights(function, size) for name, function in found.items()}


def _of_weights(function: Callable[[Tensor], Tensor], size: int) -> Callable[[Tensor, Any, int], Tensor]:
    return lambda x, p, t: function(x[:size])
