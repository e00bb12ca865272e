"""A map whose rule numba compiles: the four verbs as compiled loops over members, kept in a cache on disk.

Loops that take the rule as an argument are never found again in numba's disk cache. So each rule gets loops of its own,
functions that close over it (`loops`, `lanes`, `observing`), found on disk by a fingerprint of the rule's bytecode, its
constants and everything it calls (`frozen`, `machine`). A rule typed at a prompt is kept like any other.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from operator import ge, le
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnflow.compiled import kernels, lanes
from nnflow.compiled.kernels import Functions
from nnflow.compiled.loops import Constants, Shape
from nnflow.compiled.observing import Component
from nnflow.compiled.trial import (
    Bent,
    Compiled,
    compare_hessian,
    compare_observed,
    compare_steps,
    try_derivatives,
)
from nnflow.compiled.ways import Rule
from nnflow.frozen import frozen
from nnflow.guard import VECTORS, Call, call_plain, is_intrinsic, try_out
from nnflow.internals import Dispatcher
from nnflow.map import Map
from nnflow.names import Refusal, WrongKind, shown, unknown
from nnflow.records import End, Into, TangentRecords, begin, new_records, tangent_records
from nnflow.straight import UNREADABLE, reads
from nnflow.typing import Array
from nnflow.vectors import NORMS, extremes
from nnflow.workers import on_all_cores, shares

FUNCTIONS = (types.FunctionType, Dispatcher)  # what numba compiles
SMALL = 8  # a state of at most so many components lies on the stack, and so does its frame
WORTH, WORTH_SMALL = 2**14, 2**20  # numbers times steps from which on members are shared out to all cores
LAST = 100_000  # steps, beyond which compiled code is compared with plain Python no more
TILE = 2**15  # numbers of recorded states from which observables are computed at a time


class CompilationError(Refusal):
    """A rule that numba cannot compile; the message names the rule and says why."""


class CompiledMap(Map):
    """A map x' = f(x, p, t) in float64, its rule written for one member and compiled by numba.

    Functions read the state `x (dim,)`, the parameters `p (parameter,)` in their declared order, and the step index
    `t`. They are plain Python functions in numba's subset; the constants they close over (up to about 1 MB) are
    compiled in, as they are when the map is made. A division of floats by zero gives inf, not an exception. Whole
    numbers have 64 bits: beyond, they wrap around, and `//` and `%` by a whole 0, and negative powers, give 0 (write
    ``float(t)``). A variable that is not assigned on the way taken is NaN.

    Args:
        rule: `rule(x, p, t, out)` writes the next state into `out (dim,)`.
        tangent: `tangent(x, p, t, v, out)` writes the Jacobian at x times `v (dim,)`. Without a tangent, central
            differences are used, and results say so.
        frame_tangent: `frame_tangent(x, p, t, V, out)` does so for all rows of `V (k, dim)` at once, where that shares
            work.
        hessian: `hessian(x, p, t, V, out)` likewise for the loss Hessian of a training map.
        joint: `joint(x, p, t, V, out, W)`, where step and tangent share work, writes the next state into `out` and the
            Jacobian times the rows of V into `W (k, dim)`; the tangent is given as well.
        constants: A tuple of arrays, numbers or such tuples, handed to each function behind t: `rule(x, p, t, c, out)`,
            an observable `f(x, p, t, c)`. They are no part of the machine code: maps that differ in their data only
            share it.
        check: Whether each function is called once as plain Python when the map is made (see `guard`); False leaves
            that out, and is written into the map's structure.
        **settings: `Map`'s fields, with `observables`: name → `f(x, p, t)` → float.

    Raises:
        WrongKind: (a TypeError) for a rule that is no function.
        Refusal: (a ValueError) for one that looks out of bounds, changes its arguments or does not write all of its
            result.
        CompilationError: (a ValueError) at first use, for one that numba cannot compile.
    """

    def __init__(
        self,
        rule: Rule,
        tangent: Rule | None = None,
        frame_tangent: Rule | None = None,
        hessian: Rule | None = None,
        joint: Rule | None = None,
        constants: Constants | None = None,
        check: bool = True,
        **settings: Any,
    ) -> None:
        functions = Functions(rule, tangent, frame_tangent, hessian, joint)
        for name in ("step", "tangent", "observable", "difference"):
            if getattr(type(self), name) is not getattr(CompiledMap, name):
                raise Refusal(
                    f"{type(self).__name__} overrides {name}, which compiled verbs do not call: give rule, tangent, "
                    "observables or periods as arguments, or derive from nnflow.Map"
                )
        for kind, function in functions._asdict().items():
            if not isinstance(function, FUNCTIONS) and (function is not None or kind == "rule"):
                raise WrongKind(f"{kind} = {function!r:.80}: give a function")
        if joint is not None and tangent is None and frame_tangent is None:
            raise Refusal("joint without a tangent: give tangent or frame_tangent as well, which it is to agree with")
        observables = dict(settings.get("observables") or {})
        for name, function in observables.items():
            if not isinstance(function, (*FUNCTIONS, Component)):
                raise WrongKind(f"observable {name} = {function!r:.80}: give a function")
        kept, seen = frozen((functions, observables), checked=check)
        given = {"observables": seen, "check": check}
        super().__init__(**{"name": getattr(rule, "py_func", rule).__name__, **settings, **given})
        object.__setattr__(self, "functions", kept)
        object.__setattr__(self, "constants", None if constants is None else _kept(constants))
        if check and self.guarded:
            states = self.initial_states(4, 0)
            try_out(self._calls(), self.name, states[:2], self.parameters, self.behind(0))
            try:
                try_derivatives(self, states)
            except NotImplementedError as error:
                if not is_intrinsic(error):
                    raise

    in_numpy = False
    guarded: ClassVar[bool] = True  # whether its functions are tried out as plain Python when the map is made

    functions: Functions
    constants: Constants | None

    @property
    def many(self) -> int:
        """From so many members on a small map has other machine code."""
        return lanes.FEW if self.dim <= SMALL else 1

    def handed(self, t: int, steps: int) -> Constants:
        """What the functions get behind t, for so many steps from t on."""
        return self.constants or ()

    def behind(self, t: int) -> tuple[Any, ...]:
        """What stands behind t in a call of one of the functions."""
        return () if self.constants is None else (self.handed(t, 1),)

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

    # -- the definition: the same functions, called from Python ---------------------------------------------------

    def step(self, x: Array, p: Array, t: int) -> Array:
        """One step of every member, by the rule as plain Python."""
        x = np.asarray(x, dtype=np.float64)
        out, behind = np.full(x.shape, np.nan), self.behind(t)
        for m in range(len(x)):
            call_plain(self.functions.rule, x[m], p[m], t, *behind, out=out[m])
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
        x, v = np.asarray(x, dtype=np.float64), np.asarray(v, dtype=np.float64)
        out, behind = np.full(v.shape, np.nan), self.behind(t)
        for m in range(len(x)):
            if self.functions.frame_tangent is not None:
                call_plain(self.functions.frame_tangent, x[m], p[m], t, *behind, v[m], out=out[m])
                continue
            for j in range(v.shape[1]):
                call_plain(self.functions.tangent, x[m], p[m], t, *behind, v[m, j], out=out[m, j])
        return out

    def curvature(self, x: Array, p: Array, t: int, v: Array) -> Array:
        """The loss Hessian at x_t times each row of ``v (member, k, weights)``.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Vectors of weights ``(member, k, weights)``, one a row.

        Returns:
            ``(member, k, weights)`` float64.

        Raises:
            WrongKind: (a TypeError) without a loss.
        """
        if self.functions.hessian is None:
            return np.asarray(super().curvature(x, p, t, v))
        out = np.empty_like(v, dtype=np.float64)
        loop = kernels.curvature(self.functions.hessian, self._shape, self.check)

        def bend(x: Array, p: Array, t: int, v: Array, out: Array) -> Array:
            self._call(
                loop, np.array(x, dtype=np.float64), _given(p), t, self.handed(t, 1), np.array(v, dtype=np.float64), out
            )
            return out

        self._meet_bend(loop, _given(p), t, bend)
        return bend(x, p, t, v, out)

    def observable(self, name: str, x: Array, p: Array, t: int) -> Array:
        """One observable of every member, ``(member,)``."""
        function, behind = self.observables[name], self.behind(t)
        return np.array([call_plain(function, *of, t, *behind) for of in zip(x, p, strict=True)], dtype=np.float64)

    # -- the verbs, compiled ---------------------------------------------------------------------------------------

    def advance(self, x: Array, p: Array, t: int, steps: int) -> End:
        """`steps` steps from step index t; no record."""
        return self.orbit(x, p, t, steps, max(steps, 1), (), Into(np.empty((len(x), 0, 0)), 0))[1]

    def orbit(
        self, x: Array, p: Array, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """As `Map.orbit`, by a compiled loop; observables are computed from tiles of recorded states."""
        records, first = into or new_records(len(x), steps // every, len(observe))
        x, p, escaped = np.array(x, dtype=np.float64), _given(p), begin(x)
        if any(name in self.observables for name in observe):
            self._observe(x, p, t, steps, every, observe, records[:, first : first + steps // every], escaped)
        else:
            columns = np.array([self.column(name) for name in observe], dtype=np.int64)
            self._follow(x, p, t, self.handed(t, steps), steps, every, columns, records, first, escaped)
        return records, End(x, None, t + steps, escaped)

    def _follow(
        self, x: Array, p: Array, t: int, c: Constants, steps: int, every: int, columns: Any, *records: Any
    ) -> None:
        """Advance x in place, recording coordinates."""
        loop = kernels.orbit(self.functions.rule, self._shape, self.check, len(x) >= lanes.FEW)
        scratch = np.empty((2, 1, self.dim))

        def one_step(x: Array, p: Array, t: int, v: Array) -> tuple[Array, None]:
            ahead, nothing = np.array(x), (np.empty(0, dtype=np.int64), np.empty((len(x), 0, 0)), 0, begin(x))
            self._call(loop, ahead, _given(p), t, self.handed(t, 1), 1, 1, *nothing, *scratch)
            return ahead, None

        self._meet(loop, p, t + steps, one_step)
        out, first, escaped = records

        def of(rows: slice) -> None:
            scratch = np.empty((2, 1, self.dim))
            self._call(loop, x[rows], p[rows], t, c, steps, every, columns, out[rows], first, escaped[rows], *scratch)

        self._share_out(of, len(x), steps)

    def _meet(self, loop: Rule, p: Array, last: int, one_step: Compiled, k: int = 0) -> None:
        """Compare a loop, which carries k vectors along, with what it should do, before it is used first."""
        self._try_first(loop, p, last, partial(compare_steps, self, one_step, k=k))

    def _meet_bend(self, loop: Rule, p: Array, t: int, bend: Bent) -> None:
        """The same for the loop of the Hessian."""
        self._try_first(loop, p, t, partial(compare_hessian, self, bend))

    def _try_first(self, loop: Rule, p: Array, t: int, compare: Callable[[Array, int], None]) -> None:
        """Compare a loop with plain Python before it is used first, and again with parameters or steps beyond those.

        What is beyond in t counts if it is by an eighth, and up to 100 000: a power of it may be a number of as many
        digits in Python.
        """
        if not (self.guarded and self.check and len(p)):
            return
        low, high, last = np.minimum.reduce(p).tolist(), np.maximum.reduce(p).tolist(), min(t, LAST)
        known = self._tried.get(loop)
        if known is not None:
            inside = all(map(le, known[0], low)) and all(map(ge, known[1], high))
            if inside and last <= known[2] + known[2] // 8 and len(p) <= known[3]:
                return
            low, high, last = list(map(min, known[0], low)), list(map(max, known[1], high)), max(known[2], last)
        members = max(len(p), known[3] if known else 0)
        self.once((loop, *low, *high, last, members), lambda: compare(p[extremes(p)], last))
        self._tried[loop] = low, high, last, members

    @cached_property
    def _tried(self) -> dict[Rule, tuple[list[float], list[float], int, int]]:
        """Where a loop was compared with plain Python: smallest and largest parameters, last step, how many members."""
        return {}

    def _observe(
        self, x: Array, p: Array, t: int, steps: int, every: int, observe: Sequence[str], out: Array, escaped: Any
    ) -> None:
        """Advance x in place, and compute what is observed from tiles of recorded states."""
        blocks, columns = max(1, TILE // max(1, x.size)), np.arange(self.dim)
        loops = [
            (kernels.observe(function, size, self._shape, self.check), entries)
            for (function, size), entries in self._entries(observe).items()
        ]
        for loop, (channels, entries) in loops:
            names = [observe[i] for i in channels]
            self._try_first(
                loop, p, t + steps, partial(compare_observed, self, names, partial(self._see, loop, entries))
            )
        chosen = [(i, self.column(name)) for i, name in enumerate(observe) if name not in self.observables]
        for first in range(0, steps // every, blocks):
            tile, now = out[:, first : first + blocks], t + first * every
            states, few = np.empty((len(x), tile.shape[1], self.dim)), tile.shape[1] * every
            c = self.handed(now, few)
            self._follow(x, p, now, c, few, every, columns, states, 0, escaped)
            for loop, (channels, entries) in loops:
                tile[:, :, channels] = self._see(loop, entries, states, p, now, c, every)
            for i, column in chosen:
                tile[:, :, i] = states[:, :, column]

    def _see(self, loop: Rule, entries: Any, states: Array, p: Array, t: int, c: Constants, every: int) -> Array:
        """Entries of what is observed at ``states (member, time, dim)``, of one layout, for which there is code."""
        found, p = np.empty((*states.shape[:2], len(entries))), _given(p)
        of = lambda rows: self._call(loop, states[rows], p[rows], t, c, every, entries, found[rows])  # noqa: E731
        self._share_out(of, *states.shape[:2])
        return found

    def _entries(self, observe: Sequence[str]) -> dict[tuple[Rule, int | None], npt.NDArray[np.int64]]:
        """The functions that compute what is observed, with the columns of the records and the entries for them."""
        found: dict[tuple[Rule, int | None], list[tuple[int, int]]] = {}
        for i, name in enumerate(observe):
            if name in self.observables:
                seen: Any = self.observables[name]
                several = isinstance(seen, Component)
                key, entry = ((seen.function, seen.size), seen.index) if several else ((seen, None), 0)
                found.setdefault(key, []).append((i, entry))
        return {key: np.array(pairs).T.copy() for key, pairs in found.items()}

    def tangent_orbit(
        self, x: Array, p: Array, t: int, frame: Array, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """As `Map.tangent_orbit`, by a compiled loop, joint where step and tangent share work."""
        members, k, dim = frame.shape
        records = tangent_records(members, steps // every, k, dim, keep)
        frames, factors = (np.empty((members, 0, k, n)) for n in (dim, k))
        frames = frames if records.frames is None else records.frames
        factors = factors if records.factors is None else records.factors
        x, frame, escaped = np.array(x, dtype=np.float64), np.array(frame, dtype=np.float64), begin(x)
        shape = self.tangent_shape._replace(width=k) if self._shape.small else self.tangent_shape
        loop = kernels.tangent_orbit(self.functions, shape, self.check)

        def new_scratch() -> tuple[Array, ...]:
            return (*np.empty((2, 1, dim)), *np.empty((2, k, dim)), *np.empty((2, k, k)))

        def one_step(x: Array, p: Array, t: int, v: Array) -> tuple[Array, Array]:
            ahead, turned, factor = np.array(x), np.tile(v, (len(x), 1, 1)), np.empty((len(x), 1, k, k))
            kept = (np.empty((len(x), 1, k)), np.empty((len(x), 0, k, dim)), factor)
            self._call(loop, ahead, _given(p), t, self.handed(t, 1), turned, 1, 1, *kept, begin(x), *new_scratch())
            return ahead, factor[:, 0].transpose(0, 2, 1) @ turned

        self._meet(loop, p, t + steps, one_step, k)
        p, c, kept = _given(p), self.handed(t, steps), (records.log_stretches, frames, factors)

        def of(rows: slice) -> None:
            out = (*(part[rows] for part in kept), escaped[rows])
            self._call(loop, x[rows], p[rows], t, c, frame[rows], steps, every, *out, *new_scratch())

        self._share_out(of, members, steps * (1 + k))
        return records, End(x, frame, t + steps, escaped)

    def separation_orbit(
        self, x: Array, y: Array, p: Array, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """As `Map.separation_orbit`, by a compiled loop. Raises Refusal for an unknown norm."""
        if norm not in NORMS:
            raise Refusal(unknown("norm", norm, NORMS))
        x, y, escaped = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64), begin(x)
        distances = np.empty((*y.shape[:2], steps // every))
        loop = kernels.separation_orbit(self.functions.rule, self._shape, self.check)
        scratch = np.empty((1, self.dim))

        def one_step(x: Array, p: Array, t: int, v: Array) -> tuple[Array, None]:
            ahead, y, kept = np.array(x), x[:, None].copy(), (np.empty((len(x), 1, 1)), begin(x), scratch)
            self._call(loop, ahead, y, _given(p), t, self.handed(t, 1), 1, 1, 0, *kept)
            return ahead, None

        self._meet(loop, p, t + steps, one_step)
        p, c, span = _given(p), self.handed(t, steps), (steps, every, NORMS.index(norm))

        def of(rows: slice) -> None:
            out = (distances[rows], escaped[rows], np.empty((1, self.dim)))
            self._call(loop, x[rows], y[rows], p[rows], t, c, *span, *out)

        self._share_out(of, len(x), steps * (1 + y.shape[1]))
        return distances, End(x, y, t + steps, escaped)

    def _share_out(self, of: Callable[[slice], None], members: int, steps: int) -> None:
        """Let all cores work on members, each on its own, where there is enough to do; that changes no number."""
        small = self.dim <= SMALL
        few = members * steps * self.dim < (WORTH_SMALL if small else WORTH)
        on_all_cores(of, [slice(0, members)] if few else shares(members, 8 if small else 1))

    @cached_property
    def _shape(self) -> Shape:
        """What the loops depend on; the vectors of a frame on the stack come to it."""
        periods = tuple(float(self.periods.get(name, 0.0)) for name in self.coordinates)
        return Shape(self.dim, len(self.parameters), periods, self.dim <= SMALL, 1, self.constants is not None)

    @cached_property
    def tangent_shape(self) -> Shape:
        """The same for a loop that carries vectors along, by differences if there is no tangent."""
        return self._shape if self.exact_tangent else self._shape._replace(units=self.units)

    def _call(self, loop: Any, *arguments: Any) -> None:
        """Call a loop. Raises CompilationError, with the reason, if numba cannot compile the rule."""
        try:
            loop(*arguments)
        except UNREADABLE as error:
            if "Cannot modify readonly" in str(error):
                raise CompilationError(
                    f"a function of {self.name!r} changes x, p or a vector, which is readonly: write into out only"
                ) from error
            reason = " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:600]
            raise CompilationError(
                f"numba cannot compile a function of {self.name!r}: {reason} "
                "Write it as rule(x, p, t, out) in numba's subset of Python, or use nnflow.TensorMap."
            ) from error
        except IndexError as error:
            if not loop.signatures:  # numba's own, on the way to a signature
                raise
            raise Refusal(
                f"a function of {self.name!r} reads or writes out of bounds on the way: an index grows beyond its "
                "array with t, the state or a parameter"
            ) from error
        except (AssertionError, ValueError) as error:  # raised by the user's own code
            raise Refusal(f"a function of {self.name!r} fails on the way: {type(error).__name__}: {error}") from error


def _kept(constants: Constants) -> Constants:
    """Copies that nobody changes. Raises Refusal for anything but arrays, numbers and tuples of them."""
    kept: list[Any] = []
    for value in constants if isinstance(constants, tuple) else [constants]:
        if isinstance(value, tuple):
            kept.append(_kept(value))
        elif isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
            kept.append(np.array(value, order="C"))
            kept[-1].flags.writeable = False
        elif isinstance(value, (bool, int, float)):
            kept.append(value)
        else:
            raise Refusal(f"constants hold {shown(value)}: give a tuple of arrays of numbers, numbers or such tuples")
    return tuple(kept)


def _given(p: Array) -> Array:
    """Parameters that no rule can write to: numba does not compile it."""
    given = np.array(p, dtype=np.float64)
    given.flags.writeable = False
    return given
