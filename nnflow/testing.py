"""Conformance: what every map and every analysis has to satisfy, the built-in ones and a stranger's alike.

`check_map` and `check_analysis` run a list of small checks and return what each has found to hold; the first that fails
raises AssertionError with the reason. `nnflow check NAME` runs them on a registered plugin.
"""

from __future__ import annotations

import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from nnflow.analysis import Analysis, refuse_reserved
from nnflow.ensemble import Ensemble
from nnflow.map import Map
from nnflow.names import Refusal
from nnflow.results import load, save
from nnflow.runner import run
from nnflow.settings import as_json
from nnflow.typing import Array
from nnflow.vectors import project_out

STATES = 100  # states of an orbit at which a step and a tangent are compared
EXACT = 1e-13  # relative: the compiled and the plain step of the same rule


def require(holds: Any, message: str) -> None:
    """Raise AssertionError with the message unless it holds."""
    if not holds:
        raise AssertionError(message)


def relative_error(found: Array, expected: Array) -> float:
    """max |found − expected| / max |expected|, per row of the last axis, at least 1 in the denominator; the largest."""
    scale = np.maximum(1.0, np.abs(expected).max(axis=-1, keepdims=True))
    return float((np.abs(found - expected) / scale).max(initial=0.0))


def orbit_states(map: Map, count: int = STATES) -> tuple[Array, Array]:
    """States ``(count, dim)`` along orbits from a few initial states, and their parameters ``(count, parameter)``."""
    records, _ = Ensemble.grid(map, inits=4, seed=0).orbit(-(-count // 4))
    x = records.reshape(-1, map.dim)[:count]
    x = x[np.isfinite(x).all(axis=1)]
    return x, np.tile(list(map.parameters.values()), (len(x), 1)).astype(float)


# -- maps --------------------------------------------------------------------------------------------------------


def check_map(map: Map, name: str | None = None) -> list[str]:
    """Check a map against the contract.

    Args:
        map: The map.
        name: That under which it is registered, which results are to bear.

    Returns:
        One sentence a check.

    Raises:
        AssertionError: at the first check that fails.
    """
    require(isinstance(map, Map), f"{map!r} is no nnflow.Map")
    require(name in (None, map.name), f"results would call it {map.name!r}: give the map name={name!r}")
    checks: list[Callable[[Map], str]] = [
        _draws, _orbits_stay, _compiled_step, _members_alone, _tangent, _time_blocks, _records, _escapes, _observes,
        _gauge, _pickles,
    ]  # fmt: skip
    try:
        return [check(map) for check in checks]
    except Refusal as error:
        raise AssertionError(str(error)) from error


def _draws(map: Map) -> str:
    few, many = map.initial_states(2, seed=1), map.initial_states(5, seed=1)
    require(many.shape == (5, map.dim), f"initial_states(5, seed) has shape {many.shape}, not (5, {map.dim})")
    require(np.isfinite(many).all(), "initial_states are not all finite")
    require(np.array_equal(few, many[:2]), "initial state i depends on how many are drawn: it may depend on seed and i")
    return "initial states are finite, and state i depends on the seed and i alone"


def _orbits_stay(map: Map) -> str:
    x, _ = orbit_states(map)
    require(len(x) >= STATES // 2, "most default initial states escape within 25 steps: give a box in the basin")
    return "orbits from the default initial states stay finite"


def _compiled_step(map: Map) -> str:
    x, p = orbit_states(map)
    plain, quick = map.to_numpy(map.step(map.native(x), p, 0)), map.to_numpy(map.advance(map.native(x), p, 0, 1).states)
    error = relative_error(map.difference(quick, plain), np.zeros_like(plain)) / max(1.0, float(np.abs(plain).max()))
    require(error <= EXACT, f"one step by the verb and by the definition differ by {error:.1e} (relative)")
    v = np.random.default_rng(0).standard_normal((len(x), 1, map.dim))
    v /= np.linalg.norm(v, axis=2, keepdims=True)
    stretch = np.linalg.norm(map.to_numpy(map.tangent(map.native(x), p, 0, map.native(v))), axis=2)
    records, _ = map.tangent_orbit(map.native(x), p, 0, map.native(v), 1, 1)
    gap = np.abs(np.exp(records.log_stretches[:, 0]) - stretch).max() / max(1.0, stretch.max())
    limit = EXACT if map.exact_tangent else 1e-7
    require(gap <= limit, f"one tangent step by the verb and by the definition differ by {gap:.1e} (relative)")
    return f"a step and a tangent step from {len(x)} states of an orbit are those of the definition"


def _members_alone(map: Map) -> str:
    x, p = orbit_states(map, 12)
    kept = x.copy()
    together = map.to_numpy(map.advance(map.native(x), p, 0, 3).states)
    apart = [map.to_numpy(map.advance(map.native(x[i : i + 1]), p[i : i + 1], 0, 3).states)[0] for i in range(len(x))]
    require(np.array_equal(x, kept), "the map changes the states it is given: write into new arrays (or `out`) only")
    exact, error = map.threads, relative_error(np.array(apart), together)
    require(error == 0 if exact else error < 1e-10, f"a member's orbit depends on its neighbours (by {error:.1e})")
    return "a member's orbit does not depend on the others"


def _tangent(map: Map) -> str:
    """Compare the tangent with central differences, with two widths.

    Where they disagree there is a kink or a cut, and nothing is compared. Small components move less than large ones: a
    mean of squares must not become negative.

    Returns:
        What was found to hold.
    """
    x, p = orbit_states(map)
    size = np.abs(x) / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-300)
    v = np.random.default_rng(1).standard_normal((len(x), 1, map.dim)) * np.clip(size, 1e-3, 1.0)[:, None]
    v /= np.linalg.norm(v, axis=2, keepdims=True)
    found = map.to_numpy(map.tangent(map.native(x), p, 0, map.native(v)))[:, 0]
    h = 1e-5 * np.maximum(1.0, np.abs(x).max(axis=1, keepdims=True))
    wide, narrow = (_difference(map, x, p, width * v[:, 0]) / width for width in (h, h / 2))
    size = np.maximum(1.0, np.abs(narrow).max(axis=1))
    smooth = np.abs(wide - narrow).max(axis=1) / size < 1e-6
    require(smooth.sum() >= len(x) // 2, "the map is not smooth at most states of an orbit: no tangent can be checked")
    error = (np.abs(found - narrow).max(axis=1) / size)[smooth].max()
    require(error < 1e-6, f"the tangent differs from central differences of the rule by {error:.1e} (relative)")
    return f"the tangent is that of central differences at {smooth.sum()} of {len(x)} states (the rest are at kinks)"


def _difference(map: Map, x: Array, p: Array, d: Array) -> Array:
    ahead, behind = (map.to_numpy(map.step(map.native(x + side * d), p, 0)) for side in (0.5, -0.5))
    return np.asarray(map.difference(ahead, behind))


def _time_blocks(map: Map) -> str:
    x, p = orbit_states(map, 8)
    half = map.advance(map.native(x), p, 0, 3)
    rest, whole = map.advance(half.states, p, half.t, 4), map.advance(map.native(x), p, 0, 7)
    require(rest.t == whole.t == 7, f"after 7 steps from t = 0 the end says t = {whole.t}")
    same = np.array_equal(map.to_numpy(rest.states), map.to_numpy(whole.states))
    require(same, "3 and then 4 steps do not lead where 7 steps lead: the map keeps something outside its state")
    return "an orbit cut in time goes on exactly where it stopped"


def _records(map: Map) -> str:
    x, p = orbit_states(map, 8)
    records, end = map.orbit(map.native(x), p, 0, 6, 2, map.coordinates)
    require(records.shape == (len(x), 3, map.dim), f"orbit gives records {records.shape}, not {(len(x), 3, map.dim)}")
    require(np.array_equal(records[:, 0], x), "the first record is not the initial state")
    then = map.to_numpy(map.advance(map.native(x), p, 0, 4).states)
    require(relative_error(records[:, 2], then) <= EXACT, "record 2 of every = 2 is not the state after 4 steps")
    require(isinstance(end.escaped, np.ndarray) and end.escaped.dtype == np.int64, "escaped is no int64 array")
    return "records hold the states at t, t + every, …"


def _escapes(map: Map) -> str:
    x, p = orbit_states(map, 3)
    x = np.concatenate([x[:1], np.full((1, map.dim), np.nan), x[1:]])
    p = np.concatenate([p, p[:1]])
    alone = map.to_numpy(map.advance(map.native(np.delete(x, 1, axis=0)), p[1:], 5, 4).states)
    end = map.advance(map.native(x), p, 5, 4)
    states = map.to_numpy(end.states)
    require(np.isnan(states[1]).all(), "a member that is not finite does not stay NaN")
    require(list(end.escaped) == [-1, 5, *[-1] * (len(x) - 2)], f"escaped = {list(end.escaped)}: wrong member or step")
    gap = relative_error(np.delete(states, 1, axis=0), alone)
    require(gap == 0 if map.threads else gap < 1e-10, "an escaped member disturbs the others")
    return "an escaped member is NaN, is counted, and disturbs no other"


def _observes(map: Map) -> str:
    x, p = orbit_states(map, 4)
    names = tuple(map.observables)
    records, _ = map.orbit(map.native(x), p, 0, 2, 1, names)
    require(records.shape == (len(x), 2, len(names)), f"observables give records of shape {records.shape}")
    for i, name in enumerate(names):
        require(np.isfinite(records[:, :, i]).all(), f"observable {name!r} is not finite on an orbit")
        plain = map.observable(name, map.native(x), p, 0)
        gap = relative_error(records[:, 0, i][:, None], plain[:, None])
        require(gap < 1e-12, f"observable {name!r} by the verb and by the definition differ by {gap:.1e}")
    return f"observables are finite numbers: {', '.join(names) or 'none declared'}"


def _gauge(map: Map) -> str:
    x, p = orbit_states(map, 4)
    basis = map.gauge(map.native(x), p)
    require(basis.shape == (len(x), basis.shape[1], map.dim), f"gauge has shape {basis.shape}, not (member, g, dim)")
    if not basis.shape[1]:
        return "it names no directions as neutral"
    overlaps = basis @ basis.transpose(0, 2, 1)
    require(np.abs(overlaps - np.eye(basis.shape[1])).max() < 1e-10, "the gauge directions are not orthonormal")
    moved = map.to_numpy(map.tangent(map.native(x), p, 0, map.native(basis.copy())))
    gap = np.abs(project_out(moved, basis)).max()
    require(gap < 1e-10 * max(1.0, np.abs(moved).max()), f"the tangent map turns gauge directions away (by {gap:.1e})")
    return f"the tangent map keeps the span of {basis.shape[1]} gauge directions"


def _pickles(map: Map) -> str:
    x, p = orbit_states(map, 4)
    twin: Map = pickle.loads(pickle.dumps(map))
    here, there = (m.to_numpy(m.advance(m.native(x), p, 0, 3).states) for m in (map, twin))
    require(relative_error(there, here) <= EXACT, "the map does not survive pickling: process pools need that")
    return "the map survives pickling"


# -- analyses ----------------------------------------------------------------------------------------------------


def check_analysis(kind: type[Analysis], map: Map | None = None) -> list[str]:
    """Check an analysis against the contract.

    Args:
        kind: The class.
        map: The map to try it on (default: the logistic map).

    Returns:
        One sentence a check.

    Raises:
        AssertionError: at the first check that fails.
    """
    found = [_settings(kind)]
    map = _logistic() if map is None else map
    name = next(iter(map.parameters), None)
    axes = {} if name is None else {name: map.parameters[name] * np.array([0.9, 1.0])}
    scan = Ensemble.grid(map, inits=2, seed=3, **axes)
    before = scan.states.copy()
    dataset = run(kind(), scan)
    require(np.array_equal(scan.states, before), "the analysis changes the ensemble it is given")
    found.append("it runs with its defaults: " + ", ".join(str(v) for v in dataset.data_vars))
    checks: Iterable[Callable[[type[Analysis], Ensemble, xr.Dataset], str]] = (
        _repeats,
        _chunks,
        _saves,
        _ends,
        _draws_it,
    )
    found += [check(kind, scan, dataset) for check in checks]
    return [*found, _bears_escape(kind, map)]


def _logistic() -> Map:
    from nnflow.systems.classic import logistic

    return logistic(r=3.9)


def _settings(kind: type[Analysis]) -> str:
    name = getattr(kind, "__name__", repr(kind))
    fit = isinstance(kind, type) and issubclass(kind, Analysis) and is_dataclass(kind)
    require(fit and kind.__dataclass_params__.frozen, f"{name} is no frozen dataclass derived from nnflow.Analysis")  # type: ignore[attr-defined]
    require("__dataclass_fields__" in vars(kind), f"{name} adds settings, but is no dataclass itself: decorate it")
    require((kind.__doc__ or "").strip(), f"{name} has no docstring: it is the help text")
    try:
        refuse_reserved(kind)
        as_json(kind())
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}: {error}{_annotation(kind, str(error))}") from error
    return f"its settings have defaults and can be written down: {', '.join(f.name for f in fields(kind)) or 'none'}"


def _annotation(kind: type[Analysis], said: str) -> str:
    """What an author may have meant whose setting is None by default, and refused."""
    for field in fields(kind):
        if field.default is None and said.startswith(f"{field.name} = None: "):
            given = field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)
            return f", or annotate it {given} | None"
    return ""


def _same(one: xr.Dataset, other: xr.Dataset, exact: bool, message: str) -> None:
    if exact:
        require(one.equals(other), message)
    else:
        xr.testing.assert_allclose(one, other, rtol=1e-6)


def _repeats(kind: type[Analysis], scan: Ensemble, dataset: xr.Dataset) -> str:
    _same(run(kind(), scan), dataset, True, "two runs give two results: take every random number from a seed")
    return "two runs give the same result"


def _chunks(kind: type[Analysis], scan: Ensemble, dataset: xr.Dataset) -> str:
    message = "a member's result depends on the chunk it is in: name the axes that couple members in couples()"
    for size in (1, len(scan)):
        _same(run(kind(), scan, chunk=size), dataset, scan.map.threads, message)
    return "chunks of members change nothing"


def _saves(kind: type[Analysis], scan: Ensemble, dataset: xr.Dataset) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "result.nc")
        save(dataset, path)
        require(load(path).equals(dataset), "the result is not the same after writing to netCDF and reading")
    return "the result survives netCDF"


def _ends(kind: type[Analysis], scan: Ensemble, dataset: xr.Dataset) -> str:
    if not kind().ends:
        return "it does not say where its members end"
    found = run(kind(), scan, return_states=True)
    require(found.drop_dims("component").equals(dataset), "the result is another one with return_states=True")
    after = Ensemble.from_result(scan.map, found)
    require(np.array_equal(after.escaped, dataset.escaped.values.ravel()), "`after` and `escaped` do not go together")
    steps = [getattr(kind(), name, 0) for name in ("transient", "steps")]
    known = scan.advance(after.t - scan.t)
    same = np.array_equal(after.states, known.states, equal_nan=True)
    require(same and after.t - scan.t >= sum(steps), "`after` is not where the members are at the end of all steps")
    return f"it says where its members end, at t = {after.t}"


def _draws_it(kind: type[Analysis], scan: Ensemble, dataset: xr.Dataset) -> str:
    if not hasattr(kind, "draw"):
        return "it does not draw"
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    kind().draw(dataset, axes)  # type: ignore[attr-defined]
    require(axes.has_data(), "draw(dataset, axes) draws nothing on the axes")
    return "it draws on the axes it is given"


def _bears_escape(kind: type[Analysis], map: Map) -> str:
    states = map.initial_states(2, seed=0)
    ensemble = Ensemble.grid(map, states=states)
    lost = ensemble.with_states(map.native(np.where([[True], [False]], np.nan, states)))
    escaped = run(kind(), lost).escaped.values
    require(escaped[0] >= 0 and escaped[1] < 0, f"escaped = {list(escaped)} when the first of two members is lost")
    return "an escaped member is a value, no exception"
