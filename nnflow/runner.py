"""run(): members → chunks → executor → xarray.Dataset. The only place where results are shaped.

Kernels are serial and release the GIL, so the default executor is a thread pool, one thread a core; a single chunk
shares its members out itself (`workers`). Time is cut into short calls by the ensemble, which ticks after each: that
moves the progress bar and lets Ctrl-C through.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, partial
from importlib.metadata import version
from inspect import get_annotations
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from nnflow.analysis import Analysis, Result, check_result, first, refuse_reserved, takes_recordings, without_end
from nnflow.blas import one_blas_thread
from nnflow.ensemble import Ensemble
from nnflow.map import Map
from nnflow.names import Refusal, WrongKind, shown, unknown
from nnflow.progress import heard_by
from nnflow.recording import Recording
from nnflow.registry import PluginError, Registry
from nnflow.rehearsal import names_of, refuse_clash, rehearse
from nnflow.room import refuse_endless, room
from nnflow.settings import as_json, convert, whole
from nnflow.typing import Array, Integers
from nnflow.workers import Workers, among, cores

PACKAGES = ("nnflow", "numpy", "numba", "torch", "scipy", "xarray")
CONVENTIONS = (
    "float64 unless the map says otherwise; natural logarithms, per iteration; Jacobian at x_t; "
    "steps count after the transient; records hold x at t, t + every, ...; "
    "escaped is the step index of the first non-finite state, -1 = never"
)
PULSE = 0.1  # seconds: for how long `run` waits at a time
SOON = 0.5  # seconds that workers have to notice an interruption; those in a long kernel are left behind
STATES = ("state", "component")  # what return_states adds to a result
analyses = Registry("nnflow.analyses", "analysis")


class Cancelled(Exception):
    """The run was interrupted; a worker thread stops at its next tick."""


def run(
    analysis: str | Analysis,
    ensemble: Ensemble | Recording | Map,
    *,
    executor: Executor | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
    return_states: bool = False,
    **settings: Any,
) -> xr.Dataset:
    """Apply an analysis to every member of an ensemble, in parallel, and label the result.

    An escaping orbit is a value: NaN, and `escaped`.

    Args:
        analysis: A registered name, or an instance.
        ensemble: What it is applied to. A bare map is one member with its default parameters and one drawn state, or
            its own: a training map's is the weights of its module (`initial_states` in the result says which).
        executor: Any `concurrent.futures.Executor` (default: one thread a core).
        chunk: Members per task; it never changes the result of a compiled map.
        progress: A bar on stderr (default: only on a terminal).
        return_states: Also return the states in which the members ended, `state (…, component)`, from which
            `Ensemble.from_result` goes on. Not of analyses that follow no orbit of each member.
        **settings: Those of a named analysis; an instance has its own.

    Returns:
        A dataset whose dims are the scan axes in order, then `init` if there are several, then the analysis's own. Its
        attributes hold the analysis, settings, map, parameters (`scanned`: those that coordinates tell), seed, versions
        and conventions.

    Raises:
        LookupError: before anything runs, for an unknown analysis.
        Refusal: (a ValueError) before anything runs, for a setting the analysis does not have or refuses, a result that
            would have two things of one name, records that memory cannot hold, or states that it has none of.
        WrongKind: (a TypeError) before anything runs, if `ensemble` is none, or a recording where a map is needed.
        Exception: later, whatever the analysis raises.

    >>> import nnflow
    >>> dataset = nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](), steps=1000)
    >>> round(float(dataset.exponent.sum()), 6)  # ln 0.3
    -1.203973
    """
    if isinstance(ensemble, Map):
        ensemble = Ensemble.grid(ensemble)
    if not isinstance(ensemble, (Ensemble, Recording)):
        raise WrongKind(f"{shown(ensemble)}: give an Ensemble, a Recording or a Map")
    if not len(ensemble):
        raise Refusal("the ensemble has no members: there is nothing to run")
    if not isinstance(executor, Executor | None):
        raise Refusal(f"executor = {shown(executor)}: give a concurrent.futures.Executor, or None for our own threads")
    size = _chunk_size(ensemble) if chunk is None else whole("chunk", chunk, 1)
    visible = convert("progress", progress, bool | None)
    visible = bool(sys.stderr and sys.stderr.isatty()) if visible is None else visible
    name, method = resolve(analysis, ensemble, settings)
    keep = convert("return_states", return_states, bool)
    if keep:
        _check_states(name, method, ensemble)
    work = method.work(ensemble)
    refuse_endless(work * (ensemble.map.substeps if isinstance(ensemble, Ensemble) else 1))
    attributes = _attributes(name, method, ensemble)  # before the work, so that nothing in them can lose it
    chunks = ensemble.split(size, method.couples(ensemble))
    with tqdm(total=work, desc=name, unit=" steps", unit_scale=True, disable=not visible) as bar:
        results = _map(name, method, keep, _names(ensemble), chunks, executor, bar)
    return _shape(name, attributes, ensemble, [members for members, _ in chunks], results)


def resolve(
    analysis: str | Analysis, ensemble: Ensemble | Recording, settings: Mapping[str, Any]
) -> tuple[str, Analysis]:
    """Find an analysis and set it up for an ensemble.

    Args:
        analysis: A registered name, or an instance.
        ensemble: What it will be applied to; of a recording all is used unless `settings` say otherwise.
        settings: Those of a named analysis.

    Returns:
        The name that goes into the result, and the analysis with its settings.

    Raises:
        UnknownPlugin: (a LookupError) for an unknown name.
        Refusal: (a ValueError) for settings that it does not have, refuses, or has no default for.
        WrongKind: (a TypeError) for what is no analysis, or a recording where a map is needed.
    """
    if isinstance(analysis, Analysis):
        if settings:
            raise Refusal(f"settings {', '.join(settings)}: put them into the {type(analysis).__name__} instance")
        _check_kind(type(analysis), ensemble)
        return _registered_name(type(analysis)), analysis
    if not isinstance(analysis, str):
        raise WrongKind(f"{shown(analysis)}: give an analysis by name, or an instance of a nnflow.Analysis dataclass")
    kind = analyses[analysis]
    _check_kind(kind, ensemble)
    known = {f.name: f for f in fields(kind)}
    for name in settings:
        if name not in known:
            raise Refusal(unknown(f"setting of {analysis}", name, known))
    missing = [n for n, f in known.items() if f.default is f.default_factory is MISSING and n not in settings]
    if missing:
        raise Refusal(f"{analysis} has no default for {', '.join(missing)}: give a value")
    return analysis, kind(**{**_window_of(ensemble, known, settings), **settings})


def _check_kind(kind: Any, ensemble: Ensemble | Recording) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Analysis) and is_dataclass(kind)):
        raise WrongKind(f"{shown(kind)} is no frozen dataclass derived from nnflow.Analysis")
    added = [name for name, hint in get_annotations(kind).items() if "ClassVar" not in str(hint)]
    if "__dataclass_fields__" not in vars(kind) and added:
        raise WrongKind(f"{kind.__name__} adds {', '.join(added)}, but is no dataclass itself: decorate it")
    refuse_reserved(kind)
    if isinstance(ensemble, Recording) and not takes_recordings(kind):
        raise WrongKind(f"a recording has no map, and {kind.__name__} needs one: give it an Ensemble or a Map")


def _window_of(ensemble: Ensemble | Recording, known: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, int]:
    """A recording has its own length: unless told otherwise, all of it is used and nothing is dropped."""
    if not isinstance(ensemble, Recording):
        return {}
    transient = whole("transient", settings.get("transient", 0), 0)
    every = whole("every", settings.get("every", known["every"].default if "every" in known else 1), 1)
    if transient >= ensemble.samples:
        raise Refusal(f"transient = {transient}: the recording has {ensemble.samples} samples")
    window = {"transient": transient, "steps": (ensemble.samples - transient) // every * every}
    return {name: value for name, value in window.items() if name in known}


def _registered_name(kind: type) -> str:
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((name for name, value in analyses.targets() if value == path), path)


def _chunk_size(ensemble: Ensemble | Recording) -> int:
    if isinstance(ensemble, Ensemble) and not ensemble.map.threads:
        return len(ensemble)
    share = -(-len(ensemble) // (4 * cores()))
    size = -(-share // 8) * 8 if share > 8 else share
    many = ensemble.map.many if isinstance(ensemble, Ensemble) else 1
    return share if 0 < len(ensemble) % size < many else size  # few are left over, which need machine code of their own


def _map(
    name: str,
    method: Analysis,
    keep: bool,
    names: Sequence[str],
    chunks: list[tuple[Integers, Any]],
    executor: Executor | None,
    bar: tqdm[Any],
) -> list[Result]:
    """The result of each chunk. After an error or Ctrl-C, threads deep in a kernel are left to it."""
    cancelled, lock = threading.Event(), threading.Lock()

    def tick(steps: int) -> None:
        if cancelled.is_set():
            raise Cancelled
        with lock:
            bar.update(steps)

    pool = executor or Workers(min(len(chunks), cores()))
    local, fork = isinstance(pool, (Workers, ThreadPoolExecutor)), isinstance(pool, ProcessPoolExecutor)
    parts = [part for _, part in chunks]
    call = partial(_in_one_thread, fork=fork, others=len(chunks) > 1, listener=tick if local else None)
    futures: list[Future[Any]] = []
    try:
        look = partial(rehearse, name, method, axes=bool(names))
        futures.append(_submitted(pool, partial(_in_one_thread, look, fork=fork), parts[0]))
        found = next(_outcome(future, pool) for future in _as_completed(futures))
        refuse_clash(name, names, found | (set(STATES) if keep else set()))
        futures.clear()
        with one_blas_thread():
            done = partial(_concluded, name, method, keep)
            futures.extend(_submitted(pool, partial(call, done), part) for part in parts)
            for future in _as_completed(futures):
                _outcome(future, pool)
                if not local:
                    bar.update((bar.total or 0) // len(futures))
            return [future.result() for future in futures]
    except BaseException:
        cancelled.set()
        for future in futures:
            future.cancel()
        if local:
            wait(futures, SOON)
        raise
    finally:
        if executor is None:
            pool.shutdown(wait=not cancelled.is_set())


def _as_completed(futures: Sequence[Future[Any]]) -> Iterator[Future[Any]]:
    """The futures in the order in which they end. A signal that comes just before a wait is heard only after it."""
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    left = len(futures)
    while left:
        with suppress(Empty):
            yield ended.get(timeout=PULSE)
            left -= 1


def _submitted(pool: Executor, call: Callable[[Any], Any], part: Any) -> Future[Any]:
    """A future of the pool. Raises Refusal if it takes no work: it has been shut down, or its processes have died."""
    try:
        return pool.submit(call, part)
    except Exception as error:  # each kind of executor has its own
        raise Refusal(f"executor = {pool!r} takes no work ({error}): give one that is open") from error


def _outcome(future: Future[Any], pool: Executor) -> Any:
    """What a chunk gave. Raises whatever the analysis raises, and BrokenExecutor for a pool that lost the chunk."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError) as error:
        raise BrokenExecutor(
            f"{type(pool).__name__} lost a chunk of members ({error or type(error).__name__}): a worker was killed, "
            "most likely for lack of memory, or the executor was closed; give fewer workers or a smaller chunk"
        ) from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as end:  # sys.exit() would end the program, in silence
        raise PluginError(f"the analysis ended by {end!r} instead of returning its variables") from end


def _in_one_thread(
    method: Callable[[Any], Any],
    part: Any,
    *,
    fork: bool,
    others: bool = False,
    listener: Callable[[int], None] | None = None,
) -> Any:
    """A chunk, elsewhere. Torch's threads do not survive a `fork`: an operation would wait for them."""
    if fork and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    with one_blas_thread(), among(others), heard_by(listener):
        return method(part)


# -- where members end -------------------------------------------------------------------------------------------


def _check_states(name: str, method: Analysis, ensemble: Ensemble | Recording) -> None:
    """Refuse to return states that there will not be, or that fit into no memory."""
    if isinstance(ensemble, Recording):
        raise Refusal("return_states: a recording has no map, so no states")
    if not method.ends:
        raise Refusal(f"return_states: {name} follows no orbit of each member with these settings, so it ends nowhere")
    room("the states", len(ensemble), ensemble.map.dim)


def _concluded(name: str, method: Analysis, keep: bool, part: Any) -> Any:
    """What an analysis returns for a chunk, and on request where its members end: without the map, which is large."""
    result, after = without_end(method(part))
    if not keep:
        return result
    check_result(name, result)
    if after is None or not np.array_equal(result["escaped"][1], after.escaped):
        raise WrongKind(f"{name} says that it ends, and returned no ensemble `after` with the same `escaped`")
    if both := sorted(set(STATES) & set(result)):
        raise Refusal(f"return_states: {name} returns {', '.join(both)} itself")
    told = {"long_name": "state after the last step", "t": after.t, "origin": after.origin, "began": after.began}
    names = np.array(after.map.coordinates)
    return {**result, "component": ("component", names), "state": (("member", "component"), after.states, told)}


# -- shaping -----------------------------------------------------------------------------------------------------


def _shape(
    name: str,
    attributes: dict[str, Any],
    ensemble: Ensemble | Recording,
    members: list[Integers],
    results: list[Result],
) -> xr.Dataset:
    for result in results:
        check_result(name, result)
        if set(result) != set(results[0]):
            raise Refusal(
                f"{name} returned {shown(sorted(result))} for some members, {shown(sorted(results[0]))} for others"
            )
    refuse_clash(name, _names(ensemble), names_of(results[0]))  # of names that no rehearsal could foresee
    axes = [axis.name for axis in ensemble.axes]
    coordinates: dict[str, Any] = {axis.name: (axis.name, axis.values) for axis in ensemble.axes}
    coordinates |= {key: (axes, values.reshape(ensemble.shape)) for key, values in _differing(ensemble).items()}
    variables = {}
    for variable in results[0]:
        dims, values, attrs = _joined(name, variable, members, [r[variable] for r in results])
        if dims[:1] == ("member",):
            dims, values = (*axes, *dims[1:]), values.reshape((*ensemble.shape, *values.shape[1:]))
        if dims == (variable,):
            coordinates[variable] = (dims, values, attrs)
        else:
            variables[variable] = (dims, values, attrs)
    if "state" in variables and ensemble.init.any() and "init" not in coordinates:
        coordinates["init"] = (axes, ensemble.init.reshape(ensemble.shape))
    variables["escaped"][2].setdefault("long_name", "step index of the first non-finite state, -1 = never")
    return xr.Dataset(variables, coordinates, attributes)


def _joined(
    name: str, variable: str, members: list[Integers], parts: list[Any]
) -> tuple[tuple[str, ...], Any, dict[str, Any]]:
    """One variable of all chunks, back in member order."""
    dims = (parts[0][0],) if isinstance(parts[0][0], str) else tuple(parts[0][0])
    attrs = dict(parts[0][2]) if len(parts[0]) > 2 else {}
    arrays = [np.asarray(part[1]) for part in parts]
    if dims == (variable,) and all(np.array_equal(array, arrays[0]) for array in arrays):
        return dims, arrays[0], attrs
    if dims[:1] != ("member",):
        raise Refusal(
            f"{name}: variable {variable!r} has dims {dims}: its first dim must be 'member', unless it is the "
            "coordinate of its own dim, the same for all members"
        )
    for rows, array in zip(members, arrays, strict=True):
        if array.ndim != len(dims) or array.shape[0] != len(rows) or array.shape[1:] != arrays[0].shape[1:]:
            raise Refusal(
                f"{name}: variable {variable!r} has dims {dims} but shape {array.shape} for {len(rows)} members"
            )
    joined, order = np.concatenate(arrays), np.concatenate(members)
    if (np.diff(order) == 1).all():
        return dims, joined, attrs
    whole = np.empty_like(joined)
    whole[order] = joined
    return dims, whole, attrs


def _differing(ensemble: Ensemble | Recording) -> dict[str, Array]:
    """Parameters that no axis tells, and that differ among members: their values ``(member,)``."""
    if isinstance(ensemble, Recording):
        return {}
    axes, columns = (
        [axis.name for axis in ensemble.axes],
        zip(ensemble.map.parameters, ensemble.parameters.T, strict=True),
    )
    return {name: values for name, values in columns if name not in axes and (values != values[0]).any()}


def _names(ensemble: Ensemble | Recording) -> list[str]:
    """The names that the result will have beside those of the analysis."""
    return [*(axis.name for axis in ensemble.axes), *_differing(ensemble)]


def _scanned(ensemble: Ensemble) -> list[str]:
    """Names whose values only coordinates tell: a result that has lost one does not say what its members were."""
    parameters = [axis.name for axis in ensemble.axes if axis.kind == "parameter"]
    return [*parameters, *_differing(ensemble), *(["init"] if ensemble.init.any() else [])]


@cache
def _versions() -> str:
    return json.dumps({package: version(package) for package in PACKAGES})


def _attributes(name: str, method: Analysis, ensemble: Ensemble | Recording) -> dict[str, Any]:
    attributes = {
        "analysis": name,
        "settings": as_json(method),
        "versions": _versions(),
        "conventions": CONVENTIONS,
    }
    if isinstance(ensemble, Recording):
        seen: Any = first(ensemble, getattr(method, "observable", None))
        named = {"observable": seen if isinstance(seen, str) else ", ".join(seen)}
        return {**attributes, "map": "recording", "t": ensemble.t, **(named if hasattr(method, "observable") else {})}
    map, axes = ensemble.map, [axis.name for axis in ensemble.axes]
    shared, differing = dict(zip(map.parameters, ensemble.parameters[0].tolist(), strict=True)), _differing(ensemble)
    parameters = {  # of scanned ones, the default
        name: value if name in axes else shared[name] for name, value in map.parameters.items() if name not in differing
    }
    return {
        **attributes,
        "map": map.name,
        "parameters": json.dumps(parameters),
        "scanned": json.dumps(_scanned(ensemble)),
        "structure": json.dumps(dict(map.structure), default=str),
        "seed": ensemble.seed,
        "initial_states": ensemble.history,
        "t": ensemble.t,
        "tangent": "exact" if map.exact_tangent else "central differences",
        "resolution": map.resolution,
        "source": map.source,
        **({"compiled": map.compiled} if map.compiled else {}),
    }
