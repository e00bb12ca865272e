"""A network in training as a weighted graph: adjacency, distances, and distances up to the order of hidden units.

A fully connected network is a directed graph whose nodes are its units, numbered inputs first and layer by layer, and
whose edges lead from unit i to unit j with the weight that j gives to the activation of i. Functions take a training
map and states ``(dim,)`` of it; optimizer memory is not part of the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from nnflow.names import Refusal
from nnflow.systems.training.state import TrainingMap
from nnflow.typing import Array
from nnflow.vectors import length

if TYPE_CHECKING:
    import networkx as nx

Order = npt.NDArray[np.int64]


class Layer(NamedTuple):
    """One layer: `kernel (out, in)` and `bias (out,)`, or None where it has none."""

    kernel: Array
    bias: Array | None


def layers(map: TrainingMap, state: Any) -> list[Layer]:
    """The layers of a state, first to last.

    Args:
        map: The training map.
        state: ``(dim,)``, numpy or a tensor.

    Returns:
        Kernel and bias of each layer.

    Raises:
        Refusal: (a ValueError) for a state of another shape, or a network that is no chain of fully connected layers.
    """
    parts = split(map, state)
    found: list[Layer] = []
    for (name, shape), values in zip(map.layout, parts, strict=True):
        if len(shape) == 2 and (not found or shape[1] == found[-1].kernel.shape[0]):
            found.append(Layer(values, None))
        elif len(shape) == 1 and found and found[-1].bias is None and shape[0] == found[-1].kernel.shape[0]:
            found[-1] = found[-1]._replace(bias=values)
        else:
            raise Refusal(
                f"parameter {name} of shape {shape} breaks the chain: the view as a graph needs fully connected "
                "layers, each a weight matrix (out, in) and perhaps biases (out,)"
            )
    return found


def split(map: TrainingMap, state: Any) -> list[Array]:
    """The parameters of a state ``(dim,)``, in the shapes of the layout."""
    values = map.to_numpy(state)
    if values.shape != (map.dim,):
        raise Refusal(f"the state has shape {values.shape}: give one state of shape ({map.dim},)")
    ends = np.cumsum([int(np.prod(shape)) for _, shape in map.layout])
    pieces = np.split(values[: map.weights], ends[:-1])
    return [piece.reshape(shape) for piece, (_, shape) in zip(pieces, map.layout, strict=True)]


def adjacency(map: TrainingMap, state: Any, biases: bool = False) -> Array:
    """The matrix A of the network: A[i, j] is the weight of the edge from unit i to unit j, 0 where there is none.

    Args:
        map: The training map.
        state: ``(dim,)``, numpy or a tensor.
        biases: One more unit for each layer that has them follows at the end, always active, whose edges they are.

    Returns:
        ``(unit, unit)`` float64.

    Raises:
        Refusal: (a ValueError) as `layers`.
    """
    chain = layers(map, state)
    first = np.concatenate([[0, chain[0].kernel.shape[1]], [layer.kernel.shape[0] for layer in chain]]).cumsum()
    biased = [i for i, layer in enumerate(chain) if biases and layer.bias is not None]
    matrix = np.zeros((first[-1] + len(biased),) * 2)
    for i, layer in enumerate(chain):
        matrix[first[i] : first[i + 1], first[i + 1] : first[i + 2]] = layer.kernel.T
    for row, i in enumerate(biased, start=int(first[-1])):
        matrix[row, first[i + 1] : first[i + 2]] = chain[i].bias
    return matrix


def graph(map: TrainingMap, state: Any) -> nx.DiGraph:
    """The network as a directed graph with an edge for each weight.

    Args:
        map: The training map.
        state: ``(dim,)``, numpy or a tensor.

    Returns:
        A `networkx.DiGraph`: edges with `weight`, nodes with `layer` and `bias`. Nodes are numbered as the rows of
        `adjacency`; inputs have layer 0 and bias 0.

    Raises:
        Refusal: (a ValueError) as `layers`.
    """
    import networkx as nx

    chain, made, start = layers(map, state), nx.DiGraph(), 0
    made.add_nodes_from(range(chain[0].kernel.shape[1]), layer=0, bias=0.0)
    for depth, (kernel, bias) in enumerate(chain, start=1):
        outputs, inputs = kernel.shape
        after = start + inputs
        values = np.zeros(outputs) if bias is None else bias
        made.add_nodes_from((after + o, {"layer": depth, "bias": float(values[o])}) for o in range(outputs))
        made.add_weighted_edges_from(
            (start + i, after + o, float(kernel[o, i])) for o in range(outputs) for i in range(inputs)
        )
        start = after
    return made


# -- distances ---------------------------------------------------------------------------------------------------


def distance(map: TrainingMap, x: Any, y: Any, norm: str = "l1") -> float:
    """The distance of two states over all weights and biases.

    Args:
        map: The training map.
        x: ``(dim,)``, numpy or a tensor.
        y: ``(dim,)``, numpy or a tensor.
        norm: "l1", "l2" or "max". L2 is the Frobenius norm of the difference of the adjacency matrices (with biases).

    Returns:
        The distance.

    Raises:
        Refusal: (a ValueError) for another norm, or states of another shape.
    """
    return float(length(_flat(map, x) - _flat(map, y), norm))


def layer_distances(map: TrainingMap, x: Any, y: Any, norm: str = "l1") -> dict[str, float]:
    """The same for each parameter, by name. The sum is the whole L1 distance, the root of the sum of squares the L2."""
    parts = zip(map.layout, split(map, x), split(map, y), strict=True)
    return {name: float(length((a - b).ravel(), norm)) for (name, _), a, b in parts}


def _flat(map: TrainingMap, state: Any) -> Array:
    return np.concatenate([part.ravel() for part in split(map, state)])


# -- distances up to the order of hidden units -------------------------------------------------------------------


class Match(NamedTuple):
    """The `distance` of x from y with y's hidden units in the best order found, and that order, one a hidden layer."""

    distance: float
    orders: list[Order]


def matched(map: TrainingMap, x: Any, y: Any, norm: str = "l1") -> Match:
    """The distance of two networks modulo permutations of hidden units, which change no output.

    With one hidden layer this is a linear assignment problem and exact. With several, layers are matched in turn, the
    others kept, until nothing changes, which never increases the distance, but may end in a local minimum: an upper
    bound.

    Args:
        map: The training map.
        x: ``(dim,)``, numpy or a tensor.
        y: ``(dim,)``, numpy or a tensor.
        norm: "l1" or "l2".

    Returns:
        The distance, and the order of each hidden layer: unit i of x is matched with unit order[i] of y.

    Raises:
        Refusal: (a ValueError) for another norm, and as `layers`.

    Source:
        S. K. Ainsworth, J. Hayase, S. Srinivasa, ICLR 2023, arXiv:2209.04836.
    """
    if norm not in ("l1", "l2"):
        raise Refusal(f"norm = {norm!r}: a distance that is a sum over units is needed, l1 or l2")
    ours, theirs = layers(map, x), layers(map, y)
    orders = [np.arange(len(layer.kernel)) for layer in ours[:-1]]
    best = _cost(ours, theirs, orders, norm)
    while True:
        for i in range(len(orders)):
            orders[i] = _assigned(ours, theirs, orders, i, norm)
        now = _cost(ours, theirs, orders, norm)
        if now >= best * (1 - 1e-12):
            break
        best = now
    return Match(now if norm == "l1" else float(np.sqrt(now)), orders)


def _assigned(ours: list[Layer], theirs: list[Layer], orders: list[Order], i: int, norm: str) -> Order:
    """The best order of hidden layer i, given those of its neighbors."""
    before = orders[i - 1] if i > 0 else slice(None)
    after = orders[i + 1] if i + 1 < len(orders) else slice(None)
    costs = _between(ours[i].kernel, theirs[i].kernel[:, before], norm)
    costs += _between(ours[i + 1].kernel.T, theirs[i + 1].kernel[after].T, norm)
    one, other = ours[i].bias, theirs[i].bias
    if one is not None and other is not None:
        costs += _between(one[:, None], other[:, None], norm)
    return np.asarray(linear_sum_assignment(costs)[1], dtype=np.int64)


def _between(a: Array, b: Array, norm: str) -> Array:
    """What it costs to match each row of a with each row of b."""
    apart = np.abs(a[:, None] - b[None])
    return np.asarray((apart if norm == "l1" else apart * apart).sum(axis=2))


def _cost(ours: list[Layer], theirs: list[Layer], orders: list[Order], norm: str) -> float:
    """The sum over all weights and biases, with their hidden units in these orders."""
    total, power = 0.0, 1 if norm == "l1" else 2
    for one, other in zip(ours, _reordered(theirs, orders), strict=True):
        total += float((np.abs(one.kernel - other.kernel) ** power).sum())
        if one.bias is not None and other.bias is not None:
            total += float((np.abs(one.bias - other.bias) ** power).sum())
    return total


def _reordered(chain: list[Layer], orders: list[Order]) -> list[Layer]:
    """The layers with their hidden units in these orders."""
    outs = [*orders, np.arange(len(chain[-1].kernel))]
    ins = [np.arange(chain[0].kernel.shape[1]), *orders]
    parts = zip(chain, outs, ins, strict=True)
    return [Layer(kernel[np.ix_(o, i)], None if bias is None else bias[o]) for (kernel, bias), o, i in parts]


def permuted(map: TrainingMap, state: Any, orders: list[Order]) -> Array:
    """The same network, hidden unit i of each layer being what was unit order[i]; optimizer memory is set to 0."""
    if map.averages:
        raise Refusal("the state holds running averages of a norm layer, which have an order of units of their own")
    chain = _reordered(layers(map, state), orders)
    parts = [part.ravel() for layer in chain for part in layer if part is not None]
    return np.concatenate([*parts, np.zeros(map.memory)])
