"""Tensor maps: the Hénon map in torch is the compiled one, members are alone, and what does not fit is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nnflow
from nnflow.map import Map
from nnflow.testing import check_map
from nnflow.typing import Array

COMPILED = nnflow.maps["henon"]()


def by_name(x: Tensor, p: Any, t: int) -> Tensor:
    return torch.stack([1 - p["a"] * x[0] ** 2 + x[1], p.b * x[0]])


def henon(**settings: Any) -> nnflow.TensorMap:
    observables = {"radius": lambda x, p, t: torch.hypot(x[0], x[1]), "clock": lambda x, p, t: p.a * 0 + t}
    given = {"parameters": {"a": 1.4, "b": 0.3}, "coordinates": ("x", "y"), "box": COMPILED.box}
    return nnflow.TensorMap(by_name, **{"dim": 2, "observables": observables, **given, **settings})


def both(states: Any, **axes: Any) -> list[nnflow.Ensemble]:
    return [nnflow.Ensemble.grid(map, states=states, **axes) for map in (henon(), COMPILED)]


def close(one: Any, other: Any, atol: float = 1e-13) -> None:
    np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=0, atol=atol)


STATES = COMPILED.initial_states(6, 0)


# --------------------------------------------------------------------------------------------- against the compiled map


def test_it_conforms() -> None:
    assert len(check_map(henon())) == 11


def test_steps_and_tangents_are_those_of_the_compiled_map() -> None:
    orbit, _ = nnflow.Ensemble.grid(COMPILED, states=STATES).orbit(40)
    x, v = orbit.reshape(-1, 2), np.random.default_rng(0).normal(size=(240, 3, 2))
    p = np.tile([1.4, 0.3], (240, 1)) + np.linspace(0, 0.1, 240)[:, None]
    one, other = henon(), COMPILED
    close(one.step(x, p, 0), other.step(x, p, 0))
    close(one.tangent(x, p, 0, v), other.tangent(x, p, 0, v))
    assert isinstance(one.step(x, p, 0), Tensor)
    assert one.exact_tangent


def test_a_scan_steps_as_the_compiled_one() -> None:
    one, other = (e.advance(8) for e in both(STATES, a=[1.0, 1.2, 1.4], b=[0.2, 0.3]))
    close(one.states, other.states, 1e-11)
    assert one.t == other.t == 8
    assert [axis.name for axis in one.axes] == ["a", "b", "init"]


@pytest.mark.parametrize("every", [1, 3])
def test_tangent_orbits_are_those_of_the_compiled_map(every: int) -> None:
    ends = [e.with_frame(2).tangent_orbit(12, every, ["frames", "factors"]) for e in both(STATES)]
    (one, after), (other, expected) = ends
    close(one.log_stretches, other.log_stretches, 1e-9)
    close(one.frames, other.frames, 1e-9)
    close(one.factors, other.factors, 1e-8)
    close(after.frame, expected.frame, 1e-9)
    assert one.log_stretches.shape == (6, 12 // every, 2)
    assert isinstance(after.frame, Tensor)
    close(one.log_stretches.sum(axis=2), every * np.log(0.3), 1e-12)


def test_exponents_are_the_known_ones() -> None:
    settings = {"steps": 600, "transient": 30, "k": 2}
    scan = nnflow.Ensemble.grid(henon(), inits=40, seed=1)
    found = nnflow.run("lyapunov_spectrum", scan, **settings).exponent.values
    assert found.sum(axis=1) == pytest.approx(np.log(0.3), abs=1e-12)
    assert found.mean(axis=0) == pytest.approx([0.41922, -1.62319], abs=0.01)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_separations_are_those_of_the_compiled_map(norm: str) -> None:
    starts = both(STATES, a=[1.0, 1.4])
    near = starts[0].states[:, None] + np.random.default_rng(1).normal(size=(12, 3, 2)) * 1e-3
    (one, after), (other, expected) = (e.separation_orbit(e.map.native(near), 10, every=5, norm=norm) for e in starts)
    close(one, other, 1e-11)
    close(after.neighbors, expected.neighbors, 1e-11)
    assert one.shape == (12, 3, 2)
    assert one.min() > 0


def test_angles_take_the_short_way_round() -> None:
    def turn(x: Tensor, p: Any, t: int) -> Tensor:
        return torch.stack([(x[0] + p.omega) % 1.0, x[1]])

    map = nnflow.TensorMap(turn, dim=2, parameters={"omega": 0.0}, coordinates=("angle", "y"), periods={"angle": 1.0})
    start = nnflow.Ensemble.grid(map, states=[[0.95, 0.95]])
    distances, _ = start.separation_orbit(map.native([[[0.05, 0.05]]]), 2)
    close(distances, 0.1 + 0.9)
    for x, y in (
        (np.array([0.95, 0.95]), np.array([0.05, 0.05])),
        (map.native([0.95, 0.95]), map.native([0.05, 0.05])),
    ):
        difference = map.difference(x, y)
        assert type(difference) is type(x)
        close(difference, [-0.1, 0.9])


# ------------------------------------------------------------------------------------------------------------ records


def test_observables_and_coordinates_by_name() -> None:
    start = nnflow.Ensemble.grid(henon(), states=STATES)
    records, after = start.orbit(6, every=2, observe=["y", "radius", "clock", "x"])
    for i in range(3):
        now = start.advance(2 * i).states
        close(records[:, i, [3, 0]], now)
        close(records[:, i, 1], np.hypot(*now.T))
        assert (records[:, i, 2] == 2 * i).all()
    assert isinstance(records, np.ndarray)
    assert isinstance(after.state, Tensor)
    assert after.t == 6


def test_time_goes_on_where_it_stopped() -> None:
    def clocked(x: Tensor, p: Any, t: int) -> Tensor:
        return 0.5 * x + t

    map = nnflow.TensorMap(clocked, dim=3)
    start = nnflow.Ensemble.grid(map, inits=2)
    assert np.array_equal(start.advance(3).advance(4).states, start.advance(7).states)
    assert not np.array_equal(start.advance(4).states, start.with_states(start.state, t=2).advance(4).states)
    assert start.advance(0).states.tolist() == start.states.tolist()
    first = start.orbit(5)[0][:, 1]
    close(first, 0.5 * start.states)  # t = 0 in the first step


@pytest.mark.parametrize(("dtype", "digits"), [(None, 1e-14), (torch.float32, 1e-6)])
def test_number_types(dtype: Any, digits: float) -> None:
    map = henon(dtype=dtype)
    start = nnflow.Ensemble.grid(map, states=STATES)
    assert start.state.dtype == (dtype or torch.float64)
    after = start.with_frame(2).tangent_orbit(2)[1]
    assert after.state.dtype == after.frame.dtype == start.state.dtype
    assert after.states.dtype == np.float64
    error = np.abs(start.advance(1).states - COMPILED.step(STATES, np.tile([1.4, 0.3], (6, 1)), 0)).max()
    assert error < digits
    assert dtype is None or error > 1e-10


# ------------------------------------------------------------------------------------------------------------- escapes


def lost(map: Map) -> nnflow.Ensemble:
    """Member 1 leaves at once, member 3 was never finite."""
    x = np.array([STATES[0], [50.0, 0.0], STATES[1], [0.0, 0.0], STATES[2]])
    start = nnflow.Ensemble.grid(map, states=x)
    x[3] = np.nan
    return start.with_states(map.native(x))


def ends(start: nnflow.Ensemble) -> Sequence[nnflow.Ensemble]:
    near = start.map.native(np.repeat(start.states[:, None], 2, axis=1) + 1e-6)
    framed = start.with_frame(2)
    return [start.advance(15), start.orbit(15)[1], framed.tangent_orbit(15)[1], start.separation_orbit(near, 15)[1]]


def test_escapes_are_counted_alike_by_every_verb() -> None:
    for one, other in zip(ends(lost(henon())), ends(lost(COMPILED)), strict=True):
        assert one.escaped.tolist() == other.escaped.tolist()
        assert one.escaped.dtype == np.int64
        assert one.escaped[[0, 2, 4]].tolist() == [-1, -1, -1]
        assert one.escaped[3] == 0
        assert 3 < one.escaped[1] < 15
        assert np.isnan(one.states[[1, 3]]).all()


def test_the_lost_disturb_no_neighbour() -> None:
    alone = lost(henon()).take([0, 2, 4])
    for one, other in zip(ends(lost(henon())), ends(alone), strict=True):
        close(one.states[[0, 2, 4]], other.states, 1e-11)
        if one.frame is not None:
            close(one.frame[[0, 2, 4]], other.frame, 1e-8)
            assert torch.isnan(one.frame[[1, 3]]).all()


def test_the_records_of_the_lost_are_nan_from_then_on() -> None:
    start = lost(henon())
    seen, after = start.orbit(15, observe=["x", "clock"])
    assert np.isfinite(seen[[0, 2, 4]]).all()
    gone = after.escaped[1]
    assert np.isfinite(seen[1, :gone]).all()
    assert np.isnan(seen[1, gone:]).all()
    assert np.isnan(seen[3]).all()
    records, _ = start.with_frame(2).tangent_orbit(15)
    assert np.isfinite(records.log_stretches[[0, 2, 4]]).all()
    assert np.isnan(records.log_stretches[3]).all()
    assert np.isnan(records.log_stretches[1, gone:]).all()


def test_an_infinite_state_is_lost_and_a_flattened_vector_is_not() -> None:
    flat = nnflow.TensorMap(lambda x, p, t: x * torch.tensor([0.5, 0.0]), dim=2)
    records, after = nnflow.Ensemble.grid(flat, states=[[1.0, 1.0]]).with_frame(2).tangent_orbit(2)
    assert records.log_stretches[0, :, 1].tolist() == [-np.inf] * 2
    close(after.frame[0] @ after.frame[0].T, np.eye(2))
    start = nnflow.Ensemble.grid(flat, states=[[1.0, 1.0]])
    assert start.with_states(flat.native([[np.inf, 0.0]])).advance(1).escaped.tolist() == [0]


# ------------------------------------------------------------------------------------------------- parameters, pickles


def test_parameters_by_name_or_attribute() -> None:
    seen = {}

    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        seen.update(names=list(p), same=p.b is p["b"], shape=p.a.shape)
        return x

    map = nnflow.TensorMap(rule, dim=2, parameters={"a": 1.0, "b": 2.0})
    nnflow.Ensemble.grid(map, inits=3).advance(1)
    assert seen == {"names": ["a", "b"], "same": True, "shape": ()}


def test_a_map_without_parameters() -> None:
    start = nnflow.Ensemble.grid(nnflow.TensorMap(lambda x, p, t: x / 2, dim=2), inits=3)
    assert np.array_equal(start.advance(1).states, start.states / 2)


def test_pickles_carry_the_rule_the_type_and_the_defaults() -> None:
    def closure(factor: float) -> nnflow.TensorMap:
        return nnflow.TensorMap(lambda x, p, t: factor * p.c * x, dim=2, parameters={"c": 1.0}, dtype=torch.float32)

    map = closure(0.5).with_parameters(c=0.25)
    twin = pickle.loads(pickle.dumps(map))
    assert (twin.dtype, twin.device, twin.parameters) == (torch.float32, map.device, {"c": 0.25})
    here, there = (nnflow.Ensemble.grid(m, inits=3).advance(2).states for m in (map, twin))
    assert np.array_equal(here, there)
    trained = nnflow.gradient_map(lambda w: (w**4).sum(), 2, backend="tensor")
    x, p, v = np.ones((1, 2)), np.ones((1, 1)), np.ones((1, 1, 2))
    close(pickle.loads(pickle.dumps(trained)).curvature(x, p, 0, v), 12 * v)


@pytest.mark.parametrize(
    "map", [henon(), nnflow.gradient_map(lambda w: (w**4).sum() - w.sum(), 2, backend="tensor")], ids=["henon", "w4"]
)
def test_chunks_in_threads_do_not_disturb_each_other(map: nnflow.TensorMap) -> None:
    """Torch's forward-mode levels belong to the whole process: two tangents at once would be mixed up."""
    start = nnflow.Ensemble.grid(map, inits=6, seed=2)
    whole = nnflow.run("lyapunov_spectrum", start, steps=20, transient=0).exponent
    with ThreadPoolExecutor(6) as threads:
        parts = nnflow.run("lyapunov_spectrum", start, chunk=1, executor=threads, steps=20, transient=0).exponent
    np.testing.assert_allclose(whole, parts, rtol=1e-9)


class Grouped(nnflow.TensorMap):
    grouped = True


def test_as_many_members_go_at_a_time_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(x: Tensor, p: Any, t: int) -> Tensor:
        calls.append(t)
        return by_name(x, p, t)

    map = Grouped(counted, dim=2, parameters={"a": 1.4, "b": 0.3})
    p = np.tile([1.4, 0.3], (6, 1))
    whole = map.step(STATES, p, 0)
    assert len(calls) == 2, "one member, to see what it makes, and all of them"
    (made,) = map._bytes.values()
    assert made >= 8 * 2 * 3, "two squares and products, and the state itself"
    for room, count in ((made * 6, 1), (made * 5, 2), (made * 2, 3), (made - 1, 6)):
        monkeypatch.setattr("nnflow.tensor.members.ROOM", room)
        calls.clear()
        close(map.step(STATES, p, 0), whole)
        assert len(calls) == count


def test_to_see_what_a_member_makes_changes_nothing() -> None:
    states = Grouped(lambda x, p, t: x.mul_(2.0), dim=1).step(np.ones((3, 1)), np.empty((3, 0)), 0)
    close(states, np.full((3, 1), 2.0))


def test_training_without_room_for_all_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, tangents, curvatures and observables."""
    inputs, module = np.random.default_rng(0).normal(size=(6, 1)), torch.nn.Linear(1, 1)
    settings = {"backend": "tensor", "scale": 1.0}
    map = nnflow.training_map(module, torch.nn.functional.mse_loss, inputs, 3 * inputs, **settings)
    x, p, v = map.initial_states(7, 0), np.full((7, len(map.parameters)), 0.1), np.ones((7, 2, 2))
    found = []
    for room in (2**29, 1):
        monkeypatch.setattr("nnflow.tensor.members.ROOM", room)
        seen = map.observe(x, p, 0, ("loss",))
        found.append([map.step(x, p, 0), map.tangent(x, p, 0, v), map.curvature(x, p, 0, v), seen])
    for one, other in zip(*found, strict=True):
        close(one, other)


# -------------------------------------------------------------------------------------------------------------- misuse


def step(rule: Any, **settings: Any) -> Array:
    return nnflow.Ensemble.grid(nnflow.TensorMap(rule, dim=2, parameters={"a": 1.0}, **settings)).advance(1).states


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda x, p, t: x[:1], r"returned \(1,\): it must return a tensor of shape \(2,\)"),
        (lambda x, p, t: x.sum(), r"returned \(\): it must"),
        (lambda x, p, t: (x[0], x[1]), r"returned tuple: it must"),
        (lambda x, p, t: None, r"returned NoneType: it must"),
    ],
)
def test_rules_of_the_wrong_shape(rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step(rule, name="mine")
    with pytest.raises(ValueError, match="the rule of 'mine'"):
        step(rule, name="mine")


@pytest.mark.parametrize(("setting", "message"), [({"clock": 3}, "clock = 3"), ({"noise": -1}, "noise = -1: give 0")])
def test_clocks_and_seeds_that_are_none_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message):
        nnflow.TensorMap(lambda x, p, t: x, **setting)


def test_a_clock_gives_tensors_in_place_of_t() -> None:
    """So a rule that depends on t is traced, and is that of each t."""
    clock = torch.arange(200.0, dtype=torch.float64)
    map = nnflow.TensorMap(lambda x, p, now: x + now[0], clock=lambda t: (clock[t],))
    assert nnflow.Ensemble.grid(map, states=[[0.0]]).advance(100).states.item() == 4950.0
    assert any(known.agreed for known in map._traces._kinds.values())


def test_a_clock_gives_nothing_that_a_trace_would_keep() -> None:
    """A number in the tuple was that of the first calls for good: 0, 0, 0 in place of 0, 1, 3."""
    map = nnflow.TensorMap(lambda x, p, now: 0 * x + now[0], clock=lambda t: (t // 100, torch.tensor(float(t))))
    with pytest.raises(nnflow.Refusal, match=r"the clock of .* at t = 0: give a tensor, or a tuple of tensors"):
        nnflow.Ensemble.grid(map, states=[[0.0]]).advance(1)
    nested = nnflow.TensorMap(lambda x, p, now: x + now[0][0], clock=lambda t: ((torch.tensor(1.0),), None))
    assert nnflow.Ensemble.grid(nested, states=[[0.0]]).advance(2).states.item() == 2.0


def test_a_first_member_that_has_escaped_stops_no_other() -> None:
    """A rule that torch cannot compute at NaN was tried at the first member, whatever that was."""

    def rule(x: Tensor, p: Any, t: int) -> Tensor:
        factor = torch.linalg.cholesky(torch.eye(1, dtype=x.dtype) * (1 + x[0] * x[0]))
        return p.a * x * x * factor[0] / factor[0].detach()

    map = nnflow.TensorMap(lambda x, p, t: rule(x, p, t), parameters={"a": 1.0}, check=False)
    ended = nnflow.Ensemble.grid(map, states=[[3.0], [0.5]]).advance(20)
    assert ended.escaped[0] > 0 > ended.escaped[1]
    anew = nnflow.TensorMap(lambda x, p, t: p.a * torch.linalg.cholesky(x[None]).ravel(), parameters={"a": 0.5})
    states = np.array([[np.nan], [0.25], [0.5]])
    on = nnflow.Ensemble.grid(anew, states=[[1.0]] * 3).with_states(states).advance(3)
    assert np.isnan(on.states[0]).all()
    assert np.isfinite(on.states[1:]).all()
    calls = iter(range(1, 100))
    counting = nnflow.TensorMap(lambda x, p, t: x * next(calls))  # looked at where there is something to see
    started = nnflow.Ensemble.grid(counting, states=[[1.0]] * 2).with_states(states[:2])
    with pytest.raises(nnflow.Refusal, match="when it is asked again"):
        started.advance(3)


def test_unknown_parameters_in_a_rule() -> None:
    by_order = nnflow.TensorMap(lambda x, p, t: p[0] * x * (p[-1] - x), parameters={"r": 3.9, "one": 1.0})
    assert nnflow.Ensemble.grid(by_order, states=[[0.5]]).advance(1).states.item() == 3.9 / 4
    for wrong, said in (
        (lambda x, p, t: p["b"] * x, "unknown parameter 'b'"),
        (lambda x, p, t: p[2] * x, "unknown parameter 2"),
        (lambda x, p, t: nothing * x, "fails at t = 0: NameError: name 'nothing'"),  # noqa: F821
        (lambda x, p, t: x / (1 // (5 - t)), "fails at t = 5: ZeroDivisionError"),
        (lambda x, p, t: {0: x, 1: x}[t], "fails at t = 2: KeyError: 2"),
    ):
        with pytest.raises(nnflow.Refusal, match=said):
            nnflow.Ensemble.grid(nnflow.TensorMap(wrong, parameters={"r": 3.9})).advance(9)
    with pytest.raises(nnflow.Refusal, match="unknown parameter 'aa'. Did you mean 'a'"):
        step(lambda x, p, t: p.aa * x)
    with pytest.raises(nnflow.Refusal, match="unknown parameter 'aa'"):
        step(lambda x, p, t: p["aa"] * x)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TypeError, match="rule = 3: give a function"):
        nnflow.TensorMap(3)
    with pytest.raises(TypeError, match="dtype = .*numpy.float32.*floating torch dtype"):
        henon(dtype=np.float32)
    with pytest.raises(TypeError, match="dtype = torch.int32"):
        henon(dtype=torch.int32)
    with pytest.raises(ValueError, match="device = 'nowhere'"):
        henon(device="nowhere")
    start = nnflow.Ensemble.grid(henon())
    with pytest.raises(ValueError, match="unknown norm 'l3'"):
        start.separation_orbit(start.state[:, None] + 0.1, 1, norm="l3")
    with pytest.raises(ValueError, match="unknown record 'frame'. Did you mean 'frames'"):
        start.with_frame(1).tangent_orbit(1, keep=["frame"])
    with pytest.raises(ValueError, match="neighbors have shape"):
        start.separation_orbit(start.state, 1)
    with pytest.raises(ValueError, match="unknown observable of by_name 'radios'. Did you mean 'radius'"):
        start.orbit(1, observe="radios")


def test_the_first_tangent_warns_of_nothing() -> None:
    """Torch loads its forward-mode rules at first use, and with them a warning about its own torch.jit."""
    code = (
        "import nnflow, numpy as np\n"
        "map = nnflow.TensorMap(lambda x, p, t: x.sin(), dim=2)\n"
        "map.tangent(np.ones((1, 2)), np.ones((1, 0)), 0, np.ones((1, 1, 2)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_frames_may_be_given() -> None:
    start = nnflow.Ensemble.grid(henon(), states=STATES[:1])
    framed = replace(start, frame=start.map.native([[[1.0, 0.0]]]))
    records, after = framed.tangent_orbit(1, keep=["frames"])
    assert records.frames is not None
    assert records.frames.tolist() == [[[[1.0, 0.0]]]]
    image = np.array([-2.8 * STATES[0, 0], 0.3])
    close(records.log_stretches, np.log(np.linalg.norm(image)))
    close(after.frame[0, 0], image / np.linalg.norm(image))
