"""Optimisers on the extended state: torch's own steps, exact sums of exponents, thresholds, schedules, dead units."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from test_descent import bumpy, exponents, orbit, peer, quadratic
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import nnflow
from nnflow import schedules
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.typing import Array

RNG = np.random.default_rng(21)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)
SETTINGS: dict[str, dict[str, float]] = {
    "gd": {}, "heavy_ball": {"beta": 0.8}, "nesterov": {"beta": 0.8}, "adam": {"beta1": 0.8, "beta2": 0.95},
    "adamw": {"beta1": 0.8, "beta2": 0.95}, "rmsprop": {"beta2": 0.95},
}  # fmt: skip


def net(*activations: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), *(activations or (nn.Tanh(),)), nn.Linear(5, 3))


def trained_by_torch(optimizer: str, steps: int, module: nn.Module, schedule: Any = None) -> Array:
    module = copy.deepcopy(module).double()
    theirs = peer(optimizer, list(module.parameters()), lr=0.05, weight_decay=0.02, **SETTINGS[optimizer])
    scheduler = schedule and schedule(theirs)
    for _ in range(steps):
        theirs.zero_grad()
        cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).backward()
        theirs.step()
        if scheduler:
            scheduler.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy()


@pytest.mark.parametrize(("optimizer", "backend"), [*((name, "tensor") for name in OPTIMISERS), ("adam", "compiled")])
def test_fifty_steps_are_those_of_torch(optimizer: str, backend: str) -> None:
    module = net()
    settings = {"eta": 0.05, "weight_decay": 0.02, **SETTINGS[optimizer]}
    map = nnflow.training_map(module, cross_entropy, X, LABELS, optimizer, backend=backend, **settings)
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)])
    after = start.advance(50).states[0, : map.weights]
    assert np.abs(after - start.states[0, : map.weights]).max() > 0.05
    np.testing.assert_allclose(after, trained_by_torch(optimizer, 50, module), rtol=0, atol=1e-13)


def test_memory_is_named_in_the_order_of_the_state() -> None:
    map = nnflow.gradient_map(bumpy, 3, "adam", eta=0.1)
    assert map.coordinates == (
        "w0", "w1", "w2", "moment1.w0", "moment1.w1", "moment1.w2", "moment2.w0", "moment2.w1", "moment2.w2"
    )  # fmt: skip
    w = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(bumpy(w), w)
    after = orbit(map, [0.3, -0.8, 1.1, *[0.0] * 6], 2)[1]
    np.testing.assert_allclose(after[3:6], 0.1 * g.numpy(), rtol=1e-14)
    np.testing.assert_allclose(after[6:], 0.001 * g.numpy() ** 2, rtol=1e-12)


# ------------------------------------------------------------------------------------------------- sums of exponents


def sums(map: nnflow.TensorMap, steps: int, state: Any = None) -> float:
    return float(exponents(map, map.dim, 1, steps, state).sum())


def hessians(map: nnflow.TensorMap, steps: int) -> list[Array]:
    """Dense Hessians of bumpy along the orbit that `sums` follows (its transient of one step left out)."""
    states, _ = nnflow.Ensemble.grid(map).orbit(steps + 1)
    return [torch.func.hessian(bumpy)(torch.tensor(x[:3])).numpy() for x in states[0, 1:]]


@pytest.mark.parametrize(("beta1", "beta2", "decay"), [(0.9, 0.999, 0.0), (0.5, 0.7, 0.3), (-0.3, 0.9, 0.0)])
def test_adam_contracts_volume_by_its_betas(beta1: float, beta2: float, decay: float) -> None:
    settings = {"eta": 0.05, "beta1": beta1, "beta2": beta2, "weight_decay": decay}
    expected = 3 * math.log(abs(beta1 * beta2))
    assert sums(nnflow.gradient_map(bumpy, 3, "adam", **settings), 12) == pytest.approx(expected, abs=1e-12)
    expected += 3 * math.log(1 - 0.05 * decay)
    assert sums(nnflow.gradient_map(bumpy, 3, "adamw", **settings), 12) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_nesterov_contracts_volume_by_beta_and_the_curvature(decay: float) -> None:
    map = nnflow.gradient_map(bumpy, 3, "nesterov", eta=0.1, beta=0.6, weight_decay=decay)
    bent = [np.linalg.slogdet(np.eye(3) - 0.1 * (h + decay * np.eye(3)))[1] for h in hessians(map, 15)]
    assert sums(map, 15) == pytest.approx(3 * math.log(0.6) + np.mean(bent), abs=1e-12)


def test_gradient_descent_contracts_volume_by_the_curvature_alone() -> None:
    map = nnflow.gradient_map(bumpy, 3, eta=0.1)
    bent = [np.linalg.slogdet(np.eye(3) - 0.1 * h)[1] for h in hessians(map, 15)]
    assert sums(map, 15) == pytest.approx(np.mean(bent), abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "values", "per_weight"),
    [
        ("heavy_ball", {"eta": 0.5, "beta": 0.7}, math.log(0.7)),
        ("adam", {"eta": 0.1}, math.log(0.9 * 0.999)),
        ("adamw", {"eta": 0.1, "weight_decay": 0.05}, math.log(0.9 * 0.999) + math.log(1 - 0.005)),
    ],
)
def test_the_iris_network_contracts_volume_exactly(optimizer: str, values: Any, per_weight: float) -> None:
    """All 166 or 249 exponents, and their sum at each of 25 steps.

    At Adam's very first step, from a memory of 0, the tangent map has entries up to 1/g², and rounding shows at 1e-6.
    """
    from nnflow.data import iris_split

    data = iris_split(0)
    module = nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3))
    map = nnflow.training_map(
        module, cross_entropy, data.inputs, data.targets, optimizer, scale=1.0, backend="tensor", **values
    )
    records, _ = nnflow.Ensemble.grid(map).with_frame(map.dim).tangent_orbit(25)
    found = records.log_stretches[0].sum(axis=1)
    np.testing.assert_allclose(found[1:], 83 * per_weight, rtol=0, atol=1e-9)
    assert found[0] == pytest.approx(83 * per_weight, abs=1e-9 if optimizer == "heavy_ball" else 1e-5)


def test_adam_without_learning_keeps_its_weights_and_forgets() -> None:
    map = nnflow.gradient_map(quadratic([0.5, 1.2, 3.1]), 3, "adam", eta=0.0, beta1=0.5, beta2=0.7)
    found = exponents(map, 9, 80, 10, [0.3, -0.8, 1.1, *[0.1] * 6])
    np.testing.assert_allclose(found, [0.0] * 3 + [math.log(0.7)] * 3 + [math.log(0.5)] * 3, atol=1e-9)


def test_nesterov_on_a_quadratic_has_the_exponents_of_its_roots() -> None:
    """z² − (1 + β)(1 − ηh) z + β(1 − ηh) = 0, weight decay added to each h."""
    h, eta, beta, decay = [0.05, 0.5, 0.9], 0.5, 0.1, 0.1  # real roots: complex ones turn
    map = nnflow.gradient_map(quadratic(h), 3, "nesterov", eta=eta, beta=beta, weight_decay=decay)
    found = exponents(map, 6, 350, 20)
    left = [1 - eta * (c + decay) for c in h]
    roots = np.concatenate([np.roots([1, -(1 + beta) * c, beta * c]) for c in left])
    np.testing.assert_allclose(found, np.sort(np.log(np.abs(roots)))[::-1], atol=1e-11)


def test_weight_decay_on_a_quadratic_adds_to_its_curvatures() -> None:
    map = nnflow.gradient_map(quadratic([0.5, 1.2, 3.1]), 3, eta=0.5, weight_decay=0.2)
    expected = np.log(np.abs(1 - 0.5 * (np.array([0.5, 1.2, 3.1]) + 0.2)))
    np.testing.assert_allclose(exponents(map, 3, 150, 50), np.sort(expected)[::-1], atol=1e-12)


# --------------------------------------------------------------------------------------- where gradients are exactly 0


@pytest.mark.parametrize("backend", ["tensor", "compiled"])
def test_adams_tangent_is_finite_where_a_gradient_is_zero(backend: str) -> None:
    """A dead ReLU and an input that is always 0: no gradient, ever; the volume still contracts by ln(β₁β₂).

    The volume of a weight's block of J is a difference of products as large as J's largest entry (10⁷ at the first
    step, whose memory is empty), each rounded: ε max|J| a weight, on any processor.
    """
    module, inputs = net(nn.ReLU()), X * [1, 1, 1, 0]
    with torch.no_grad():
        module[0].bias[0] = -100.0
    map = nnflow.training_map(module, cross_entropy, inputs, LABELS, "adam", backend=backend, eta=0.01)
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)]).with_frame(map.dim)
    records, after = start.tangent_orbit(6)
    dead = after.states[0, map.column("moment2.0.weight[0,1]")], after.states[0, map.column("moment2.0.weight[2,3]")]
    assert dead == (0.0, 0.0)
    assert np.isfinite(records.log_stretches).all()
    expected = map.weights * math.log(0.9 * 0.999)
    for t in range(6):
        at = start.advance(t)
        largest = np.abs(map.to_numpy(map.tangent(at.state, at.parameters, t, map.native(np.eye(map.dim)[None])))).max()
        bound = map.weights * np.finfo(float).eps * largest
        assert bound < 1e-6
        assert abs(records.log_stretches[0, t].sum() - expected) < bound


# ---------------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_minimum_loses_its_stability_at_the_threshold(optimizer: str, decay: float) -> None:
    """Multipliers of the tangent map at the minimum of h w²/2, for h just below and just above the threshold."""
    settings, t = {"eta": 0.05, "weight_decay": decay, **SETTINGS[optimizer]}, 10_000  # Adam's clock has run down
    for side in (0.999, 1.001):
        loss, flat = quadratic([1.0]), [0.0, *[0.0] * (len(OPTIMISERS[optimizer].memory))]
        map = nnflow.gradient_map(loss, 1, optimizer, **settings)
        if map.preconditioned:
            flat[-1] = 0.04  # the mean square: each weight's learning rate is divided by its root, 0.2
        x, p = np.array([flat]), np.array([list(map.parameters.values())])
        curvature = map.to_numpy(map.effective_curvature(x, p, t, np.ones((1, 1, 1))))[0, 0, 0]
        h = side * map.threshold(p, t)[0] / (curvature if not map.preconditioned else 1.0)
        if map.preconditioned:  # effective curvature is (h + decay) / D: find the h that makes it so
            divisor = map.preconditioner(x, p, t)[0, 0]
            h = side * map.threshold(p, t)[0] * divisor - (decay if optimizer != "adamw" else 0.0)
        bent = nnflow.gradient_map(lambda w, h=h: h * (w * w).sum() / 2, 1, optimizer, **settings)
        ratio = bent.to_numpy(bent.effective_curvature(x, p, t, np.ones((1, 1, 1))))[0, 0, 0] / bent.threshold(p, t)[0]
        assert ratio == pytest.approx(side, rel=1e-9)
        jacobian = bent.to_numpy(bent.tangent(x, p, t, np.eye(map.dim)[None]))[0].T
        assert (np.abs(np.linalg.eigvals(jacobian)).max() > 1) == (side > 1)


def test_thresholds_are_the_known_ones() -> None:
    eta = np.array([0.1, 0.0])

    def threshold(optimizer: str, **values: float) -> Array:
        map = nnflow.gradient_map(bumpy, 3, optimizer, **values)
        return map.threshold(nnflow.Ensemble.grid(map, eta=eta).parameters, 0)

    assert threshold("gd").tolist() == [20.0, math.inf]
    assert threshold("heavy_ball", beta=0.5)[0] == pytest.approx(30.0)
    assert threshold("nesterov", beta=0.5)[0] == pytest.approx(3 / 0.2)
    assert threshold("adam")[0] == pytest.approx(380.0)


def test_the_preconditioner_is_what_a_step_divides_by() -> None:
    for optimizer in ("adam", "rmsprop"):
        map = nnflow.gradient_map(bumpy, 3, optimizer, eta=0.1, beta2=0.7)
        ensemble = nnflow.Ensemble.grid(map, inits=4).advance(3)
        divisor = map.preconditioner(ensemble.state, ensemble.parameters, ensemble.t)
        after = ensemble.advance(1)
        moved = (ensemble.states - after.states)[:, :3] / 0.1
        g = torch.func.vmap(torch.func.grad(bumpy))(torch.tensor(ensemble.states[:, :3])).numpy()
        np.testing.assert_allclose(moved * divisor, after.states[:, 3:6] if optimizer == "adam" else g, rtol=1e-10)
        v = np.random.default_rng(0).normal(size=(4, 2, 3))
        plain = map.to_numpy(map.curvature(ensemble.state, ensemble.parameters, 3, v / np.sqrt(divisor)[:, None]))
        found = map.effective_curvature(ensemble.state, ensemble.parameters, 3, v)
        np.testing.assert_allclose(found, plain / np.sqrt(divisor)[:, None], rtol=1e-12)


# ----------------------------------------------------------------------------------------------------------- schedules


SCHEDULERS: dict[str, tuple[schedules.Schedule, Any]] = {
    "step": (schedules.step(7, 0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5)),
    "cosine": (schedules.cosine(20, 0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.005)),
    "cyclic": (
        schedules.cyclic(4, 6, 0.1),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.005, 0.05, 4, 6, cycle_momentum=False),
    ),
    "warm up": (schedules.warm_up(10, 0.25), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, 10)),
    "constant": (schedules.constant(), None),
    "any function": (lambda t: 1.0 / (1 + t), lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1.0 / (1 + t))),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedules_are_those_of_torch(name: str) -> None:
    ours, theirs = SCHEDULERS[name]
    module = net()
    map = nnflow.training_map(
        module, cross_entropy, X, LABELS, schedule=ours, backend="tensor", eta=0.05, weight_decay=0.02
    )
    assert not map.autonomous
    start = nnflow.Ensemble.grid(map, states=[map.state_of(module)])
    expected = trained_by_torch("gd", 20, module, theirs)
    np.testing.assert_allclose(start.advance(20).states[0], expected, rtol=0, atol=1e-13)
    assert map.threshold(start.parameters, 9)[0] == pytest.approx(2 / (0.05 * ours(9)) - 0.02)


def test_a_compiled_map_compiles_its_schedule() -> None:
    maps = [
        nnflow.training_map(
            nn.Linear(4, 3) if backend == "tensor" else nn.Sequential(nn.Linear(4, 3)),
            cross_entropy, X, LABELS, "heavy_ball", schedule=schedules.cosine(12), backend=backend, eta=0.3,
        )
        for backend in ("compiled", "tensor")
    ]  # fmt: skip
    states = maps[0].initial_states(3, 0)
    ends = [nnflow.Ensemble.grid(map, states=states).advance(15).states for map in maps]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-13)
    assert maps[0].structure["schedule"] == "cosine"


@pytest.mark.parametrize(
    ("make", "settings"),
    [(schedules.step, {"every": 0}), (schedules.cosine, {"steps": 0}), (schedules.cyclic, {"up": 2, "down": 0}),
     (schedules.warm_up, {"steps": -1})],
)  # fmt: skip
def test_a_schedule_without_steps_is_refused(make: Any, settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give 1 or more steps"):
        make(**settings)


# -------------------------------------------------------------------------------------------------------- learning rate


def test_a_negative_learning_rate_is_refused_wherever_it_comes_from() -> None:
    map = nnflow.maps["cubic_descent"]()
    with pytest.raises(ValueError, match=r"eta = -0.1: cubic_descent takes 0 or more"):
        nnflow.Ensemble.grid(map, eta=[0.5, -0.1])
    with pytest.raises(ValueError, match=r"eta = -2: cubic_descent takes 0 or more"):
        map.with_parameters(eta=-2.0)
    with pytest.raises(ValueError, match=r"eta = -1.0: a learning rate is 0 or more"):
        nnflow.training_map(net(), mse_loss, X, X[:, :3], eta=-1.0)
    assert nnflow.Ensemble.grid(map, eta=[0.0], beta=[-2.0, 3.0]).shape == (1, 2)


@pytest.mark.parametrize(
    ("optimizer", "name", "said"),
    [
        ("gd", "lr", "Did you mean 'eta'?"),
        ("adam", "learning_rate", "Did you mean 'eta'?"),
        ("adam", "eps", "Did you mean 'epsilon'?"),
        ("rmsprop", "alpha", "Did you mean 'beta2'?"),
        ("nesterov", "momentum", "Did you mean 'beta'?"),
        ("gd", "momentum", "Did you mean 'beta', which heavy_ball, nesterov have?"),
    ],
)
def test_what_torch_calls_otherwise_is_understood(optimizer: str, name: str, said: str) -> None:
    def loss(w: Tensor) -> Tensor:
        return (w * w).sum()

    map = nnflow.gradient_map(loss, 2, optimizer=optimizer)
    for wrong in (
        lambda: nnflow.gradient_map(loss, 2, optimizer=optimizer, **{name: 0.1}),
        lambda: nnflow.training_map(nn.Linear(2, 1), mse_loss, [[0.0, 1.0]], [[1.0]], optimizer, **{name: 0.1}),
        lambda: nnflow.Ensemble.grid(map, **{name: [0.1, 0.2]}),
        lambda: map.with_parameters(**{name: 0.1}),
    ):
        with pytest.raises(nnflow.Refusal) as refused:
            wrong()
        assert f"'{name}'" in str(refused.value)
        assert str(refused.value).endswith(said)
