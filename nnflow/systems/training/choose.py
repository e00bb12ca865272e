"""`training_map`: from a torch module to a map.

    module, loss, data → Task (`task`: copied, tried out) → the tensor map (`tensor`), compared with torch on the user's
    own module (`witness`) → the compiled map instead, where the task is `recognise`d as a plain perceptron

A small fully connected network in float64 gets the compiled rule; any other module, device or dtype the tensor rule.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from nnflow.names import Refusal, WrongKind, unknown
from nnflow.schedules import Schedule, taken
from nnflow.settings import checked, whole
from nnflow.systems.optimisers.groups import kind_of
from nnflow.systems.optimisers.table import CLIPS, optimiser
from nnflow.systems.optimisers.torch_rule import groups_in, rule_of
from nnflow.systems.perceptron.network import Perceptron
from nnflow.systems.training.checks import try_out
from nnflow.systems.training.compiled import perceptron_map
from nnflow.systems.training.loaded import is_loadable, loaded
from nnflow.systems.training.peer import peer
from nnflow.systems.training.recognise import Unrecognized, recognise
from nnflow.systems.training.reset import Given
from nnflow.systems.training.state import TrainingMap
from nnflow.systems.training.task import Task, task_of
from nnflow.systems.training.tensor import TensorTraining, tensor_training
from nnflow.systems.training.witness import attest, compare_pieces
from nnflow.tensor import everyday
from nnflow.tensor.modes import threads_of_torch

BACKENDS = ("auto", "compiled", "tensor")
SMALL = 2**20  # bytes of data up to which a compiled network is chosen unasked …
FEW = 2**23  # … and weights × rows: beyond, products of matrices are most of a step, and tensors about as fast


@checked
def training_map(
    module: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    inputs: Any,
    targets: Any = None,
    optimizer: Any = "gd",
    test: Any = None,
    device: Any = None,
    backend: str = "auto",
    *,
    groups: Mapping[str, str | Sequence[str]] | None = None,
    schedule: Schedule | None = None,
    batch: int | None = None,
    shuffle: int | None = None,
    noise: int | None = None,
    batch_norm: str | None = None,
    probe: Any = None,
    observables: Mapping[str, Callable[[Any, Any], Any]] | None = None,
    microbatch: int | None = None,
    dtype: Any = None,
    scale: float | None = None,
    init: Callable[[int], Any] | None = None,
    torch_threads: int = 1,
    check: bool = True,
    compile: bool = False,
    name: str | None = None,
    source: str = "",
    **defaults: float,
) -> TrainingMap:
    """Training of a torch module as a map: W' = W − η∇L(W) and its kin, L = loss_fn(module(inputs), targets).

    The map works on a float64 copy; the module is never changed, and parameters that require no gradients are
    constants. An ensemble that asks for no states starts from the module's own weights; others are drawn by its
    `reset_parameters`, seeded, or as `init` or `scale` says. Observables, over the full data in evaluation mode: loss,
    accuracy (where targets tell classes, see `answers`), test_loss, test_accuracy, l1 and l2 (also of each parameter,
    l2.0.weight), gradient_norm, probe[i,c] (output c for row i of `probe`), on tensors batch_loss (of the step at t).
    When it is made, the map is compared with torch on the module itself: loss and gradient to rounding, the tangent
    with differences of the step (see `witness`).

    Args:
        module: The network; its weights are where an ensemble starts.
        loss_fn: Of the module's outputs and the targets.
        inputs: Array or tensor, ``(sample, …)``; a tuple of them for a module that takes several, or a dict of them by
            keyword. Or a torch Dataset or DataLoader of pairs (input, target), which is read once: a loader in order
            with its own `batch`; one that shuffles is refused.
        targets: Array or tensor, ``(sample, …)``; none with a Dataset or DataLoader.
        optimizer: "gd", "heavy_ball", "nesterov", "adam", "adamw" or "rmsprop", see `nnflow.systems.optimisers`; or a
            torch optimizer, whose rule and settings are taken (its memory: `Ensemble.from_module`).
        test: (inputs, targets), or a Dataset or DataLoader, for test_loss and test_accuracy.
        device: Of the tensor backend (default: cpu).
        backend: "compiled" for a Sequential of Linear layers and sigmoid, tanh, ReLU, softplus or identity, with
            cross-entropy or mean squared error, on the CPU in float64; "tensor" for anything else; "auto": the compiled
            one where it applies, the data are under 1 MB, and the weights times the rows of a step at most 2²³ (beyond,
            tensors are about as fast, and nothing has to be compiled). `structure` says which it is, and why.
        groups: Group → its parameters: names, or names of submodules ("2"), or patterns ("*.bias"), one or several.
            Group "head" has the learning rate eta.head, and beta.head, weight_decay.head, … if they are given; what is
            in no group has eta. A torch optimizer's groups are called 1, 2, … behind the first, or by their "name".
        schedule: A function of t that multiplies eta (of all groups).
        batch: Samples a step, in the order of the data (default: all of them).
        shuffle: A seed: the order is drawn anew for each epoch. It makes a random map, with the same numbers at t for
            all members.
        noise: The seed of everything random in the module (dropout). It makes a random map, with the same numbers at t
            for all members.
        batch_norm: Of norm layers in training mode with running averages: "state", the averages follow the batches, are
            the end of the state, and evaluation norms by them, as in torch; "batch", there are none, and evaluation
            norms by the statistics of what it evaluates. (Layers in evaluation mode keep theirs as constants.)
        probe: Inputs whose outputs are observed, ``(row, …)``.
        observables: Name → a function of the module's outputs for all training inputs, in evaluation mode, and their
            targets, both tensors; it returns a scalar tensor.
        microbatch: At most so many samples go through the module at once, for large data (the loss must be a mean over
            samples).
        dtype: torch.float32 instead of torch.float64.
        scale: Draw kernels N(0, scale²), biases 0, other vectors (the gain of a layer norm) as in the module.
        init: A function of a seed (a whole number) that gives initial weights: a module, a state_dict, or an array
            ``(weights,)``; the i-th of the states drawn from a seed has one made of both.
        torch_threads: Of the tensor backend: threads of torch within one operation, for one large network (see
            `TensorMap`).
        check: False goes without the comparison, and `structure` says so.
        compile: Whether the steps of the tensor backend are compiled by torch's Inductor, to rounding the same: faster
            after some seconds at each first call, see `TensorMap`.
        name: What the map is called (default: as the module's class).
        source: Where the map comes from.
        **defaults: Defaults of the optimizer's parameters eta, beta, beta1, beta2, epsilon, weight_decay (any value,
            but eta ≥ 0), also of groups (eta.head). clip_norm or clip_value, if given, is a parameter too: the gradient
            is clipped before the step, as by torch.nn.utils.clip_grad_norm_ or clip_grad_value_.

    Returns:
        A map whose state is the parameters in the module's order, each flattened, then the optimizer's memory, and with
        batch_norm="state" the running averages.

    Raises:
        Refusal: (a ValueError) for what differs from torch, an unknown backend, optimizer or parameter, outputs that do
            not fit the loss, and a loss that is not finite or no fixed function of all its parameters (batch-norm in
            training mode without `batch_norm`; dropout without `noise`).
        WrongKind: (a TypeError) for what is no module or no floating torch dtype.
    """
    if not isinstance(module, torch.nn.Module):
        raise WrongKind(f"module = {module!r}: give a torch.nn.Module")
    _look_at(backend, compile, torch_threads)
    if not isinstance(optimizer, str):
        optimizer, defaults, groups = _of_torch(optimizer, module, groups, defaults)
    elif not groups:
        optimiser(optimizer, defaults)
    schedule = taken(schedule)
    inputs, targets, test, batch = _read(inputs, targets, test, batch, shuffle)
    with everyday(), threads_of_torch(torch_threads), torch.enable_grad():
        task = task_of(
            module, loss_fn, inputs, targets, test=test, device=device, dtype=dtype, scale=scale, init=init,
            batch=batch, shuffle=shuffle, noise=noise, probe=probe, observables=observables, microbatch=microbatch,
            groups=groups, batch_norm=batch_norm, name=name,
        )  # fmt: skip
        if isinstance(drawn := task.initial(0), Given):
            drawn.try_out()
        optimiser(optimizer, defaults, groups=task.groups)
        try_out(task)
        compare_pieces(task)
        chosen = _chosen(task, defaults, backend, compile, torch_threads)
        made = partial(
            tensor_training, task, optimizer, defaults=defaults, reason=str(chosen), check=check, source=source,
            torch_threads=torch_threads, compile=compile,
        )  # fmt: skip
        tensor = made(schedule=schedule)
        if check:  # where a schedule begins with 0 nothing moves: compared as it is without one
            still = schedule is not None and schedule(0) == 0
            attest(made(schedule=None) if still else tensor, task, module, loss_fn)
            tensor.remember()
        return tensor if isinstance(chosen, str) else _compiled(task, tensor, chosen, check)


def _look_at(backend: str, compile: bool, torch_threads: int) -> None:
    """Refuse a backend that is none, or does not do what is asked of it."""
    if backend not in BACKENDS:
        raise Refusal(unknown("backend", backend, BACKENDS))
    whole("torch_threads", torch_threads, 1)
    if compile and backend == "compiled":
        raise Refusal("compile = True is for backend='tensor': what backend='compiled' runs is compiled by numba")
    if backend == "compiled" and torch_threads > 1:
        raise Refusal(f"torch_threads = {torch_threads}: the compiled backend uses none of them; backend='tensor' does")


def _of_torch(
    optimizer: Any, module: Any, groups: Mapping[str, str | Sequence[str]] | None, defaults: Mapping[str, float]
) -> tuple[str, dict[str, float], Mapping[str, str | Sequence[str]]]:
    """The rule, the settings and the groups of a torch optimizer, over which those that are given have precedence."""
    if groups and len(getattr(optimizer, "param_groups", ())) > 1:
        raise Refusal("groups: the optimizer has groups of its own, which are taken: give one of the two")
    name, held = rule_of(optimizer, module)
    found = groups_in(optimizer, module)
    kept = {key: value for key, value in held.items() if key == kind_of(key) or key.partition(".")[2] in found}
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    if found and {name for part in found.values() for name in part} >= set(trained):  # then nothing is in no group
        kept = {key: v for key, v in kept.items() if not all(f"{key}.{group}" in kept for group in found)}
    return name, {**kept, **defaults}, groups or found


def _read(inputs: Any, targets: Any, test: Any, batch: int | None, shuffle: int | None) -> tuple[Any, ...]:
    """Inputs, targets, test data and batch: those of a Dataset or DataLoader, where one is given."""
    if is_loadable(test):
        test = loaded(test, whole=True)[:2]
    if not is_loadable(inputs):
        if targets is None:
            raise Refusal("targets are missing: give them, or a Dataset or DataLoader of pairs (input, target)")
        return inputs, targets, test, batch
    found = loaded(inputs, shuffle is not None)
    if targets is not None:
        raise Refusal(f"inputs is a {type(inputs).__name__}, which has targets of its own: leave targets out")
    if isinstance(inputs, DataLoader) and batch is not None:
        raise Refusal(f"batch = {batch}: the DataLoader has batches of its own; leave batch out, or give its dataset")
    return found.inputs, found.targets, test, found.batch if batch is None else batch


def _chosen(task: Task, defaults: Collection[str], backend: str, compile: bool, torch_threads: int) -> Perceptron | str:
    """The network that is compiled; where it is tensors instead, the reason ("": they are asked for by name)."""
    if backend == "tensor":
        return ""
    if compile or torch_threads > 1:
        return "compile = True" if compile else f"torch_threads = {torch_threads}"
    work, size = sum(task.sizes) * task.order.size, task.inputs.nbytes + task.targets.nbytes
    if backend == "auto" and (work > FEW or size > SMALL):
        return f"{sum(task.sizes)} weights times {task.order.size} rows a step, {size} bytes of data: it is large"
    try:
        if task.groups.held or set(defaults) & set(CLIPS):
            raise Unrecognized("it has groups of parameters, or clips gradients")
        return recognise(task)
    except Unrecognized as reason:
        if backend == "compiled":
            raise Refusal(f"backend = 'compiled': {reason}; use backend='tensor'") from None
        return str(reason)


def _compiled(task: Task, tensor: TensorTraining, network: Perceptron, check: bool) -> TrainingMap:
    """The compiled map of a network, which is compared with the tensor map."""
    settings: dict[str, Any] = {
        **tensor.parameters,
        "schedule": tensor.schedule,
        "layout": task.layout,
        "initial": tensor.initial,
        "start": tensor.start,
        "structure": {"backend": "compiled"} | ({} if check else {"check": False}),
        "name": task.name,
        "source": tensor.source,
        "entries": task.entries,
        "peer": peer(tensor, task) if check else None,
        "whole_peer": peer(cast(TensorTraining, tensor.whole()), task) if check and task.order.batch else None,
    }
    return perceptron_map(network, tensor.optimizer, **settings)
