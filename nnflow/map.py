"""The contract: a map offers four verbs, written here once as plain loops (which are their definition).

A map is x' = f(x, p, t). Whoever subclasses `Map` writes `step` (and `tangent`, if known) for a whole batch of
members in numpy; a backend writes the same verbs as compiled loops (`CompiledMap`) or on tensors (`TensorMap`).

Shapes, once and for all: states ``x (member, dim)``, parameters ``p (member, parameter)``, tangent vectors
``v (member, k, dim)``: one vector a row. Time ``t`` is the step index (an int), the same for all members.

A member that leaves the finite numbers is NaN from then on, and `End.escaped` holds the step index of its first
non-finite state (-1 = never). This never raises, and never disturbs another member.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property, partial
from threading import get_ident
from types import FunctionType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from nnflow.differences import quotients, unsettled
from nnflow.labels import in_order
from nnflow.locks import one_at_a_time
from nnflow.methods import called, careful, try_method
from nnflow.names import Refusal, WrongKind, check_name, check_scannable, shown, unknown
from nnflow.readonly import Fixed
from nnflow.records import End, Into, TangentRecords, begin, follow, new_records, settle, tangent_records
from nnflow.room import room
from nnflow.settings import convert, numbers, whole
from nnflow.typing import Array, Integers
from nnflow.vectors import length, orthonormalise

Observable = Callable[[Any, Any, int], Any]
MANY = 256  # looks at differences that are remembered


def uniform_box(low: Sequence[float], high: Sequence[float]) -> Callable[[int, int], Array]:
    """Initial states uniform in a box.

    Args:
        low: The lower bound of each component, ``(dim,)``.
        high: The upper bound of each component, ``(dim,)``.

    Returns:
        A function ``(n, seed) -> (n, dim)`` float64, whose row i does not depend on n.
    """
    lower, upper = np.asarray(low, float), np.asarray(high, float)

    def draw(n: int, seed: int) -> Array:
        return np.asarray(lower + (upper - lower) * generator(seed, "states").random((n, len(lower))))

    return draw


def generator(seed: int, purpose: str) -> np.random.Generator:
    """The random generator of one purpose ("states", "frame", "perturbation", …) under one seed."""
    seed = whole("seed", seed, 0)
    return np.random.default_rng([seed, *purpose.encode()])


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """A discrete map x' = f(x, p, t): subclass it and write `step`, for all members at once, in numpy.

    Args:
        dim: How many components a state has.
        parameters: Ordered, name → default.
        coordinates: Names of the state's components (default x0, x1, …).
        periods: Coordinate → period of an angle, so that distances do not jump at the wrap.
        observables: Name → function of (state, parameters, t).
        box: (low, high) rows for uniform initial states (default: the unit cube).
        initial: A function (n, seed) → (n, dim) in place of `box`, whose row i must not depend on n.
        start: ``(dim,)``, a state of its own (a trained network's weights), from which an ensemble starts that asks for
            no others.
        ranges: Parameter → (low, high) where the map is usually studied.
        limits: Parameter → (low, high) beyond which a value is refused.
        structure: What was fixed when the map was made (not scannable).
        memory: How many trailing components are optimizer memory.
        epoch: The steps in which a rule sees all of its data (1: in each step).
        repeats: Whether it is the same again after an epoch, so that for epoch 1 it does without t (None: not said,
            taken for yes where nothing finds out).
        check: Whether what is written is tried (without, `structure` says so): in numpy, step and tangent when they
            are first used, on a few drawn states, for whether a member sees others, and whether the tangent is what
            differences of the step show.
        name: What the map is called in results and messages.
        source: Where the map comes from.

    Raises:
        Refusal: (a ValueError) if names clash, shapes do not fit or a parameter is out of its limits.
    """

    dim: int = 1
    parameters: Mapping[str, float] = field(default_factory=dict)
    coordinates: tuple[str, ...] = ()
    periods: Mapping[str, float] = field(default_factory=dict)
    observables: Mapping[str, Observable] = field(default_factory=dict)
    box: tuple[Sequence[float], Sequence[float]] | None = None
    initial: Callable[[int, int], Array] | None = None
    start: Array | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    structure: Mapping[str, Any] = field(default_factory=dict)
    memory: int = 0
    epoch: int = 1
    repeats: bool | None = None
    check: bool = True
    name: str = "map"
    source: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """What is written in numpy gets copies and is tried at its first use (see `methods`)."""
        super().__init_subclass__(**options)
        own = vars(cls)
        for name in {each.name for each in fields(Map)} & own.keys():
            if isinstance(own[name], FunctionType | property):
                raise Refusal(
                    f"{cls.__name__} defines {name}(), which is a field of a map: rename it, or give {name}=…"
                )
        for kind in ("step", "tangent") if cls.in_numpy else ():
            if isinstance(own.get(kind), FunctionType):
                setattr(cls, kind, careful(own[kind], kind))

    def __post_init__(self) -> None:
        for kind in ("parameters", "periods", "observables", "ranges", "limits", "structure"):
            if not isinstance(given := getattr(self, kind), Mapping):
                raise Refusal(f"{kind} = {shown(given)}: give a mapping, from names")
            object.__setattr__(self, kind, Fixed(given if kind != "structure" else deepcopy(dict(given))))
        if not self.check:
            object.__setattr__(self, "structure", Fixed(self.structure, check=False))
        for count, least in (("dim", 1), ("memory", 0), ("epoch", 1)):
            object.__setattr__(self, count, whole(count, getattr(self, count), least))
        room("dim (a component has a name and a box of some 200 bytes)", self.dim, 25)
        names = convert("coordinates", self.coordinates, tuple[str, ...]) or tuple(f"x{i}" for i in range(self.dim))
        object.__setattr__(self, "coordinates", names)
        if len(names) != self.dim:
            raise Refusal(f"{len(names)} coordinates named for a map of dim {self.dim}: name each component once")
        self._check_names()
        object.__setattr__(self, "parameters", Fixed({k: convert(k, v, float) for k, v in self.parameters.items()}))
        for name, period in self.periods.items():
            self.column(name)
            if not convert(f"period of {name}", period, float) > 0:
                raise Refusal(f"period of {name} = {period}: give a positive number")
        if not (self.initial is None or callable(self.initial)):
            raise Refusal(f"initial = {shown(self.initial)}: give a function of (n, seed)")
        for name, values in (*self.ranges.items(), *self.limits.items()):
            if numbers(name, values).shape != (2,):
                raise Refusal(f"{name}: {shown(values)}: give a range as (low, high)")
            if name not in self.parameters:
                raise Refusal(unknown("parameter in ranges or limits", name, self.parameters))
        for name, value in self.parameters.items():
            self.check_limits(name, value)
        sides: Any = self.box if self.box is not None else (np.zeros(self.dim), np.ones(self.dim))
        box = numbers("box", in_order(sides, names, "the sides of the box"))
        if box.shape != (2, self.dim) or not (np.isfinite(box).all() and (box[0] <= box[1]).all()):
            raise Refusal(f"box = {shown(self.box)}: give (low, high), each {self.dim} finite numbers, low <= high")
        object.__setattr__(self, "box", tuple(map(tuple, box.tolist())))
        if self.start is not None:
            start = numbers("start", in_order(self.start, names, "start"))
            if start.shape != (self.dim,):
                raise Refusal(f"start of shape {start.shape}: give one state, of shape ({self.dim},)")
            start.flags.writeable = False
            object.__setattr__(self, "start", start)

    def _check_names(self) -> None:
        """Each name once, and such that it can be scanned, drawn, written and typed."""
        check_name("map", self.name)
        for name in self.parameters:
            check_scannable("parameter", name, identifier=True)
        for name in self.coordinates:
            check_scannable("coordinate", name)
        for name, function in self.observables.items():
            check_name("observable", name)
            if not callable(function):
                raise Refusal(f"observable {name!r} = {shown(function)}: give a function of (x, p, t)")
        everything = [*self.parameters, *self.coordinates, *self.observables]
        if len(set(everything)) < len(everything):
            twice = sorted(name for name, count in Counter(everything).items() if count > 1)
            raise Refusal(f"{', '.join(twice)}: used twice among parameters, coordinates and observables")

    def __repr__(self) -> str:
        parameters = [f"{name}={value:g}" for name, value in self.parameters.items()]
        named = {"parameters": parameters, "coordinates": self.coordinates, "observables": list(self.observables)}
        parts = (
            f"{kind} {', '.join(names[:6])}{', …' if len(names) > 6 else ''}" for kind, names in named.items() if names
        )
        return f"<{type(self).__name__} {self.name!r} of dim {self.dim}; {'; '.join(parts)}>"

    in_numpy: ClassVar[bool] = True  # whether step and tangent are written in numpy, by the author of the map
    threads: ClassVar[bool] = True  # whether members are best shared out among threads
    compiled = ""  # of a tensor map: what its steps were compiled by, for the attributes of results

    def uncompiled(self) -> AbstractContextManager[None]:
        """Nothing, but of a map that was asked to compile its steps: in this thread, and inside, it does not."""
        return nullcontext()

    @property
    def substeps(self) -> int:
        """How many steps of an iterated map one step takes."""
        return 1

    # -- what a map is -------------------------------------------------------------------------------------------

    def step(self, x: Any, p: Any, t: int) -> Any:
        """One step of every member, x' = f(x, p, t).

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index, the same for all members.

        Returns:
            The next states, ``(member, dim)``, a new array.

        Raises:
            NotImplementedError: if the subclass does not write it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not write step(x, p, t)")

    def tangent(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """The Jacobian at x_t times each row of ``v (member, k, dim)``; here by central differences.

        J v ≈ (f(x + h v) − f(x − h v)) / 2h, h = 1 / |v / w|, by widths w of each coordinate: w = eps^⅓ u √(s/u), and
        no less than eps^⅔ s. There s is the larger one of |x_t| and |x_t+1| in this coordinate, and u its unit: how
        wide the `box` is, where one is given and that is less than 1 (and then s ≥ u), else 1 (and s ≥ 1e-4). The
        relative error is about 1e-10 for a map that bends on the scale of u, 1e-5 for one that bends on the scale 1e-6
        or 1e6 of it. Where the map jumps between the two states, the quotient is that of the jump. Write the exact
        tangent where it is known.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Tangent vectors ``(member, k, dim)``, one a row.

        Returns:
            ``(member, k, dim)`` float64.
        """
        return quotients(lambda x: self.step(x, p, t), self.difference, x, v, self.units)[0]

    def unsettled(self, x: tuple[Array, Array], p: Array, t: int, v: tuple[Array, Array]) -> npt.NDArray[np.bool_]:
        """Whether differences in place of a tangent depend on how wide they are, at both of two states of a member.

        Args:
            x: States ``(member, dim)``; it is asked once for each size of the second ones.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Tangent vectors ``(member, k, dim)`` at these.

        Returns:
            ``(member,)`` (see `differences`).
        """
        key = p.tobytes(), np.frexp(np.abs(x[1]).max(axis=1))[1].tobytes()
        if key not in self._unsettled:
            if len(self._unsettled) >= MANY:
                self._unsettled.clear()
            step = partial(self.step, p=p, t=t)
            found = [unsettled(step, self.difference, *at, self.units) for at in zip(x, v, strict=True)]
            self._unsettled[key] = found[0] & found[1]
        return self._unsettled[key]

    @cached_property
    def _unsettled(self) -> dict[tuple[bytes, bytes], npt.NDArray[np.bool_]]:
        return {}

    @cached_property
    def units(self) -> tuple[float, ...]:
        """On what scale below 1 each coordinate lives, by the width of the box; 0 for the default, the unit cube."""
        low, high = np.array(self.box)
        told = self.initial is None and (low.any() or (high != 1).any())
        return tuple(np.minimum(high - low, 1.0).tolist()) if told else (0.0,) * self.dim

    def curvature(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """The loss Hessian at x_t times each row of ``v (member, k, weights)``; only training maps have one.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Vectors of weights ``(member, k, weights)``, one a row; the products have this shape.

        Raises:
            WrongKind: (a TypeError) if the map has no loss.
        """
        raise WrongKind(f"{self.name} has no loss, so no curvature: use a training map")

    def effective_curvature(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """The Hessian as the optimizer sees it: preconditioned, made symmetric. By default `curvature` itself.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Vectors of weights ``(member, k, weights)``, one a row.

        Returns:
            The products, ``(member, k, weights)``.

        Raises:
            WrongKind: (a TypeError) if the map has no loss.
        """
        return self.curvature(x, p, t, v)

    def threshold(self, p: Any, t: int) -> Array:
        """The (effective) curvature beyond which a direction is unstable under the optimizer, ``(member,)``.

        Args:
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Raises:
            WrongKind: (a TypeError) if the map has no loss.
        """
        raise WrongKind(f"{self.name} has no loss, so no threshold of stability: use a training map")

    def whole(self) -> Map:
        """The map whose loss is of all data; this one, but of a training map that sees a batch a step."""
        return self

    def gauge(self, x: Any, p: Any) -> Array:
        """An orthonormal basis of directions along which the map is known to be neutral; by default none, g = 0.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.

        Returns:
            ``(member, g, dim)``, one direction a row.
        """
        return np.zeros((len(x), 0, self.dim))

    @property
    def autonomous(self) -> bool:
        """Whether the rule does without the step index t."""
        return self.repeats is not False and self.epoch == 1

    @property
    def resolution(self) -> float:
        """The relative distance of neighboring numbers of a state: 2.2e-16 in float64."""
        return float(np.finfo(np.float64).eps)

    preconditioned: ClassVar[bool] = False  # whether the effective curvature is another one than the loss's

    @property
    def many(self) -> int:
        """From so many members on they have machine code of their own."""
        return 1

    @property
    def weights(self) -> int:
        """How many of the state's components are weights (the first ones); the rest is optimizer memory."""
        return self.dim - self.memory

    @property
    def exact_tangent(self) -> bool:
        """Whether `tangent` is exact (or differentiated automatically), not by central differences."""
        return type(self).tangent is not Map.tangent

    def initial_states(self, n: int, seed: int) -> Array:
        """Draw initial states: by `initial` if the map has it, else uniform in its `box`.

        Args:
            n: How many.
            seed: State i depends on the seed and on i alone.

        Returns:
            ``(n, dim)`` float64.

        Raises:
            Refusal: if `initial` gives another shape, what is not finite, or other states when it is asked again.
        """
        if self.initial is not None:
            self.once("initial", self._try_initial)
        return self._drawn(n, seed)

    def _try_initial(self) -> None:
        """Refuse an `initial` whose states depend on more than the seed and their index."""
        one, two, again = (self._drawn(n, 0) for n in (1, 2, 2))
        if not np.array_equal(two, again):
            raise Refusal(
                f"`initial` of {self.name!r} draws other states from the same seed: let it use the seed alone"
            )
        if not np.array_equal(one, two[:1]):
            raise Refusal(
                f"`initial` of {self.name!r} draws a first state that depends on how many are drawn: let state i "
                "depend on the seed and on i alone"
            )

    def _drawn(self, n: int, seed: int) -> Array:
        assert self.box is not None
        draw = self.initial or uniform_box(*self.box)
        found = numbers("what `initial` draws", in_order(draw(n, seed), self.coordinates, "what `initial` draws"))
        if found.shape != (n, self.dim) or not np.isfinite(found).all():
            what = f"has shape {found.shape}" if found.shape != (n, self.dim) else "is not finite everywhere"
            raise Refusal(f"what `initial` of {self.name!r} draws {what}: give {n} states, shape ({n}, {self.dim})")
        return found

    def with_parameters(self, **values: float) -> Self:
        """The same map with other parameter defaults.

        Args:
            **values: Parameter → its new default.

        Returns:
            A copy; this map stays as it is.

        Raises:
            Refusal: for a name that is no parameter, or a value that is no number or beyond its limits.
        """
        for name in values:
            if name not in self.parameters:
                raise Refusal(unknown(f"parameter of {self.name}", name, self.parameters, self.structure_hint(name)))
        given = {name: convert(name, value, float) for name, value in values.items()}
        for name, value in given.items():
            self.check_limits(name, value)
        changed = object.__new__(type(self))
        changed.__dict__.update(self.__dict__, parameters=Fixed({**self.parameters, **given}))
        return changed

    def check_limits(self, name: str, values: Any) -> None:
        """Refuse values of a parameter that lie beyond its limits.

        Args:
            name: The parameter.
            values: A number or an array.

        Raises:
            Refusal: for the first value beyond them.
        """
        low, high = self.limits.get(name, (-np.inf, np.inf))
        outside = [value for value in np.ravel(values) if value < low or value > high]
        if outside:
            bound = f"{low:g} or more" if high == np.inf else f"{low:g} … {high:g}"
            raise Refusal(f"{name} = {outside[0]:g}: {self.name} takes {bound}")

    def structure_hint(self, name: str) -> str:
        """What to say when `name` is structure: fixed when the map is made, so not scannable."""
        return f"{name} is structure: it is fixed when the map is made." if name in self.structure else ""

    def column(self, name: str) -> int:
        """The index of a coordinate among the components.

        Args:
            name: The coordinate.

        Returns:
            0 … dim − 1.

        Raises:
            Refusal: for an unknown name.
        """
        if name not in self._columns:
            raise Refusal(unknown(f"coordinate of {self.name}", name, self.coordinates))
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.coordinates)}

    def placed(self, names: Sequence[str]) -> tuple[Integers, Integers, list[int]]:
        """Which of these names are coordinates: their places among the names and their columns; the other places."""
        kept = self._placed.get("last")  # a verb asks at each record, of one tuple
        if kept is None or kept[0] is not names or not isinstance(names, tuple):
            pairs = [(i, self._columns[name]) for i, name in enumerate(names) if name in self._columns]
            places, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
            rest = [i for i, name in enumerate(names) if name not in self._columns]
            kept = self._placed["last"] = names, places, columns, rest
        return kept[1:]

    @cached_property
    def _placed(self) -> dict[str, tuple[Sequence[str], Integers, Integers, list[int]]]:
        return {}

    def chosen(self, where: str | Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which components are meant.

        Args:
            where: "weights" is all but optimizer memory; else one or more patterns of coordinate names, with * and ?.

        Returns:
            A mask ``(dim,)`` of bools.

        Raises:
            Refusal: for patterns that match no coordinate.
        """
        if isinstance(where, str) and where == "weights":
            return np.arange(self.dim) < self.weights
        patterns = convert("where", where, tuple[str, ...])
        patterns = tuple(pattern.replace("[", "[[]") for pattern in patterns)  # names have brackets of their own
        found = np.array([any(fnmatchcase(name, pattern) for pattern in patterns) for name in self.coordinates])
        if not found.any():
            shown = ", ".join(self.coordinates[:12]) + (", …" if self.dim > 12 else "")
            raise Refusal(f"{where!r}: matches no coordinate of {self.name}: {shown}")
        return found

    def channels(self, observe: str | Sequence[str] | None) -> tuple[str, ...]:
        """The names of what is observed.

        Args:
            observe: A name, or names, of coordinates or observables; None is all coordinates.

        Returns:
            The names, in the order given.

        Raises:
            Refusal: for an unknown name.
        """
        names = self.coordinates if observe is None else convert("observe", observe, tuple[str, ...])
        for name in names:
            if name not in self._columns and name not in self.observables:
                known = [*self.coordinates[:12], *(["…"] if self.dim > 12 else []), *self.observables]
                raise Refusal(unknown(f"observable of {self.name}", name, known, self.structure_hint(name)))
        return tuple(names)

    def difference(self, x: Any, y: Any) -> Any:
        """The difference x − y, with angles (see `periods`) taken the short way round.

        Args:
            x: States ``(…, dim)``.
            y: States that broadcast against them.

        Returns:
            ``(…, dim)``, in the backend's own array.
        """
        d = x - y
        for name, period in self.periods.items():
            i = self.column(name)
            d[..., i] -= period * np.round(d[..., i] / period)
        return d

    def native(self, x: Array) -> Any:
        """A float64 array as the backend holds it (numpy here; a tensor on its device for a tensor map)."""
        return np.ascontiguousarray(x, dtype=np.float64)

    def to_numpy(self, x: Any) -> Array:
        """A backend's array as numpy."""
        return np.asarray(x)

    def observable(self, name: str, x: Any, p: Any, t: int) -> Array:
        """One observable of every member.

        Args:
            name: The observable.
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member,)``.
        """
        self.once(("observable", name), lambda: try_method(self, "observable", name))
        return np.asarray(called(f"the observable {name} of {self.name!r}", self.observables[name], (len(x),), x, p, t))

    def once(self, key: Hashable, look: Callable[[], object]) -> None:
        """Look at something when it is first used, unless `check` is False; again, if it raised or returned False."""
        if not self.check or key in self._seen:
            return
        with one_at_a_time():  # other threads wait for what is found
            asked = get_ident(), key
            if key in self._seen or asked in self._asked:  # what looks uses it, too
                return
            self._asked.add(asked)
            try:
                if look() is not False:
                    self._seen.add(key)
            finally:
                self._asked.discard(asked)

    @cached_property
    def paces(self) -> dict[Hashable, float]:
        """Steps of members a second, of a verb and what it carries, seen last: to choose how long a call takes."""
        return {}

    @cached_property
    def _seen(self) -> set[Hashable]:
        return set()

    @cached_property
    def _asked(self) -> set[Hashable]:
        return set()

    def observe(self, x: Any, p: Any, t: int, names: Sequence[str]) -> Array:
        """The named coordinates and observables of every member.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            names: Coordinates or observables, one a channel.

        Returns:
            ``(member, channel)`` float64; NaN for a member that has escaped.
        """
        out = np.empty((len(x), len(names)))
        states = self.to_numpy(x)
        places, columns, rest = self.placed(names)
        out[:, places] = states[:, columns]
        for i in rest:
            out[:, i] = self.observable(names[i], x, p, t)
        out[~np.isfinite(states).all(axis=1)] = np.nan
        return out

    def __copy__(self) -> Map:
        return self

    def __deepcopy__(self, memo: Any) -> Map:  # nobody changes it
        return self

    def __getstate__(self) -> bytes:
        import cloudpickle  # rules are often closures, which pickle itself cannot carry to a process pool

        ours = [
            name
            for kind in type(self).__mro__
            for name, value in vars(kind).items()
            if isinstance(value, cached_property)
        ]
        kept = {name: value for name, value in self.__dict__.items() if name not in ours}
        return bytes(cloudpickle.dumps(kept))  # type: ignore[no-untyped-call]

    def __setstate__(self, state: bytes) -> None:
        import cloudpickle

        self.__dict__.update(cloudpickle.loads(state))

    # -- the four verbs, as plain loops --------------------------------------------------------------------------

    def advance(self, x: Any, p: Any, t: int, steps: int) -> End:
        """Go `steps` steps from step index t, without a record.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index at which they are.
            steps: How many; 0 only notes states that are not finite.

        Returns:
            The end, without a frame.
        """
        x, escaped = settle(x, begin(x), t)
        with np.errstate(all="ignore"):  # a diverging member is a value
            for s in range(t, t + steps):
                x, escaped = settle(self.step(x, p, s), escaped, s + 1)
        return End(x, None, t + steps, escaped)

    def orbit(
        self, x: Any, p: Any, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """Record what is observed at t, t + every, ….

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index at which they are.
            steps: How many, a multiple of `every`.
            every: Steps between two records.
            observe: Coordinates or observables, one a channel.
            into: Where the records are written; then all of its records come back.

        Returns:
            Records ``(member, steps // every, channel)`` float64, and the end.
        """
        records, first = into or new_records(len(x), steps // every, len(observe))
        end = self.advance(x, p, t, 0)
        for block in range(steps // every):
            records[:, first + block] = self.observe(end.states, p, end.t, observe)
            end = follow(end, self.advance(end.states, p, end.t, every))
        return records, end

    def tangent_orbit(
        self, x: Any, p: Any, t: int, frame: Any, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """Carry a frame along the orbit, re-orthonormalized each `every` steps by QR, M Q = Q' R.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index at which they are.
            frame: Tangent vectors ``(member, k, dim)``, one a row.
            steps: How many, a multiple of `every`.
            every: Steps of a block.
            keep: What is recorded beside the log-stretches: "frames", "factors".

        Returns:
            Records, one entry a block, and the end, with the frame.

        Raises:
            Refusal: for a kind of records that does not exist.
        """
        members, k, dim = frame.shape
        end = self.advance(x, p, t, 0)._replace(frame=frame)
        records = tangent_records(members, steps // every, k, dim, keep)
        for block in range(steps // every):
            if records.frames is not None:
                records.frames[:, block] = end.frame
            for s in range(t + block * every, t + (block + 1) * every):
                with np.errstate(all="ignore"):
                    frame = self.tangent(end.states, p, s, end.frame)
                end = follow(end, self.advance(end.states, p, s, 1))._replace(frame=frame)
            frame, factor = orthonormalise(end.frame, end.escaped >= 0)
            end = end._replace(frame=frame)
            with np.errstate(divide="ignore"):
                records.log_stretches[:, block] = np.log(np.einsum("mjj->mj", factor))
            if records.factors is not None:
                records.factors[:, block] = factor
        return records, end

    def separation_orbit(
        self, x: Any, y: Any, p: Any, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """Distances of perturbed states from the orbit, at t, t + every, ….

        Args:
            x: States ``(member, dim)``.
            y: Perturbed states ``(member, perturbation, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index at which they are.
            steps: How many, a multiple of `every`.
            every: Steps between two distances.
            norm: "l1", "l2" or "max".

        Returns:
            Distances ``(member, perturbation, steps // every)`` float64, and the end, with the perturbed states as its
            frame.

        Raises:
            Refusal: for an unknown norm.
        """
        end = self.advance(x, p, t, 0)._replace(frame=y.copy())
        distances = np.empty((*y.shape[:2], steps // every))
        for block in range(steps // every):
            distances[:, :, block] = length(self.difference(end.frame, end.states[:, None]), norm)
            for j in range(y.shape[1]):
                end.frame[:, j] = self.advance(end.frame[:, j], p, end.t, every).states
            end = follow(end, self.advance(end.states, p, end.t, every))._replace(frame=end.frame)
        return distances, end
