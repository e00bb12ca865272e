"""The Iris network as a map: its data, its step against torch, its tangent, its symmetries, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import nnflow
from nnflow.data import Split, digits, iris_split, iris_table
from nnflow.systems.perceptron.network import Perceptron
from nnflow.systems.training.compiled import perceptron_map
from nnflow.systems.training.state import TrainingMap
from nnflow.typing import Array

HIDDEN, CLASSES, WEIGHTS = 10, 3, 83
LAYOUT = (("W1", (10, 4)), ("b1", (10,)), ("W2", (3, 10)), ("b2", (3,)))


@cache
def iris(optimizer: str = "gd") -> TrainingMap:
    return nnflow.maps["iris"](optimizer=optimizer)


def module() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3)).double()


@cache
def tensor(optimizer: str = "gd") -> TrainingMap:
    """The same network by torch."""
    data = iris_split(0)
    test = data.test_inputs, data.test_targets
    loss = nn.functional.cross_entropy
    return nnflow.training_map(module(), loss, data.inputs, data.targets, optimizer, test, backend="tensor")


def outputs(w: torch.Tensor, inputs: Array) -> torch.Tensor:
    """The logits, written out."""
    first, bias, second, shift = w.split([40, 10, 30, 3])
    hidden = torch.sigmoid(torch.tensor(inputs) @ first.view(10, 4).T + bias)
    return hidden @ second.view(3, 10).T + shift


def loss(w: torch.Tensor) -> torch.Tensor:
    data = iris_split(0)
    return nn.functional.cross_entropy(outputs(w, data.inputs), torch.tensor(data.targets))


def gradient(w: Array) -> Array:
    return torch.autograd.functional.jacobian(loss, torch.tensor(w)).numpy()


def hessian(w: Array) -> Array:
    return torch.autograd.functional.hessian(loss, torch.tensor(w)).numpy()


def some_states(eta: float = 1.0, steps: int = 30) -> Array:
    """States that training visits, drawn ones included: (8, 83)."""
    start = nnflow.Ensemble.grid(iris(), inits=4, seed=7, eta=eta)
    return np.concatenate([start.states, start.advance(steps).states])


def one_step(map: TrainingMap, states: Array, **values: float) -> Array:
    return nnflow.Ensemble.grid(map, states=states, **values).advance(1).states


def jacobian_times(map: TrainingMap, states: Array, vectors: Array, **values: float) -> Array:
    """J V = Q' R, from one step of the compiled tangent orbit with the vectors (member, k, dim) as its frame.

    Padded with zeros to a full frame, so that only one loop is compiled.
    """
    frame = np.concatenate([vectors, np.zeros((len(vectors), map.dim - vectors.shape[1], map.dim))], axis=1)
    start = replace(nnflow.Ensemble.grid(map, states=states, **values), frame=map.native(frame))
    records, after = start.tangent_orbit(1, keep=["factors"])
    assert records.factors is not None
    product = np.einsum("mji,mjk->mki", map.to_numpy(after.frame), records.factors[:, 0])
    return product[:, : vectors.shape[1]]


# ------------------------------------------------------------------------------------------------------ data and draws


def test_the_split_is_the_whole_table_once() -> None:
    inputs, labels = iris_table()
    assert inputs.shape == (150, 4)
    assert np.bincount(labels).tolist() == [50, 50, 50]
    for seed in range(4):
        data = iris_split(seed)
        assert (len(data.targets), len(data.test_targets)) == (120, 30)
        assert sorted(np.bincount(data.targets)) == [39, 40, 41]
        rows = np.column_stack([np.r_[data.inputs, data.test_inputs], np.r_[data.targets, data.test_targets]])
        table = np.column_stack([inputs, labels])
        assert np.array_equal(rows[np.lexsort(rows.T)], table[np.lexsort(table.T)])


def test_the_table_is_fishers() -> None:
    inputs, labels = iris_table()
    means = [inputs[labels == c].mean(axis=0) for c in range(3)]
    expected = [[5.006, 3.428, 1.462, 0.246], [5.936, 2.77, 4.26, 1.326], [6.588, 2.974, 5.552, 2.026]]
    np.testing.assert_allclose(means, expected, atol=1e-12)


def test_a_split_belongs_to_its_seed() -> None:
    def same(one: Split, other: Split) -> bool:
        return np.array_equal(one.inputs, other.inputs) and np.array_equal(one.targets, other.targets)

    assert same(iris_split(3), iris_split(3))
    assert not same(iris_split(3), iris_split(4))
    w = some_states()[0]
    one, other = (one_step(nnflow.maps["iris"](split=split), w[None], eta=1.0) for split in (0, 4))
    assert np.abs(one - other).max() > 1e-4


def test_the_state_has_the_order_of_torchs_parameters() -> None:
    names = [f"{name}[{','.join(map(str, i))}]" for name, shape in LAYOUT for i in np.ndindex(*shape)]
    assert iris().dim == iris().weights == WEIGHTS
    assert list(iris().coordinates) == names
    assert iris().layout == LAYOUT
    weights = "0.weight[0,0]", "0.bias[0]", "2.weight[0,0]", "2.bias[0]"
    assert tuple(tensor().coordinates[i] for i in (0, 40, 50, 80)) == weights
    heavy = iris("heavy_ball")
    assert (heavy.dim, heavy.weights, heavy.memory) == (2 * WEIGHTS, WEIGHTS, WEIGHTS)
    assert list(heavy.coordinates) == names + [f"velocity.{name}" for name in names]
    counted = np.arange(float(WEIGHTS))
    loaded = iris().load_state(module(), counted)
    assert np.array_equal(nn.utils.parameters_to_vector(loaded.parameters()).detach().numpy(), counted)


@pytest.mark.parametrize("optimizer", ["gd", "heavy_ball"])
def test_drawn_states_have_normal_kernels_and_no_biases(optimizer: str) -> None:
    states = iris(optimizer).initial_states(300, seed=5)
    kernels = np.r_[0:40, 50:80]
    assert abs(states[:, kernels].mean()) < 0.03
    assert abs(states[:, kernels].std() - 1) < 0.03
    assert not np.delete(states, kernels, axis=1).any()
    assert np.array_equal(iris(optimizer).initial_states(2, seed=5), states[:2])
    assert not np.array_equal(iris(optimizer).initial_states(2, seed=6), states[:2])
    assert abs(np.abs(states[:, :WEIGHTS]).sum(axis=1).mean() - 70 * math.sqrt(2 / math.pi)) < 1.5


# ------------------------------------------------------------------------------------------------------- against torch


@pytest.mark.parametrize("eta", [0.01, 1.0, 5.0])
def test_a_step_is_that_of_autograd(eta: float) -> None:
    states = some_states()
    found = one_step(iris(), states, eta=eta)
    for w, after in zip(states, found, strict=True):
        np.testing.assert_allclose(after, w - eta * gradient(w), rtol=0, atol=1e-13 * max(1, np.abs(after).max()))


def test_heavy_ball_steps_as_torchs_optimiser_does() -> None:
    map, network = iris("heavy_ball"), module()
    start = nnflow.Ensemble.grid(map, seed=7, eta=0.05, beta=0.8)
    orbit, _ = start.orbit(30)
    network = map.load_state(network, start.states[0])
    sgd = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.8)
    data = iris_split(0)
    for state in orbit[0]:
        np.testing.assert_allclose(state[:WEIGHTS], map.state_of(network)[:WEIGHTS], rtol=0, atol=1e-12)
        sgd.zero_grad()
        nn.functional.cross_entropy(network(torch.tensor(data.inputs)), torch.tensor(data.targets)).backward()
        sgd.step()


@pytest.mark.parametrize(("optimizer", "values"), [("gd", {}), ("heavy_ball", {"beta": 0.9})])
def test_compiled_and_tensor_training_agree_after_20_steps(optimizer: str, values: dict[str, float]) -> None:
    states = iris(optimizer).initial_states(3, 0)
    ends = [
        nnflow.Ensemble.grid(map, states=states, eta=0.01, **values).advance(20).states
        for map in (iris(optimizer), tensor(optimizer))
    ]
    assert np.abs(ends[0] - states).max() > 1e-3
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["gd", "heavy_ball"])
def test_compiled_and_tensor_tangents_agree(optimizer: str) -> None:
    map, other = iris(optimizer), tensor(optimizer)
    x = np.hstack([some_states()[2:6], np.zeros((4, map.memory))])
    values = dict(zip(map.parameters, (1.0, 0.7), strict=False))
    decayed = np.tile([*values.values(), 0.0], (4, 1))
    v = np.random.default_rng(0).normal(size=(4, 2, map.dim))
    exact = other.to_numpy(other.tangent(x, decayed, 0, v))
    np.testing.assert_allclose(jacobian_times(map, x, v, **values), exact, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------------------------------- tangent, curvature


def test_the_tangent_is_that_of_central_differences() -> None:
    x, v = some_states(), np.random.default_rng(1).normal(size=(8, 1, WEIGHTS))
    exact = jacobian_times(iris(), x, v)[:, 0]
    ahead, behind = (one_step(iris(), x + h * v[:, 0]) for h in (1e-5, -1e-5))
    np.testing.assert_allclose((ahead - behind) / 2e-5, exact, rtol=0, atol=1e-8 * np.abs(exact).max())


def test_curvature_is_the_dense_hessian() -> None:
    w, whole = some_states()[[0, 5]], np.tile(np.eye(WEIGHTS), (2, 1, 1))
    x, p = np.hstack([w, np.ones_like(w)]), np.ones((2, 2))
    for training in (iris("heavy_ball"), tensor("heavy_ball")):
        products = training.to_numpy(training.curvature(x, p, 0, whole))
        for found, exact in zip(products, map(hessian, w), strict=True):
            np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def test_the_compiled_tangent_orbit_multiplies_by_one_minus_eta_h() -> None:
    """J Q = Q' R with J = 1 - eta H, and the exponents of a step add up to ln|det J|."""
    eta = 3.0
    start = nnflow.Ensemble.grid(iris(), inits=2, seed=7, eta=eta).with_frame(WEIGHTS)
    records, after = start.tangent_orbit(1, keep=["factors"])
    for m in range(2):
        jacobian = np.eye(WEIGHTS) - eta * hessian(start.states[m])
        product = after.frame[m].T @ records.factors[m, 0]
        np.testing.assert_allclose(product, jacobian @ start.frame[m].T, rtol=0, atol=1e-12 * np.abs(jacobian).max())
        assert records.log_stretches[m, 0].sum() == pytest.approx(np.linalg.slogdet(jacobian)[1], abs=1e-10)


def test_heavy_ball_exponents_add_up_to_83_ln_beta() -> None:
    for beta in (0.9, 0.5):
        start = nnflow.Ensemble.grid(iris("heavy_ball"), seed=7, eta=0.3, beta=beta).with_frame(2 * WEIGHTS)
        records, _ = start.tangent_orbit(3)
        sums = records.log_stretches[0].sum(axis=1)
        np.testing.assert_allclose(sums, WEIGHTS * math.log(beta), rtol=0, atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- symmetries


def neutral_directions() -> Array:
    """(11, 83): one constant added to a column of the last kernel, or to its biases."""
    found = np.zeros((HIDDEN + 1, WEIGHTS))
    for unit in range(HIDDEN):
        found[unit, 50 + unit : 80 : HIDDEN] = 1.0
    found[HIDDEN, 80:] = 1.0
    return found


def test_eleven_directions_are_neutral() -> None:
    x, u = some_states(), neutral_directions()
    for eta in (0.01, 1.0, 5.0):
        found = jacobian_times(iris(), x, np.tile(u, (8, 1, 1)), eta=eta)
        np.testing.assert_allclose(found, np.tile(u, (8, 1, 1)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("eta", [0.01, 1.0, 5.0])
def test_column_sums_of_the_last_layer_are_conserved(eta: float) -> None:
    start = nnflow.Ensemble.grid(iris(), inits=4, seed=2, eta=eta)
    after = start.advance(500)
    assert np.abs(after.states - start.states).max() > 0.1
    drift = (after.states - start.states) @ neutral_directions().T
    np.testing.assert_allclose(drift, 0.0, atol=1e-12)


def test_a_frame_that_starts_neutral_stays_neutral() -> None:
    rest = np.random.default_rng(3).normal(size=(WEIGHTS - 11, WEIGHTS))
    q, _ = np.linalg.qr(np.r_[neutral_directions(), rest].T)
    start = nnflow.Ensemble.grid(iris(), seed=7, eta=1.0).with_frame(WEIGHTS)
    start.frame[0] = q.T
    records, _ = start.tangent_orbit(20)
    np.testing.assert_allclose(records.log_stretches[0, :, :11], 0.0, atol=1e-12)
    assert np.abs(records.log_stretches[0, :, 11:]).max() > 0.1


# ---------------------------------------------------------------------------------------------------- what is observed


OBSERVED = ["loss", "accuracy", "test_loss", "test_accuracy", "l1", "l2", "gradient_norm"]  # compiled once


def test_observables_are_those_of_torch() -> None:
    data, states = iris_split(0), some_states()
    records, _ = nnflow.Ensemble.grid(iris(), states=states).orbit(1, observe=OBSERVED)
    by_torch, _ = nnflow.Ensemble.grid(tensor(), states=states).orbit(1, observe=OBSERVED)
    np.testing.assert_allclose(records, by_torch, rtol=1e-12)
    for w, found in zip(states, records[:, 0], strict=True):
        point = torch.tensor(w)
        expected = []
        for inputs, labels in (data[:2], data[2:]):
            logits, wanted = outputs(point, inputs), torch.tensor(labels)
            expected.append(nn.functional.cross_entropy(logits, wanted).item())
            expected.append((logits.argmax(dim=1) == wanted).double().mean().item())
        expected += [np.abs(w).sum(), np.linalg.norm(w), np.linalg.norm(gradient(w))]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_records_hold_the_state_that_a_step_leaves() -> None:
    records, after = nnflow.Ensemble.grid(iris(), seed=7).orbit(6, every=3, observe=OBSERVED)
    start = nnflow.Ensemble.grid(iris(), seed=7)
    for i in range(2):
        expected = loss(torch.tensor(start.advance(3 * i).states[0])).item()
        assert records[0, i, 0] == pytest.approx(expected, rel=1e-12)
    assert after.t == 6


def test_training_learns_the_flowers() -> None:
    start = nnflow.Ensemble.grid(iris(), inits=8, seed=0)
    before, _ = start.orbit(1, observe=OBSERVED)
    after, _ = start.advance(5000).orbit(1, observe=OBSERVED)
    assert before[:, 0, 3].mean() < 0.6
    assert np.median(after[:, 0, 3]) > 0.9
    assert (after[:, 0, 0] < before[:, 0, 0]).all()


def test_gentle_training_never_raises_the_loss() -> None:
    losses, _ = nnflow.Ensemble.grid(iris(), inits=4, seed=1, eta=0.01).orbit(1000, every=10, observe="loss")
    assert (np.diff(losses[:, :, 0], axis=1) < 0).all()
    assert (losses[:, 0] > 0.8).all()


# ------------------------------------------------------------------------------------------------------- other networks


def test_a_network_of_ones_own() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 1))
    network = Perceptron((2, 5, 1), "tanh", "mse", x, y)
    map = perceptron_map(network, "heavy_ball", name="regression", ranges={"eta": (0, 1), "nothing": (0, 1)}, eta=0.1)
    assert map.layout == (("W1", (5, 2)), ("b1", (5,)), ("W2", (1, 5)), ("b2", (1,)))
    assert map.parameters == {"eta": 0.1, "beta": 0.9}
    assert map.ranges == {"eta": (0, 1)}
    losses, after = nnflow.Ensemble.grid(map, seed=1, eta=0.02, beta=0.5).orbit(200, observe="loss")
    assert losses[0, -1, 0] < 0.7 * losses[0, 0, 0]
    assert np.abs(after.states[0, map.weights :]).max() > 0


# -------------------------------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize(("name", "values"), [("split", [0, 1]), ("optimizer", [0, 1])])
def test_structure_cannot_be_scanned(name: str, values: list[int]) -> None:
    with pytest.raises(ValueError, match=f"unknown axis for iris '{name}'.*{name} is structure: it is fixed when"):
        nnflow.Ensemble.grid(iris(), **{name: values})
    with pytest.raises(ValueError, match=f"{name} is structure"):
        iris().with_parameters(**{name: 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": -1}, "split = -1"),
        ({"optimizer": "heavyball"}, "unknown optimizer 'heavyball'. Did you mean 'heavy_ball'"),
        ({"beta": 0.5}, "unknown parameter of gd 'beta'"),
        ({"optimizer": "heavy_ball", "betta": 0.5}, "'betta'. Did you mean 'beta'"),
    ],
)
def test_iris_refuses_what_it_does_not_know(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.maps["iris"](**settings)


def test_unknown_observables_and_wrong_shapes() -> None:
    start = nnflow.Ensemble.grid(iris())
    with pytest.raises(ValueError, match="unknown observable of iris 'acuracy'. Did you mean 'accuracy'"):
        start.orbit(1, observe="acuracy")
    with pytest.raises(ValueError, match=r"iris needs \(n, 83\)"):
        nnflow.Ensemble.grid(iris(), states=np.zeros((2, 82)))
    with pytest.raises(ValueError, match="k = 84"):
        start.with_frame(84)


def test_what_all_inputs_share_is_that_of_numpy() -> None:
    map = nnflow.maps["iris"]()
    ensemble = nnflow.Ensemble.grid(map, inits=3)
    names = [
        *(f"output[{c}]" for c in range(3)),
        "hidden_square",
        "output_range",
        "stuck_on",
        "loss",
    ]  # as compiled once
    seen = ensemble.orbit(1, observe=names)[0][:, 0]
    inputs = iris_split(0).inputs
    for w, row in zip(ensemble.states, seen, strict=True):
        hidden = 1 / (1 + np.exp(-(inputs @ w[:40].reshape(10, 4).T + w[40:50])))
        logits = hidden @ w[50:80].reshape(3, 10).T + w[80:]
        np.testing.assert_allclose(row[:3], logits.mean(axis=0), rtol=1e-12)
        assert row[3] == pytest.approx((hidden**2).sum(axis=1).mean(), rel=1e-12)
        assert row[4] == pytest.approx(np.ptp(logits, axis=0).max(), rel=1e-12)
    assert map.classes == tuple(np.bincount(iris_split(0).targets))
    lost = ensemble.with_states(np.full_like(ensemble.states, np.nan))
    assert np.isnan(lost.orbit(1, observe=names)[0]).all()


@pytest.mark.slow
def test_digits_learn_and_are_the_torch_network() -> None:
    map = nnflow.maps["digits"](eta=1.0)
    assert (map.dim, sum(map.classes)) == (4810, 1200)
    ensemble = nnflow.Ensemble.grid(map, inits=1)
    data = digits(test=597 / 1797, seed=0, scale="unit")
    module = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()
    module = map.load_state(module, ensemble.states[0])
    loss = nn.functional.cross_entropy(module(torch.as_tensor(data.inputs)), torch.as_tensor(data.targets))
    accuracy = (module(torch.as_tensor(data.test_inputs)).argmax(dim=1).numpy() == data.test_targets).mean()
    records, _ = ensemble.orbit(60, observe=["test_accuracy"])  # the same as in the study: compiled once
    after = ensemble.orbit(1, observe=["test_accuracy"])[1]
    assert records[0, 0, 0] == pytest.approx(accuracy, rel=1e-12)
    assert records[0, 59, 0] > 0.85
    gradient = torch.autograd.grad(loss, list(module.parameters()))
    moved = after.states[0] - ensemble.states[0]
    np.testing.assert_allclose(moved, -torch.cat([g.ravel() for g in gradient]).numpy(), atol=1e-12)
    assert nnflow.maps["digits"](hidden=3).dim == 64 * 3 + 3 + 30 + 10
