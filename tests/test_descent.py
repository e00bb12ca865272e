"""Optimisers as maps: cubic and double-well descent are classic maps in disguise; quadratic losses are linear maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import nnflow
from nnflow.map import Map
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.typing import Array

CUBIC, WELL = nnflow.maps["cubic_descent"], nnflow.maps["double_well_descent"]
LOSSES = {CUBIC: lambda w: w[0] ** 2 / 2 - w[0] ** 3 / 3, WELL: lambda w: (w[0] ** 2 - 1) ** 2 / 4}
MOMENTUM, ADAM = {"eta": 1.3, "beta": 0.4}, {"eta": 0.2, "beta1": 0.8, "beta2": 0.9}
VALUES: dict[str, dict[str, float]] = {
    "gd": {"eta": 1.3}, "heavy_ball": MOMENTUM, "nesterov": MOMENTUM, "adam": ADAM, "adamw": ADAM,
    "rmsprop": {"eta": 0.2, "beta2": 0.8},
}  # fmt: skip


def peer(name: str, weights: list[torch.Tensor], lr: float, weight_decay: float, **values: float) -> Any:
    """The same optimiser of torch."""
    common, optim = {"lr": lr, "weight_decay": weight_decay}, torch.optim
    betas = values.get("beta1", 0.9), values.get("beta2", 0.999)
    if name in ("adam", "adamw"):
        return (optim.Adam if name == "adam" else optim.AdamW)(weights, betas=betas, **common)
    if name == "rmsprop":
        return optim.RMSprop(weights, alpha=values["beta2"], **common)
    return optim.SGD(weights, momentum=values.get("beta", 0.0), nesterov=name == "nesterov", **common)


def orbit(map: Map, state: list[float], steps: int) -> Array:
    records, _ = nnflow.Ensemble.grid(map, states=[state]).orbit(steps)
    return records[0]


def one_step(map: Map, states: Array) -> Array:
    return nnflow.Ensemble.grid(map, states=states).advance(1).states


def exponents(map: Map, k: int, transient: int, steps: int, state: Any = None) -> Array:
    start = nnflow.Ensemble.grid(map, states=None if state is None else [state]).with_frame(k)
    _, settled = start.tangent_orbit(transient)
    records, _ = settled.tangent_orbit(steps)
    return records.log_stretches[0].mean(axis=0)


# ------------------------------------------------------------------------------------------------ maps in disguise


@pytest.mark.parametrize(("eta", "beta"), [(math.sqrt(6.09), -0.3), (2.2, 0.2), (1.7, 0.6), (2.4, -0.05)])
def test_heavy_ball_on_the_cubic_is_the_henon_map(eta: float, beta: float) -> None:
    """w = middle + slope x turns w' = w + beta (w - w_before) - eta (w - w^2) into x' = 1 - a x^2 + b x_before."""
    a, b = (eta**2 - (1 + beta) ** 2) / 4, -beta
    middle, slope = (eta - 1 - beta) / (2 * eta), -a / eta

    def as_henon(states: Array) -> Array:
        w, before = states[:, 0], states[:, 0] + eta * states[:, 1]
        return np.stack([w - middle, b * (before - middle)], axis=1) / slope

    states = orbit(CUBIC(eta=eta, beta=beta), [0.2, 0.1], 200)
    assert np.isfinite(states).all()
    assert np.ptp(states[:50, 0]) > 0.05  # it moves
    henon = nnflow.maps["henon"](a=a, b=b)
    np.testing.assert_allclose(one_step(henon, as_henon(states[:-1])), as_henon(states[1:]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(orbit(henon, as_henon(states)[0].tolist(), 12), as_henon(states)[:12], atol=1e-9)


def test_the_classical_henon_attractor_is_a_cubic_descent() -> None:
    eta, beta = math.sqrt(6.09), -0.3
    assert (eta**2 - (1 + beta) ** 2) / 4 == pytest.approx(1.4, abs=1e-15)


@pytest.mark.parametrize("eta", [0.5, 1.9, 2.5699457, 3.0])
@pytest.mark.parametrize("optimizer", ["gd", "heavy_ball"])
def test_plain_descent_on_the_cubic_is_the_logistic_map(eta: float, optimizer: str) -> None:
    states = orbit(CUBIC(optimizer, eta=eta), [0.2] if optimizer == "gd" else [0.2, 0.0], 200)
    x = eta * (1 - states[:, :1]) / (1 + eta)
    np.testing.assert_allclose(one_step(nnflow.maps["logistic"](r=1 + eta), x[:-1]), x[1:], rtol=0, atol=1e-14)


@pytest.mark.parametrize("eta", [0.3, 0.95, 1.4, 1.9])
def test_plain_descent_on_the_double_well_is_the_cubic_map(eta: float) -> None:
    u = math.sqrt(eta) * orbit(WELL("gd", eta=eta), [0.3], 200)[:, 0]
    np.testing.assert_allclose((1 + eta) * u[:-1] - u[:-1] ** 3, u[1:], rtol=0, atol=1e-14)


@pytest.mark.parametrize(("make", "fixed", "curvature"), [(CUBIC, 0.0, 1.0), (WELL, 1.0, 2.0)])
@pytest.mark.parametrize("beta", [-0.3, 0.0, 0.5])
def test_the_first_period_doubling_is_where_the_maps_say(
    make: Any, fixed: float, curvature: float, beta: float
) -> None:
    threshold = 2 * (1 + beta) / curvature
    for eta, stable in ((0.97 * threshold, True), (1.03 * threshold, False)):
        w = orbit(make(eta=eta, beta=beta), [fixed + 0.01, 0.0], 3000)[-2:, 0]
        assert (np.abs(w - fixed).max() < 1e-6) == stable
        assert (abs(w[1] - w[0]) > 0.01) != stable


# ------------------------------------------------------------------------------------------ compiled against tensors


@pytest.mark.parametrize(("make", "optimizer"), [*((CUBIC, name) for name in sorted(OPTIMISERS)), (WELL, "gd")])
def test_compiled_and_tensor_descent_agree(make: Any, optimizer: str) -> None:
    compiled = make(optimizer, **VALUES[optimizer], weight_decay=0.05)
    tensor = nnflow.gradient_map(LOSSES[make], 1, optimizer, **VALUES[optimizer], weight_decay=0.05)
    assert (tensor.dim, tensor.coordinates, tensor.memory) == (compiled.dim, compiled.coordinates, compiled.memory)
    states = orbit(compiled, [0.3] + [0.0] * compiled.memory, 40)
    np.testing.assert_allclose(one_step(tensor, states), one_step(compiled, states), rtol=1e-13, atol=1e-13)

    parameters = np.tile(list(compiled.parameters.values()), (len(states), 1))
    frames = np.random.default_rng(0).normal(size=(len(states), 2, compiled.dim))
    found, exact = (map.to_numpy(map.tangent(states, parameters, 0, frames)) for map in (tensor, compiled))
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-13)
    found, exact = (map.to_numpy(map.curvature(states, parameters, 0, frames[:, :, :1])) for map in (tensor, compiled))
    np.testing.assert_allclose(found, exact, rtol=1e-13, atol=1e-13)
    losses = [map.observable("loss", map.native(states), parameters, 0) for map in (tensor, compiled)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("make", [CUBIC, WELL])
def test_the_compiled_loop_and_the_definition_agree_on_tangents(make: Any) -> None:
    ensemble = nnflow.Ensemble.grid(make(eta=1.2, beta=0.3), inits=20, seed=1).with_frame(2)
    records, after = ensemble.tangent_orbit(1, keep=["factors", "frames"])
    product = np.einsum("mji,mjk->mki", after.frame, records.factors[:, 0])  # (Q' R) as rows
    exact = ensemble.map.tangent(ensemble.states, ensemble.parameters, 0, records.frames[:, 0])
    np.testing.assert_allclose(product, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("make", "second"), [(CUBIC, lambda w: 1 - 2 * w), (WELL, lambda w: 3 * w**2 - 1)])
def test_curvature_is_the_second_derivative(make: Any, second: Any) -> None:
    map = make()
    states = map.initial_states(7, 0)
    v = np.random.default_rng(1).normal(size=(7, 3, 1))
    found = map.curvature(states, np.ones((7, 2)), 0, v)
    np.testing.assert_allclose(found, second(states[:, :1, None]) * v, rtol=1e-14)


# ---------------------------------------------------------------------------------------------------- any torch loss


def bumpy(w: torch.Tensor) -> torch.Tensor:
    return torch.sin(w[0] * w[1]) + torch.logsumexp(w, 0) + (w[2] - w[0]) ** 4 / 8


@pytest.mark.parametrize("optimizer", sorted(OPTIMISERS))
def test_gradient_map_steps_as_torch_does(optimizer: str) -> None:
    map = nnflow.gradient_map(bumpy, 3, optimizer, **VALUES[optimizer], weight_decay=0.05).with_parameters(eta=0.1)
    states = orbit(map, [0.3, -0.8, 1.1, *[0.0] * map.memory], 51)
    w = torch.tensor(states[0, :3], requires_grad=True)
    theirs = peer(optimizer, [w], lr=0.1, weight_decay=0.05, **VALUES[optimizer])
    for state in states:
        np.testing.assert_allclose(state[:3], w.detach().numpy(), rtol=0, atol=1e-12)
        theirs.zero_grad()
        bumpy(w).backward()
        theirs.step()


@pytest.mark.parametrize("optimizer", sorted(OPTIMISERS))
def test_gradient_map_tangent_and_curvature_against_differences(optimizer: str) -> None:
    map = nnflow.gradient_map(bumpy, 3, optimizer, **VALUES[optimizer])
    rng = np.random.default_rng(2)
    x, p = rng.normal(size=(4, map.dim)), np.tile(list(map.parameters.values()), (4, 1))
    x[:, 3:] = np.abs(x[:, 3:])  # a mean of squares is no less than 0
    v = rng.normal(size=(4, 1, map.dim))
    ahead, behind = (map.to_numpy(map.step(x + h * v[:, 0], p, 0)) for h in (1e-5, -1e-5))
    exact = map.to_numpy(map.tangent(x, p, 0, v))[:, 0]
    np.testing.assert_allclose((ahead - behind) / 2e-5, exact, atol=1e-8 * np.abs(exact).max())

    def gradient(w: Array) -> Array:
        return torch.func.vmap(torch.func.grad(bumpy))(torch.tensor(w)).numpy()

    w, u = x[:, :3], v[:, :, :3]
    found = map.to_numpy(map.curvature(x, p, 0, u))[:, 0]
    difference = (gradient(w + 1e-5 * u[:, 0]) - gradient(w - 1e-5 * u[:, 0])) / 2e-5
    np.testing.assert_allclose(difference, found, atol=1e-8 * np.abs(found).max())


def test_gradient_map_observables() -> None:
    map = nnflow.gradient_map(bumpy, 3, "heavy_ball")
    ensemble = nnflow.Ensemble.grid(map, inits=5, seed=3)
    records, _ = ensemble.orbit(2, observe=["gradient_norm", "loss", "w1", "velocity.w1"])
    w = torch.tensor(ensemble.states[:, :3])
    gradient = torch.func.vmap(torch.func.grad(bumpy))(w)
    expected = [gradient.norm(dim=1), torch.func.vmap(bumpy)(w), w[:, 1], torch.zeros(5)]
    np.testing.assert_allclose(records[:, 0], torch.stack(expected, 1).numpy(), rtol=1e-13)


def test_drawn_states_are_normal_and_the_memory_is_zero() -> None:
    states = nnflow.gradient_map(bumpy, 3, "heavy_ball").initial_states(2000, 4)
    assert np.abs(states[:, :3].mean(axis=0)).max() < 0.1
    assert np.abs(states[:, :3].std(axis=0) - 1).max() < 0.1
    assert not states[:, 3:].any()
    cubic = CUBIC().initial_states(100, 0)
    assert np.ptp(cubic[:, 0]) > 0.3
    assert not cubic[:, 1].any()


# ------------------------------------------------------------------------------------------------- known exponents


def quadratic(curvatures: list[float]) -> Any:
    """w·Aw/2 with these eigenvalues, in a random orthonormal basis."""
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(len(curvatures),) * 2))
    matrix = torch.tensor(q * curvatures @ q.T)
    return lambda w: w @ matrix @ w / 2


def test_descent_on_a_quadratic_has_the_exponents_of_its_curvatures() -> None:
    h, eta = [0.5, 1.2, 3.1], 0.5
    found = exponents(nnflow.gradient_map(quadratic(h), 3, eta=eta), 3, 150, 50)
    expected = np.sort(np.log(np.abs(1 - eta * np.array(h))))[::-1]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_heavy_ball_on_a_quadratic_has_the_exponents_of_its_roots() -> None:
    h, eta, beta = [0.05, 0.15, 2.5], 1.0, 0.3
    found = exponents(nnflow.gradient_map(quadratic(h), 3, "heavy_ball", eta=eta, beta=beta), 6, 350, 20)
    roots = np.concatenate([np.roots([1, -(1 + beta - eta * c), beta]) for c in h])
    np.testing.assert_allclose(found, np.sort(np.log(np.abs(roots)))[::-1], atol=1e-12)


@pytest.mark.parametrize("beta", [0.9, 0.3, -0.4])
def test_heavy_ball_exponents_add_up_to_n_times_ln_beta(beta: float) -> None:
    found = exponents(nnflow.gradient_map(bumpy, 3, "heavy_ball", eta=0.05, beta=beta), 6, 1, 20)
    assert found.sum() == pytest.approx(3 * math.log(abs(beta)), abs=1e-13)
    for make in (CUBIC, WELL):
        sums = exponents(make(eta=0.9, beta=beta), 2, 1, 500).sum()
        assert sums == pytest.approx(math.log(abs(beta)), abs=1e-13)


def test_without_learning_nothing_moves() -> None:
    gd = nnflow.gradient_map(bumpy, 3, eta=0.0)
    np.testing.assert_allclose(exponents(gd, 3, 1, 20), 0.0, atol=1e-14)
    assert np.array_equal(*nnflow.Ensemble.grid(gd).orbit(2)[0][0])
    heavy = nnflow.gradient_map(quadratic([0.5, 1.2, 3.1]), 3, "heavy_ball", eta=0.0, beta=0.5)
    np.testing.assert_allclose(exponents(heavy, 6, 60, 10), [0.0] * 3 + [math.log(0.5)] * 3, atol=1e-12)
    assert exponents(CUBIC("gd", eta=0.0), 1, 1, 20) == 0.0


def test_escapes_are_counted_alike() -> None:
    states = np.array([[0.2, 0.0], [-5.0, 0.0], [0.3, 0.0]])
    tensor = nnflow.gradient_map(LOSSES[CUBIC], 1, "heavy_ball", eta=2.5, beta=0.0)
    ends = [nnflow.Ensemble.grid(map, states=states).advance(20) for map in (CUBIC(), tensor)]
    assert ends[0].escaped.tolist() == ends[1].escaped.tolist()
    assert ends[0].escaped[1] > 0
    assert (ends[0].escaped[[0, 2]] == -1).all()
    assert np.isnan(ends[1].states[1]).all()


# ---------------------------------------------------------------------------------------------------------- misuse


def half(w: torch.Tensor) -> torch.Tensor:
    return (w @ w) / 2


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((half, 2, "sgd"), {}, "unknown optimizer 'sgd'.*Known: gd, heavy_ball"),
        ((half, 2, "heavy"), {}, "Did you mean 'heavy_ball'"),
        ((half, 2), {"eta": -0.1}, "eta = -0.1: a learning rate is 0 or more"),
        ((half, 2), {"eta": math.nan}, "eta = nan: a learning rate is 0 or more"),
        ((half, 2), {"etta": 1.0}, "unknown parameter of gd 'etta'.*'eta'"),
        ((half, 2), {"beta": 1.0}, "unknown parameter of gd 'beta'"),
        ((half, 0), {}, "dim = 0"),
        ((half, 0, "heavy_ball"), {}, "dim = 0"),
        ((half, 1.5), {}, "dim = 1.5"),
        ((5, 2), {}, "loss = 5"),
        ((lambda w: w, 2), {}, "finite scalar tensor"),
        ((lambda w: w[:1], 2), {}, "finite scalar tensor"),
        ((lambda w: 3.0, 2), {}, "returned 3.0.*finite scalar tensor"),
        ((lambda w: w.sum() * math.nan, 2), {}, "finite scalar tensor"),
        ((lambda w: torch.ones(3, 3, dtype=w.dtype) @ w, 2), {}, r"fails on a tensor of shape \(2,\)"),
        ((lambda w: w[4], 2), {}, r"fails on a tensor of shape \(2,\)"),
        ((half, 2), {"device": "nowhere"}, "device = 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        nnflow.gradient_map(*arguments, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [CUBIC, WELL])
def test_named_losses_refuse_what_they_do_not_know(make: Any) -> None:
    with pytest.raises(ValueError, match="unknown optimizer 'adamm'"):
        make("adamm")
    with pytest.raises(ValueError, match="unknown parameter of gd 'beta'"):
        make("gd", beta=0.1)
    with pytest.raises(ValueError, match="unknown parameter of .* 'optimizer'|optimizer is structure"):
        make().with_parameters(optimizer=1.0)
    with pytest.raises(ValueError, match="optimizer is structure"):
        nnflow.Ensemble.grid(make(), optimizer=[0, 1])


def test_a_map_without_a_loss_has_no_curvature() -> None:
    plain = nnflow.TensorMap(lambda x, p, t: x / 2)
    for map in (plain, nnflow.maps["henon"]()):
        with pytest.raises(TypeError, match="has no loss, so no curvature"):
            map.curvature(np.ones((1, map.dim)), np.ones((1, 2)), 0, np.ones((1, 1, map.dim)))


@pytest.mark.parametrize("state", [[0.1, 0.1, 0.1], [-1.0, -1.0, -1.0], [0.3, 0.2, 0.1]])
def test_a_determinant_has_its_curvature_where_singular_values_are_equal(state: list[float]) -> None:
    """Torch's own second derivative of det is NaN there."""

    def loss(w: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(torch.diag(w) + 2 * torch.eye(3, dtype=w.dtype)) + (w**2).sum()

    start = nnflow.Ensemble.grid(nnflow.gradient_map(loss, 3), states=[state])
    x, y, z = (value + 2 for value in state)  # the loss is their product, and the sum of squares
    known = np.array([[2, z, y], [z, 2, x], [y, x, 2]])
    np.testing.assert_allclose(start.curvature(np.eye(3)[None])[0], known, rtol=0, atol=1e-14)


@pytest.mark.parametrize("matrix", [[1.0, 2.0, 2.0, 4.0], [0.0] * 4, [1.0, 0.0, 0.0, 1.0]])
@pytest.mark.parametrize("det", [lambda a: torch.linalg.det(a), lambda a: a.det()], ids=["function", "method"])
def test_a_determinant_is_a_polynomial_also_where_it_is_zero(matrix: list[float], det: Any) -> None:
    start = nnflow.Ensemble.grid(nnflow.gradient_map(lambda w: det(w.reshape(2, 2)), 4, eta=0.1), states=[matrix])
    a, b, c, d = matrix
    np.testing.assert_allclose(
        start.advance(1).states[0], np.array(matrix) - 0.1 * np.array([d, -c, -b, a]), atol=1e-15
    )
    np.testing.assert_allclose(start.curvature(np.eye(4)[None])[0], np.diag([1.0, -1.0, -1.0, 1.0])[::-1], atol=1e-15)
