"""The view as a graph: adjacency and networkx by hand, distances, distances modulo the order of hidden units."""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import nnflow
from nnflow.systems.training.graph import adjacency, distance, graph, layer_distances, layers, matched, permuted
from nnflow.typing import Array

RNG = np.random.default_rng(4)


def network(*sizes: int, biased: bool = True, optimizer: str = "gd") -> Any:
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        parts += [nn.Linear(inputs, outputs, bias=biased), nn.Tanh()]
    x, y = RNG.normal(size=(6, sizes[0])), RNG.normal(size=(6, sizes[-1]))
    return nnflow.training_map(nn.Sequential(*parts[:-1]), mse_loss, x, y, optimizer, backend="tensor")


def states(map: Any, n: int = 2) -> Array:
    return np.random.default_rng(9).normal(size=(n, map.dim))


def test_adjacency_by_hand() -> None:
    map = network(2, 2, 1, optimizer="heavy_ball")
    state = np.r_[1.0, 2, 3, 4, 5, 6, 7, 8, 9, [0.5] * 9]  # W1 = [[1, 2], [3, 4]], b1 = [5, 6], W2 = [[7, 8]], b2 = [9]
    expected = np.zeros((5, 5))
    expected[0, 2], expected[1, 2], expected[0, 3], expected[1, 3], expected[2, 4], expected[3, 4] = 1, 2, 3, 4, 7, 8
    assert np.array_equal(adjacency(map, state), expected)
    biased = adjacency(map, state, biases=True)
    assert np.array_equal(biased[:5, :5], expected)
    assert biased[5].tolist() == [0, 0, 5, 6, 0, 0, 0]
    assert biased[6].tolist() == [0, 0, 0, 0, 9, 0, 0]
    assert not biased[:, 5:].any()


def test_a_signal_through_the_matrix_is_that_of_the_module() -> None:
    """Units in turn: a = tanh(Aᵀ a + b), the last layer linear."""
    map = network(3, 4, 4, 2)
    parts = nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)
    module = map.load_state(nn.Sequential(*parts).double(), states(map)[0])
    matrix, x = adjacency(map, states(map)[0], biases=True), RNG.normal(size=3)
    a = np.r_[x, np.zeros(10), np.ones(3)]
    for units, function in ((slice(3, 7), np.tanh), (slice(7, 11), np.tanh), (slice(11, 13), np.array)):
        a[units] = function(matrix[:, units].T @ a)
    np.testing.assert_allclose(a[11:13], module(torch.tensor(x)).detach().numpy(), rtol=1e-13)


def test_the_networkx_graph_has_the_same_edges() -> None:
    import networkx as nx

    map = network(3, 4, 2)
    made = graph(map, states(map)[0])
    assert np.array_equal(nx.to_numpy_array(made, nodelist=range(9)), adjacency(map, states(map)[0]))
    assert [made.nodes[i]["layer"] for i in range(9)] == [0] * 3 + [1] * 4 + [2] * 2
    biases = np.concatenate([layer.bias for layer in layers(map, states(map)[0])])
    assert [made.nodes[i]["bias"] for i in range(9)] == [0.0] * 3 + biases.tolist()
    assert nx.is_directed_acyclic_graph(made)
    bare = network(3, 2, biased=False)
    assert graph(bare, states(bare)[0]).nodes[4]["bias"] == 0.0


def test_distances() -> None:
    map = network(3, 4, 2, optimizer="heavy_ball")
    x, y = states(map)
    d = (x - y)[: map.weights]
    assert distance(map, x, y) == pytest.approx(np.abs(d).sum())
    assert distance(map, x, y, "max") == pytest.approx(np.abs(d).max())
    frobenius = np.linalg.norm(adjacency(map, x, biases=True) - adjacency(map, y, biases=True))
    assert distance(map, x, y, "l2") == pytest.approx(frobenius)
    parts = layer_distances(map, x, y, "l2")
    assert list(parts) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert np.sqrt(sum(part**2 for part in parts.values())) == pytest.approx(frobenius)
    assert sum(layer_distances(map, x, y).values()) == pytest.approx(distance(map, x, y))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_one_hidden_layer_is_matched_exactly(norm: str) -> None:
    map = network(2, 5, 2)
    x, y = states(map)
    found = matched(map, x, y, norm)
    every = [distance(map, x, permuted(map, y, [np.array(order)]), norm) for order in permutations(range(5))]
    assert found.distance == pytest.approx(min(every), rel=1e-12)
    assert distance(map, x, permuted(map, y, found.orders), norm) == pytest.approx(found.distance, rel=1e-12)
    assert matched(map, y, x, norm).distance == pytest.approx(found.distance, rel=1e-12)
    assert found.distance < distance(map, x, y, norm)


@pytest.mark.parametrize("sizes", [(3, 6, 2), (3, 6, 5, 2), (4, 5, 5, 5, 3)])
def test_a_permuted_copy_is_the_same_function_at_distance_zero(sizes: tuple[int, ...]) -> None:
    map = network(*sizes)
    x = states(map)[0]
    orders = [np.random.default_rng(i).permutation(n) for i, n in enumerate(sizes[1:-1])]
    y = permuted(map, x, orders)
    losses = nnflow.Ensemble.grid(map, states=np.array([x, y])).orbit(1, observe="loss")[0]
    assert losses[0, 0, 0] == pytest.approx(losses[1, 0, 0], rel=1e-12)
    assert distance(map, x, y) > 1
    assert matched(map, x, y).distance == pytest.approx(0, abs=1e-12)


def test_several_hidden_layers_are_never_matched_worse_than_not_at_all() -> None:
    map = network(3, 5, 4, 5, 2)
    drawn = states(map, 8)
    for x, y in zip(drawn[:4], drawn[4:], strict=True):
        assert matched(map, x, y, "l2").distance <= distance(map, x, y, "l2")
    iris = nnflow.maps["iris"]()
    x, y = iris.initial_states(2, 0)
    assert matched(iris, x, y).distance < distance(iris, x, y)


def test_what_is_no_chain_is_refused() -> None:
    x, y = RNG.normal(size=(4, 1, 4, 4)), RNG.normal(size=(4, 2))
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    map = nnflow.training_map(module, mse_loss, x, y)
    with pytest.raises(ValueError, match=r"parameter 0.weight of shape \(2, 1, 3, 3\) breaks the chain"):
        adjacency(map, map.initial_states(1, 0)[0])
    iris = nnflow.maps["iris"]()
    with pytest.raises(ValueError, match=r"shape \(2, 83\): give one state of shape \(83,\)"):
        graph(iris, iris.initial_states(2, 0))
    with pytest.raises(ValueError, match="norm = 'max'"):
        matched(iris, *iris.initial_states(2, 0), norm="max")
