"""A map of one's own in plain numpy: the four verbs are its definition, and its fields are checked."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
import pytest
import torch

import nnflow
from nnflow.records import End
from nnflow.testing import check_map
from nnflow.typing import Array
from nnflow.vectors import length, orthonormalise


class Rotation(nnflow.Map):
    """θ' = θ + omega on a circle of length 1, in numpy."""

    def step(self, x: Array, p: Array, t: int) -> Array:
        return (x + p) % 1.0


class Saddle(nnflow.Map):
    """x' = diag(2, 1/2) x with an exact tangent."""

    def step(self, x: Array, p: Array, t: int) -> Array:
        return x * [2.0, 0.5]

    def tangent(self, x: Array, p: Array, t: int, v: Array) -> Array:
        return v * [2.0, 0.5]


def rotation(**settings: Any) -> Rotation:
    return Rotation(parameters={"omega": 0.1}, coordinates=("theta",), periods={"theta": 1.0}, **settings)


def test_a_map_in_numpy_conforms() -> None:
    assert len(check_map(rotation())) == 11


def test_without_a_step_the_error_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match=r"Map does not write step\(x, p, t\)"):
        nnflow.Ensemble.grid(nnflow.Map()).advance(1)


def test_records_start_with_the_initial_state_and_the_end_holds_the_last() -> None:
    records, end = rotation().orbit(np.array([[0.0]]), np.array([[0.125]]), 0, 4, 2, ("theta",))
    assert records[0, :, 0].tolist() == [0.0, 0.25]
    assert end.states[0, 0] == 0.5
    assert end.t == 4


def test_the_tangent_orbit_of_a_saddle() -> None:
    saddle = Saddle(dim=2)
    records, end = saddle.tangent_orbit(np.zeros((1, 2)), np.empty((1, 0)), 0, np.eye(2)[None], 6, 3, ("factors",))
    np.testing.assert_allclose(records.log_stretches, np.log([[[8.0, 0.125]] * 2]), atol=1e-14)
    assert records.factors is not None
    np.testing.assert_allclose(records.factors[0, 0], np.diag([8.0, 0.125]))
    assert records.frames is None
    assert end.t == 6


def test_separation_is_streamed_and_the_perturbed_states_come_back() -> None:
    saddle = Saddle(dim=2)
    y = np.array([[[1e-3, 0.0], [0.0, 1e-3]]])
    distances, end = saddle.separation_orbit(np.zeros((1, 2)), y, np.empty((1, 0)), 0, 4, 1, "l1")
    np.testing.assert_allclose(distances[0], 1e-3 * np.array([[1, 2, 4, 8], [1, 0.5, 0.25, 0.125]]))
    np.testing.assert_allclose(end.frame[0], [[16e-3, 0], [0, 1e-3 / 16]])
    assert y[0, 0, 0] == 1e-3


def test_an_escaped_member_stays_nan_and_keeps_its_step() -> None:
    class Grow(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            return x * 1e100

    end = Grow().advance(np.array([[1.0], [0.0]]), np.empty((2, 0)), 5, 10)
    assert np.isnan(end.states[0, 0])
    assert end.states[1, 0] == 0.0
    assert list(end.escaped) == [5 + 4, -1]


def test_central_differences_take_angles_the_short_way_round() -> None:
    tangent = rotation().tangent(np.array([[0.9]]), np.array([[0.1]]), 0, np.ones((1, 1, 1)))
    assert tangent[0, 0, 0] == pytest.approx(1.0, abs=1e-9)


def test_a_vector_of_zeros_has_a_tangent_of_zeros() -> None:
    assert rotation().tangent(np.array([[0.3]]), np.array([[0.1]]), 0, np.zeros((1, 1, 1)))[0, 0, 0] == 0.0


def test_orthonormalise_is_qr_with_a_positive_diagonal() -> None:
    frame = np.random.default_rng(0).standard_normal((5, 3, 4))
    rows, factor = orthonormalise(frame, np.zeros(5, dtype=bool))
    np.testing.assert_allclose(rows @ rows.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-14)
    np.testing.assert_allclose(rows.transpose(0, 2, 1) @ factor, frame.transpose(0, 2, 1), atol=1e-13)
    assert (np.einsum("mjj->mj", factor) > 0).all()


def step_of(function: Any, **settings: Any) -> nnflow.Map:
    """A map in numpy whose step is a function of (x, p, t)."""

    class Own(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Any:
            return function(x, p, t)

    return Own(**{"dim": 2, "parameters": {"a": 1.4, "b": 0.3}, "box": ([0.0, 0.0], [0.1, 0.1]), **settings})


def henon(x: Array, p: Array, t: int) -> Array:
    return np.stack([1.0 - p[:, 0] * x[:, 0] ** 2 + x[:, 1], p[:, 1] * x[:, 0]], axis=1)


def in_place(x: Array, p: Array, t: int) -> Array:
    x[:] = henon(x, p, t)
    return x


COUNT = itertools.count()
WRONG: dict[str, tuple[Any, str]] = {
    "transposed": (
        lambda x, p, t: henon(x, p, t).T,
        r"shape \(2, \d+\).*of numbers of shape \(\d+, 2\)",
    ),
    "the first alone": (lambda x, p, t: henon(x, p, t)[:1], r"shape \(1, 2\)"),
    "nothing": (lambda x, p, t: None, "returns None"),
    "a tensor": (lambda x, p, t: torch.tensor(henon(x, p, t)), "returns tensor.*give a numpy array"),
    "complex": (lambda x, p, t: henon(x, p, t) + 0j, "returns .*give a numpy array of numbers"),
    "masked": (lambda x, p, t: np.ma.masked_less(henon(x, p, t), 0.0), "returns .*give a numpy array of numbers"),
    "the first parameter for all": (
        lambda x, p, t: henon(x, p[:1].repeat(len(x), axis=0), t),
        "do not see one another",
    ),
    "mixed members": (lambda x, p, t: henon(x - x.mean(axis=0), p, t), "do not see one another"),
    "random": (lambda x, p, t: henon(x, p, t) + 1e-9 * next(COUNT), "another result each time"),
    "a branch of the first": (lambda x, p, t: henon(x if x[0, 0] < 0.05 else 0.5 * x, p, t), "do not see one another"),
    "a branch of any": (lambda x, p, t: henon(x if (x < 0.05).all() else 0.5 * x, p, t), "do not see one another"),
    "coarser than a state": (lambda x, p, t: henon(x, p, t).astype(np.float32), "float32, whose resolution is 1.2e-07"),
    "rows of unequal length": (lambda x, p, t: [[1.0], [1.0, 2.0]], "give a numpy array of numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_step_that_is_none_is_refused(name: str) -> None:
    """Rows for columns (with as many members as components nothing looks wrong), fewer members (broadcast), what numpy
    would cast with a word at most, members that see one another.
    """
    step, message = WRONG[name]
    ensemble = nnflow.Ensemble.grid(step_of(step), inits=2)
    for use in (
        lambda: ensemble.advance(3),
        lambda: nnflow.run("lyapunov_spectrum", ensemble, steps=20, transient=0),
        lambda: nnflow.Ensemble.grid(nnflow.iterate(step_of(step), 2), inits=2).with_frame(1).tangent_orbit(3),
    ):
        with pytest.raises(nnflow.Refusal, match=f"the step of 'map' .*{message}"):
            use()


TANGENTS: dict[str, tuple[Any, str]] = {
    "a factor forgotten": (lambda x, p, t, v: (p * (1.0 - x))[:, None] * v, "differences of the step say"),
    "the first member for all": (lambda x, p, t, v: (p[0] * (1.0 - 2.0 * x[0])) * v, "do not see one another"),
    "random": (lambda x, p, t, v: v * (1.0 + 1e-9 * next(COUNT)), "another result each time"),
}


@pytest.mark.parametrize("name", TANGENTS)
def test_a_tangent_that_is_none_is_refused(name: str) -> None:
    """It gave exponents, "exact" ones: 0 for −0.916, or those of a chunk's first member for all of it."""
    function, message = TANGENTS[name]

    class Own(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            return p * x * (1.0 - x)

        def tangent(self, x: Array, p: Array, t: int, v: Array) -> Any:
            return function(x, p, t, v)

    scan = nnflow.Ensemble.grid(Own(parameters={"r": 3.2}), r=[2.5, 3.2, 3.4, 4.0])
    for chunk in (1, 4):
        with pytest.raises(nnflow.Refusal, match=f"the tangent of 'map' .*{message}"):
            nnflow.run("lyapunov_spectrum", scan, steps=20, transient=0, chunk=chunk)


def test_a_step_that_is_one_has_its_exponents() -> None:
    found = nnflow.run("lyapunov_spectrum", step_of(henon), steps=2000, transient=100)
    known = nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](box=None), steps=2000, transient=100)
    assert found["exponent"].sum() == pytest.approx(np.log(0.3), abs=1e-7)
    assert abs(found["exponent"] - known["exponent"]).max() < 0.1


def test_a_step_may_work_in_place() -> None:
    """The difference quotients took every other Jacobian at another point: exponents of chaos on a 2-cycle.

    The same kind: parameters in place, tangents and observables, through torch, in Cython and njit of fixed types.
    """

    @numba.njit("float64[:,:](float64[:,:], float64[:,:])")
    def typed(x: Array, p: Array) -> Array:
        out = np.empty_like(x)
        out[:, 0], out[:, 1] = 1.0 - p[:, 0] * x[:, 0] ** 2 + x[:, 1], p[:, 1] * x[:, 0]
        return out

    def parameters(x: Array, p: Array, t: int) -> Array:
        p *= 2.0
        return henon(x, p / 2.0, t)

    def by_torch(x: Array, p: Array, t: int) -> Array:
        held = torch.from_numpy(x)
        held.copy_(torch.tensor(henon(x, p, t)))
        return np.asarray(held)

    known = nnflow.run("lyapunov_spectrum", step_of(henon), steps=50, transient=0)["exponent"]
    for function in (in_place, parameters, by_torch, lambda x, p, t: typed(x, p), lambda *of: henon(*of).tolist()):
        for map in (step_of(function), nnflow.iterate(step_of(function), 1)):
            found = nnflow.run("lyapunov_spectrum", map, steps=50, transient=0)["exponent"]
            np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)


def test_observables_and_tangents_may_too() -> None:
    def largest(x: Array, p: Array, t: int) -> Array:
        x.sort(axis=1)
        return x[:, -1]

    class Turning(Saddle):
        def tangent(self, x: Array, p: Array, t: int, v: Array) -> Array:
            v *= [2.0, 0.5]
            return v

    def listed(x: Array, p: Array, t: int) -> list[float]:
        return [float(row.sum()) for row in x]

    watched = {"largest": largest, "sum": listed, "all": lambda x, p, t: x, "one": lambda x, p, t: 1.0}
    seen = nnflow.Ensemble.grid(step_of(henon, observables=watched))
    both, alone = seen.orbit(3, observe=("largest", "sum", "x0", "x1"))[0], seen.orbit(3)[0]
    np.testing.assert_array_equal(both[:, :, 2:], alone)
    np.testing.assert_array_equal(both[:, :, 0], alone.max(axis=2))
    np.testing.assert_array_equal(both[:, :, 1], alone.sum(axis=2))
    for name in ("all", "one"):
        with pytest.raises(nnflow.Refusal, match=rf"the observable {name} of 'map' .*of numbers of shape \(\d+,\)"):
            seen.orbit(3, observe=(name, "x0"))
    frame = nnflow.Ensemble.grid(Turning(dim=2)).with_frame(1)
    np.testing.assert_array_equal(
        frame.tangent_orbit(3)[0].log_stretches, replace(frame, map=Saddle(dim=2)).tangent_orbit(3)[0].log_stretches
    )


OBSERVABLES: dict[str, Any] = {
    "as a rule of one member has it": lambda x, p, t: x[0] ** 2 + x[1] ** 2,
    "by the largest of all members": lambda x, p, t: x[:, 0] / np.abs(x[:, 0]).max(),
    "random": lambda x, p, t: x[:, 0] + 1e-9 * next(COUNT),
    "in another order": lambda x, p, t: np.sort(x[:, 0]),
}


@pytest.mark.parametrize("name", ["step", "tangent", "initial", "observable"])
def test_an_observable_of_any_name_is_tried(name: str) -> None:
    """One that was called like a method was taken for that, and not tried."""
    map = Saddle(dim=2, observables={name: OBSERVABLES["by the largest of all members"]})
    nnflow.Ensemble.grid(map).advance(1)
    with pytest.raises(nnflow.Refusal, match=f"the observable {name} of 'map' gives .* beside others"):
        nnflow.Ensemble.grid(map, inits=2).orbit(3, observe=name)


@pytest.mark.parametrize("name", OBSERVABLES)
@pytest.mark.parametrize("inits", [1, 2, 3])
def test_an_observable_that_is_none_is_refused(name: str, inits: int) -> None:
    """With as many members as components the first two gave plausible numbers, others for each chunk."""
    seen = nnflow.Ensemble.grid(step_of(henon, observables={"seen": OBSERVABLES[name]}), inits=inits)
    with pytest.raises(nnflow.Refusal, match="the observable seen of 'map'"):
        nnflow.run("series", seen, observe="seen", steps=5)


class InPlace(nnflow.Map):
    def step(self, x: Array, p: Array, t: int) -> Array:
        x *= p * (1.0 - x)
        return x

    def tangent(self, x: Array, p: Array, t: int, v: Array) -> Array:
        x *= -2.0
        v *= (p * (1.0 + x))[:, None]
        return v


def test_a_map_that_works_in_place_conforms() -> None:
    assert check_map(InPlace(parameters={"r": 3.9}, box=([0.2], [0.8])))


def test_a_step_may_return_its_own_buffer_each_time() -> None:
    buffer = np.empty((1, 2))

    def step(x: Array, p: Array, t: int) -> Array:
        if len(x) > 1:
            return henon(x, p, t)
        buffer[:] = henon(x, p, t)
        return buffer

    known = nnflow.run("lyapunov_spectrum", step_of(henon), steps=50, transient=0)["exponent"]
    found = nnflow.run("lyapunov_spectrum", step_of(step), steps=50, transient=0)["exponent"]
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)


def test_a_subclass_may_advance_by_itself() -> None:
    """Its step was no longer given copies: exponents of chaos on a 2-cycle."""

    class Own(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            return in_place(x, p, t)

        def advance(self, x: Array, p: Array, t: int, steps: int) -> End:
            return super().advance(x, p, t, steps)

    made = Own(dim=2, parameters={"a": 1.4, "b": 0.3}, box=([0.0, 0.0], [0.1, 0.1]))
    known = nnflow.run("lyapunov_spectrum", step_of(henon), steps=50, transient=0)["exponent"]
    found = nnflow.run("lyapunov_spectrum", made, steps=50, transient=0)["exponent"]
    np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["initial", "check", "start", "observables"])
def test_a_method_that_a_field_would_hide_is_refused(name: str) -> None:
    with pytest.raises(nnflow.Refusal, match=rf"defines {name}\(\), which is a field of a map"):
        type("Own", (nnflow.Map,), {name: lambda self, *given: None})


def test_parameters_are_tried_within_their_limits() -> None:
    """Where the trial went beyond them it failed, and said nothing."""

    def bounded(x: Array, p: Array, t: int) -> Array:
        if (p > 4.0).any():
            raise ValueError
        return p[:1] * x * (1.0 - x)

    made = step_of(bounded, dim=1, parameters={"r": 4.0}, limits={"r": (0.0, 4.0)}, box=([0.2], [0.8]))
    assert nnflow.Ensemble.grid(made, inits=2).advance(1).t == 1  # one parameter for all: nothing to tell apart at 4
    lower = step_of(bounded, dim=1, parameters={"r": 3.9999}, limits={"r": (0.0, 4.0)}, box=([0.2], [0.8]))
    with pytest.raises(nnflow.Refusal, match="do not see one another"):
        nnflow.Ensemble.grid(lower, inits=2).advance(1)


def test_what_cannot_be_tried_is_not_refused() -> None:
    """No drawn states; states at which the step fails; and, by check=False, members that share a step size."""

    class Given(nnflow.Map):
        def step(self, x: Array, p: Array, t: int) -> Array:
            if (x > 0.5).any():
                raise ValueError
            return 0.5 * x

        def initial_states(self, n: int, seed: int) -> Array:
            raise NotImplementedError

    assert nnflow.Ensemble.grid(Given(), states=[[0.3]]).advance(1).states.item() == 0.15
    mixed = step_of(lambda x, p, t: henon(x - x.mean(axis=0), p, t), check=False)
    assert nnflow.Ensemble.grid(mixed, inits=2).advance(3).t == 3
    assert mixed.structure == {"check": False}


@pytest.mark.parametrize("name", ["step", "tangent", "observable", "difference"])
def test_a_method_that_compiled_verbs_would_not_call_is_refused(name: str) -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.5 * x[0]

    other = type("Other", (nnflow.CompiledMap,), {name: lambda self, *given: given[0]})
    with pytest.raises(nnflow.Refusal, match=f"Other overrides {name}"):
        other(rule)


def test_whole_numbers_are_states_too() -> None:
    henon = nnflow.maps["henon"]()
    p, v = np.array([[1.4, 0.3]]), np.eye(2, dtype=int)[None]
    np.testing.assert_allclose(henon.step(np.array([[1, 0]]), p, 0), [[-0.4, 0.3]])
    np.testing.assert_allclose(henon.tangent(np.array([[1, 0]]), p, 0, v), [[[-2.8, 0.3], [1.0, 0.0]]])
    np.testing.assert_allclose(step_of(lambda *given: henon.step(*given)).tangent(np.array([[1, 0]]), p, 0, v),
                               [[[-2.8, 0.3], [1.0, 0.0]]], rtol=1e-8)  # fmt: skip


@pytest.mark.parametrize("factor", [1e-170, 1e160, 1e-300, 0.0])
@pytest.mark.parametrize("dim", [1, 2, 3, 11])
def test_a_step_may_stretch_by_any_factor(factor: float, dim: int) -> None:
    """Compiled frames squared a length that has no square; the definition does not."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(dim):
            out[i] = p[0] * x[i]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        for i in range(dim):
            out[i] = p[0] * v[i] * (1.0 + i)

    map = nnflow.CompiledMap(rule, tangent, dim=dim, parameters={"a": factor}, check=False)
    x, p, k = np.full((1, dim), 0.5), np.array([[factor]]), min(dim, 3)
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((1, dim, dim)))[0][:, :k]
    ours = map.tangent_orbit(x, p, 0, frame, 1, 1)[0].log_stretches
    np.testing.assert_allclose(ours, nnflow.Map.tangent_orbit(map, x, p, 0, frame, 1, 1)[0].log_stretches, rtol=1e-12)


def test_norms_by_hand() -> None:
    d = np.array([3.0, -4.0])
    assert [float(length(d, norm)) for norm in ("l1", "l2", "max")] == [7.0, 5.0, 4.0]
    with pytest.raises(ValueError, match="unknown norm"):
        length(d, "l0")


def test_pickling_carries_closures() -> None:
    factor = 2.0
    map = Saddle(dim=2, observables={"double": lambda x, p, t: factor * x[:, 0]})
    twin = pickle.loads(pickle.dumps(map))
    assert twin.orbit(np.ones((1, 2)), np.empty((1, 0)), 0, 2, 1, ("double",))[0].ravel().tolist() == [2.0, 4.0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Keeping(nnflow.Map):
    _k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_twice", 2.0 * self._k)

    def step(self, x: Array, p: Array, t: int) -> Array:
        return self._twice * x * (1.0 - x)  # type: ignore[attr-defined]


def test_pickling_carries_what_a_subclass_keeps_under_any_name() -> None:
    """Names with an underscore were dropped: another map in a process pool, or an AttributeError."""

    made = Keeping(_k=1.9)
    made.step(np.array([[0.3]]), np.empty((1, 0)), 0)
    twin = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(
        *(each.step(np.array([[0.3]]), np.empty((1, 0)), 0) for each in (made, twin)), strict=True
    )


def test_structure_is_nobody_elses() -> None:
    layers = [4, 10]
    made = step_of(henon, structure={"layers": layers})
    layers.append(3)
    assert made.structure["layers"] == [4, 10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim = 0"),
        ({"dim": 2, "coordinates": ("x",)}, "1 coordinates named for a map of dim 2"),
        ({"coordinates": ("a",), "parameters": {"a": 1.0}}, "a: used twice"),
        ({"periods": {"phi": 1.0}}, "unknown coordinate of map 'phi'"),
        ({"box": ([1.0], [0.0])}, "low <= high"),
        ({"box": ([0.0, 0.0], [1.0, 1.0])}, "each 1 finite numbers"),
        ({"ranges": {"r": (0.0, 1.0)}}, "unknown parameter in ranges or limits 'r'"),
    ],
)
def test_fields_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.Map(**settings)


def test_names_that_are_not_there_are_answered_with_those_that_are() -> None:
    henon = nnflow.maps["henon"]()
    with pytest.raises(ValueError, match=r"unknown parameter of henon 'aa'. Did you mean 'a'\? Known: a, b"):
        henon.with_parameters(aa=1.0)
    with pytest.raises(ValueError, match="unknown coordinate of henon 'z'"):
        henon.column("z")
    with pytest.raises(ValueError, match="unknown observable of henon 'loss'"):
        henon.channels("loss")
    with pytest.raises(TypeError, match="henon has no loss, so no curvature"):
        henon.curvature(np.zeros((1, 2)), np.zeros((1, 2)), 0, np.zeros((1, 1, 2)))


def test_a_map_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        nnflow.maps["henon"]().dim = 3


@dataclass(frozen=True, kw_only=True)
class Equal(nnflow.Map):
    """A dataclass as one writes it: it compares its fields, and so has no hash."""

    k: float = 0.5

    def step(self, x: Array, p: Array, t: int) -> Array:
        return self.k * x


def test_a_map_need_not_be_hashable() -> None:
    start = nnflow.Ensemble.grid(Equal(k=0.25), states=[[4.0]])
    assert start.advance(2).states.item() == 0.25
    assert np.isfinite(nnflow.run("lyapunov_spectrum", start, steps=20, transient=0).exponent).all()


def test_what_is_drawn_depends_on_the_seed_and_the_index_alone() -> None:
    def rule(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[0] = 0.5 * x[0]

    rng = np.random.default_rng(0)
    for initial, message in (
        (lambda n, seed: rng.random((n, 1)), "other states from the same seed"),
        (lambda n, seed: np.random.default_rng(seed).random((n, 1))[::-1], "depends on how many are drawn"),
    ):
        with pytest.raises(nnflow.Refusal, match=message):
            nnflow.Ensemble.grid(nnflow.CompiledMap(rule, initial=initial), inits=3)
