"""A task: a torch module with its loss and its data, what both backends start from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nnflow.data.order import Order
from nnflow.labels import check_same_rows
from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES, first_line
from nnflow.systems.moments import Clock, Moment
from nnflow.systems.optimisers.groups import Groups, groups_of
from nnflow.systems.training import losses
from nnflow.systems.training.answers import Answers, answers_of
from nnflow.systems.training.averages import averages_of, forget, refuse_untold
from nnflow.systems.training.inputs import Inputs, Several, inputs_of, outputs_of, rows, told, told_as
from nnflow.systems.training.modules import converted, fix, is_bias, names_of, refuse
from nnflow.systems.training.reset import Given, Reset
from nnflow.systems.training.state import Drawn, Layout
from nnflow.tensor import placed
from nnflow.typing import Array


@dataclass(frozen=True, kw_only=True)
class Task:
    """A copy of a module with its loss and its data: what both backends start from."""

    module: nn.Module
    loss_fn: Callable[[Any, Any], Any]
    inputs: Inputs
    targets: npt.NDArray[Any]
    test: tuple[Inputs, npt.NDArray[Any]] | None
    device: torch.device
    dtype: torch.dtype
    scale: float | None
    init: Callable[[int], Any] | None
    order: Order
    noise: int | None
    probe: Inputs | None
    observables: Mapping[str, Callable[[Any, Any], Any]]
    microbatch: int
    name: str
    entries: tuple[str, ...]  # the names in the module's state_dict
    layout: Layout
    averages: Layout  # running averages that are a part of the state
    groups: Groups
    batch_norm: str | None  # what norm layers in training mode do, see `training_map`

    def moment(self, t: int) -> Moment:
        """What the step at t takes of t, without a schedule."""
        return Clock(None, self.order, self.device, self.dtype)(t)

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

    def outputs(self, inputs: Inputs) -> Any:
        """What the module in evaluation mode makes of inputs, with its parameters. Raises Refusal if it fails."""
        module = copy.deepcopy(self.module).to(self.device).eval()
        try:
            with torch.no_grad(), losses.plain_attention():
                return outputs_of(module, self.data(inputs))
        except FAILURES as error:
            raise Refusal(
                f"the module in evaluation mode fails on inputs {told(inputs)}: {first_line(error)}"
            ) from error

    @property
    def classes(self) -> tuple[int, ...] | None:
        """How many training rows each class has, if there is an accuracy; rows that the loss ignores left out."""
        if self.width is None:
            return None
        labels = self.targets[losses.seen(self, self.targets)]
        return tuple(np.bincount(labels, minlength=self.width).tolist())

    @property
    def width(self) -> int | None:
        """How many classes there are, if targets are labels: one integer a sample, one output a class."""
        answers = self.answers(self.targets)
        return self._shape[0] if answers is not None and answers.kind == "labels" and self._shape else None

    def answers(self, targets: npt.NDArray[Any]) -> Answers | None:
        """How an accuracy reads outputs and these targets; None where they tell no classes."""
        found = answers_of(self.loss_fn, targets)
        return found if found is not None and found.fits(self._shape, targets) else None

    @cached_property
    def _shape(self) -> tuple[int, ...] | None:
        """Of the outputs for one row, if they are one tensor with a row a sample."""
        first = self.inputs[: self.microbatch]
        outputs = self.outputs(first)
        one = isinstance(outputs, Tensor) and outputs.ndim > 0 and len(outputs) == len(first)
        return tuple(outputs.shape[1:]) if one else None

    def data(self, values: Inputs, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
        """An array as a tensor: integers as int64, the rest in a dtype (default: on the map's device, in its dtype)."""
        if isinstance(values, Several):
            return values.each(lambda part: self.data(part, device, dtype))
        kind = {"i": torch.int64, "u": torch.int64, "b": torch.bool}.get(values.dtype.kind, dtype or self.dtype)
        return torch.as_tensor(values, dtype=kind, device=device or self.device)

    @property
    def rows(self) -> int:
        """Of the larger one of training and test data."""
        return max(len(self.targets), 0 if self.test is None else len(self.test[1]))

    @property
    def functions(self) -> list[Any]:
        """What the user has written: loss, observables, and how his modules go forward."""
        parts = [part for part in self.module.modules() if not type(part).__module__.startswith("torch.")]
        held = [value for part in parts for value in vars(part).values() if isinstance(value, FunctionType)]
        return [self.loss_fn, *self.observables.values(), *dict.fromkeys(map(type, parts)), *held]

    @property
    def weights(self) -> Array:
        """The module's own weights, ``(weights,)``."""
        return np.concatenate([p.detach().double().numpy().ravel() for p in self.module.parameters()])

    def rest(self, memory: int) -> Array:
        """What is behind the weights in the state of a module: so many zeros of an optimizer, and running averages."""
        held = dict(self.module.named_buffers())
        return np.concatenate([np.zeros(memory), *(held[name].double().numpy() for name, _ in self.averages)])

    def initial(self, memory: int) -> Callable[[int, int], Array]:
        """How states are drawn: by `init`, with a scale, or by the module's own reset_parameters; memory 0."""
        if self.init is not None:
            return Given(self.init, self.layout, self.entries, self.rest(memory))
        if self.scale is None:
            return Reset(self.module, memory, [name for name, _ in self.averages])
        base = [p.detach().double().numpy().ravel() * (not is_bias(name)) for name, p in self.module.named_parameters()]
        rest = self.rest(memory)
        return Drawn(self.layout, len(rest), self.scale, np.concatenate([*base, rest]))


def task_of(
    module: nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    inputs: Any,
    targets: Any,
    *,
    test: tuple[Any, Any] | None,
    device: Any,
    dtype: Any,
    scale: float | None,
    init: Callable[[int], Any] | None,
    batch: int | None,
    shuffle: int | None,
    noise: int | None,
    probe: Any,
    observables: Mapping[str, Callable[[Any, Any], Any]] | None,
    microbatch: int | None,
    groups: Mapping[str, str | Sequence[str]] | None,
    batch_norm: str | None,
    name: str | None,
) -> Task:
    """Copy module and data. Raises Refusal or TypeError with what cannot be a map (see `training_map`)."""
    _look_at(scale, init, test, noise)
    device, dtype = placed(device, dtype)
    refuse(module, noise)
    refuse_untold(module, batch_norm)
    own, samples = fix(converted(module, dtype)), inputs_of(inputs, "inputs")
    if batch_norm == "batch":
        forget(own)
    check_same_rows(inputs, targets, "the rows of inputs and targets")
    tests = None if test is None else _tests(*test, inputs)
    order = Order(len(samples), batch, shuffle)
    most = max(order.samples, len(tests[0]) if tests else 0)
    _look_at_pieces(microbatch, order, most, batch_norm)
    layout = tuple((name, tuple(p.shape)) for name, p in own.named_parameters())
    return Task(
        module=own,
        loss_fn=_own_loss(loss_fn, device, dtype),
        inputs=samples,
        targets=rows(targets, "targets"),
        test=tests,
        device=device,
        dtype=dtype,
        scale=scale,
        init=init,
        order=order,
        noise=noise,
        probe=None if probe is None else inputs_of(told_as(probe, inputs, "probe"), "probe"),
        observables=dict(observables or {}),
        microbatch=microbatch or most,
        name=name or type(module).__name__.lower(),
        entries=tuple(module.state_dict()),
        layout=layout,
        averages=averages_of(own),
        groups=groups_of(groups, layout, names_of(own)),
        batch_norm=batch_norm,
    )


def _tests(x: Any, y: Any, like: Any) -> tuple[Inputs, Any]:
    """Test inputs, their columns in the order of the others, and test targets."""
    check_same_rows(x, y, "the rows of test inputs and targets")
    return inputs_of(told_as(x, like, "test inputs"), "test inputs"), rows(y, "test targets")


def _look_at(scale: float | None, init: Any, test: Any, noise: int | None) -> None:
    """Refuse settings that are none."""
    if scale is not None and not 0 <= scale < np.inf:
        raise Refusal(f"scale = {scale}: give the standard deviation of the kernels, 0 or larger")
    if init is not None and (scale is not None or not callable(init)):
        raise Refusal(f"init = {init!r}, scale = {scale}: give one of them; init is a function of a seed")
    if test is not None and not isinstance(test, (tuple, list)):
        raise Refusal(f"test is a {type(test).__name__}: give a pair, (inputs, targets), or a Dataset or DataLoader")
    if test is not None and len(test) != 2:
        raise Refusal(f"test has {len(test)} entries: give a pair, (inputs, targets)")
    if noise is not None and noise < 0:
        raise Refusal(f"noise = {noise!r}: give the seed of the noise, a whole number from 0 on")


def _look_at_pieces(microbatch: int | None, order: Order, most: int, batch_norm: str | None) -> None:
    """Refuse microbatches of no size, and those of a batch that is normed."""
    if microbatch is not None and not 1 <= microbatch <= most:
        raise Refusal(f"microbatch = {microbatch}: give 1 to {most} samples, or None for all at once")
    if batch_norm is not None and microbatch is not None and microbatch < order.size:
        raise Refusal(f"microbatch = {microbatch}: a batch is normed as a whole: give batch={microbatch}, or more")


def _own_loss(
    loss_fn: Callable[[Any, Any], Any], device: torch.device, dtype: torch.dtype
) -> Callable[[Any, Any], Any]:
    """A copy of a loss that is a module, or a method of one; refused if it is trained, too."""
    module = loss_fn if isinstance(loss_fn, nn.Module) else getattr(loss_fn, "__self__", None)
    if not isinstance(module, nn.Module):
        return loss_fn
    if learnt := [name for name, value in module.named_parameters() if value.requires_grad]:
        raise Refusal(
            f"the loss has parameters of its own ({', '.join(learnt)}), which would not be trained: let the "
            "module hold them, or fix them by requires_grad_(False)"
        )
    own = copy.deepcopy(module).to(device=device, dtype=dtype)
    return own if module is loss_fn else MethodType(loss_fn.__func__, own)  # type: ignore[attr-defined]
