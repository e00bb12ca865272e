"""A training map against torch, once, when it is made: loss, gradient and curvature where training starts, and nearby.

Torch's side is its own: the user's module as it is, with its hooks and its patches, called and differentiated by
`loss.backward()`; afterwards it is as it was before. The same for the map's copy, in the map's number type, at weights
nearby. What reads a parameter by a way that the map cannot replace (a penalty over `module.parameters()`, a stored
reference) is found by watching which memory the operations touch, however small its part in the loss.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nnflow.data.order import Order
from nnflow.internals import TorchDispatchMode, tree_leaves
from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.systems.derivatives import differentiate, resting
from nnflow.systems.failures import FAILURES, first_line
from nnflow.systems.training.dropout import written_out
from nnflow.systems.training.first_step import compare_step
from nnflow.systems.training.inputs import outputs_of
from nnflow.systems.training.losses import Network, batch_loss, pieces, plain_attention
from nnflow.systems.training.modules import trainable
from nnflow.systems.written import OFF, Written
from nnflow.tensor import everyday
from nnflow.tensor.modes import drawing_apart, seeded
from nnflow.typing import Array

if TYPE_CHECKING:
    from nnflow.systems.training.task import Task
    from nnflow.systems.training.tensor import TensorTraining

NEARBY = 1e-3  # how far the second point is, relative to the weights
FAR = 1.0  # and the third
STEPS = 32  # at most so many batches are compared with their pieces
CUT = 1000  # roundings by which these may be apart: the same rows in another order
SHORTER = (1.0, 0.1, 0.01, 1e-4)  # how much of the way is gone where there is no loss: a logarithm or a covariance


EMPTY = np.zeros(0)


class Slope(NamedTuple):
    """A loss and its gradient ``(weights,)``, in float64; and running averages of the state after a step."""

    loss: float
    gradient: Array
    averages: Array = EMPTY


class Witness(NamedTuple):
    """Weights where loss and gradient are finite, how far they are from where training starts, and the slope there."""

    weights: Array
    way: float
    slope: Slope


def attest(map: TensorTraining, task: Task, module: nn.Module, loss_fn: Callable[[Any, Any], Any]) -> None:
    """Compare a tensor map with torch on the user's own module and loss. Raises Refusal with what differs most."""
    if any(p.is_inference() for p in module.parameters()):  # torch could not train that at all: the copy, then
        module, loss_fn = task.module, task.loss_fn
    with map.uncompiled():
        _attest(map, task, module, loss_fn)


def _attest(map: TensorTraining, task: Task, module: nn.Module, loss_fn: Callable[[Any, Any], Any]) -> None:
    _watch_reads(task, module)
    ours, near, far = witnesses(task, partial(_slope_of_map, map, task))
    kind = trainable(module)[0].dtype
    room = room_of(rounding(task), ours, near, far)
    theirs = slope_of_torch(at(task, task.module, near.weights), task.loss_fn, task)
    _compare(task, near.slope, theirs, room)
    compare_step(
        map, task, near.weights, theirs.gradient, float(room.gradient.max() + rounding(task) * most(near.weights))
    )
    wide = max(1.0, torch.finfo(kind).eps / torch.finfo(task.dtype).eps)
    if task.noise is None or wide == 1.0:  # other noise than dropout is drawn by number type
        _compare(
            task,
            ours.slope,
            _slope_of_either(task, module, loss_fn),
            Slope(room.loss * wide, room.gradient * wide, room.averages * wide),
        )
    if task.order.samples % task.order.size:  # the last batch of an epoch is shorter: not every layer can take it
        map.slopes(near.weights[None], task.order.batches - 1)
    differentiate(map, near.weights)


def witnesses(task: Task, slope: Callable[[Array], Slope]) -> list[Witness]:
    """Where training starts, a point nearby and one far away; nearer ones where there is no loss, at last the start."""
    own = task.weights
    here = Witness(own, NEARBY, slope(own))
    return [here, *(_reached(task, slope, here, way) for way in (NEARBY, FAR))]


def _reached(task: Task, slope: Callable[[Array], Slope], here: Witness, far: float) -> Witness:
    for way in (far * share for share in SHORTER):
        point = nearby(task, here.weights, way)
        try:
            found = slope(point)
        except FAILURES:  # no loss there: a matrix without a factor, a distribution without that parameter
            continue
        if np.isfinite(found.loss) and np.isfinite(found.gradient).all():
            return Witness(point, way, found)
    return here


def _slope_of_either(task: Task, module: nn.Module, loss_fn: Callable[[Any, Any], Any]) -> Slope:
    """Of the module as it is; or where torch cannot train that, a loss with weights in float64 say, of the copy."""
    try:
        return slope_of_torch(module, loss_fn, task)
    except Refusal:
        return slope_of_torch(at(task, task.module, task.weights), task.loss_fn, task)


def nearby(task: Task, w: Array, way: float = NEARBY) -> Array:
    """Other weights ``(weights,)``, some way off, each by its own size and by that of its parameter."""
    parts = np.split(w, np.cumsum(task.sizes)[:-1])
    sizes = np.concatenate([np.abs(part) + (np.sqrt(np.mean(part**2)) or 1.0) for part in parts if part.size])
    return np.asarray(w + way * sizes * generator(0, "nearby").standard_normal(len(w)))


def at(task: Task, module: nn.Module, w: Array) -> nn.Module:
    """A copy of a module on the map's device, with other weights."""
    moved = copy.deepcopy(module).to(task.device)
    nn.utils.vector_to_parameters(task.flat(w), trainable(moved))
    return moved


def rounding(task: Task) -> float:
    """How far two orders of the same operations may be apart, relative to what is summed.

    A sum of n terms is off by about √n roundings, n being all weights and all numbers of the data at most; 50 is room
    for the depth, and for functions that are off by some.

    Args:
        task: The training.

    Returns:
        50 eps √n.
    """
    return float(50 * torch.finfo(task.dtype).eps * np.sqrt(sum(task.sizes) + task.inputs.size + task.targets.size))


def room_of(off: float, own: Witness, near: Witness, far: Witness) -> Slope:
    """How far loss and each entry of the gradient may be apart, from their values at three points.

    It is `off` times the value itself; what weights that are rounded make of it (the change to a point nearby, relative
    to the way there); and, where a trained network's loss is a small difference of large numbers, the value for other
    weights.

    Args:
        off: Relative, see `rounding`.
        own: At the weights.
        near: At a point nearby.
        far: At other weights.

    Returns:
        The room of the loss and of each entry of the gradient.
    """
    here, there, away = (point.slope for point in (own, near, far))
    loss = abs(here.loss) + abs(there.loss - here.loss) / near.way + abs(away.loss)
    parts = [
        np.asarray(off * np.nan_to_num(most(one) + most(other - one) / near.way + most(another)))
        for one, other, another in zip(here[1:], there[1:], away[1:], strict=True)
    ]
    return Slope(float(off * np.nan_to_num(loss)), *parts)


def differs(ours: Slope, theirs: Slope, room: Slope) -> bool:
    """Whether two slopes at one point differ by more than the room, or one of them has no value."""
    near = abs(ours.loss - theirs.loss) <= room.loss and most(ours.gradient - theirs.gradient) <= room.gradient
    return not near


def _compare(task: Task, ours: Slope, theirs: Slope, room: Slope) -> None:
    """Refuse a gradient or a loss that differs by more than the room."""
    apart = _distance(ours.gradient, theirs.gradient)
    if most(apart) > room.gradient:
        worst = int(apart.argmax())
        raise Refusal(
            f"the gradient of {task.parameter_at(worst)} is {theirs.gradient[worst]:.6g} by torch on the module "
            f"itself, and {ours.gradient[worst]:.6g} for the map: a hook, a detached or patched part, or a number type "
            "that changes on the way is not followed; write it into forward or the loss (check=False goes on anyway)"
        )
    if most(_distance(np.array([ours.loss]), np.array([theirs.loss]))) > room.loss:
        raise Refusal(
            f"the loss of the module itself is {theirs.loss:.9g}, of the map {ours.loss:.9g}: something in the module "
            "or the loss is not followed by the map's copy; write it into forward (check=False goes on anyway)"
        )
    moved = _distance(ours.averages, theirs.averages)
    if most(moved) > room.averages:
        worst = int(moved.argmax())
        name = [name for name, shape in task.averages for _ in range(shape[0])][worst]
        raise Refusal(
            f"after a step {name} is {theirs.averages[worst]:.6g} by torch on the module itself, and "
            f"{ours.averages[worst]:.6g} for the map: a norm layer of another kind; batch_norm='batch' does without "
            "averages (check=False goes on anyway)"
        )


def _distance(ours: Array, theirs: Array) -> Array:
    """How far two are apart; infinite where one alone is no number."""
    alike = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        return np.where(alike, 0.0, np.nan_to_num(np.abs(ours - theirs), nan=np.inf, posinf=np.inf))


def most(values: Array) -> float:
    """The largest absolute value; 0 of none."""
    return float(np.abs(values).max(initial=0.0))


def _numbers(values: Tensor) -> Array:
    held = values.detach().to_dense() if values.is_sparse else values.detach()  # of a sparse Embedding
    return np.asarray(held.to("cpu", torch.float64).numpy()).ravel()


def _slope_of_map(map: TensorTraining, task: Task, w: Array) -> Slope:
    """What the map descends on at step 0, by way of its own batching."""
    with torch.no_grad(), seeded(task.noise, 0, task.device):
        loss = float(batch_loss(task)(task.flat(w), task.moment(0)))
    p = np.array([list(map.parameters.values())])
    after = map.step(np.concatenate([w, resting(map)])[None], p, 0)[0] if task.averages else w[:0]
    last = sum(shape[0] for _, shape in task.averages)
    return Slope(loss, _numbers(map.slopes(w[None], 0)[0]), map.to_numpy(after)[len(after) - last :])


# -- torch's side ------------------------------------------------------------------------------------------------


def slope_of_torch(
    module: nn.Module, loss_fn: Callable[[Any, Any], Any], task: Task, t: int = 0, size: int | None = None
) -> Slope:
    """Loss and `.grad` of a module on the batch of step t, by calling it and `loss.backward()`; it is left as it was.

    Args:
        module: It is called in the number type and on the device of its first parameter.
        loss_fn: Of its outputs and the targets.
        task: The training.
        t: The step index.
        size: It is called in pieces of a size (default: whole, but noise is drawn piece by piece).

    Returns:
        Loss and gradient.

    Raises:
        Refusal: if it fails there.
    """
    parameters = trainable(module)
    first = parameters[0]
    data = [task.data(values, first.device, first.dtype) for values in (task.inputs, task.targets)]
    size = size or (len(task.inputs) if task.noise is None else task.microbatch)
    total = 0.0
    try:
        with untouched(module), untouched(loss_fn), everyday(), torch.enable_grad(), plain_attention(), Written(OFF):
            for parameter in parameters:
                parameter.grad = None
            with seeded(task.noise, t, first.device), written_out(task.noise):
                for share, (x, y) in pieces(size, _rows(task, t, first.device), *data):
                    loss = share * loss_fn(outputs_of(module, x), y)
                    loss.backward()
                    total += loss.item()
            found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            held = dict(module.named_buffers())
            averages = [_numbers(held[name]) for name, _ in task.averages if name in held]
            return Slope(total, np.concatenate([_numbers(part) for part in found]), np.concatenate([EMPTY, *averages]))
    except FAILURES as error:
        raise Refusal(
            f"the module itself fails on the data in its own {first.dtype}: {first_line(error)}: bring "
            "it and the loss to one number type, module.double() say"
        ) from error


def _rows(task: Task, t: int, device: torch.device) -> Tensor | None:
    rows = task.moment(t).rows
    return None if rows is None else rows.to(device)


@contextmanager
def untouched(thing: Any) -> Iterator[None]:
    """Undo whatever a call of a module changes: gradients, buffers, attributes and torch's random numbers.

    Of its attributes also what is in lists, dicts, sets, tensors and arrays, and in those that are in there.
    """
    if not isinstance(thing, nn.Module):
        yield
        return
    gradients = [(p, p.grad) for p in thing.parameters()]
    held = dict[int, tuple[Any, Any]]()
    for part in thing.modules():
        _hold(vars(part), held)
    try:
        with drawing_apart(*sorted({p.device for p, _ in gradients}, key=str)):
            yield
    finally:
        for value, before in held.values():
            _restore(value, before)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _hold(value: Any, held: dict[int, tuple[Any, Any]]) -> None:
    """Keep a copy of a container and of all that is in it; parameters, which only a gradient changes, left out."""
    if id(value) in held or isinstance(value, nn.Parameter):
        return
    if isinstance(value, Tensor):
        held[id(value)] = value, value.detach().clone()
    elif isinstance(value, np.ndarray):
        held[id(value)] = value, value.copy()
    elif isinstance(value, dict | list | tuple | set | deque):
        if not isinstance(value, tuple):
            held[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
        for part in value.values() if isinstance(value, dict) else value:
            _hold(part, held)


def _restore(value: Any, before: Any) -> None:
    if isinstance(value, Tensor):
        with torch.no_grad():
            if not torch.equal(value, before):
                value.copy_(before)
    elif isinstance(value, np.ndarray):
        value[...] = before
    elif isinstance(value, dict | set):
        value.clear()
        value.update(before)
    else:
        value.clear()
        value.extend(before)


# -- whole and cut -----------------------------------------------------------------------------------------------


def compare_pieces(task: Task) -> None:
    """Refuse microbatches that are not, together, the whole: the loss is no mean over independent samples.

    Of all data and of test data in evaluation mode, as they are watched, and of the batches that steps see (with noise,
    which is drawn piece by piece, in evaluation mode too). At the witnesses' points: with a head of zeros all rows have
    one loss, and any pieces of them agree.
    """
    evaluated = replace(task, module=copy.deepcopy(task.module).eval(), noise=None)
    tables = {"samples": (task.inputs, task.targets)} | ({"test samples": task.test} if task.test else {})
    for kind, (inputs, targets) in tables.items():
        whole = replace(evaluated, inputs=inputs, targets=targets, order=Order(len(inputs)))
        _compare_cut(whole, 0, kind)
    for t in _steps(task.order) if task.microbatch < task.order.size else ():
        _compare_cut(task if task.noise is None else evaluated, t, f"samples of step {t}")


def _steps(order: Order) -> list[int]:
    """Steps, at most STEPS, spread over an epoch; over several where each has an order of its own."""
    last = order.batches - 1 if order.shuffle is None else max(order.batches, STEPS) - 1
    return sorted(set(np.linspace(0, last, STEPS).astype(int).tolist()))


def _compare_cut(task: Task, t: int, kind: str) -> None:
    """Compare whole and pieces of the batch of step t, where the whole has a value."""
    if task.microbatch >= task.order.size:
        return

    def slope(w: Array, size: int) -> Slope:
        return slope_of_torch(at(task, task.module, w), task.loss_fn, task, t, size)

    points = witnesses(task, partial(slope, size=len(task.inputs)))
    room = room_of(CUT * torch.finfo(task.dtype).eps, *points)
    for point in points:
        try:
            parts = slope(point.weights, task.microbatch)
        except Refusal as error:
            reason = first_line(error.__cause__ or error)
            raise Refusal(f"microbatch = {task.microbatch}: the module fails on pieces: {reason}") from error
        if np.isfinite([point.slope.loss, *point.slope.gradient]).all() and differs(parts, point.slope, room):
            raise Refusal(
                f"microbatch = {task.microbatch}: {_difference(task, point.slope, parts, room, kind)}: only a loss "
                "that is a mean over independent samples can be cut"
            )


def _difference(task: Task, whole: Slope, parts: Slope, room: Slope, kind: str) -> str:
    what, one, other = "loss", whole.loss, parts.loss
    if abs(one - other) <= room.loss:
        worst = int(np.nan_to_num(np.abs(whole.gradient - parts.gradient), nan=np.inf).argmax())
        what, one, other = f"gradient of {task.parameter_at(worst)}", whole.gradient[worst], parts.gradient[worst]
    return f"the {what} of all {kind} is {one:g}, the mean over microbatches is {other:g}"


# -- which memory is touched -------------------------------------------------------------------------------------


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of those parameters whose memory an operation touches."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.seen = names, dict[str, None]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for part in tree_leaves((args, kwargs)):
            held = isinstance(part, Tensor) and part.layout == torch.strided and part.device.type != "meta"
            if held and (name := self.names.get(part.untyped_storage().data_ptr())):
                self.seen[name] = None
        return func(*args, **(kwargs or {}))


def _watch_reads(task: Task, module: nn.Module) -> None:
    """Refuse a module or a loss that reads a parameter of the user's module, or of its copy, behind the map's back."""
    network = Network(task, training=True)
    held = [module, task.module, network.module]
    named = [pair for part in held for pair in part.named_parameters() if pair[1].numel() and pair[1].requires_grad]
    names = {p.untyped_storage().data_ptr(): name for name, p in named}
    data = task.data(task.inputs), task.data(task.targets)
    _, (x, y) = next(pieces(task.microbatch, _rows(task, 0, task.device), *data))
    w = task.flat(task.weights)
    with ExitStack() as stack:
        stack.enter_context(seeded(task.noise, 0, task.device))
        stack.enter_context(written_out(task.noise))
        stack.enter_context(everyday())
        stack.enter_context(torch.enable_grad())
        reads = stack.enter_context(_Reads(names))
        task.loss_fn(network(w, x), y)
    if reads.seen:
        raise Refusal(
            f"{', '.join(reads.seen)}: read by another way than as an attribute of its layer (a penalty over "
            "module.parameters(), a stored reference, a closure), where the map would see the initial weights for ever:"
            " compute it in forward from self, and weight decay by weight_decay=…"
        )
