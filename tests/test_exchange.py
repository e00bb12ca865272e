"""Exchange: plain functions are the map they came from, and pynamicalsys finds the exponents that nnflow finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numba import njit

import nnflow
from nnflow.exchange import from_mapping, numba_mapping, numpy_mapping, torch_mapping
from nnflow.map import Map
from nnflow.typing import Array


def plain_henon(u: Array, parameters: Array) -> Array:
    return np.array([1.0 - parameters[0] * u[0] * u[0] + u[1], parameters[1] * u[0]])


def plain_henon_jacobian(u: Array, parameters: Array) -> Array:
    return np.array([[-2.0 * parameters[0] * u[0], 1.0], [parameters[1], 0.0]])


HENON: dict[str, Any] = {"dim": 2, "parameters": {"a": 1.4, "b": 0.3}}


def drawn(map: Map) -> tuple[Array, Array]:
    """A state ``(dim,)`` and the parameters ``(parameter,)``."""
    return map.initial_states(1, 3)[0], np.array(list(map.parameters.values()))


def ticking() -> nnflow.CompiledMap:
    """x' = (a + t) x + t², which is no function of x alone."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = (p[0] + t) * x[0] + t * t

    def linear(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = (p[0] + t) * v[0]

    return nnflow.CompiledMap(rule, linear, name="ticking", parameters={"a": 0.5}, repeats=False)


# -- for numba -----------------------------------------------------------------------------------------------------


def jacobian_of(name: str, x: Array, p: Array) -> Array:
    """By hand: J[i, j] = ∂x'_i/∂x_j."""
    if name == "henon":
        return plain_henon_jacobian(x, p)
    ring = np.eye(len(x))
    coupled = (1.0 - p[1]) * ring + 0.5 * p[1] * (np.roll(ring, 1, 0) + np.roll(ring, -1, 0))
    return np.asarray(coupled * (p[0] * (1.0 - 2.0 * x)))


@pytest.mark.parametrize("name", ["henon", "logistic_ring"])
def test_mapping_and_jacobian_are_those_of_the_map(name: str) -> None:
    map = nnflow.maps[name]()
    mapping, jacobian = numba_mapping(map)
    (x, p), kept = drawn(map), drawn(map)[0]
    np.testing.assert_allclose(mapping(x, p), map.step(x[None], p[None], 0)[0], rtol=1e-14)
    np.testing.assert_allclose(jacobian(x, p), jacobian_of(name, x, p), rtol=1e-13, atol=1e-14)
    assert np.array_equal(x, kept)


def test_the_functions_go_into_compiled_code_as_arguments() -> None:
    @njit
    def compose(mapping: Any, jacobian: Any, u: Array, parameters: Array) -> tuple[Array, Array]:
        after = mapping(u, parameters)
        return mapping(after, parameters), jacobian(after, parameters, mapping) @ jacobian(u, parameters)

    henon = nnflow.maps["henon"]()
    x, p = drawn(henon)
    state, product = compose(*numba_mapping(henon), x, p)
    middle = plain_henon(x, p)
    np.testing.assert_allclose(state, plain_henon(middle, p), rtol=1e-14)
    np.testing.assert_allclose(product, plain_henon_jacobian(middle, p) @ plain_henon_jacobian(x, p), rtol=1e-13)


def test_a_frame_tangent_gives_the_jacobian_not_its_transpose() -> None:
    map = nnflow.maps["cubic_descent"](eta=0.7, beta=0.4)
    assert map.functions.frame_tangent is not None
    w, velocity = 0.3, 0.2
    bend = 1.0 - 2.0 * w  # v' = βv + g, w' = w − ηv'
    by_hand = [[1.0 - 0.7 * bend, -0.7 * 0.4], [bend, 0.4]]
    jacobian = numba_mapping(map).jacobian
    np.testing.assert_allclose(jacobian(np.array([w, velocity]), np.array([0.7, 0.4])), by_hand, rtol=1e-14)


def test_without_a_tangent_the_jacobian_is_by_central_differences_over_the_cut_of_an_angle() -> None:
    standard = nnflow.maps["standard"]()
    rough = nnflow.CompiledMap(
        standard.functions.rule,
        dim=2,
        parameters=standard.parameters,
        coordinates=standard.coordinates,
        periods=standard.periods,
    )
    x, p = np.array([0.0, 0.0]), np.array([1.0])  # the fixed point on the cut: a step back leads to nearly 2π
    np.testing.assert_allclose(numba_mapping(rough).jacobian(x, p), [[2.0, 1.0], [1.0, 1.0]], atol=1e-9)


def test_a_clock_makes_a_map_that_depends_on_t_autonomous() -> None:
    mapping, jacobian = numba_mapping(ticking(), clock=True)
    u, p = np.array([0.3, 5.0]), np.array([0.5])
    for _ in range(2):
        u = mapping(u, p)
    assert u.tolist() == [6.5 * (5.5 * 0.3 + 25) + 36, 7.0]
    assert mapping(np.array([0.3, 5.0 - 1e-6]), p)[0] == 5.5 * 0.3 + 25  # as finite differences shift it
    np.testing.assert_array_equal(jacobian(u, p), [[7.5, 0.0], [0.0, 1.0]])


@pytest.mark.parametrize("map", [ticking(), nnflow.maps["cubic_descent"](optimizer="adam")])
def test_a_map_that_depends_on_t_is_not_handed_out_without_a_clock(map: Map) -> None:
    with pytest.raises(ValueError, match=f"{map.name} depends on the step index t: call .*clock=True"):
        numba_mapping(map)


def test_only_a_compiled_map_goes_to_numba() -> None:
    with pytest.raises(TypeError, match="not a CompiledMap.*nnflow.numpy_mapping"):
        numba_mapping(nnflow.gradient_map(lambda w: (w * w).sum(), 2, backend="tensor"))


@pytest.mark.parametrize(("u", "p"), [(np.ones(3), np.ones(2)), (np.ones(2), np.ones(1))])
def test_arrays_of_another_size_are_refused(u: Array, p: Array) -> None:
    for function in numba_mapping(nnflow.maps["henon"]()):
        with pytest.raises(ValueError, match=r"henon takes u of shape \(2,\) and parameters of shape \(2,\)"):
            function(u, p)


# -- for numpy and torch -------------------------------------------------------------------------------------------


def test_a_numpy_mapping_takes_states_and_parameters_in_every_form() -> None:
    f = numpy_mapping(nnflow.maps["henon"]())
    u = np.array([[0.1, 0.2], [0.5, -0.3]])
    one = plain_henon(u[0], np.array([1.4, 0.2]))
    np.testing.assert_allclose(f(u[0], [1.4, 0.2]), one, rtol=1e-14)
    np.testing.assert_array_equal(f(u[0], {"b": 0.2}), f(u[0], b=0.2))
    np.testing.assert_array_equal(f(u, b=0.2), [f(u[0], b=0.2), f(u[1], b=0.2)])
    np.testing.assert_allclose(f(u[0], b=0.2), one, rtol=1e-14)


def test_a_numpy_mapping_of_any_map_starts_at_the_given_t() -> None:
    class Counting(Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            return x + t

    assert numpy_mapping(Counting())([1.0], t=3).tolist() == [4.0]


def bowl() -> Map:
    loss = lambda w: (w**3).sum() + w[0] * w[1]  # noqa: E731
    return nnflow.gradient_map(loss, 2, optimizer="heavy_ball", backend="tensor", eta=0.1)


def test_a_numpy_mapping_of_a_tensor_map() -> None:
    w = np.array([0.5, 2.0, 0.0, 0.0])
    g = 3 * w[:2] ** 2 + w[1::-1]
    np.testing.assert_allclose(numpy_mapping(bowl())(w), [*(w[:2] - 0.1 * g), *g], rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        (([0.1],), {}, r"u of shape \(1,\): henon takes one state \(2,\) or several \(n, 2\)"),
        (([0.1, 0.2],), {"c": 1.0}, "unknown parameter of henon 'c'.*Known: a, b"),
        (([0.1, 0.2], [1.0]), {}, r"parameters of shape \(1,\): give an array \(2,\) of a, b"),
        (([0.1, 0.2], [1.0, 0.3]), {"b": 0.2}, "and b by name: give an array"),
    ],
)
def test_wrong_arguments_of_a_numpy_mapping(arguments: Any, named: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numpy_mapping(nnflow.maps["henon"]())(*arguments, **named)


def test_torch_differentiates_a_torch_mapping() -> None:
    map = bowl()
    f, x = torch_mapping(map), np.array([0.5, 2.0, 0.3, -0.1])
    u, p = torch.tensor(x, requires_grad=True), torch.tensor([0.1, 0.9, 0.0], dtype=torch.float64, requires_grad=True)
    J = torch.stack([torch.autograd.grad(f(u, p)[i], u)[0] for i in range(4)])
    tangent = map.tangent(map.native(x[None]), map.native(p.detach()[None]), 0, map.native(np.eye(4)[None]))
    np.testing.assert_allclose(J, tangent[0].T, rtol=1e-13, atol=1e-14)
    velocity = 0.9 * x[2:] + 3 * x[:2] ** 2 + x[1::-1]
    (slope,) = torch.autograd.grad(f(u, p)[0], p)  # w' = w − η (βv + g + …), by η, β and the weight decay
    np.testing.assert_allclose(slope, [-velocity[0], -0.1 * x[2], -0.1 * x[0]], rtol=1e-13)


def test_a_torch_mapping_of_a_network_in_training_is_differentiable_through_many_steps() -> None:
    torch.manual_seed(0)
    data, labels = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    loss = torch.nn.functional.cross_entropy
    map = nnflow.training_map(module, loss, data, labels, backend="tensor", eta=0.5)
    f, x = torch_mapping(map), torch.tensor(map.state_of(module))

    def trained(eta: torch.Tensor) -> torch.Tensor:
        u = x
        for _ in range(3):
            u = f(u, eta=eta)
        return u

    eta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(trained(eta).detach(), numpy_steps(map, x.numpy(), 3), rtol=1e-13)
    (slope,) = torch.autograd.grad(trained(eta).sum(), eta)
    ahead, behind = (trained(torch.tensor(0.5 + h, dtype=torch.float64)).sum() for h in (1e-5, -1e-5))
    assert slope.item() == pytest.approx(((ahead - behind) / 2e-5).item(), rel=1e-7)


def numpy_steps(map: Map, x: Array, steps: int) -> Array:
    f = numpy_mapping(map)
    for _ in range(steps):
        x = f(x)
    return x


def test_a_torch_mapping_takes_several_states_and_parameters_by_name() -> None:
    f = torch_mapping(bowl())
    u = torch.tensor([[0.5, 2.0, 0.3, -0.1], [1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(f(u, eta=0.2), torch.stack([f(u[0], {"eta": 0.2}), f(u[1], {"eta": 0.2})]))
    assert not torch.equal(f(u, eta=0.2), f(u))
    with pytest.raises(ValueError, match="unknown parameter of .* 'etta'. Did you mean 'eta'"):
        f(u, etta=0.2)
    with pytest.raises(ValueError, match=r"u of shape \(3,\)"):
        f(u[0, :3])


def test_torch_cannot_differentiate_a_compiled_map() -> None:
    with pytest.raises(TypeError, match='torch cannot differentiate.*nnflow.numpy_mapping.*backend="tensor"'):
        torch_mapping(nnflow.maps["henon"]())


# -- from mappings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jacobian", [None, plain_henon_jacobian])
def test_a_plain_henon_is_the_henon_map(jacobian: Any) -> None:
    ours, given = nnflow.maps["henon"](), from_mapping(plain_henon, jacobian, **HENON, coordinates=("x", "y"))
    assert given.exact_tangent == (jacobian is not None)
    assert (given.name, given.coordinates) == ("plain_henon", ("x", "y"))
    x, p = ours.initial_states(5, 0), np.tile([1.4, 0.3], (5, 1))
    v = np.random.default_rng(0).standard_normal((5, 3, 2))
    np.testing.assert_allclose(given.step(x, p, 0), ours.step(x, p, 0), rtol=1e-14)
    np.testing.assert_allclose(
        given.tangent(x, p, 0, v), ours.tangent(x, p, 0, v), rtol=1e-13 if jacobian else 1e-8, atol=1e-14
    )


def test_there_and_back_is_the_same_map_bit_for_bit() -> None:
    map = nnflow.maps["henon"]()
    back = from_mapping(*numba_mapping(map), dim=2, parameters=map.parameters, box=map.box)
    x, p = map.initial_states(3, 0), np.tile([1.4, 0.3], (3, 1))
    ends = [m.advance(x, p, 0, 500).states for m in (map, back)]  # chaos would show a single bit
    np.testing.assert_array_equal(*ends)


def test_a_division_by_zero_in_a_compiled_mapping_is_a_value() -> None:
    @njit
    def inverse(u: Array, parameters: Array) -> Array:
        return np.array([1.0 / u[0] - 1.0])

    with pytest.raises(ZeroDivisionError):
        inverse(np.zeros(1), np.empty(0))
    assert numba_mapping(from_mapping(inverse, dim=1)).mapping(np.zeros(1), np.empty(0)).tolist() == [np.inf]


@pytest.mark.parametrize(
    ("functions", "changes", "error", "message"),
    [
        ((3.5,), {}, TypeError, "mapping = 3.5: give a function"),
        ((plain_henon, "J"), {}, TypeError, "jacobian = 'J': give a function"),
        (
            (plain_henon,),
            {"dim": 3},
            ValueError,
            r"mapping of 'plain_henon' returns shape \(2,\) .* give \(3,\)",
        ),
        ((plain_henon, plain_henon), {}, ValueError, r"jacobian of .* returns shape \(2,\) .* give \(2, 2\)"),
        ((plain_henon,), {"parameters": {"a": 1.4}}, ValueError, "mapping .* fails at u = .* IndexError"),
        ((njit(plain_henon),), {"parameters": {"a": 1.4}}, ValueError, "mapping .* fails at u = .* IndexError"),
        ((plain_henon,), {"dim": 0}, ValueError, "dim = 0"),
    ],
)
def test_what_cannot_be_a_map(functions: Any, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        from_mapping(*functions, **{**HENON, **changes})


def test_the_dimension_has_to_be_given() -> None:
    with pytest.raises(TypeError, match="dim"):
        from_mapping(plain_henon)  # type: ignore[call-arg]


# -- pynamicalsys --------------------------------------------------------------------------------------------------


def sums_of_stretches(map: Map, state: Array, times: tuple[int, int]) -> tuple[Array, Array]:
    """Sums of ln R_ii up to both times ``(time, index)``, by pynamicalsys and by nnflow, along one orbit.

    pynamicalsys evaluates J after the step, so that its first is at x_1: our transient is 1. Both start from frames of
    their own: only the sum over all i is the same from the start, a single exponent once the frames have turned alike.
    """
    pynamicalsys = pytest.importorskip("pynamicalsys")
    mapping, jacobian = numba_mapping(map)
    parameters = list(map.parameters.values())
    system = pynamicalsys.DiscreteDynamicalSystem(
        mapping=mapping, jacobian=jacobian, system_dimension=map.dim, number_of_parameters=len(parameters)
    )
    theirs = system.lyapunov(state, times[1], parameters=parameters, return_history=True, sample_times=times)
    ensemble = nnflow.Ensemble.grid(map, states=[state])
    ours = nnflow.run("lyapunov_spectrum", ensemble, k=map.dim, steps=times[1], transient=1, history=True)
    count = np.array(times)[:, None]
    return theirs * count, ours.history.sel(time=list(times)).values * count


@pytest.mark.slow
def test_pynamicalsys_finds_our_exponents_of_the_henon_map() -> None:
    theirs, ours = sums_of_stretches(nnflow.maps["henon"](), np.array([0.1, 0.1]), (100, 1100))
    np.testing.assert_allclose(theirs.sum(axis=1), [100 * np.log(0.3), 1100 * np.log(0.3)], rtol=1e-12)
    np.testing.assert_allclose(theirs[1] - theirs[0], ours[1] - ours[0], rtol=1e-12)  # frames alike up to e^(-200)


@pytest.mark.slow
def test_a_map_of_pynamicalsys_is_ours() -> None:
    models = pytest.importorskip("pynamicalsys.discrete_time.models")
    map = from_mapping(models.henon_map, models.henon_map_jacobian, **HENON)
    x, p = drawn(map)
    v = np.eye(2)[None]
    np.testing.assert_allclose(map.step(x[None], p[None], 0)[0], plain_henon(x, p), rtol=1e-14)
    np.testing.assert_allclose(map.tangent(x[None], p[None], 0, v)[0].T, plain_henon_jacobian(x, p), rtol=1e-14)


@pytest.mark.slow
def test_pynamicalsys_finds_our_exponents_of_the_iris_map() -> None:
    """At η = 5 this orbit is chaotic: λ1 ≈ 0.11, λ2 ≈ 0.06, and the gaps to λ2 and λ3 turn the frames alike."""
    iris = nnflow.maps["iris"](eta=5.0)
    theirs, ours = sums_of_stretches(iris, iris.initial_states(2, 1)[1], (1000, 2000))
    np.testing.assert_allclose(theirs.sum(axis=1), ours.sum(axis=1), rtol=1e-9)  # Σ ln|det J|
    found, expected = (theirs[1] - theirs[0]) / 1000, (ours[1] - ours[0]) / 1000
    assert expected[0] > expected[1] > 0.01
    np.testing.assert_allclose(found[:2], expected[:2], atol=1e-9)


@pytest.mark.parametrize("u", [np.array([2**40, 1]), np.array([2.0**40, 1.0], np.float32), (2**40, 1), (2.0**40, 1)])
def test_all_real_numbers_are_converted(u: Any) -> None:
    """int64 wrapped around, float32 lost digits, a tuple was no state at all."""
    map = nnflow.maps["henon"]()
    mapping, jacobian = numba_mapping(map)
    wanted, p = np.array([2.0**40, 1.0]), np.array([1.4, 0.3])
    for given in (p, tuple(p)):
        assert mapping(u, given).tolist() == mapping(wanted, p).tolist() == numpy_mapping(map)(u, p).tolist()
        assert jacobian(u, given).tolist() == jacobian(wanted, p).tolist()


def test_the_clock_may_be_a_whole_number() -> None:
    mapping = numba_mapping(ticking(), clock=True).mapping
    assert mapping(np.array([1, 2]), np.ones(1)).tolist() == mapping(np.array([1.0, 2.0]), np.ones(1)).tolist()


@pytest.mark.parametrize(
    "u", [np.array([1.0, 2.0j]), np.ma.masked_array([0.5, 0.1], [0, 1]), [True, 1.0], torch.ones(2) * 1j]
)
def test_what_is_no_real_number_is_refused(u: Any) -> None:
    for f in (numpy_mapping(nnflow.maps["henon"]()), torch_mapping(bowl())):
        with pytest.raises(nnflow.Refusal, match="u = "):
            f(u)


def test_another_size_on_the_way_is_refused() -> None:
    def shrinking(u: Array, parameters: Array) -> Array:
        return np.array([0.5 * u[0]]) if u[0] > 0.9 else 0.5 * u

    def flat(u: Array, parameters: Array) -> Array:
        return np.eye(2)[:1] if u[0] > 0.9 else 0.5 * np.eye(2)

    for map in (
        nnflow.from_mapping(shrinking, dim=2, box=([0.1, 0.1], [0.2, 0.2])),
        nnflow.from_mapping(lambda u, parameters: 0.5 * u, flat, dim=2, box=([0.1, 0.1], [0.2, 0.2])),
    ):
        ensemble = nnflow.Ensemble.grid(map, states=[[0.5, 7.0], [0.95, 7.0]]).with_frame(1)
        with pytest.raises(nnflow.Refusal, match="returns another (size|shape)"):
            ensemble.tangent_orbit(2)


def test_the_trial_can_be_left_out() -> None:
    def wrong(u: Array, parameters: Array) -> Array:
        return 3.0 * np.eye(1)

    with pytest.raises(nnflow.Refusal, match="check=False leaves this out"):
        nnflow.from_mapping(lambda u, parameters: 0.5 * u, wrong, dim=1)
    map = nnflow.from_mapping(lambda u, parameters: 0.5 * u, wrong, dim=1, check=False)
    assert nnflow.run("lyapunov_spectrum", map, steps=5)["exponent"].item() == pytest.approx(np.log(3.0))


@pytest.mark.parametrize("optimizer", ["gd", "adamw"])
def test_a_scheduled_network_with_its_clock(optimizer: str) -> None:
    """The map gets its schedule's values as an array; a mapping has to compute them."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 4)), rng.integers(0, 3, 12)
    module, loss = torch.nn.Sequential(torch.nn.Linear(4, 3)), torch.nn.functional.cross_entropy
    map = nnflow.training_map(module, loss, *data, optimizer, schedule=lambda t: 1.0 / (1 + t), eta=0.5)
    mapping, jacobian = numba_mapping(map, clock=True)
    u, p = np.append(map.start, 0.0), np.array(list(map.parameters.values()))
    for _ in range(4):
        u = mapping(u, p)
    np.testing.assert_array_equal(u[:-1], nnflow.Ensemble.grid(map).advance(4).states[0])
    known = map.tangent(u[None, :-1], p[None], 4, np.eye(map.dim)[None])[0].T
    np.testing.assert_allclose(jacobian(u, p)[:-1, :-1], known, rtol=0, atol=1e-12)
    told = nnflow.training_map(module, loss, *data, optimizer, schedule=lambda t: torch.tensor(1.0 / (1 + t)), eta=0.5)
    with pytest.raises(nnflow.Refusal, match="numba cannot compile it"):
        numba_mapping(told, clock=True)
