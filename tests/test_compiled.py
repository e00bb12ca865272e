"""Compiled maps: the loops equal their definition, chunks and threads change nothing, the cache never mixes maps up."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fresh
import numpy as np
import pytest
from numba import njit

import nnflow
from nnflow.compiled import Component
from nnflow.frozen import fingerprint
from nnflow.map import Map
from nnflow.typing import Array

FRAME = np.random.default_rng(5).standard_normal((6, 2, 2))


def henon_states(n: int = 6) -> tuple[nnflow.Map, Array, Array]:
    map = nnflow.maps["henon"]()
    return map, map.initial_states(n, 3), np.tile([1.4, 0.3], (n, 1))


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("every", [1, 2])
def test_the_orbit_is_that_of_the_plain_loop(every: int) -> None:
    map, x, p = henon_states()
    quick, slow = (verb(map, x, p, 3, 12, every, ("y", "x")) for verb in (type(map).orbit, Map.orbit))
    close(quick[0], slow[0])
    close(quick[1].states, slow[1].states)
    assert quick[1].t == slow[1].t == 15


@pytest.mark.parametrize("every", [1, 3])
def test_the_tangent_orbit_is_that_of_the_plain_loop(every: int) -> None:
    map, x, p = henon_states()
    keep = ("frames", "factors")
    quick, slow = (verb(map, x, p, 0, FRAME, 12, every, keep) for verb in (type(map).tangent_orbit, Map.tangent_orbit))
    close(quick[0].log_stretches, slow[0].log_stretches)
    close(quick[0].frames, slow[0].frames)
    close(quick[0].factors, slow[0].factors)
    close(quick[1].frame, slow[1].frame)


def test_factors_carry_one_frame_into_the_next() -> None:
    map, x, p = henon_states(1)
    records, _ = map.tangent_orbit(x, p, 0, np.eye(2)[None], 5, 1, ("frames", "factors"))
    state = x
    for block in range(4):
        q, after, r = records.frames[0, block].T, records.frames[0, block + 1].T, records.factors[0, block]
        jacobian = map.tangent(state, p, block, np.eye(2)[None])[0].T
        close(jacobian @ q, after @ r)
        state = map.step(state, p, block)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("name", ["henon", "standard"])
def test_the_separation_orbit_is_that_of_the_plain_loop(norm: str, name: str) -> None:
    map = nnflow.maps[name]()
    x = map.initial_states(3, 0)
    p = np.tile(list(map.parameters.values()), (3, 1))
    y = x[:, None] + 1e-3 * np.random.default_rng(0).standard_normal((3, 4, 2))
    quick, slow = (verb(map, x, y, p, 0, 8, 2, norm) for verb in (type(map).separation_orbit, Map.separation_orbit))
    assert quick[0].shape == (3, 4, 4)
    np.testing.assert_allclose(quick[0], slow[0], rtol=1e-9, atol=1e-13)
    close(quick[1].frame, slow[1].frame)


def test_distances_of_angles_go_the_short_way_round() -> None:
    standard = nnflow.maps["standard"](k=0.0)
    x, y = np.array([[0.01, 0.0]]), np.array([[[2 * np.pi - 0.01, 0.0]]])
    distances, _ = standard.separation_orbit(x, y, np.array([[0.0]]), 0, 1, 1, "l2")
    assert distances[0, 0, 0] == pytest.approx(0.02, abs=1e-12)


def test_many_perturbations_leave_the_base_orbit_alone() -> None:
    map, x, p = henon_states(1)
    _, end = map.separation_orbit(x, np.full((1, 2, 2), np.nan), p, 0, 6, 1, "l1")
    close(end.states, map.advance(x, p, 0, 6).states)
    assert np.isnan(end.frame).all()
    assert end.escaped[0] == -1


# -- escaping ------------------------------------------------------------------------------------------------------


def test_an_escape_is_a_value_with_the_step_of_the_first_state_that_is_not_finite() -> None:
    logistic = nnflow.maps["logistic"]()
    x, p = np.array([[0.3], [0.3], [-0.5]]), np.array([[3.7], [9.0], [4.0]])
    quick, slow = logistic.orbit(x, p, 10, 40, 1, ("x",)), Map.orbit(logistic, x, p, 10, 40, 1, ("x",))
    np.testing.assert_array_equal(quick[0], slow[0])
    np.testing.assert_array_equal(quick[1].escaped, slow[1].escaped)
    first = np.isnan(quick[0][1, :, 0]).argmax()
    assert list(quick[1].escaped) == [-1, 10 + first, quick[1].escaped[2]]
    assert np.isfinite(quick[0][0]).all()


def test_a_frame_is_lost_with_its_member_and_no_other() -> None:
    logistic = nnflow.maps["logistic"]()
    x, p = np.array([[0.3], [0.3]]), np.array([[9.0], [3.7]])
    records, end = logistic.tangent_orbit(x, p, 0, np.ones((2, 1, 1)), 30, 1)
    assert np.isnan(end.frame[0]).all()
    assert np.isnan(records.log_stretches[0, -1, 0])
    assert np.isfinite(records.log_stretches[1]).all()
    assert end.escaped[0] > 0 > end.escaped[1]


def test_division_by_zero_is_an_escape_not_an_exception() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 1.0 / x[0] - 1.0

    inverse = nnflow.CompiledMap(rule, dim=1)
    x, p = np.array([[1.0], [3.0]]), np.empty((2, 0))
    assert list(inverse.advance(x, p, 0, 5).escaped) == list(Map.advance(inverse, x, p, 0, 5).escaped) == [2, -1]


def test_a_vector_that_vanishes_is_minus_infinity_and_the_frame_stays_orthonormal() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[:] = x

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0], out[1], out[2] = 2.0 * v[0], 0.0, 0.0

    flat = nnflow.CompiledMap(rule, tangent, dim=3, check=False)  # no tangent of this rule
    frame = nnflow.Ensemble.grid(flat).with_frame(3).frame
    records, end = flat.tangent_orbit(np.ones((1, 3)), np.empty((1, 0)), 0, frame, 5, 1)
    np.testing.assert_allclose(end.frame[0] @ end.frame[0].T, np.eye(3), atol=1e-14)
    assert records.log_stretches[0, -1, 0] == pytest.approx(np.log(2))
    assert (records.log_stretches[0, -1, 1:] == -np.inf).all()


# -- chunks, threads, processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor, ProcessPoolExecutor])
@pytest.mark.parametrize("chunk", [1, 3, 7, 40])
def test_chunks_and_executors_change_no_bit(executor: Any, chunk: int) -> None:
    if executor is ProcessPoolExecutor and chunk != 7:
        pytest.skip("one size of chunk is enough for processes")
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=4, seed=2, a=np.linspace(1.0, 1.4, 5))
    settings = {"steps": 300, "transient": 50}
    expected = nnflow.run("lyapunov_spectrum", scan, **settings)
    if executor is None:
        found = nnflow.run("lyapunov_spectrum", scan, chunk=chunk, **settings)
    else:
        context = {"mp_context": __import__("multiprocessing").get_context("spawn")}
        with executor(2, **(context if executor is ProcessPoolExecutor else {})) as pool:
            found = nnflow.run("lyapunov_spectrum", scan, chunk=chunk, executor=pool, **settings)
    assert found.equals(expected)


@pytest.mark.parametrize("name", ["logistic", "henon", "ikeda", "gauss", "standard", "cubic_descent"])
def test_side_by_side_and_one_by_one_agree_to_the_bit(name: str) -> None:
    map = nnflow.maps[name]()
    x, p = map.initial_states(40, 0), np.tile(list(map.parameters.values()), (40, 1))
    together = map.advance(x, p, 0, 501).states
    apart = [map.advance(x[i : i + 1], p[:1], 0, 501).states[0] for i in range(40)]
    np.testing.assert_array_equal(together, apart)
    records = [map.orbit(x[:n], p[:n], 0, 501, 3, map.coordinates)[0][0] for n in (40, 1)]
    np.testing.assert_array_equal(*records)


# -- rules of any kind ----------------------------------------------------------------------------------------------


def doubling(factor: float) -> Callable[..., None]:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = factor * x[0] + p[0] + t

    return rule


@pytest.mark.parametrize("wrap", [lambda f: f, njit], ids=["plain", "compiled already"])
def test_closures_parameters_and_time_reach_the_rule(wrap: Any) -> None:
    for factor in (0.5, 0.25):
        map = nnflow.CompiledMap(wrap(doubling(factor)), parameters={"c": 1.0})
        assert map.advance(np.array([[2.0]]), np.array([[3.0]]), 7, 1).states[0, 0] == factor * 2 + 3 + 7


def test_a_rule_that_was_compiled_already_may_allocate() -> None:
    @njit
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        scratch = np.empty(2)
        scratch[:] = x[0]
        out[0] = 0.5 * scratch.sum()

    map = nnflow.CompiledMap(rule)
    assert map.advance(np.array([[2.0]]), np.empty((1, 0)), 0, 3).states[0, 0] == 2.0


def test_a_rule_typed_at_a_prompt() -> None:
    space: dict[str, Any] = {}
    exec("def rule(x, p, t, out):\n    out[0] = 3.0 * x[0]", space)
    assert nnflow.CompiledMap(space["rule"]).advance(np.ones((1, 1)), np.empty((1, 0)), 0, 2).states[0, 0] == 9.0


def test_without_a_tangent_central_differences_converge_and_the_result_says_so() -> None:
    henon = nnflow.maps["henon"]()
    bare = nnflow.CompiledMap(henon.functions.rule, dim=2, parameters=henon.parameters)
    assert henon.exact_tangent
    assert not bare.exact_tangent
    x, p = henon.initial_states(5, 0), np.tile([1.4, 0.3], (5, 1))
    frame = np.tile(np.eye(2), (5, 1, 1))
    np.testing.assert_allclose(bare.tangent(x, p, 0, frame), henon.tangent(x, p, 0, frame), atol=1e-9)
    scan = nnflow.Ensemble.grid(bare, states=[[0.1, 0.1]])
    assert nnflow.run("lyapunov_spectrum", scan, steps=500).attrs["tangent"] == "central differences"
    quick, slow = (verb(bare, x, p, 0, frame, 4, 1) for verb in (type(bare).tangent_orbit, Map.tangent_orbit))
    np.testing.assert_allclose(quick[0].log_stretches, slow[0].log_stretches, atol=1e-8)


def test_observables_coordinates_and_all_of_them() -> None:
    henon = nnflow.maps["henon"]()
    map = nnflow.CompiledMap(
        henon.functions.rule,
        dim=2,
        coordinates=("x", "y"),
        parameters=henon.parameters,
        observables={"energy": lambda x, p, t: x[0] ** 2 + p[1] * x[1] + t},
    )
    x, p = np.array([[0.5, 0.25]]), np.array([[1.4, 0.3]])
    records, _ = map.orbit(x, p, 2, 2, 1, ("y", "energy"))
    assert records[0, 0].tolist() == [0.25, 0.25 + 0.075 + 2]
    assert map.orbit(x, p, 0, 1, 1, map.coordinates)[0][0, 0].tolist() == [0.5, 0.25]


# -- errors ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_numba_cannot_compile_is_named_with_the_reason() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = dict(a=x[0])["a"]  # noqa: C408

    bad = nnflow.CompiledMap(rule, name="wrong")
    with pytest.raises(nnflow.CompilationError, match=r"cannot compile a function of 'wrong': .*nnflow\.TensorMap"):
        bad.advance(np.ones((1, 1)), np.empty((1, 0)), 0, 1)
    with pytest.raises(ValueError, match="cannot compile"):
        nnflow.run("orbit_diagram", bad)


def test_statements_that_numba_does_not_know_are_named() -> None:
    def importing(x: Array, p: Array, t: int, out: Array) -> None:
        import math

        out[0] = math.sin(x[0])

    def defining(x: Array, p: Array, t: int, out: Array) -> None:
        class Half:
            of = 0.5

        out[0] = Half.of * x[0]

    for rule in (importing, defining):
        with pytest.raises(
            nnflow.CompilationError, match=rf"cannot compile a function of '{rule.__name__}': Use of unsu"
        ):
            nnflow.Ensemble.grid(nnflow.CompiledMap(rule)).advance(1)


@pytest.mark.parametrize("bad", [None, "rule", 3])
def test_a_rule_is_a_function(bad: Any) -> None:
    with pytest.raises(TypeError, match="give a function"):
        nnflow.CompiledMap(bad)
    with pytest.raises(TypeError, match="tangent = 7"):
        nnflow.CompiledMap(doubling(1.0), 7)  # type: ignore[arg-type]


def test_an_unknown_norm() -> None:
    map, x, p = henon_states(1)
    with pytest.raises(ValueError, match="unknown norm 'l3'"):
        map.separation_orbit(x, x[:, None], p, 0, 1, 1, "l3")


# -- the cache ------------------------------------------------------------------------------------------------------


@njit(fastmath=True)
def loose(x: float) -> float:
    return x + 1.0


@njit
def strict(x: float) -> float:
    return x + 1.0


def rule_calling(function: Any, constant: Any = 1.0) -> Callable[..., None]:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = function(x[0]) * constant

    return rule


def test_the_fingerprint_tells_apart_what_compiles_differently() -> None:
    rules = [rule_calling(strict), rule_calling(loose), rule_calling(strict, 2.0), doubling(1.0), doubling(2.0)]
    assert len({fingerprint(rule) for rule in rules}) == len(rules)
    assert fingerprint(rule_calling(strict)) == fingerprint(rule_calling(strict))


def test_the_fingerprint_sees_into_a_users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = []
    for factor in (2.0, 3.0):
        (tmp_path / "helpers.py").write_text(f"FACTOR = {factor}\ndef grow(x):\n    return FACTOR * x\n")
        module = __import__("types").ModuleType("helpers")
        exec((tmp_path / "helpers.py").read_text(), module.__dict__)
        space = {"helpers": module, "__name__": "user"}
        exec("def rule(x, p, t, out):\n    out[0] = helpers.grow(x[0])", space)
        marks.append(fingerprint(space["rule"]))
    assert marks[0] != marks[1]


def python(code: str, cache: Path) -> str:
    done = fresh.python(code, NNFLOW_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    return done.stdout


TANGENT = """
import nnflow, numpy as np
def stretch(name):
    scan = nnflow.Ensemble.grid(nnflow.maps[name](optimizer="gd", eta=0.1), states=[[0.3]]).with_frame(1)
    print(name, scan.tangent_orbit(1)[0].log_stretches[0, 0, 0])
"""


def test_rules_of_one_factory_compiled_by_two_processes_stay_apart(tmp_path: Path) -> None:
    """Numba gives functions of one name the number of their turn: two processes would give two rules one symbol."""
    names = ("cubic_descent", "double_well_descent")
    for name in names:
        python(f"{TANGENT}\nstretch({name!r})", tmp_path)
    files = sorted(path.name for path in tmp_path.rglob("*.nb*"))
    cubic, well = (
        float(line.split()[1]) for line in python(f"{TANGENT}\nfor n in {names}: stretch(n)", tmp_path).splitlines()
    )
    assert cubic == pytest.approx(np.log(1 - 0.1 * (1 - 2 * 0.3)), abs=1e-12)
    assert well == pytest.approx(np.log(1 - 0.1 * (3 * 0.09 - 1)), abs=1e-12)
    assert sorted(path.name for path in tmp_path.rglob("*.nb*")) == files  # the last process compiled nothing


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert "cubic_descent" in python(f"{TANGENT}\nstretch('cubic_descent')", blocked)


# -- constants, handed on ------------------------------------------------------------------------------------------


def driven(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
    force, (offset,) = c
    out[0] = p[0] * x[0] * (1.0 - x[0]) * force[t % force.size] + offset


def driven_slope(x: Array, p: Array, t: int, c: Any, v: Array, out: Array) -> None:
    force, _ = c
    out[0] = p[0] * (1.0 - 2.0 * x[0]) * force[t % force.size] * v[0]


def distance_from(x: Array, p: Array, t: int, c: Any) -> float:
    return abs(x[0] - c[1][0])


def driven_map(force: Any, offset: float, **settings: Any) -> Any:
    made: dict[str, Any] = {"parameters": {"r": 3.5}, "observables": {"away": distance_from}, **settings}
    return nnflow.CompiledMap(driven, constants=(np.array(force), (offset,)), **made)


@pytest.mark.parametrize("tangent", [None, driven_slope])
def test_maps_that_differ_in_their_constants_share_one_machine_code(tangent: Any) -> None:
    from nnflow.compiled import kernels

    made = [driven_map(force, 0.01, tangent=tangent) for force in ([1.0, 0.9, 0.8], [0.7, 0.6])]
    for map in made:
        scan = nnflow.Ensemble.grid(map, states=[[0.3], [0.4]]).with_frame(1)
        records, end = scan.orbit(7, observe=["away", "x0"])
        x, p = np.array([[0.3], [0.4]]), np.full((2, 1), 3.5)
        for t in range(7):
            np.testing.assert_array_equal(records[:, t, 1], x[:, 0])
            np.testing.assert_array_equal(records[:, t, 0], np.abs(x[:, 0] - 0.01))
            x = map.step(x, p, t)
        np.testing.assert_array_equal(end.states, x)
        stretch = scan.tangent_orbit(7)[0].log_stretches.sum(axis=(1, 2))
        exact = np.zeros(2)
        for t in range(7):
            exact += np.log(np.abs(map.tangent(records[:, t, 1:], p, t, np.ones((2, 1, 1)))[:, 0, 0]))
        np.testing.assert_allclose(stretch, exact, rtol=1e-7 if tangent is None else 1e-13)
    first, second = (kernels.orbit(map.functions.rule, map._shape, True, False) for map in made)
    assert first is second
    assert len(first.signatures) == 1  # type: ignore[attr-defined]


def test_constants_are_kept_as_they_are() -> None:
    force = np.array([1.0, 0.9])
    map = nnflow.CompiledMap(driven, constants=(force, (0.0,)), parameters={"r": 3.5})
    force[:] = 0.0
    assert nnflow.Ensemble.grid(map, states=[[0.5]]).advance(1).states == 0.875
    with pytest.raises(ValueError, match="read-only"):
        map.constants[0][0] = 2.0  # type: ignore[index]
    mapping, jacobian = nnflow.numba_mapping(map, clock=True)
    assert mapping(np.array([0.5, 0.0]), np.array([3.5])).tolist() == [0.875, 1.0]
    assert jacobian(np.array([0.25, 0.0]), np.array([3.5]))[0, 0] == pytest.approx(1.75)


@pytest.mark.parametrize("wrong", [("text",), ({},), (np.array(["a"]),), (np.array([1j]),), (None,)])
def test_what_can_be_no_constant(wrong: Any) -> None:
    with pytest.raises(nnflow.Refusal, match="constants hold"):
        nnflow.CompiledMap(driven, constants=wrong, parameters={"r": 3.5})


def test_an_index_beyond_a_constant_is_refused() -> None:
    def late(x: Array, p: Array, t: int, c: Any, out: Array) -> None:
        out[0] = 0.0 * x[0] + c[0][t]

    map = nnflow.CompiledMap(late, constants=(np.ones(3),))
    with pytest.raises(nnflow.Refusal, match="out of bounds"):
        nnflow.Ensemble.grid(map).advance(5)


def test_networks_that_differ_in_their_data_compile_once() -> None:
    """Rows, batches and seeds are numbers; layers are constants."""
    from nnflow.compiled import kernels

    made = [nnflow.maps["iris"](**s) for s in ({"batch": 40, "shuffle": 1}, {"batch": 30, "shuffle": 5, "split": 2})]
    first, second = (kernels.orbit(map.functions.rule, map._shape, map.check, False) for map in made)
    assert first is second


def test_an_observable_may_be_asked_for_twice() -> None:
    def square(x: Array, p: Array, t: int) -> float:
        return x[0] * x[0]

    def both(x: Array, p: Array, t: int, out: Array) -> None:
        out[0], out[1] = x[0], -x[0]

    seen: dict[str, Any] = {"sq": square, "plus": Component(both, 0, 2), "minus": Component(both, 1, 2)}
    rule = henon_states()[0].functions.rule  # type: ignore[attr-defined]
    map = nnflow.CompiledMap(rule, dim=2, parameters={"a": 1.4, "b": 0.3}, coordinates=("x", "y"), observables=seen)
    names = ["sq", "x", "minus", "sq", "plus", "minus", "sq"]
    records = nnflow.Ensemble.grid(map, states=[[0.1, 0.1], [0.0, 0.0]]).orbit(20, observe=names)[0]
    x = records[:, :, 1]
    for channel, name in enumerate(names):
        np.testing.assert_array_equal(records[:, :, channel], {"sq": x * x, "x": x, "plus": x, "minus": -x}[name])


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e6])
def test_differences_are_exact_at_every_scale(size: float) -> None:
    """A map of small states, or of large ones, bends on its own scale; one that drifts away, on the scale of 1."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.95 * p[0] * math.sin(math.pi * x[0] / p[0])

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = 0.95 * math.pi * math.cos(math.pi * x[0] / p[0]) * v[0]

    settings: dict[str, Any] = {"box": ([0.1 * size], [0.9 * size]), "parameters": {"size": size}}
    found, known = (
        nnflow.run("lyapunov_spectrum", nnflow.CompiledMap(rule, given, **settings), steps=2000).exponent.item()
        for given in (None, tangent)
    )
    assert found == pytest.approx(known, abs=1e-3)


def test_differences_far_from_the_origin() -> None:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] + 2.9 + 2.5 * math.sin(x[0])

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = (1.0 + 2.5 * math.cos(x[0])) * v[0]

    found, known = (
        nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(map, states=[[1e6]]), steps=2000).exponent.item()
        for map in (nnflow.CompiledMap(rule), nnflow.CompiledMap(rule, tangent))
    )
    assert found == pytest.approx(known, abs=1e-3)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_no_distance_is_known_from_a_member_that_escaped(norm: str) -> None:
    def away(x: Array, p: Array, t: int, out: Array) -> None:
        out[0], out[1] = 1e200 * x[0], 0.5 * x[1]

    map = nnflow.CompiledMap(away, dim=2, check=False)
    x, y = np.array([[1e-90, 1.0]]), np.array([[[2e-90, 1.5]]])
    distances, end = map.separation_orbit(x, y, np.empty((1, 0)), 0, 4, 1, norm)
    assert end.escaped.tolist() == [2]
    assert np.isfinite(distances[0, 0, :2]).all()
    assert np.isnan(distances[0, 0, 2:]).all()


@pytest.mark.parametrize("dim", [3, 16])
def test_frames_stay_orthonormal_where_vectors_are_nearly_parallel(dim: int) -> None:
    """One pass of Gram–Schmidt leaves what rounding lost in it; the second takes it out."""

    def flatten(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(dim):
            out[i] = x[0] + 1e-9 * x[i]

    map = nnflow.CompiledMap(flatten, flatten_tangent(dim), dim=dim)
    ensemble = nnflow.Ensemble.grid(map).with_frame(3)
    frame = ensemble.tangent_orbit(1)[1].frame[0]
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), rtol=0, atol=1e-14)


def flatten_tangent(dim: int) -> Callable[..., None]:
    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        for i in range(dim):
            out[i] = v[0] + 1e-9 * v[i]

    return tangent


def ricker(scale: float, exact: bool, box: bool) -> nnflow.CompiledMap:
    """A population of that size: x exp(3 (1 − x/scale))."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] * math.exp(3.0 * (1.0 - x[0] / p[0]))

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = math.exp(3.0 * (1.0 - x[0] / p[0])) * (1.0 - 3.0 * x[0] / p[0]) * v[0]

    settings: dict[str, Any] = {"box": ([0.1 * scale], [scale])} if box else {}
    return nnflow.CompiledMap(rule, tangent if exact else None, parameters={"scale": scale}, **settings)


@pytest.mark.parametrize("scale", [1e-15, 1e-9, 1e-3, 1e18, 1e30])
def test_differences_are_as_wide_as_the_box_says(scale: float) -> None:
    """At 1e-9 the exponent was .477 for .376, at 1e-12 22, at 1e-15 NaN and at 1e18 −inf, without a word."""
    found, known = (nnflow.run("lyapunov_spectrum", ricker(scale, exact, True), steps=2000) for exact in (False, True))
    room = 1e-6 if scale < 1 else 1e-5  # of large states a width is eps^⅔, and rounding eps^⅓ = 6e-6 of a slope
    assert found.exponent.item() == pytest.approx(known.exponent.item(), abs=room)


@pytest.mark.parametrize("reach", [1e-3, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_box_that_is_wide_or_far_away_changes_nothing(reach: float, offset: float) -> None:
    """It says where states are drawn: of a map that bends on the scale of 1, a box of 1e5 took the scale away."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 3.9 * math.sin(x[0])

    map = nnflow.CompiledMap(rule, box=([offset - reach], [offset + reach]))
    start = nnflow.Ensemble.grid(map, states=[[0.3]])
    found = nnflow.run("lyapunov_spectrum", start, steps=30, transient=0).exponent.item()
    assert found == pytest.approx(0.7557915, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e-9, 1e-6])
def test_differences_that_are_too_wide_are_told(scale: float) -> None:
    start = nnflow.Ensemble.grid(ricker(scale, False, False), states=[[0.3 * scale]])
    with pytest.warns(nnflow.ResolutionWarning, match="differences in its place change by more than a thousandth"):
        nnflow.run("lyapunov_spectrum", start, steps=500)


def test_differences_that_are_too_wide_for_some_members_or_coordinates_are_told() -> None:
    """Members of the steepest parameter, and coordinates that are small beside others, were not looked at."""

    def steep(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 0.5 + 0.45 * math.sin(p[0] * x[0])

    scan = nnflow.Ensemble.grid(nnflow.CompiledMap(steep, parameters={"k": 5.0}), k=[5.0, 1e6], inits=20)
    for chunk in (None, 10):
        with pytest.warns(nnflow.ResolutionWarning, match="they are taken narrower"):
            nnflow.run("lyapunov_spectrum", scan, steps=100, chunk=chunk)

    def small(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = math.sin(2.5 * x[0]) + 0.3 * x[1] / 1e-7
        out[1] = 1e-7 * math.tanh(2.0 * x[0]) * math.cos(3.0 * x[1] / 1e-7)

    start = nnflow.Ensemble.grid(nnflow.CompiledMap(small, dim=2), states=[[0.1, 2e-8]])
    with pytest.warns(nnflow.ResolutionWarning, match="they are taken narrower"):
        nnflow.run("lyapunov_spectrum", start, steps=100)

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        b = x[1] / 1e-7
        out[0] = 2.5 * math.cos(2.5 * x[0]) * v[0] + 0.3 * v[1] / 1e-7
        flat = 1e-7 * (1.0 - math.tanh(2.0 * x[0]) ** 2) * 2.0 * math.cos(3.0 * b)
        out[1] = flat * v[0] - math.tanh(2.0 * x[0]) * 3.0 * math.sin(3.0 * b) * v[1]

    assert nnflow.CompiledMap(small, tangent, dim=2).exact_tangent  # and it is not refused as wrong
    box = ([0.0, 0.0], [1.0, 1e-7])
    known = nnflow.run("lyapunov_spectrum", nnflow.CompiledMap(small, tangent, dim=2, box=box), steps=500)
    found = nnflow.run("lyapunov_spectrum", nnflow.CompiledMap(small, dim=2, box=box), steps=500)
    np.testing.assert_allclose(found.exponent, known.exponent, atol=1e-3)


def test_differences_of_coordinates_of_unlike_sizes() -> None:
    """A population of 1e-3 beside a pressure of 1e6: its exponent was 17 for .377; both widths were the pressure's."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = x[0] * math.exp(3.0 * (1.0 - x[0] / 1e-3))
        out[1] = 1e6 + 0.5 * (x[1] - 1e6) + x[0]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = math.exp(3.0 * (1.0 - x[0] / 1e-3)) * (1.0 - 3.0 * x[0] / 1e-3) * v[0]
        out[1] = 0.5 * v[1] + v[0]

    start: dict[str, Any] = {"states": [[3e-4, 1e6]]}
    found, known = (
        nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(map, **start), steps=2000).exponent.values
        for map in (nnflow.CompiledMap(rule, dim=2), nnflow.CompiledMap(rule, tangent, dim=2))
    )
    np.testing.assert_allclose(found, known, atol=1e-3)


def doubled(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = 2.0 * x[0]


def settling(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = x[0] - 0.5 * (math.exp(x[0]) - 1.0)


@pytest.mark.parametrize(("rule", "exponent", "steps"), [(doubled, math.log(2.0), 900), (settling, math.log(0.5), 900)])
def test_differences_of_states_that_grow_for_ever_or_settle_at_zero(rule: Any, exponent: float, steps: int) -> None:
    """Doubled 76 times, a width below the distance of neighboring numbers gave −inf; at 0 there is no size at all."""
    start = nnflow.Ensemble.grid(nnflow.CompiledMap(rule), states=[[0.3]])
    found = nnflow.run("lyapunov_spectrum", start, steps=steps, transient=0 if rule is doubled else 100)
    assert found.exponent.item() == pytest.approx(exponent, abs=1e-6)


def test_the_definition_has_the_same_widths() -> None:
    """Coordinates at 0, of unlike sizes, and beyond what can be squared; with a box, and without."""

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0], out[1], out[2] = 0.5 * x[0] + 1e-3 * x[2], 3.0 * x[1], x[2] * (1.0 - x[2]) + x[0]

    states = np.array([[0.0, 0.0, 0.0], [1e-12, 1e160, 0.3], [3.0, 1e-5, 1e-9]])
    for box in (None, ([-2.0, 0.0, -1e-3], [1.0, 5.0, 1e-3])):
        map = nnflow.CompiledMap(rule, dim=3, box=box, check=False)
        frame = np.tile(np.eye(3), (3, 1, 1))
        records, _ = map.tangent_orbit(states, np.empty((3, 0)), 0, frame, 1, 1, ("factors",))
        known = map.tangent(states, np.empty((3, 0)), 0, frame)
        stretched = np.linalg.norm(known[:, 0], axis=1)
        np.testing.assert_allclose(np.exp(records.log_stretches[:, 0, 0]), stretched, rtol=1e-6)
