"""The loss of a torch module as a function of its flat weights: batches, microbatches, noise, and what one watches.

Training sees the batch of step t with the module as it was given, evaluation all rows with the module in evaluation
mode. Attention and recurrent layers are computed by torch's plain kernels, since the fused ones have no forward-mode
derivative.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from nnflow.locks import one_at_a_time
from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.systems.moments import Moment
from nnflow.systems.training.answers import Answers
from nnflow.systems.training.averages import KEPT, forget, updated
from nnflow.systems.training.dropout import written_out
from nnflow.systems.training.inputs import Inputs, arguments
from nnflow.systems.written import Written
from nnflow.tensor import Component

if TYPE_CHECKING:
    from nnflow.systems.training.task import Task

Loss = Callable[..., Tensor]  # of the flat weights, and of running averages that are a part of the state


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention by its formula, without the fused kernels."""
    with one_at_a_time(), sdpa_kernel(SDPBackend.MATH):
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """Recurrent layers by their formula: in float32 oneDNN has a kernel without a forward-mode derivative."""
    with one_at_a_time():
        enabled, *_ = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            torch.backends.mkldnn.set_flags(enabled, _fp32_precision=None)  # type: ignore[no-untyped-call]


class Network:
    """The outputs of a module as a function of its flat weights and of input rows; `training`: as it was given.

    In evaluation it norms by the running averages that are a part of the state, if they are given.
    """

    def __init__(self, task: Task, training: bool) -> None:
        self.module = copy.deepcopy(task.module).to(task.device)
        self.norms = forget(self.module) if training else {}  # they norm by their batch, and may be watched
        for name, part in self.norms.items():
            part.register_forward_pre_hook(partial(self._watch, name), with_kwargs=True)
        if not training:
            self.module.eval()
        self.layout, self.sizes, self.loss_fn = task.layout, task.sizes, task.loss_fn
        self.held = task.averages
        self.averages: dict[str, tuple[Tensor, Tensor]] = {}  # of the call that is watched
        self.recurrent = any(isinstance(part, nn.RNNBase) for part in self.module.modules())

    def __call__(self, w: Tensor, inputs: Any, averages: Tensor | None = None) -> Tensor:
        """Outputs for the rows of `inputs`."""
        if self.recurrent and not torch.is_grad_enabled():  # torch batches an LSTM only while it differentiates
            out: Tensor = vjp(lambda w: self._call(w, inputs, averages), w)[0]
            return out
        return self._call(w, inputs, averages)

    def _call(self, w: Tensor, inputs: Any, averages: Tensor | None) -> Tensor:
        parts = zip(self.layout, torch.split(w, self.sizes), strict=True)
        with Written(), plain_attention(), plain_recurrence() if self.recurrent else nullcontext():
            named = {name: part.view(shape) for (name, shape), part in parts}
            if averages is not None and self.held:
                each = torch.split(averages, [shape[0] for _, shape in self.held])
                named |= {name: part for (name, _), part in zip(self.held, each, strict=True)}
            out: Tensor = functional_call(self.module, named, *arguments(inputs))
        return out

    def loss(self, w: Tensor, inputs: Any, targets: Tensor, averages: Tensor | None = None) -> Tensor:
        """The loss on some rows."""
        outputs = self(w, inputs, averages)
        with Written():
            value: Tensor = self.loss_fn(outputs, targets)
        return value

    def loss_and_averages(self, w: Tensor, averages: Tensor, inputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss on some rows in training, and what the running averages are after it."""
        counts = [part.num_features for part in self.norms.values() for _ in KEPT]
        each = iter(torch.split(averages, counts))
        with one_at_a_time():
            self.averages = {name: (next(each), next(each)) for name in self.norms}
            try:
                value = self.loss(w, inputs, targets)
                return value, torch.cat([part for pair in self.averages.values() for part in pair])
            finally:
                self.averages = {}

    def _watch(self, name: str, part: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before a norm layer is called: its running averages after it."""
        if name in self.averages:
            self.averages[name] = updated(part, *self.averages[name], *args, **kwargs)


def pieces(size: int, rows: Tensor | None, *data: Any) -> Iterator[tuple[float, list[Any]]]:
    """The chosen rows of the data (None: all) in pieces of at most `size`, each with its share of the rows."""
    count = len(data[0]) if rows is None else len(rows)
    for first in range(0, count, size):
        last = min(first + size, count)
        if rows is None:
            piece = [values if last - first == len(values) else values[first:last] for values in data]
        else:
            piece = [values[rows[first:last]] for values in data]
        yield (last - first) / count, piece


def mean_loss(task: Task, inputs: Inputs, targets: npt.NDArray[Any], size: int | None = None) -> Loss:
    """The loss over all rows in evaluation mode, in pieces of a size (default: the task's microbatch)."""
    network, data = Network(task, training=False), (task.data(inputs), task.data(targets))

    def loss(w: Tensor, averages: Tensor | None = None) -> Tensor:
        cut = pieces(size or task.microbatch, None, *data)
        return _total(share * network.loss(w, x, y, averages) for share, (x, y) in cut)

    return loss


def batch_loss(task: Task, transform: Callable[[Loss], Loss] = lambda loss: loss) -> Callable[[Tensor, Moment], Tensor]:
    """What a step descends on, as `f(w, moment)`; or what `transform` makes of it, summed over microbatches."""
    network, data = Network(task, training=True), (task.data(task.inputs), task.data(task.targets))

    def of_piece(share: float, x: Any, y: Tensor, w: Tensor) -> Tensor:
        value = network.loss(w, x, y)
        return value if share == 1 else share * value

    def function(w: Tensor, now: Moment) -> Tensor:
        with written_out(task.noise):
            cut = pieces(task.microbatch, now.rows, *data)
            return _total(transform(partial(of_piece, share, x, y))(w) for share, (x, y) in cut)

    return function


def batch_gradient(task: Task) -> Callable[[Tensor, Moment], Tensor]:
    """∇L of a step's batch, as `gradient(w, moment)`; the graph of one microbatch is gone before the next begins."""
    return batch_loss(task, grad)


def batch_gradient_and_averages(task: Task) -> Callable[[Tensor, Tensor, Moment], tuple[Tensor, Tensor]]:
    """∇L of a step's batch and the running averages after it, as `f(w, averages, moment)`; the batch is never cut."""
    network, data = Network(task, training=True), (task.data(task.inputs), task.data(task.targets))
    both = grad(network.loss_and_averages, has_aux=True)

    def function(w: Tensor, averages: Tensor, now: Moment) -> tuple[Tensor, Tensor]:
        with written_out(task.noise):
            ((_, (x, y)),) = pieces(task.microbatch, now.rows, *data)
            found: tuple[Tensor, Tensor] = both(w, averages, x, y)
            return found

    return function


def _total(terms: Iterator[Tensor]) -> Tensor:
    total = next(terms)
    for term in terms:
        total = total + term
    return total


# -- observables -------------------------------------------------------------------------------------------------


def observables(task: Task) -> dict[str, Any]:
    """Name → function of (state, parameters, t); only those that are asked for are ever computed."""
    loss, size, seen = mean_loss(task, task.inputs, task.targets), sum(task.sizes), _evaluated(task)
    found: dict[str, Loss] = {"loss": loss}
    if (answers := task.answers(task.targets)) is not None:
        found["accuracy"] = _accuracy(task, answers, task.inputs, task.targets)
    if task.test is not None:
        found["test_loss"] = mean_loss(task, *task.test)
        if (answers := task.answers(task.test[1])) is not None:
            found["test_accuracy"] = _accuracy(task, answers, *task.test)
    found |= {
        "l1": lambda w, *_: w.abs().sum(),
        "l2": lambda w, *_: torch.linalg.vector_norm(w),
        "gradient_norm": lambda *seen: torch.linalg.vector_norm(grad(loss)(*seen)),
    }
    named = {name: _of(function, seen) for name, function in found.items()}
    named |= {name: _of(function, lambda x: (x[:size],)) for name, function in _norms(task).items()}
    step = batch_loss(task)
    ours = named | {"batch_loss": lambda x, p, now: step(x[:size], now)} | _predictions(task)
    if taken := sorted(ours.keys() & task.observables.keys()):
        raise Refusal(f"observable {', '.join(taken)}: every training map has one of this name; give another")
    return ours | _own(task)


def _accuracy(task: Task, answers: Answers, inputs: Inputs, targets: npt.NDArray[Any]) -> Loss:
    """The share of right answers among the rows that the loss does not ignore."""
    counted = seen(task, targets) if answers.kind == "labels" else np.ones(len(targets), dtype=bool)
    weights = torch.as_tensor(counted / max(counted.sum(), 1), dtype=task.dtype, device=task.device)
    network, data = Network(task, training=False), (task.data(inputs), task.data(targets), weights)

    def accuracy(w: Tensor, averages: Tensor | None = None) -> Tensor:
        cut = pieces(task.microbatch, None, *data)
        return _total((answers.right(network(w, x, averages), y) * share).sum() for _, (x, y, share) in cut)

    return accuracy


def seen(task: Task, targets: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which labels the loss looks at: no class (-100, 255), or one that it ignores, is told by its gradient.

    It is taken at small drawn outputs, at which no row is so sure that its gradient vanishes by rounding.

    Args:
        task: The training.
        targets: Labels.

    Returns:
        ``(row,)`` bool.
    """
    valid = np.asarray((targets >= 0) & (targets < (task.width or 0)))
    outputs = 0.1 * torch.as_tensor(generator(0, "outputs").standard_normal((len(targets), task.width or 0)))
    outputs = outputs.to(task.device, task.dtype).requires_grad_()
    try:
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(task.loss_fn(outputs, task.data(targets)), outputs)
    except RuntimeError:  # a loss of something else than outputs alone
        return valid
    counted = targets[(slope != 0).any(dim=1).cpu().numpy()]
    return np.asarray(valid & np.isin(targets, counted))


def _norms(task: Task) -> dict[str, Loss]:
    """L1 and L2 of each parameter."""
    ends = np.cumsum(task.sizes)
    spans = {
        name: slice(int(end) - size, int(end))
        for (name, _), end, size in zip(task.layout, ends, task.sizes, strict=True)
    }
    orders = {"l1": 1, "l2": 2}
    return {
        f"{norm}.{name}": partial(
            lambda w, span, order: torch.linalg.vector_norm(w[span], order), span=span, order=order
        )
        for norm, order in orders.items()
        for name, span in spans.items()
    }


def _predictions(task: Task) -> dict[str, Component]:
    """The outputs for the probe rows, computed once for all that are asked for."""
    if task.probe is None:
        return {}
    network, rows, seen = Network(task, training=False), task.data(task.probe), _evaluated(task)

    def predicted(x: Tensor, p: Any, t: int) -> Tensor:
        w, *averages = seen(x)
        return network(w, rows, *averages)

    shape = tuple(task.outputs(task.probe).shape)
    names = {index: f"probe[{','.join(map(str, index))}]" for index in np.ndindex(*shape)}
    return {name: Component(predicted, index) for index, name in names.items()}


def _own(task: Task) -> dict[str, Any]:
    """The user's own, each a function of all outputs and targets."""
    network, evaluated = Network(task, training=False), _evaluated(task)
    x, y = task.data(task.inputs), task.data(task.targets)

    def seen(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Any, Any], Tensor]:
        def observable(state: Tensor, p: Any, now: Any) -> Tensor:
            w, *averages = evaluated(state)
            outputs = network(w, x, *averages)
            with Written():
                return function(outputs, y)

        return observable

    return {name: seen(function) for name, function in task.observables.items()}


def _evaluated(task: Task) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """What evaluation looks at in a state: the weights, and running averages if they are a part of it."""
    size, last = sum(task.sizes), sum(shape[0] for _, shape in task.averages)
    return lambda x: (x[:size], x[-last:]) if last else (x[:size],)


def _of(function: Loss, parts: Callable[[Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor, Any, int], Tensor]:
    return lambda x, p, t: function(*parts(x))
