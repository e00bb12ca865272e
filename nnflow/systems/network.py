"""Networks in training as maps: `training_map` for a torch module; `iris` and `digits`, two registered networks.

A small fully connected network in float64 gets the compiled rule of `perceptron`; any other module, device or dtype the
tensor rule of `modules`. Both have the same state: the parameters in the module's order, each flattened, then the
optimizer's memory. Only the functions that take a torch module import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnflow.compiled import CompiledMap, Component, glue
from nnflow.compiled.loops import Constants
from nnflow.map import End, Into, TangentRecords, generator
from nnflow.names import Refusal, unknown
from nnflow.room import room
from nnflow.settings import checked
from nnflow.systems.data import Split, iris_split
from nnflow.systems.data import digits as digits_table
from nnflow.systems.descent import is_repeating, marked, structure_of
from nnflow.systems.memory import remembered
from nnflow.systems.optimisers import LIMITS, OPTIMISERS, Descent, compiled_descent, memory_names, optimiser
from nnflow.systems.perceptron import Perceptron, Watched
from nnflow.systems.schedules import Schedule, factors, taken
from nnflow.typing import Array
from nnflow.values import real

if TYPE_CHECKING:
    import torch

    from nnflow.systems.modules import TensorTraining, Training

Layout = tuple[tuple[str, tuple[int, ...]], ...]
BACKENDS = ("auto", "compiled", "tensor")


class TrainingMap(Descent):
    """What every training map can do beside the verbs: carry states to and from modules, and name its symmetries.

    Attributes:
        layout: (name, shape) of the module's parameters in the order of the state.
        softmax: Where the logits come from, if a softmax follows: for each parameter of the last layer its place in the
            state and its shape.
    """

    layout: Layout
    softmax: tuple[tuple[int, tuple[int, ...]], ...]

    def structure_hint(self, name: str) -> str:
        """What to say when `name` is structure, what others call a parameter, or an accuracy that is not there."""
        if name in ("accuracy", "test_accuracy"):
            tests = " and test data" if name != "accuracy" else ""
            return f"{name} needs targets that are class indices, one whole number a sample{tests}."
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
            ``(dim,)`` float64: the weights, then the optimizer's memory.

        Raises:
            Refusal: if module, checkpoint or optimizer do not fit, or if the optimizer steps by another rule than this
                map.
        """
        saved = isinstance(module, Mapping)
        parameters = self._checkpoint(module) if saved else self._fitting(module)
        named = {name: parameter for (name, _), parameter in zip(self.layout, parameters, strict=True)}
        return np.concatenate([*map(_flat, parameters), *remembered(self.optimizer, optimizer, named, not saved)])

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

        from nnflow.systems.checks import converted

        values, parameters = np.array(self.to_numpy(state)), self._fitting(module)
        if values.shape != (self.dim,):
            raise Refusal(f"the state has shape {values.shape}: give one state of shape ({self.dim},)")
        kind = getattr(self, "dtype", torch.float64)
        copied = converted(module, kind).to(parameters[0].device)
        weights = torch.as_tensor(values[: self.weights], dtype=kind, device=parameters[0].device)
        torch.nn.utils.vector_to_parameters(weights.clone(), copied.parameters())
        return copied

    def _checkpoint(self, values: Mapping[str, Any]) -> list[Any]:
        """The parameters of a state_dict in the order of the state."""
        for name, shape in self.layout:
            found = tuple(values[name].shape) if name in values else None
            if found != shape:
                known = f"has shape {found}" if found is not None else f"is missing; there are {', '.join(values)}"
                raise Refusal(f"the checkpoint does not fit: {name} {known}; this map needs shape {shape}")
        return [values[name] for name, _ in self.layout]

    def _fitting(self, module: torch.nn.Module) -> list[torch.nn.Parameter]:
        parameters = list(module.parameters())
        shapes, wanted = [tuple(p.shape) for p in parameters], [shape for _, shape in self.layout]
        if shapes != wanted:
            raise Refusal(f"the module has parameters of shapes {shapes}; this map has {wanted}")
        return parameters


def _flat(values: Any) -> Array:
    if hasattr(values, "detach"):
        held = values.detach().cpu()
        values = held.resolve_conj().numpy() if held.is_complex() else held.double().numpy()
    return real(values, "weights").ravel()


class Peer(NamedTuple):
    """What the tensor backend makes of a state at t = 0, and how far rounding may put another backend from it.

    Attributes:
        x: The state, ``(1, dim)``.
        p: The parameters, ``(1, parameter)``.
        v: A tangent vector, ``(dim,)``.
        after: The next state, ``(dim,)``.
        moved: The image of the tangent vector, ``(dim,)``.
        off_after: How far rounding may put another next state from this one.
        off_moved: How far rounding may put another image from this one.
    """

    x: Array
    p: Array
    v: Array
    after: Array
    moved: Array
    off_after: float
    off_moved: float


class CompiledTraining(TrainingMap, CompiledMap):
    """A small fully connected network in training, compiled.

    Not tried out as plain Python, which would take longer than to compile it: its kernels are this package's own. With
    a `peer`, each verb is compared with the tensor backend when it is first used, in its own machine code.
    """

    guarded = False
    peer: Peer | None = None

    def handed(self, t: int, steps: int) -> Constants:
        """The data, and what the schedule multiplies eta by in these steps: no part of the machine code."""
        data = super().handed(t, steps)
        return data if self.schedule is None else (*data, t, factors(self.schedule, t, steps))

    def advance(self, x: Any, p: Any, t: int, steps: int) -> End:
        """As for any compiled map. Raises Refusal if the first use differs from the tensor backend."""
        advance = super().advance
        self._meet("advance", lambda peer: advance(peer.x, peer.p, 0, 1))
        return advance(x, p, t, steps)

    def orbit(
        self, x: Any, p: Any, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """As for any compiled map. Raises Refusal if the first use differs from the tensor backend."""
        orbit = super().orbit
        self._meet(("orbit", *observe), lambda peer: orbit(peer.x, peer.p, 0, 1, 1, observe)[1])
        return orbit(x, p, t, steps, every, observe, into)

    def tangent_orbit(
        self, x: Any, p: Any, t: int, frame: Any, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """As for any compiled map. Raises Refusal if the first use differs from the tensor backend."""
        orbit, k = super().tangent_orbit, frame.shape[1]

        def carried(peer: Peer) -> End:
            v = np.concatenate([peer.v[None], generator(0, "frame").standard_normal((k - 1, self.dim))])
            records, end = orbit(peer.x, peer.p, 0, v[None].copy(), 1, 1)
            return end._replace(frame=np.exp(records.log_stretches[0, 0, 0]) * end.frame[0, 0])

        self._meet(("tangent_orbit", k), carried)
        return orbit(x, p, t, frame, steps, every, keep)

    def separation_orbit(
        self, x: Any, y: Any, p: Any, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """As for any compiled map. Raises Refusal if the first use differs from the tensor backend."""
        orbit = super().separation_orbit
        self._meet(
            "separation_orbit",
            lambda peer: orbit(peer.x, peer.x[:, None].copy(), peer.p, 0, 1, 1)[1]._replace(frame=None),
        )
        return orbit(x, y, p, t, steps, every, norm)

    def _meet(self, verb: Hashable, end_of: Callable[[Peer], End]) -> None:
        """Compare where a verb ends with what the tensor backend makes of the same state, once."""
        if self.peer is None or verb in self._met:
            return
        self._met.add(verb)
        end = end_of(self.peer)
        apart = np.abs(end.states[0] - self.peer.after).max(), 0.0
        if end.frame is not None:
            apart = apart[0], np.abs(end.frame - self.peer.moved).max()
        if apart[0] > self.peer.off_after or apart[1] > self.peer.off_moved:
            self._met.discard(verb)
            raise Refusal(
                f"{verb}: the compiled network is {apart[0]:.3g} off the tensor backend after one step, its tangent "
                f"{apart[1]:.3g}: use backend='tensor', and tell us of the module (check=False goes on anyway)"
            )

    @cached_property
    def _met(self) -> set[Hashable]:
        return set()


def coordinate_names(layout: Layout, optimizer: str) -> tuple[str, ...]:
    """A name for every component of the state: "0.weight[2,1]", "0.bias[2]", …, "velocity.0.weight[2,1]", …."""
    room("weights (each has a name and a box)", sum(math.prod(shape) for _, shape in layout), 25)
    names = [
        f"{name}[{','.join(map(str, index))}]" if shape else name
        for name, shape in layout
        for index in np.ndindex(*shape)
    ]
    return (*names, *memory_names(optimizer, tuple(names)))


def perceptron_map(
    network: Perceptron,
    optimizer: str = "gd",
    *,
    schedule: Schedule | None = None,
    layout: Layout | None = None,
    initial: Callable[[int, int], Array] | None = None,
    start: Array | None = None,
    structure: Mapping[str, Any] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    name: str = "perceptron",
    source: str = "",
    **defaults: float,
) -> CompiledTraining:
    """Training of a small fully connected network as a compiled map.

    Observables, over the full data: loss, accuracy (classification), test_loss, test_accuracy (with test data), l1, l2
    (norms of the weights; also of each parameter, l2.W1), gradient_norm, probe[i,c] (output c for probe row i), and for
    bounded activations `stuck_on` and `saturated` (hidden units that stay within 0.01 of their upper limit, or of one
    of their limits, for every training input); over the training inputs output[c] (the mean of each output),
    output_range (the largest range of an output: 0 where the network answers all inputs alike) and hidden_square (the
    mean of Σ h² over the last hidden layer).

    Args:
        network: The network, its data and its loss.
        optimizer: See `nnflow.systems.optimisers`.
        schedule: A function of t that multiplies eta.
        layout: (name, shape) of the parameters in the order of the state (default: W1, b1, W2, …).
        initial: A function (n, seed) → (n, dim) (default: kernels N(0, 1) and biases 0).
        start: ``(dim,)``, a state of its own.
        structure: What else is fixed when the map is made.
        ranges: Parameter → (low, high) where the map is usually studied.
        name: What the map is called.
        source: Where the map comes from.
        **defaults: Defaults of the optimizer's parameters (weight_decay is one only if it is given).

    Returns:
        The map.
    """
    parameters = optimiser(optimizer, defaults, decay=False)
    layout = layout or _layers(network.sizes)
    coordinates = coordinate_names(layout, optimizer)
    kernels, size = network.kernels(), network.dim
    order = network.order
    made = CompiledTraining(
        *compiled_descent(
            kernels.gradient, kernels.gradient_and_products, size, optimizer, parameters, schedule is not None
        ),
        constants=kernels.data,
        name=name,
        dim=len(coordinates),
        parameters=parameters,
        limits=LIMITS,
        repeats=is_repeating(optimizer, schedule, order.shuffle),
        epoch=order.batches,
        coordinates=coordinates,
        observables={key: _of_weights(function, size) for key, function in kernels.observables.items()}
        | _watched(kernels.watched, size)
        | _norms(layout)
        | _probed(network, kernels.predictions),
        initial=initial or Drawn(layout, len(coordinates) - size),
        start=start,
        memory=len(coordinates) - size,
        structure=structure_of(
            optimizer,
            schedule,
            batch=order.batch,
            shuffle=order.shuffle,
            classes=_classes(network),
            **(structure or {}),
        ),
        ranges={key: values for key, values in (ranges or {}).items() if key in parameters},
        source=source,
    )
    softmax = last_layer(layout) if network.loss == "cross_entropy" and network.activations[-1] == "identity" else ()
    marked(made, optimizer=optimizer, schedule=schedule, layout=layout, softmax=softmax)
    return made


def _probed(network: Perceptron, predictions: Any) -> dict[str, Component]:
    """probe[i,c]: output c for row i of the probe."""
    if network.probe is None:
        return {}
    size, shape = network.dim, (len(network.probe), network.sizes[-1])

    @glue
    def outputs(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        predictions(x[:size], c, out)

    names = [f"probe[{i},{c}]" for i, c in np.ndindex(*shape)]
    return {name: Component(outputs, i, len(names)) for i, name in enumerate(names)}


def _classes(network: Perceptron) -> tuple[int, ...] | None:
    """How many training rows each class has; None for a regression."""
    labelled = network.loss == "cross_entropy"
    return tuple(np.bincount(network.targets, minlength=network.sizes[-1]).tolist()) if labelled else None


def _watched(entries: Mapping[str, Watched], size: int) -> dict[str, Component]:
    """What passes over the data show; entries of the same pass have the same function, which is run once for all."""
    passes = {function: _passed(function, size) for function in {entry.function for entry in entries.values()}}
    return {name: Component(passes[entry.function], entry.index, entry.size) for name, entry in entries.items()}


def _passed(function: Any, size: int) -> Callable[[Array, Array, int, Any, Array], None]:
    @glue
    def watch(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        function(x[:size], c, out)

    return watch


def _norms(layout: Layout) -> dict[str, Callable[[Array, Array, int, Any], float]]:
    """L1 and L2 of each parameter, by name."""
    ends = np.cumsum([int(np.prod(shape)) for _, shape in layout]).tolist()
    spans = [(name, begin, end) for (name, _), begin, end in zip(layout, [0, *ends[:-1]], ends, strict=True)]
    return {f"{norm}.{name}": _norm(norm, begin, end) for norm in ("l1", "l2") for name, begin, end in spans}


def _norm(norm: str, begin: int, end: int) -> Callable[[Array, Array, int, Any], float]:
    def l1(x: Array, p: Array, t: int, c: Any) -> float:
        total = 0.0
        for i in range(begin, end):
            total += abs(x[i])
        return total

    def l2(x: Array, p: Array, t: int, c: Any) -> float:
        total = 0.0
        for i in range(begin, end):
            total += x[i] * x[i]
        return math.sqrt(total)

    return l1 if norm == "l1" else l2


def last_layer(layout: Layout) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The place in the state and the shape of the last two parameters: a weight matrix and its biases."""
    ends = np.cumsum([int(np.prod(shape)) for _, shape in layout])
    return tuple(
        (int(end) - int(np.prod(shape)), shape) for end, (_, shape) in list(zip(ends, layout, strict=True))[-2:]
    )


def _layers(sizes: tuple[int, ...]) -> Layout:
    pairs = list(enumerate(pairwise(sizes), start=1))
    return tuple(
        entry for i, (inputs, outputs) in pairs for entry in ((f"W{i}", (outputs, inputs)), (f"b{i}", (outputs,)))
    )


def _of_weights(function: Any, size: int) -> Callable[[Array, Array, int, Any], float]:
    @glue
    def observable(x: Array, p: Array, t: int, c: Any) -> float:
        value: float = function(x[:size], c)
        return value

    return observable


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


def iris(
    split: int = 0, optimizer: str = "gd", batch: int | None = None, shuffle: int | None = None, **parameters: float
) -> CompiledTraining:
    """The network of the reference study on Iris: 4-10-3, sigmoid, softmax cross-entropy, raw features.

    83 weights: 10 × 4, 10 biases, 3 × 10, 3 biases; kernels drawn N(0, 1), biases 0. Observables as in
    `perceptron_map`.

    Args:
        split: Seed of the split into 120 training and 30 test rows.
        optimizer: As in `training_map` (the study: plain gradient descent).
        batch: As in `training_map` (the study: full batch).
        shuffle: As in `training_map`.
        **parameters: Parameter → its default; weight_decay is a parameter if it is given.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for a negative split, an unknown optimizer, or a batch that does not fit.

    Source:
        K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.
    """
    source = "K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782"
    made = partial(_classifier, "iris", (4, 10, 3), "sigmoid", iris_split(split), source=source, split=split)
    return made(optimizer, batch, shuffle, parameters)


def digits(
    split: int = 0,
    hidden: int = 64,
    optimizer: str = "gd",
    batch: int | None = None,
    shuffle: int | None = None,
    **parameters: float,
) -> CompiledTraining:
    """A 64-64-10 network on the handwritten digits of scikit-learn: tanh, softmax cross-entropy, pixels from 0 to 1.

    4810 weights, drawn as for `iris`. A small stand-in for MNIST, on which learning speeds up where training turns
    chaotic.

    Args:
        split: Seed of the split into 1200 training and 597 test rows.
        hidden: How many hidden units.
        optimizer: As in `training_map`.
        batch: As in `training_map`.
        shuffle: As in `training_map`.
        **parameters: Parameter → its default.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for a negative split, an unknown optimizer, or a batch that does not fit.

    Source:
        After P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv:2506.08523.
    """
    source = "P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv:2506.08523"
    data = digits_table(test=597 / 1797, seed=split, scale="unit")
    made = partial(_classifier, "digits", (64, hidden, 10), "tanh", data, source=source, split=split, hidden=hidden)
    return made(optimizer, batch, shuffle, parameters)


def _classifier(
    name: str,
    sizes: tuple[int, ...],
    activation: str,
    data: Split,
    optimizer: str,
    batch: int | None,
    shuffle: int | None,
    parameters: dict[str, float],
    source: str,
    **structure: int,
) -> CompiledTraining:
    """A registered network: its data, and the ranges over which one scans its parameters."""
    train, test = (data.inputs, data.targets), (data.test_inputs, data.test_targets)
    network = Perceptron(sizes, activation, "cross_entropy", *train, *test, batch=batch, shuffle=shuffle)
    adaptive = optimizer in OPTIMISERS and OPTIMISERS[optimizer].preconditioned
    defaults: dict[str, Any] = {**({} if adaptive else {"eta": 1.0}), **parameters}
    ranges = {"eta": (0.01, 12.0), "beta": (0.0, 0.95)} if not adaptive else {"eta": (1e-3, 1.0)}
    settings: dict[str, Any] = {"structure": structure, "ranges": ranges}
    return perceptron_map(network, optimizer, name=name, source=source, **settings, **defaults)


@checked
def training_map(
    module: torch.nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    inputs: Any,
    targets: Any,
    optimizer: str = "gd",
    test: tuple[Any, Any] | None = None,
    device: Any = None,
    backend: str = "auto",
    *,
    schedule: Schedule | None = None,
    batch: int | None = None,
    shuffle: int | None = None,
    noise: int | None = None,
    probe: Any = None,
    microbatch: int | None = None,
    dtype: Any = None,
    scale: float | None = None,
    check: bool = True,
    **defaults: float,
) -> TrainingMap:
    """Training of a torch module as a map: W' = W − η∇L(W) and its kin, L = loss_fn(module(inputs), targets).

    The map works on a float64 copy; the module is never changed. An ensemble that asks for no states starts from the
    module's own weights; others are drawn by its `reset_parameters`, seeded, or as `scale` says. Observables, over the
    full data in evaluation mode: loss, accuracy (of classes; rows that the loss ignores left out), test_loss,
    test_accuracy, l1 and l2 (also of each parameter, l2.0.weight), gradient_norm, probe[i,c] (output c for row i of
    `probe`), on tensors batch_loss (of the step at t). When it is made, the map is compared with torch on the module
    itself: loss and gradient to rounding, the tangent with differences of the step (see `witness`).

    Args:
        module: The network; its weights are where an ensemble starts.
        loss_fn: Of the module's outputs and the targets.
        inputs: Array or tensor, ``(sample, …)``.
        targets: Array or tensor, ``(sample, …)``.
        optimizer: "gd", "heavy_ball", "nesterov", "adam", "adamw" or "rmsprop", see `nnflow.systems.optimisers`.
        test: (inputs, targets) for test_loss and test_accuracy.
        device: Of the tensor backend (default: cpu).
        backend: "compiled" for a Sequential of Linear layers and sigmoid, tanh, ReLU, softplus or identity, with
            cross-entropy or mean squared error, on the CPU in float64; "tensor" for anything else; "auto": the compiled
            one where it applies and the data are under 1 MB.
        schedule: A function of t that multiplies eta.
        batch: Samples a step, in the order of the data (default: all of them).
        shuffle: A seed: the order is drawn anew for each epoch. It makes a random map, with the same numbers at t for
            all members.
        noise: The seed of everything random in the module (dropout). It makes a random map, with the same numbers at t
            for all members.
        probe: Inputs whose outputs are observed, ``(row, …)``.
        microbatch: At most so many samples go through the module at once, for large data (the loss must be a mean over
            samples).
        dtype: torch.float32 instead of torch.float64.
        scale: Draw kernels N(0, scale²), biases 0, other vectors (the gain of a layer norm) as in the module.
        check: False goes without the comparison, and `structure` says so.
        **defaults: Defaults of the optimizer's parameters eta, beta, beta1, beta2, epsilon, weight_decay (any value,
            but eta ≥ 0).

    Returns:
        A map whose state is the parameters in the module's order, each flattened, then the optimizer's memory.

    Raises:
        Refusal: (a ValueError) for what differs from torch, an unknown backend, optimizer or parameter, outputs that do
            not fit the loss, and a loss that is not finite or no fixed function of all its parameters (batch-norm in
            training mode; dropout without `noise`).
        TypeError: for what is no module or no floating torch dtype.
    """
    import torch

    from nnflow.systems import modules
    from nnflow.tensor import everyday

    if backend not in BACKENDS:
        raise Refusal(unknown("backend", backend, BACKENDS))
    optimiser(optimizer, defaults)
    schedule = taken(schedule)
    with everyday(), torch.enable_grad():
        task = modules.Training.checked(
            module, loss_fn, inputs, targets, test, device, dtype, scale, batch, shuffle, noise, probe, microbatch
        )
        tensor = modules.attested(task, module, loss_fn, optimizer, schedule, check, defaults)
        return tensor if backend == "tensor" else _faster(task, tensor, backend, check)


def _faster(task: Training, tensor: TensorTraining, backend: str, check: bool) -> TrainingMap:
    """The compiled map where there is one, and it is asked for or the data are small; else the tensor map."""
    from nnflow.systems.modules import compiled_or_why

    if backend == "auto" and task.inputs.nbytes + task.targets.nbytes > 2**20:
        return tensor
    found = compiled_or_why(task, tensor, check)
    if not isinstance(found, str):
        return found
    if backend == "compiled":
        raise Refusal(f"backend = 'compiled': {found}; use backend='tensor'")
    return tensor
