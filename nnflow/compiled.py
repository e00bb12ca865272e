"""A map whose rule numba compiles: the four verbs as compiled loops over members, kept in a cache on disk.

Loops that take the rule as an argument are never found again in numba's disk cache. So each rule gets loops of its own
(for each k in few dimensions, and for each choice of observables): the text of `loops.py`, executed with the rule bound
to a global name, its machine code kept under a fingerprint of the rule's bytecode, its constants and everything it
calls (`frozen`, `machine`). A rule typed at a prompt is kept like any other.
"""

from __future__ import annotations

import itertools
import os
import secrets
import sys
import threading
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from importlib.resources import files
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit
from numba.core.bytecode import FunctionIdentity
from numba.core.dispatcher import Dispatcher
from numba.core.errors import NumbaError

from nnflow.differences import misfit
from nnflow.frozen import UNTOLD, fingerprint, frozen, own, plain
from nnflow.guard import VECTORS, Call, is_arithmetic, try_out
from nnflow.machine import loop
from nnflow.map import NORMS, Array, End, Into, Map, TangentRecords, begin, new_records, tangent_records
from nnflow.names import Refusal, unknown
from nnflow.straight import lasting, reads, straight

FUNCTIONS = (types.FunctionType, Dispatcher)  # what numba compiles
SMALL = 8  # a state of at most so many components lies on the stack, and so does its frame

Rule = Callable[..., None]
Function = TypeVar("Function", bound=Callable[..., Any])


def glue(function: Function) -> Function:
    """Mark a rule that hands its arguments on to compiled functions: it is not compiled by itself but put in place.

    Each compiled function in a chain of calls optimises all that it calls once more. The function must not
    allocate: the loops count no references.
    """
    function.glue = True  # type: ignore[attr-defined]
    return function


class CompilationError(ValueError):
    """A rule that numba cannot compile; the message names the rule and says why."""


@dataclass(frozen=True)
class Component:
    """An observable that is one entry of what `function(x, p, t, out)` writes: run once for all entries asked for."""

    function: Rule
    index: int
    size: int  # entries of out

    def __call__(self, x: Array, p: Array, t: int) -> float:
        """The entry."""
        out = np.empty(self.size)
        self.function(x, p, t, out)
        return float(out[self.index])


class Functions(NamedTuple):
    """What a compiled map is made of: functions of one member."""

    rule: Rule
    tangent: Rule | None
    frame_tangent: Rule | None
    hessian: Rule | None
    joint: Rule | None


class CompiledMap(Map):
    """A map x' = f(x, p, t) in float64, its rule written for one member and compiled by numba.

    `rule(x, p, t, out)` writes the next state into `out (dim,)`, from `x (dim,)`, the parameters `p (parameter,)` in
    their declared order, and the step index `t`. `tangent(x, p, t, v, out)` writes the Jacobian at x times `v (dim,)`;
    `frame_tangent(x, p, t, V, out)` does so for all rows of `V (k, dim)` at once, where that shares work;
    `hessian(x, p, t, V, out)` likewise for the loss Hessian of a training map. Where step and tangent share work, give
    `joint(x, p, t, V, out, W)` as well, which writes the next state into `out` and the Jacobian times the rows of V
    into `W (k, dim)`. Without a tangent, central differences are used, and results say so. `observables`: name →
    `f(x, p, t)` → float. The other arguments are `Map`'s fields.

    Rules are plain Python functions in numba's subset; the constants they close over (training data up to about 1 MB)
    are compiled in, as they are when the map is made. A division by zero gives inf, not an exception.

    Each function is called once as plain Python when the map is made (see `guard`); `check=False` leaves that out, and
    is written into the map's structure.

    Raises TypeError for a rule that is no function; Refusal (a ValueError) for one that looks out of bounds, changes
    its arguments or does not write all of its result; CompilationError (a ValueError), at first use, for one that numba
    cannot compile.
    """

    def __init__(
        self,
        rule: Rule,
        tangent: Rule | None = None,
        frame_tangent: Rule | None = None,
        hessian: Rule | None = None,
        joint: Rule | None = None,
        check: bool = True,
        **settings: Any,
    ) -> None:
        functions = Functions(rule, tangent, frame_tangent, hessian, joint)
        for kind, function in functions._asdict().items():
            if not isinstance(function, FUNCTIONS) and (function is not None or kind == "rule"):
                raise TypeError(f"{kind} = {function!r:.80}: give a function")
        observables = dict(settings.get("observables") or {})
        for name, function in observables.items():
            if not isinstance(function, (*FUNCTIONS, Component)):
                raise TypeError(f"observable {name} = {function!r:.80}: give a function")
        kept, seen = frozen((functions, observables), checked=check)
        structure = {**(settings.get("structure") or {}), **({} if check else {"check": False})}
        given = {"observables": seen, "structure": structure}
        super().__init__(**{"name": _python(rule).__name__, **settings, **given})
        object.__setattr__(self, "functions", kept)
        object.__setattr__(self, "check", check)
        if check and self.guarded:
            states = self.initial_states(2, 0)
            try_out(self._calls(), self.name, states, self.parameters)
            self._try_tangent(states)

    guarded: ClassVar[bool] = True  # whether its functions are tried out as plain Python when the map is made

    functions: Functions
    check: bool

    def _calls(self) -> list[Call]:
        """The functions with what they read and write."""
        one, frame, bent = (self.dim,), (VECTORS, self.dim), (VECTORS, self.weights)
        shapes: dict[str, tuple[Any, Any]] = {
            "rule": ((), (one,)),
            "tangent": ((one,), (one,)),
            "frame_tangent": ((frame,), (frame,)),
            "hessian": ((bent,), (bent,)),
            "joint": ((frame,), (one, frame)),
        }
        given = {kind: function for kind, function in self.functions._asdict().items() if function is not None}
        calls = [Call(kind, function, *shapes[kind]) for kind, function in given.items()]
        for name, seen in self.observables.items():
            function, writes = (seen.function, ((seen.size,),)) if isinstance(seen, Component) else (seen, ())
            calls.append(Call(f"observable {name}", function, (), writes))
        return calls

    def _try_tangent(self, states: Array) -> None:
        """Compare the tangent, as plain Python, with differences of the rule. Raises Refusal if it is another one."""
        functions, p = plain(self.functions), np.array(list(self.parameters.values()))
        if (tangent := functions.frame_tangent or functions.tangent) is None:
            return

        def step(x: Array) -> Array:
            out = np.full_like(x, np.nan)
            for row, result in zip(x, out, strict=True):
                _call_plain(functions.rule, row, p, 0, result)
            return out

        def derivative(x: Array, v: Array) -> Array:
            out = np.full_like(v, np.nan)
            pairs = [(v, out)] if functions.frame_tangent else zip(v, out, strict=True)
            for vectors, results in pairs:
                _call_plain(tangent, x[0], p, 0, vectors, results)
            return out

        for x in states:
            if found := misfit(step, derivative, x, self.resolution, self.difference):
                raise Refusal(
                    f"the tangent of {self.name!r} says that {self.coordinates[found.component]} changes by "
                    f"{found.claimed:g} along a direction in which differences of the rule say {found.found:g}, at "
                    f"x = {np.array2string(x, threshold=8)}: mend it, or leave it out (check=False leaves this out)"
                )

    # -- the definition: the same functions, called from Python ---------------------------------------------------

    def step(self, x: Array, p: Array, t: int) -> Array:
        """One step of every member, by the rule as plain Python."""
        out = np.full_like(x, np.nan)
        for m in range(len(x)):
            _call_plain(self.functions.rule, x[m], p[m], t, out[m])
        return out

    @property
    def exact_tangent(self) -> bool:
        """Whether the map was given a tangent; otherwise central differences are used."""
        return self.functions.tangent is not None or self.functions.frame_tangent is not None

    @property
    def autonomous(self) -> bool:
        """Whether the rule does without t: as the fields say, or, if `repeats` says nothing, as its bytecode does."""
        said = self.repeats is not None or not any(reads(f, 2) for f in self.functions if f is not None)
        return super().autonomous and said

    def tangent(self, x: Array, p: Array, t: int, v: Array) -> Array:
        """The Jacobian at x times each row of ``v (member, k, dim)``, by the tangent as plain Python."""
        if not self.exact_tangent:
            return np.asarray(super().tangent(x, p, t, v))
        out = np.full_like(v, np.nan)
        for m in range(len(x)):
            if self.functions.frame_tangent is not None:
                _call_plain(self.functions.frame_tangent, x[m], p[m], t, v[m], out[m])
                continue
            for j in range(v.shape[1]):
                _call_plain(self.functions.tangent, x[m], p[m], t, v[m, j], out[m, j])
        return out

    def curvature(self, x: Array, p: Array, t: int, v: Array) -> Array:
        """The loss Hessian at x_t times each row of ``v (member, k, weights)``. Raises TypeError without a loss."""
        if self.functions.hessian is None:
            return np.asarray(super().curvature(x, p, t, v))
        out = np.empty_like(v, dtype=np.float64)
        self._kernel("curvature")(np.asarray(x), p, t, np.ascontiguousarray(v, dtype=np.float64), out)
        return out

    def observable(self, name: str, x: Array, p: Array, t: int) -> Array:
        """One observable of every member, ``(member,)``."""
        return np.array([self.observables[name](x[m], p[m], t) for m in range(len(x))], dtype=np.float64)

    # -- the verbs, compiled ---------------------------------------------------------------------------------------

    def advance(self, x: Array, p: Array, t: int, steps: int) -> End:
        """`steps` steps from step index t; no record."""
        return self.orbit(x, p, t, steps, max(steps, 1), (), Into(np.empty((len(x), 0, 0)), 0))[1]

    def orbit(
        self, x: Array, p: Array, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """Records ``(member, steps // every, channel)`` of what is observed at t, t + every, …, and the end.

        With `into`, they are written there and all of its records come back.
        """
        records, first = into or new_records(len(x), steps // every, len(observe))
        x, escaped = np.array(x, dtype=np.float64), begin(x)
        columns, scratch = self._columns(tuple(observe)), np.empty((2, self.dim))
        loop = self._kernel("orbit", observe=tuple(observe))
        loop(x, _given(p), t, steps, every, columns, records, first, escaped, *scratch)
        return records, End(x, None, t + steps, escaped)

    def tangent_orbit(
        self, x: Array, p: Array, t: int, frame: Array, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """Carry ``frame (member, k, dim)`` along the orbit, re-orthonormalised each `every` steps."""
        members, k, dim = frame.shape
        records = tangent_records(members, steps // every, k, dim, keep)
        frames, factors = (np.empty((members, 0, k, n)) for n in (dim, k))
        frames = frames if records.frames is None else records.frames
        factors = factors if records.factors is None else records.factors
        x, frame, escaped = np.array(x, dtype=np.float64), np.array(frame, dtype=np.float64), begin(x)
        loop = self._kernel("tangent_orbit", k)
        scratch = (*np.empty((2, dim)), *np.empty((2, k, dim)), *np.empty((2, k, k)))
        loop(x, _given(p), t, frame, steps, every, records.log_stretches, frames, factors, escaped, *scratch)
        return records, End(x, frame, t + steps, escaped)

    def separation_orbit(
        self, x: Array, y: Array, p: Array, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """Distances ``(member, perturbation, steps // every)`` of y ``(member, perturbation, dim)`` from the orbit."""
        if norm not in NORMS:
            raise ValueError(unknown("norm", norm, NORMS))
        x, y, escaped = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64), begin(x)
        distances = np.empty((*y.shape[:2], steps // every))
        loop = self._kernel("separation_orbit")
        loop(x, y, _given(p), t, steps, every, NORMS.index(norm), distances, escaped, np.empty(self.dim))
        return distances, End(x, y, t + steps, escaped)

    def _kernel(self, name: str, k: int = 1, observe: tuple[str, ...] = ()) -> Callable[..., None]:
        loop = getattr(self._module(k, observe), name)

        def call(*arguments: Any) -> None:
            try:
                loop(*arguments)
            except NumbaError as error:
                reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:600]
                raise CompilationError(
                    f"numba cannot compile the rule of {self.name!r}: {reason} "
                    "Write it as rule(x, p, t, out) in numba's subset of Python, or use nnflow.TensorMap."
                ) from error
            except IndexError as error:
                if not loop.signatures:  # numba's own, on the way to a signature
                    raise
                raise Refusal(
                    f"a function of {self.name!r} reads or writes out of bounds on the way: an index grows beyond its "
                    "array with t, the state or a parameter"
                ) from error

        return call

    def _module(self, k: int, observe: tuple[str, ...]) -> types.ModuleType:
        with _loading:
            return self._loops(k, observe)

    def _loops(self, k: int, observe: tuple[str, ...]) -> types.ModuleType:
        if not any(name in self.observables for name in observe):
            observe = ()  # coordinates are chosen by number: one module serves them all
        small = self.dim <= SMALL
        width = k if small else 1  # a constant where a frame lies on the stack; else one module serves them all
        if (width, observe) not in self._modules:
            periods = np.array([self.periods.get(name, 0.0) for name in self.coordinates])
            names: dict[str, Any] = {
                "rule": self.functions.rule,
                "DIM": self.dim,
                "WHOLE": self.dim - self.dim % 8,
                "PERIODS": periods,
            }
            names |= {"SMALL": small, "SPAN": self.dim if small else 1, "WIDTH": width}
            names |= {"PARAMETERS": len(self.parameters), "CHECKED": self.check}
            if self.functions.hessian is not None:
                names["hessian"] = self.functions.hessian
            names["COORDINATES"] = not observe
            side_by_side = small and straight(self.functions.rule)
            names["LASTING"] = side_by_side and lasting(self.functions.rule, self.dim)
            text = _template("lanes.py") if side_by_side else ""
            text += self._tangent_glue(names) + self._observe_glue(names, observe)
            self._modules[width, observe] = _load(text, names)
        return self._modules[width, observe]

    @cached_property
    def _modules(self) -> dict[tuple[int, tuple[str, ...]], types.ModuleType]:
        return {}

    def _tangent_glue(self, names: dict[str, Any]) -> str:
        if self.functions.joint is not None:
            names["joint"] = self.functions.joint
            return ""
        return self._frame_glue(names) + "\njoint = one_after_the_other\n"

    def _frame_glue(self, names: dict[str, Any]) -> str:
        if self.functions.frame_tangent is not None:
            names["frame_tangent"] = self.functions.frame_tangent
            return ""
        if self.functions.tangent is not None:
            names["tangent"] = self.functions.tangent
            return "\nframe_tangent = one_by_one\n"
        return "\nframe_tangent = by_differences\n"

    def _columns(self, observe: tuple[str, ...]) -> npt.NDArray[np.intp]:
        """Where the coordinates among what is observed stand."""
        if observe == self.coordinates:
            return np.arange(self.dim, dtype=np.intp)
        return np.array([self.column(name) for name in observe if name not in self.observables], dtype=np.intp)

    def _observe_glue(self, names: dict[str, Any], observe: tuple[str, ...]) -> str:
        if not observe:
            return "\nobserve = observe_coordinates\n"
        before: list[str] = []
        lines = ["", "", "@njit(**PART)", "def observe(x, p, t, columns, out):"]
        for i, name in enumerate(observe):
            function = self.observables.get(name)
            if isinstance(function, Component):
                continue
            if function is None:
                lines.append(f"    out[{i}] = x[{self.column(name)}]")
            else:
                names[f"observable_{i}"] = function
                lines.append(f"    out[{i}] = observable_{i}(x, p, t)")
        for j, (function, entries) in enumerate(self._groups(observe).items()):
            names[f"several_{j}"] = function
            before += [
                "",
                "",
                "@njit(**OWNER)",
                f"def group_{j}(x, p, t, out):",
                f"    seen = np.empty({entries[0][1].size})",
            ]
            before += [
                f"    several_{j}(x, p, t, seen)",
                *(f"    out[{i}] = seen[{part.index}]" for i, part in entries),
            ]
            lines.append(f"    group_{j}(x, p, t, out)")
        return "\n".join([*before, *lines, ""])

    def _groups(self, observe: tuple[str, ...]) -> dict[Rule, list[tuple[int, Component]]]:
        """The components among what is observed, with their columns, by the function that computes them."""
        groups: dict[Rule, list[tuple[int, Component]]] = {}
        for i, name in enumerate(observe):
            if isinstance(part := self.observables.get(name), Component):
                groups.setdefault(part.function, []).append((i, part))
        return groups


@lru_cache(maxsize=256)
def _compiled(function: Any, checked: bool) -> Dispatcher:
    """A rule as numba's dispatcher: one for all the loops it enters, so that its own code is compiled once a process.

    The loops are compiled without reference counting (see `loops.py`): what they call has to say that it may allocate.
    `checked`: each index is looked at, but for those that `guard` has seen already, since they are written as numbers.
    """

    def passed_on(*arguments: Any) -> Any:
        return function(*arguments)

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": True}
    if getattr(function, "glue", False):
        options["inline"] = "always"
    elif checked and not own(_python(function)) and not straight(function):
        options["boundscheck"] = True
    return cast(Dispatcher, njit(**options)(passed_on if isinstance(function, Dispatcher) else function))


def _given(p: Array) -> Array:
    """Parameters that no rule can write to: numba does not compile it."""
    given = np.array(p, dtype=np.float64)
    given.flags.writeable = False
    return given


def _python(function: Any) -> Any:
    return function.py_func if isinstance(function, Dispatcher) else function


def _call_plain(function: Any, *arguments: Any) -> None:
    """Call a rule from Python with numba's meaning of bad arithmetic: inf or NaN, no exception."""
    with np.errstate(all="ignore"):
        try:
            function(*arguments)
        except (ArithmeticError, ValueError) as error:
            if not is_arithmetic(error):
                raise
            arguments[-1][...] = np.nan


def _number_apart() -> None:
    """Let numba number this process's functions from a random start, since their numbers become symbols on disk.

    Two rules made by one factory have one name. Compiled by two processes that both count from 1, they would be one
    symbol too, and a third process that loads both from the cache would run the first in place of the second.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(60))


_number_apart()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_number_apart)


# -- modules made for one map, found again on disk ----------------------------------------------------------------

_loaded: dict[str, types.ModuleType] = {}
_loading = threading.RLock()


def _load(glue: str, names: dict[str, Any]) -> types.ModuleType:
    """The loops bound to one map's functions: loaded once a process, compiled once a machine."""
    text = _template("loops.py") + glue
    digest = fingerprint(text, names)
    if digest.startswith(UNTOLD):
        return _execute(text, names, digest)  # nobody will ask for it by this name again
    if digest not in _loaded:
        _loaded[digest] = _execute(text, names, digest)
    return _loaded[digest]


def _template(name: str) -> str:
    return files("nnflow").joinpath(name).read_text("utf-8").replace("from __future__ import annotations\n", "")


def _execute(text: str, names: dict[str, Any], digest: str) -> types.ModuleType:
    module = types.ModuleType(f"loops_{digest}")
    for name, value in names.items():
        setattr(module, name, _compiled(value, names.get("CHECKED", False)) if callable(value) else value)
    module.loop = partial(loop, digest)  # type: ignore[attr-defined]
    exec(compile(text, f"<{module.__name__}>", "exec"), module.__dict__)
    return module
