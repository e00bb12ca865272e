"""What every training map can do beside the verbs: carry states to and from modules, and name its symmetries.

The state is the parameters in the module's order, each flattened, then the optimizer's memory, then running averages of
norm layers, where they are a part of it. Only what takes a torch module imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nnflow.labels import in_order
from nnflow.map import Map, generator
from nnflow.names import Refusal
from nnflow.room import room
from nnflow.systems.optimisers.memory import remembered, steps_of
from nnflow.systems.optimisers.stability import Descent
from nnflow.systems.optimisers.table import memory_names
from nnflow.typing import Array
from nnflow.values import real

if TYPE_CHECKING:
    import torch


Layout = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TrainingMap(Descent):
    """What every training map can do beside the verbs: carry states to and from modules, and name its symmetries.

    Attributes:
        layout: (name, shape) of the module's parameters in the order of the state.
        softmax: Where the logits come from, if a softmax follows: for each parameter of the last layer its place in the
            state and its shape.
        classes: How many training rows each class has; None of a regression.
        entries: The names in a `state_dict()` of the module (default: those of the layout).
        averages: (name, shape) of the running averages of norm layers, the end of the state.
        without_batches: Makes the same map, but that each step sees all data (None: it does).
    """

    layout: Layout = ()
    averages: Layout = ()
    without_batches: Callable[[], Map] | None = None
    softmax: tuple[tuple[int, tuple[int, ...]], ...] = ()
    classes: tuple[int, ...] | None = None
    entries: tuple[str, ...] = ()

    def whole(self) -> Map:
        """The same training, each step of which sees all data."""
        return self if self.without_batches is None else self._whole

    @cached_property
    def _whole(self) -> Map:
        assert self.without_batches is not None
        return self.without_batches()

    @property
    def backend(self) -> str:
        """What steps: "compiled" or "tensor"; `structure` says why."""
        return "tensor" if hasattr(self, "dtype") else "compiled"

    def structure_hint(self, name: str) -> str:
        """What to say when `name` is structure, what others call a parameter, or an accuracy that is not there."""
        if name in ("accuracy", "test_accuracy"):
            tests = " and test data" if name != "accuracy" else ""
            return (
                f"{name} needs targets that are class indices, one whole number a sample, or shares of classes "
                f"(one-hot rows), or 0 and 1 under a binary cross-entropy{tests}."
            )
        return super().structure_hint(name)

    def gauge(self, x: Any, p: Any) -> Array:
        """Directions along which L does not change: softmax does not see a constant that is added to all logits.

        So each of the H columns of the last weight matrix, and the biases, may be shifted by a constant. The tangent
        map leaves these directions as they are, but for weight decay, under which they shrink.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.

        Returns:
            ``(member, g, dim)``, orthonormal rows, g = H + 1 (g = 0 where no softmax follows a linear layer).
        """
        rows = []
        for start, (classes, *inputs) in self.softmax:
            width = inputs[0] if inputs else 1
            for column in range(start, start + width):
                row = np.zeros(self.dim)
                row[column : column + classes * width : width] = classes**-0.5
                rows.append(row)
        basis = np.array(rows).reshape(len(rows), self.dim)
        return np.broadcast_to(basis, (len(x), *basis.shape))

    def state_of(self, module: Any, optimizer: Any = None) -> Array:
        """The state of a module of this map's shape, or of a checkpoint.

        Args:
            module: A torch module, or its `state_dict()`.
            optimizer: A torch optimizer of the module's parameters, or its `state_dict()`, from which the optimizer
                memory is taken (for Adam, start at its step: ``ensemble.with_states(states, t=step)``); without one it
                is 0. Such a dict has names only if the optimizer was made of `module.named_parameters()`; without, it
                is refused where two parameters have the same shape, whose memories could be interchanged: give the
                optimizer itself.

        Returns:
            ``(dim,)`` float64: the weights, then the optimizer's memory, then running averages of the state.

        Raises:
            Refusal: if module, checkpoint or optimizer do not fit, or if the optimizer steps by another rule than this
                map.
        """
        saved = isinstance(module, Mapping)
        parameters = self._checkpoint(module) if saved else self._fitting(module)
        named = {name: parameter for (name, _), parameter in zip(self.layout, parameters, strict=True)}
        memory = remembered(self.optimizer, optimizer, named, not saved, self.groups, self.parameters)
        buffers = module if saved else dict(module.named_buffers())
        return np.concatenate([*map(_flat, parameters), *memory, *map(_flat, _held(buffers, self.averages))])

    def steps_of(self, optimizer: Any) -> int | None:
        """How many steps a torch optimizer, or its state_dict, has taken: the map's t; None if it counts none."""
        return steps_of(optimizer)

    def load_state(self, module: torch.nn.Module, state: Any) -> torch.nn.Module:
        """A copy of a module of this map's shape with the weights of a state; the module stays as it is.

        Args:
            module: A torch module.
            state: ``(dim,)``, numpy or a tensor.

        Returns:
            The copy, in the map's number type (float64, unless it was given another), on the module's device, so that
            `state_of` gives the same weights back.

        Raises:
            Refusal: if module or state do not fit.
        """
        import torch

        from nnflow.systems.training.modules import converted

        state = in_order(state, self.coordinates, "the components of the state")
        values, parameters = np.array(self.to_numpy(state)), self._fitting(module)
        if values.shape != (self.dim,):
            raise Refusal(f"the state has shape {values.shape}: give one state of shape ({self.dim},)")
        kind = getattr(self, "dtype", torch.float64)
        copied = converted(module, kind).to(parameters[0].device)
        weights = torch.as_tensor(values[: self.weights], dtype=kind, device=parameters[0].device)
        torch.nn.utils.vector_to_parameters(weights.clone(), self._fitting(copied))
        held = _held(dict(copied.named_buffers()), self.averages)
        for buffer, part in zip(held, _cut(values, self.averages), strict=True):
            buffer.copy_(torch.as_tensor(part))
        return copied

    def _checkpoint(self, values: Mapping[str, Any]) -> list[Any]:
        return checkpoint(self.layout, self.entries, values)

    def _fitting(self, module: torch.nn.Module) -> list[torch.nn.Parameter]:
        return fitting(self.layout, module)


def checkpoint(layout: Layout, entries: tuple[str, ...], values: Mapping[str, Any]) -> list[Any]:
    """The parameters of a state_dict in the order of the state. Raises Refusal if they do not fit."""
    # a map that was made without a module (iris) has names of its own: there they are told by order and shape
    shapes = [shape for _, shape in layout]
    strange = not entries and not any(name in values for name, _ in layout)
    if strange and [tuple(getattr(value, "shape", ())) for value in values.values()] == shapes:
        return list(values.values())
    for name, shape in layout:
        found = tuple(values[name].shape) if name in values else None
        if found != shape:
            told = f"has shape {found}" if found is not None else f"is missing; there are {', '.join(values)}"
            raise Refusal(f"the checkpoint does not fit: {name} {told}; this map needs shape {shape}")
    known = entries or [name for name, _ in layout]
    if others := [name for name in values if name not in known]:
        raise Refusal(f"the checkpoint does not fit: this map's module has no {', '.join(others)}")
    return [values[name] for name, _ in layout]


def fitting(layout: Layout, module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters of a module in the order of the state: by their names; where it has others, by its order."""
    own = {name: p for name, p in module.named_parameters() if p.requires_grad}
    names = [name for name, _ in layout]
    if own.keys() != set(names):
        if strayed := [name for name, other in zip(own, names, strict=False) if name in names and name != other]:
            raise Refusal(f"the module has {strayed[0]} at another place than this map, and other names beside it")
    else:
        own = {name: own[name] for name in names}
    shapes, wanted = [tuple(p.shape) for p in own.values()], [shape for _, shape in layout]
    if shapes != wanted:
        raise Refusal(f"the module has parameters of shapes {shapes}; this map has {wanted}")
    return list(own.values())


def _held(buffers: Mapping[str, Any], averages: Layout) -> list[Any]:
    """The running averages among buffers, or in a state_dict."""
    for name, shape in averages:
        if (found := tuple(buffers[name].shape) if buffers.get(name) is not None else None) != shape:
            told = f"has shape {found}" if found is not None else "is missing"
            raise Refusal(f"the module does not fit: {name} {told}; this map needs shape {shape}")
    return [buffers[name] for name, _ in averages]


def _cut(state: Array, averages: Layout) -> list[Array]:
    """The running averages of a state ``(dim,)``."""
    counts = [math.prod(shape) for _, shape in averages]
    return np.split(state[len(state) - sum(counts) :], np.cumsum(counts)[:-1]) if averages else []


def _flat(values: Any) -> Array:
    return real(values, "weights").ravel()


def coordinate_names(layout: Layout, optimizer: str, averages: Layout = ()) -> tuple[str, ...]:
    """A name for every component of the state: "0.weight[2,1]", …, "velocity.0.weight[2,1]", …, "1.running_var[2]"."""
    room("weights (each has a name and a box)", sum(math.prod(shape) for _, shape in layout), 25)
    names = _entries(layout)
    return (*names, *memory_names(optimizer, names), *_entries(averages))


def _entries(layout: Layout) -> tuple[str, ...]:
    """A name for each entry of parameters."""
    return tuple(
        f"{name}[{','.join(map(str, index))}]" if shape else name
        for name, shape in layout
        for index in np.ndindex(*shape)
    )


def last_layer(layout: Layout) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The place in the state and the shape of the last two parameters: a weight matrix and its biases."""
    ends = np.cumsum([int(np.prod(shape)) for _, shape in layout])
    return tuple(
        (int(end) - int(np.prod(shape)), shape) for end, (_, shape) in list(zip(ends, layout, strict=True))[-2:]
    )


class Drawn:
    """Initial states of a network: kernels N(0, scale²), the rest as in `base (dim,)` (default: 0)."""

    def __init__(self, layout: Layout, memory: int, scale: float = 1.0, base: Array | None = None) -> None:
        kernel = [np.full(int(np.prod(shape)), len(shape) > 1) for _, shape in layout]
        self.kernels = np.concatenate([*kernel, np.zeros(memory, dtype=bool)])
        self.scale = scale
        self.base = np.zeros(len(self.kernels)) if base is None else base

    def __call__(self, n: int, seed: int) -> Array:
        """``(n, dim)`` drawn states."""
        states = np.tile(self.base, (n, 1))
        drawn = generator(seed, "states").standard_normal((n, int(self.kernels.sum())))
        states[:, self.kernels] = self.scale * drawn
        return states
