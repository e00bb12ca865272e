"""A small fully connected network in training as a compiled map."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from nnflow.compiled import CompiledMap, Component, glue
from nnflow.compiled.loops import Constants
from nnflow.compiled.trial import Bent, Compiled
from nnflow.compiled.ways import Rule
from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.schedules import Schedule, factors
from nnflow.systems.optimisers.compiled import compiled_descent
from nnflow.systems.optimisers.table import is_repeating, limits_of, optimiser, structure_of
from nnflow.systems.perceptron.network import Perceptron
from nnflow.systems.training.state import Drawn, Layout, TrainingMap, coordinate_names, last_layer
from nnflow.typing import Array


class Peer(NamedTuple):
    """What the tensor backend makes of a state, and how far rounding may put another backend from it.

    Attributes:
        x: The state, ``(1, dim)``.
        p: The parameters, ``(1, parameter)``.
        t: The step index.
        v: A tangent vector, ``(dim,)``.
        after: The next state, ``(dim,)``.
        moved: The image of the tangent vector, ``(dim,)``.
        bent: The Hessian times its first entries, ``(weights,)``.
        off_after: How far rounding may put another next state from this one.
        off_moved: The same of the image.
        off_bent: The same of the product.
    """

    x: Array
    p: Array
    t: int
    v: Array
    after: Array
    moved: Array
    bent: Array
    off_after: float
    off_moved: float
    off_bent: float

    @staticmethod
    def compare(what: str, found: Array, known: Array, room: float) -> None:
        """Refuse what is elsewhere than the tensor backend has it."""
        apart = np.abs(found - known).max()
        if not apart <= room:
            raise Refusal(
                f"{what} of the compiled network is {apart:.3g} off that of the tensor backend: use backend='tensor', "
                "and tell us of the module (check=False goes on anyway)"
            )


class CompiledTraining(CompiledMap, TrainingMap):
    """A small fully connected network in training, compiled.

    Not tried out as plain Python, which would take longer than to compile it: its kernels are this package's own. With
    a `peer`, each loop is compared with the tensor backend when it is first used.
    """

    guarded = False
    peer: Peer | None

    def __init__(self, *functions: Any, peer: Peer | None = None, **settings: Any) -> None:
        super().__init__(*functions, **settings)
        object.__setattr__(self, "peer", peer)

    def handed(self, t: int, steps: int) -> Constants:
        """The data, and what the schedule multiplies eta by in these steps: no part of the machine code."""
        data = super().handed(t, steps)
        return data if self.schedule is None else (*data, t, factors(self.schedule, t, steps))

    def _meet(self, loop: Rule, p: Array, last: int, one_step: Compiled, k: int = 0) -> None:
        peer = self.peer
        if peer is None:
            return
        rest = generator(0, "frame").standard_normal((max(k - 1, 0), self.dim))

        def look() -> None:
            ahead, turned = one_step(peer.x, peer.p, peer.t, np.concatenate([peer.v[None], rest]))
            peer.compare("a step", ahead[0], peer.after, peer.off_after)
            if turned is not None:
                peer.compare("a tangent vector", turned[0, 0], peer.moved, peer.off_moved)

        self.once(("met", loop), look)

    def _meet_bend(self, loop: Rule, p: Array, t: int, bend: Bent) -> None:
        peer = self.peer
        if peer is None:
            return

        def look() -> None:
            v = peer.v[None, None, : self.weights]
            peer.compare(
                "the Hessian", bend(peer.x, peer.p, peer.t, v, np.empty_like(v))[0, 0], peer.bent, peer.off_bent
            )

        self.once(("met", loop), look)


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
    peer: Peer | None = None,
    whole_peer: Peer | None = None,
    entries: tuple[str, ...] = (),
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
        peer: What each loop of the map is compared with at its first use.
        whole_peer: The same for the map whose steps see all data.
        entries: The names in a `state_dict()` of the module (default: those of the layout).
        **defaults: Defaults of the optimizer's parameters (weight_decay is one only if it is given).

    Returns:
        The map.
    """
    settings: dict[str, Any] = {
        "schedule": schedule, "layout": layout, "initial": initial, "start": start, "structure": structure,
        "ranges": ranges, "name": name, "source": source, "entries": entries,
        "peer": whole_peer, **defaults,
    }  # fmt: skip
    again = partial(perceptron_map, replace(network, batch=None, shuffle=None), optimizer, **settings)
    parameters = optimiser(optimizer, defaults, compiled=True)
    layout = layout or _layers(network.sizes)
    coordinates = coordinate_names(layout, optimizer)
    kernels, size = network.kernels(), network.dim
    order = network.order
    softmax = last_layer(layout) if network.loss == "cross_entropy" and network.activations[-1] == "identity" else ()
    return CompiledTraining(
        *compiled_descent(
            kernels.gradient, kernels.gradient_and_products, size, optimizer, parameters, schedule is not None
        ),
        constants=kernels.data,
        name=name,
        dim=len(coordinates),
        parameters=parameters,
        limits=limits_of(parameters),
        repeats=is_repeating(optimizer, schedule, order.shuffle),
        epoch=order.batches,
        coordinates=coordinates,
        observables=_observables(network, kernels, layout),
        initial=initial or Drawn(layout, len(coordinates) - size),
        start=start,
        memory=len(coordinates) - size,
        structure=structure_of(optimizer, schedule, batch=order.batch, shuffle=order.shuffle, **(structure or {})),
        ranges={key: values for key, values in (ranges or {}).items() if key in parameters},
        source=source,
        optimizer=optimizer,
        schedule=schedule,
        layout=layout,
        softmax=softmax,
        classes=_classes(network),
        peer=peer,
        entries=entries,
        without_batches=None if order.batch is None else again,
    )


def _observables(network: Perceptron, kernels: Any, layout: Layout) -> dict[str, Any]:
    size = network.dim
    found = {key: _of_weights(function, size) for key, function in kernels.observables.items()}
    return found | _watched(kernels.watched, size) | _norms(layout) | _probed(network, kernels.predictions)


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


def _watched(entries: Mapping[str, Component], size: int) -> dict[str, Component]:
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
