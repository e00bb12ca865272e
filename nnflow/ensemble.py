"""An ensemble is many copies of a map: a scan is an ensemble with one member per grid point and initial state.

Names and shapes are checked here, once; the verbs below check nothing. What is drawn (states, frames, perturbations)
belongs to the `init` index: one init starts from the same state with the same frame at every grid point of the scan,
whatever the chunking.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.axes import Axis, check_shape, chosen_members, named, step_indices, whole_blocks
from nnflow.ended import ended
from nnflow.labels import in_order, labelled
from nnflow.map import Map, generator
from nnflow.names import Refusal, WrongKind, shown, unknown
from nnflow.progress import blocks, tick
from nnflow.readonly import fixed
from nnflow.records import End, Gathered, Into, TangentRecords, begin, settle
from nnflow.room import refuse_endless, room
from nnflow.settings import checked, convert, numbers, whole
from nnflow.typing import Array, Integers
from nnflow.vectors import NORMS, extremes, project_out

STRETCHES = 2**18  # log-stretches of single steps that are held at a time


class ResolutionWarning(UserWarning):
    """A perturbation is near or below the distance of neighboring floating-point numbers."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Many members of one map, all at step index `t`. Make one with `Ensemble.grid`.

    Attributes:
        map: The map of all members.
        state: ``(member, dim)``, native: in the map's own arrays. See `states` for numpy.
        parameters: ``(member, parameter)`` float64.
        t: The step index.
        escaped: ``(member,)`` int64: the step index of each member's first non-finite state, -1 = never.
        axes: They shape the members, the last axis varying fastest.
        init: ``(member,)`` int64: the index of each member's initial state.
        seed: Of whatever is drawn: initial states, frames, perturbations.
        frame: Tangent vectors ``(member, k, dim)``, native; see `frames` for numpy. None unless carried along.
        neighbors: Perturbed states ``(member, perturbation, dim)``, native; see `displacements` for numpy. None after a
            verb that carries none.
        origin: Where the initial states come from, in words.
        began: The step index at which they were so.

    Raises:
        Refusal: (a ValueError) for shapes that do not fit.
    """

    map: Map
    state: Any
    parameters: Array
    t: int
    escaped: Integers
    axes: tuple[Axis, ...]
    init: Integers
    seed: int = 0
    frame: Any = None
    neighbors: Any = None
    origin: str = "given"
    began: int = 0

    @classmethod
    def grid(
        cls,
        map: Map,
        states: npt.ArrayLike | None = None,
        inits: int | None = None,
        seed: int | None = None,
        **axes: Any,
    ) -> Ensemble:
        """One member per point of the grid spanned by the keyword axes, and per initial state.

        If none of `states`, `inits` and `seed` is given, the initial state is the map's own if it has one (a training
        map: the weights that its module had), else one that is drawn; `origin` says which.

        Args:
            map: The map.
            states: Initial states ``(n, dim)`` (one row: no `init` axis). Labels (pandas, xarray) that are the
                coordinates are followed, in any order.
            inits: How many are drawn by the map instead, from `seed`.
            seed: Of whatever is drawn (default: 0).
            **axes: Each a parameter or a coordinate of the map with the values to scan, in order (a single number: no
                axis). A coordinate's values replace that component of the initial state.

        Returns:
            An ensemble at t = 0, its axes in the order of the keywords, then "init" if there are several initial
            states.

        Raises:
            Refusal: (a ValueError) for a name the map does not have, an empty axis, values or states that are not
                finite or do not fit.
            WrongKind: (a TypeError) if `map` is no Map.

        >>> import nnflow
        >>> scan = Ensemble.grid(nnflow.maps["henon"](), inits=3, a=[1.0, 1.2, 1.4])
        >>> len(scan), scan.shape
        (9, (3, 3))
        """
        if not isinstance(map, Map):
            raise WrongKind(f"{map!r} is not a map: make one first, e.g. nnflow.maps['henon']()")
        origin = "given" if states is not None else "drawn from the seed"
        if states is None and inits is None and seed is None and map.start is not None:
            states, origin = map.start[None], "the map's own"
        seed = _seed(0 if seed is None else seed)
        first = _initial_states(map, states, inits, seed)
        scanned = [_axis(map, name, values) for name, values in axes.items()]
        if len(first) > 1 and {axis.name for axis in scanned} >= set(map.coordinates):
            raise Refusal(f"{len(first)} initial states, and axes that give all coordinates: leave one of them out")
        shape = [len(axis.values) for axis in scanned]
        room("the grid", *shape, len(first), len(shape) + 1 + map.dim + len(map.parameters))
        index = np.indices([*shape, len(first)]).reshape(len(shape) + 1, -1)
        x, p = first[index[-1]], np.tile(list(map.parameters.values()), (index.shape[1], 1)).astype(np.float64)
        for axis, i in zip(scanned, index, strict=False):
            target, names = (p, list(map.parameters)) if axis.kind == "parameter" else (x, list(map.coordinates))
            target[:, names.index(axis.name)] = axis.values[i]
        kept = [axis for axis in scanned if np.ndim(axes[axis.name]) > 0]
        single = [axis for axis in scanned if axis.kind == "coordinate" and axis not in kept]
        origin = ", ".join([origin, *(f"{axis.name} = {float(axis.values[0])!r}" for axis in single)])
        if len(first) > 1:
            kept.append(Axis("init", np.arange(len(first)), "init"))
        init = index[-1].astype(np.int64)
        return cls(map, map.native(x), p, 0, begin(x), tuple(kept), init, seed, origin=origin)

    @classmethod
    def from_module(
        cls,
        map: Map,
        module: Any,
        optimizer: Any = None,
        t: int | None = None,
        *,
        seed: int | None = None,
        **axes: Any,
    ) -> Ensemble:
        """Where a torch module stands in its training: its weights, its optimizer's memory, at its step.

        Args:
            map: A training map.
            module: A torch module of the map's shape, or its `state_dict()`.
            optimizer: A torch optimizer of the module's parameters, or its `state_dict()`; without one memory and step
                are 0.
            t: How many steps it has taken, where it does not count them: torch's SGD.
            seed: Of whatever is drawn (default: 0).
            **axes: As in `grid`.

        Returns:
            An ensemble of one member, or one a point of the grid.

        Raises:
            Refusal: (a ValueError) if module or optimizer do not fit (see `TrainingMap.state_of`), or for an optimizer
                that counts no steps, where the rule depends on t.
            WrongKind: (a TypeError) for a map that is no training map.
        """
        training: Any = map
        if not hasattr(map, "state_of"):
            raise WrongKind(f"{shown(map)}: give a training map, which nnflow.training_map makes")
        states, counted = training.state_of(module, optimizer)[None], training.steps_of(optimizer)
        if t is None and counted is None and not map.autonomous:
            raise Refusal(f"optimizer counts no steps, and {map.name} depends on t: give t=, the steps it has taken")
        t = whole("t", t, 0) if t is not None else counted or 0
        start = cls.grid(map, states=states, seed=seed, **axes)
        return replace(start, t=t, began=t, origin="those of a module" + start.origin.removeprefix("given"))

    @classmethod
    def from_result(cls, map: Map, dataset: Any) -> Ensemble:
        """The members of a run where they ended: what comes next is what a longer run would have done, to the bit.

        The map has to be made in the same way, from the same data: what is compared is what results tell of a map.
        Frames and neighbors are no part of it: an analysis draws its own, from the seed.

        Args:
            map: The map of that run, made in the same way.
            dataset: What ``run(…, return_states=True)`` returned, also after `save` and `load`.

        Returns:
            An ensemble with the same axes, parameters and seed, at the step where that run ended; a member that had
            escaped has.

        Raises:
            Refusal: (a ValueError) for a dataset without states, of another map, that has lost a scanned coordinate or
                masks members, or whose attributes are damaged.

        >>> import nnflow
        >>> henon = nnflow.maps["henon"]()
        >>> found = nnflow.run("series", henon, steps=100, return_states=True)
        >>> Ensemble.from_result(henon, found).t
        100
        """
        told = ended(map, dataset)
        return cls(map, **{**told, "axes": tuple(Axis(*axis) for axis in told["axes"])})

    def __post_init__(self) -> None:
        """Kernels check nothing: here is the last place where a shape is looked at."""
        object.__setattr__(self, "seed", _seed(self.seed))
        object.__setattr__(self, "t", whole("t", self.t, 0))
        members, dim = len(self.parameters), self.map.dim
        check_shape("states", self.state, (members, dim))
        check_shape("parameters", self.parameters, (members, len(self.map.parameters)))
        parameters = np.asarray(in_order(self.parameters, list(self.map.parameters), "parameters"))
        object.__setattr__(self, "parameters", fixed(parameters))
        if isinstance(self.state, np.ndarray):
            object.__setattr__(self, "state", fixed(self.state))
        object.__setattr__(self, "axes", tuple(axis._replace(values=fixed(axis.values)) for axis in self.axes))
        _check_axes(self)
        object.__setattr__(self, "escaped", fixed(step_indices("escaped", self.escaped, members)))
        object.__setattr__(self, "init", fixed(step_indices("init", self.init, members)))
        for carried, values in (("frame", self.frame), ("neighbors", self.neighbors)):
            if values is not None:
                check_shape(carried, values, (members, *np.shape(values)[1:2], dim))

    def __repr__(self) -> str:
        axes = " x ".join(f"{len(axis.values)} {axis.name}" for axis in self.axes)
        lost = int((self.escaped >= 0).sum())
        members = f"{len(self)} members{f' ({axes})' if axes else ''}, {lost or 'none'} escaped"
        return f"<Ensemble of {members}, at t = {self.t}, of {self.map!r}>"

    def __len__(self) -> int:
        return len(self.parameters)

    @property
    def states(self) -> Array:
        """The current states as numpy, ``(member, dim)``: a copy."""
        return np.array(self.map.to_numpy(self.state))

    @property
    def frames(self) -> Array:
        """The tangent vectors as numpy, ``(member, k, dim)``: a copy. Raises Refusal if there are none."""
        if self.frame is None:
            raise Refusal("the ensemble carries no frame: call .with_frame(k) first")
        return np.array(self.map.to_numpy(self.frame))

    @property
    def displacements(self) -> Array:
        """Neighbors minus states as numpy, ``(member, perturbation, dim)``. Raises Refusal if there are none."""
        if self.neighbors is None:
            raise Refusal("the ensemble carries no neighbors: call .with_neighbors(states) first")
        return self.difference(self.map.to_numpy(self.neighbors), self.states[:, None])

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes; their product is the number of members."""
        return tuple(len(axis.values) for axis in self.axes)

    # -- choosing members ------------------------------------------------------------------------------------------

    def take(self, members: npt.ArrayLike, axes: tuple[Axis, ...] | None = None) -> Ensemble:
        """Some members.

        Args:
            members: Indices, in the order wanted, or a mask of bools, flat or of the axes' shape. A mask with labels
                (xarray, pandas) goes by the names of its dims.
            axes: They shape them (default: one axis, "member").

        Returns:
            An ensemble of these members, at the same step index.

        Raises:
            Refusal: for what is neither, an index out of range, or labels that are not those of the axes.
        """
        chosen = chosen_members(members, self.axes, len(self))
        return replace(
            self,
            state=self.state[chosen],
            parameters=self.parameters[chosen],
            escaped=self.escaped[chosen],
            init=self.init[chosen],
            frame=None if self.frame is None else self.frame[chosen],
            neighbors=None if self.neighbors is None else self.neighbors[chosen],
            axes=(Axis("member", chosen, "member"),) if axes is None else axes,
        )

    @checked
    def index(self, axis: str) -> Integers:
        """Member indices along an axis.

        Args:
            axis: The axis.

        Returns:
            ``(len(axis), the rest)`` int64: row i holds the members at the i-th value of the axis.

        Raises:
            Refusal: for an unknown axis.
        """
        (chosen,) = named(self.axes, [axis])
        members = np.arange(len(self)).reshape(self.shape)
        return np.moveaxis(members, self.axes.index(chosen), 0).reshape(len(chosen.values), -1)

    @checked
    def select(self, axis: str, i: int) -> Ensemble:
        """The members at the i-th value of an axis; the other axes stay.

        Args:
            axis: The axis.
            i: The index of the value; a negative one counts from the end.

        Returns:
            An ensemble without this axis.

        Raises:
            Refusal: (a ValueError) for an unknown axis, or an index out of range.
        """
        rows = self.index(axis)
        if not -len(rows) <= i < len(rows):
            raise Refusal(f"index of {axis} = {i}: it has {len(rows)} values, 0 … {len(rows) - 1}")
        left, chosen = tuple(a for a in self.axes if a.name != axis), next(a for a in self.axes if a.name == axis)
        told = "" if chosen.kind == "parameter" else f", {axis} = {chosen.values[i]}"
        return replace(self.take(rows[i], left), origin=self.origin + told)

    @property
    def history(self) -> str:
        """Where the present states come from, in words."""
        steps = self.t - self.began
        return self.origin + (f", then {steps} steps" if steps else "")

    @checked
    def split(self, size: int, whole: Sequence[str] = ()) -> list[tuple[Integers, Ensemble]]:
        """Cut the ensemble into chunks of about `size` members.

        Args:
            size: Members of a chunk; more where an axis in `whole` is longer.
            whole: Axes that are never cut.

        Returns:
            Chunks as (member indices, ensemble); the axes of each are "member", then those in `whole`.

        Raises:
            Refusal: for an unknown axis.
        """
        kept = named(self.axes, whole)
        members = np.arange(len(self)).reshape(self.shape)
        source = [i for i, a in enumerate(self.axes) if a.name in whole]
        rows = np.moveaxis(members, source, range(-len(source), 0)).reshape(
            -1, int(np.prod([len(a.values) for a in kept], dtype=int))
        )
        step = max(1, size // rows.shape[1])
        chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
        return [(c.ravel(), self.take(c, (Axis("member", c[:, 0], "member"), *kept))) for c in chunks]

    def with_states(self, states: Any, t: int | None = None) -> Ensemble:
        """The same members in other states, none escaped.

        Args:
            states: ``(member, dim)``, numpy or the backend's own. Labels (pandas, xarray) are followed: those of the
                coordinates, in any order, and dims that are the axes, also several.
            t: The step index (default: the present one).

        Returns:
            An ensemble without frame and neighbors, its `origin` "given". An axis of a coordinate that has other
            values in these states is one of kind "member", numbered from 0.

        Raises:
            Refusal: for another shape, other labels, or what is no number.
        """
        own = type(states) is type(self.state) and not isinstance(states, np.ndarray)
        if own and states.is_complex():
            raise Refusal("states are complex: give real numbers")
        state = self.map.native(states.detach().clone() if own else numbers("states", self._in_order(states, "states")))
        check_shape("states", state, (len(self), self.map.dim))
        now, axes = self.t if t is None else t, self._axes_of(state)
        return replace(
            self, state=state, frame=None, neighbors=None, escaped=begin(self.init), axes=axes, t=now, origin="given",
            began=now,
        )  # fmt: skip

    def _axes_of(self, state: Any) -> tuple[Axis, ...]:
        """The axes with other states: an axis of a coordinate that has other values in them only numbers members."""
        if all(axis.kind != "coordinate" for axis in self.axes):
            return self.axes
        states, taken, axes = self.map.to_numpy(state).reshape(*self.shape, -1), {a.name for a in self.axes}, []
        for i, axis in enumerate(self.axes):
            if axis.kind == "coordinate":
                values = np.moveaxis(states[..., self.map.column(axis.name)], i, -1)
                if not np.array_equal(values, np.broadcast_to(self._resolved(axis.values), values.shape)):
                    name = next(n for i in count(1) if (n := f"member{i if i > 1 else ''}") not in taken)
                    taken.add(name)
                    axis = Axis(name, np.arange(len(axis.values)), "member")
            axes.append(axis)
        return tuple(axes)

    def _resolved(self, values: Array) -> Array:
        """Numbers as the map's number type has them."""
        return self.map.to_numpy(self.map.native(values))

    def _in_order(self, values: Any, what: str, rest: int = 1) -> Any:
        """Labelled values with members and components in the ensemble's order; others as they are. Raises Refusal."""
        found = labelled(values)
        if found is None or not found.array.ndim:
            return in_order(values, self.map.coordinates, what)
        array = found.along(self.map.coordinates, what).over(self.axes, what, rest)
        own = array.shape[-rest:]
        return array.reshape(-1, *own) if array.shape[:-rest] == self.shape else array

    # -- drawing by init index -------------------------------------------------------------------------------------

    @checked
    def draw(self, purpose: str, shape: tuple[int, ...], kind: str = "normal", seed: int | None = None) -> Array:
        """Random numbers, one draw an init: members of one init get the same, whatever the chunking.

        Args:
            purpose: What they are for; each purpose has a random generator of its own under one seed.
            shape: The shape of one draw.
            kind: "normal" (standard), or "uniform" on (−1, 1).
            seed: Of the draw (default: the ensemble's).

        Returns:
            ``(member, *shape)`` float64.

        Raises:
            Refusal: for another kind.
        """
        if kind not in ("normal", "uniform"):
            raise Refusal(unknown("kind of draw", kind, ("normal", "uniform")))
        rng = generator(self.seed if seed is None else seed, purpose)
        count = (int(self.init.max(initial=-1)) + 1, *shape)
        room(f"what is drawn ({purpose})", *count)
        drawn = rng.standard_normal(count) if kind == "normal" else rng.uniform(-1.0, 1.0, count)
        return np.asarray(drawn[self.init])

    @checked
    def perturbed(
        self,
        size: float,
        count: int = 1,
        *,
        distribution: str = "uniform",
        where: str | Sequence[str] = "weights",
        gauge: bool = True,
        seed: int | None = None,
    ) -> Array:
        """Perturbed copies of the states, drawn per init (`draw`).

        Args:
            size: Each component is moved by size · U(−1, 1) or, "normal", size · N(0, 1).
            count: Copies of each state.
            distribution: "uniform" or "normal".
            where: Which components are moved: "weights" (the state without optimizer memory), or one or more patterns
                of coordinate names, such as "0.weight*", or "*" for all.
            gauge: Without, what lies along the map's gauge directions is taken out.
            seed: Of the draw (default: the ensemble's).

        Returns:
            ``(member, count, dim)`` float64, as the map's number type resolves them.

        Warns:
            ResolutionWarning: of perturbations that rounding drowns.

        Raises:
            Refusal: (a ValueError) for a size that is not positive, a count below 1, another distribution, or patterns
                that match nothing.
        """
        if not size > 0 or count < 1 or distribution not in ("uniform", "normal"):
            raise Refusal(
                f"size = {size}, count = {count}, distribution = {distribution!r}: give a positive size, "
                "1 or more copies, and 'uniform' or 'normal'"
            )
        room("perturbed copies", len(self), count, self.map.dim)
        moved = size * self.draw("perturbation", (count, self.map.dim), distribution, seed) * self.map.chosen(where)
        if not gauge:
            moved = project_out(moved, self.gauge())
        drawn = self.map.to_numpy(self.state[:, None] + self.map.native(moved))
        if (unresolved := self.unresolved(drawn)).any():
            warnings.warn(
                f"{unresolved.sum()} of {unresolved.size} perturbations of size {size:g} are near or below the "
                f"resolution of the states ({self.map.resolution:.1e}, relative): what grows from them is rounding",
                ResolutionWarning,
                stacklevel=2,
            )
        return drawn

    def unresolved(self, neighbors: Any) -> npt.NDArray[np.bool_]:
        """Whether a neighbor is nearer than 10 resolutions of the state: rounding, mostly.

        Nearer means max |y − x| < 10 · resolution · max |x| (`Map.resolution`); a neighbor that is the state itself
        counts, too.

        Args:
            neighbors: ``(member, perturbation, dim)``, numpy or native.

        Returns:
            ``(member, perturbation)`` bool.
        """
        x = self.states[:, None]
        moved = np.abs(self.map.difference(self.map.to_numpy(neighbors), x)).max(axis=2)
        return np.asarray(moved < 10 * self.map.resolution * np.abs(x).max(axis=2))

    @checked
    def with_frame(self, k: int, seed: int | None = None, gauge: bool = True) -> Ensemble:
        """The same ensemble with a Haar-random orthonormal frame of k vectors, drawn per init (`draw`).

        Without `gauge` the map's g gauge directions come first, and the k vectors after them are orthogonal to
        them: a Gram–Schmidt that starts with directions the tangent map keeps takes them out of all the others.

        Args:
            k: How many vectors, 1 ≤ k ≤ dim, without gauge dim − g.
            seed: Of the draw (default: the ensemble's).
            gauge: Without, the frame begins with the gauge directions.

        Returns:
            An ensemble whose `frame` is ``(member, k, dim)``, native, or ``(member, g + k, dim)`` without gauge.

        Raises:
            Refusal: (a ValueError) for another k.
        """
        none = np.zeros((len(self), 0, self.map.dim))
        basis = none if gauge else self.gauge()
        most = self.map.dim - basis.shape[1]
        if not 1 <= k <= most:
            limit = f"dim {self.map.dim}" + ("" if gauge else f" and {basis.shape[1]} gauge directions")
            raise Refusal(f"k = {k}: {self.map.name} has {limit}, so 1 <= k <= {most}")
        room("frames", len(self), k, self.map.dim)
        drawn = np.concatenate([basis, self.draw("frame", (k, self.map.dim), seed=seed)], axis=1)
        q, r = np.linalg.qr(drawn.transpose(0, 2, 1))
        sign = np.where(np.einsum("mjj->mj", r) < 0, -1.0, 1.0)
        return self.with_vectors((q * sign[:, None, :]).transpose(0, 2, 1))

    def with_vectors(self, vectors: Any) -> Ensemble:
        """The same ensemble with these tangent vectors ``(member, k, dim)``, numpy or native, as its frame."""
        return replace(self, frame=self.map.native(self._in_order(vectors, "vectors", 2)))

    def with_neighbors(self, states: Any) -> Ensemble:
        """The same ensemble with these perturbed states ``(member, perturbation, dim)``, numpy or native."""
        return replace(self, neighbors=self.map.native(self._in_order(states, "neighbors", 2)))

    # -- what the map knows of the states, numpy in and numpy out --------------------------------------------------

    def difference(self, x: Any, y: Any) -> Array:
        """x − y of states ``(…, dim)``, angles the shorter way round."""
        x, y = (np.asarray(in_order(values, self.map.coordinates, "states")) for values in (x, y))
        return np.asarray(self.map.difference(x, y))

    def gauge(self) -> Array:
        """An orthonormal basis of directions along which the map is known to be neutral, ``(member, g, dim)``."""
        return np.asarray(self.map.gauge(self.state, self.parameters))

    def of_all_data(self) -> Ensemble:
        """The same members, their loss that of all data, where a step sees a batch."""
        return replace(self, map=self.map.whole())

    def threshold(self) -> Array:
        """The (effective) curvature beyond which a direction is unstable, ``(member,)``. Raises WrongKind if none."""
        return self.map.threshold(self.parameters, self.t)

    def curvature(self, v: Any, effective: bool = False) -> Array:
        """The loss Hessian at the states times vectors of weights.

        Args:
            v: ``(member, k, weights)``, one vector a row.
            effective: As the optimizer sees it, preconditioned.

        Returns:
            The products, ``(member, k, weights)`` float64.

        Raises:
            WrongKind: (a TypeError) if the map has no loss.
        """
        product = self.map.effective_curvature if effective else self.map.curvature
        return self.map.to_numpy(product(self.state, self.parameters, self.t, self.map.native(v)))

    # -- the verbs -------------------------------------------------------------------------------------------------

    def advance(self, steps: int) -> Ensemble:
        """Go `steps` steps further, without a record.

        Args:
            steps: How many; 0 is allowed, and only notes states that are not finite.

        Returns:
            The ensemble after them; frame and neighbors are dropped.

        Raises:
            Refusal: for negative steps.
        """
        now = replace(self, frame=None, neighbors=None, escaped=settle(self.states, self.escaped, self.t)[1])
        for block in self._blocks("advance", steps, 1, least=0):
            now = now._moved(now.map.advance(now.state, now.parameters, now.t, block))
        return now

    def orbit(self, steps: int, every: int = 1, observe: str | Sequence[str] | None = None) -> tuple[Array, Ensemble]:
        """Record the orbit at t, t + every, ….

        Args:
            steps: How many, a positive multiple of `every`.
            every: Steps between two records.
            observe: A name, or names, of coordinates or observables (default: all coordinates).

        Returns:
            Records ``(member, steps // every, channel)`` float64, NaN after an escape, and the ensemble after `steps`
            steps.

        Raises:
            Refusal: (a ValueError) for an unknown name, or `steps` that is not a positive multiple of `every`.
        """
        names = self.map.channels(observe)
        steps, every, blocks = whole_blocks(steps, every)
        room("the records of the orbit", len(self), blocks, len(names))
        now, records = replace(self, frame=None, neighbors=None), np.empty((len(self), blocks, len(names)))
        for block in self._blocks(("orbit", *(set(names) & self.map.observables.keys())), steps, every):
            done = (now.t - self.t) // every
            _, end = now.map.orbit(now.state, now.parameters, now.t, block, every, names, Into(records, done))
            now = now._moved(end)
        return records, now

    def tangent_orbit(self, steps: int, every: int = 1, keep: Sequence[str] = ()) -> tuple[TangentRecords, Ensemble]:
        """Carry the frame (see `with_frame`) along, re-orthonormalized at each step.

        Args:
            steps: How many, a positive multiple of `every`.
            every: Steps of each record; the log-stretches of its steps are summed, in nats.
            keep: What is recorded beside the log-stretches: "frames", "factors".

        Returns:
            `TangentRecords`, and the ensemble after `steps` steps, whose frame continues.

        Raises:
            Refusal: (a ValueError) without a frame, or if `steps` is not a positive multiple of `every`.
        """
        if self.frame is None:
            raise Refusal("the ensemble carries no frame: call .with_frame(k) first")
        steps, every, blocks = whole_blocks(steps, every)
        keep, k = convert("keep", keep, tuple[str, ...]), self.frame.shape[1]
        entries = 1 + (self.map.dim if "frames" in keep else 0) + (k if "factors" in keep else 0)
        room("the records of the tangent orbit", len(self), blocks, k, entries)
        now, gathered = replace(self, neighbors=None), Gathered(len(self), steps, every, k, self.map.dim, keep)
        for size in self._blocks(("tangent_orbit", k), steps, 1, most=max(1, STRETCHES // (max(1, len(self)) * k))):
            records, end = now.map.tangent_orbit(now.state, now.parameters, now.t, now.frame, size, 1, keep)
            gathered.add(records)
            now = now._moved(end, "frame")
        self._look_at_differences(now)
        return gathered.records, now

    def _look_at_differences(self, after: Ensemble) -> None:
        """Warn of differences in place of a tangent that depend on their width, at both ends of a member's orbit."""
        if self.map.exact_tangent or not self.map.check or self.map.substeps > 1:
            return
        known = np.flatnonzero((self.escaped < 0) & (after.escaped < 0))
        if not known.size:
            return
        known = known[extremes(self.parameters[known])]
        start, end = self.take(known), after.take(known)
        frames = start.frames[:, :2], end.frames[:, :2]
        if self.map.unsettled((start.states, end.states), start.parameters, self.t, frames).any():
            warnings.warn(
                f"{self.map.name} has no tangent, and differences in its place change by more than a thousandth when "
                "they are taken narrower: the map bends, or jumps, on a finer scale; give it a tangent, a box as small "
                "as its states, or the periods of its angles",
                ResolutionWarning,
                stacklevel=3,
            )

    def separation_orbit(self, neighbors: Any, steps: int, every: int = 1, norm: str = "l1") -> tuple[Array, Ensemble]:
        """Distances of perturbed states from the orbit, at t, t + every, ….

        Args:
            neighbors: Perturbed states ``(member, perturbation, dim)``, numpy or native.
            steps: How many, a positive multiple of `every`.
            every: Steps between two distances.
            norm: "l1", "l2" or "max".

        Returns:
            Distances ``(member, perturbation, steps // every)`` float64, and the ensemble after `steps` steps, which
            holds the neighbors where they ended.

        Raises:
            Refusal: (a ValueError) if shapes do not fit, for an unknown norm, or if `steps` is not a positive multiple
                of `every`.
        """
        neighbors = self._in_order(neighbors, "neighbors", 2)
        shape = np.shape(neighbors)
        if len(shape) != 3 or shape[::2] != (len(self), self.map.dim):
            raise Refusal(f"neighbors have shape {tuple(shape)}: give ({len(self)}, perturbations, {self.map.dim})")
        if convert("norm", norm, str) not in NORMS:
            raise Refusal(unknown("norm", norm, NORMS))
        steps, every, blocks = whole_blocks(steps, every)
        room("the distances", len(self), shape[1], blocks)
        now, seen = replace(self, frame=None).with_neighbors(neighbors), []
        for block in self._blocks(("separation_orbit", shape[1]), steps, every):
            beside, at = now.neighbors, (now.parameters, now.t)
            distances, end = now.map.separation_orbit(now.state, beside, *at, block, every, norm)
            seen.append(distances)
            now = now._moved(end, "neighbors")
        return np.concatenate(seen, axis=2), now

    def _moved(self, end: End, carried: str = "") -> Ensemble:
        """Where a verb ended, and what it carried along."""
        escaped = np.where(self.escaped >= 0, self.escaped, end.escaped)
        tick((end.t - self.t) * len(self))
        return replace(self, state=end.states, t=end.t, escaped=escaped, **{carried: end.frame} if carried else {})

    def _blocks(self, verb: Hashable, steps: int, every: int, least: int = 1, most: int | None = None) -> Iterator[int]:
        """Multiples of `every`, of at most `most` times as many steps, that add up to `steps` (see `progress`)."""
        steps, every, count = whole_blocks(steps, every, least)
        refuse_endless(len(self) * steps * self.map.substeps)
        return blocks(self.map.paces, verb, len(self), every, count, most)


def _seed(seed: Any) -> int:
    return whole("seed", seed, 0)


def _check_axes(ensemble: Ensemble) -> None:
    """Refuse axes that do not span the members, or say other values of a parameter than they have."""
    members, shape = len(ensemble.parameters), ensemble.shape
    if int(np.prod(shape, dtype=int)) != members:
        raise Refusal(f"axes of lengths {shape} for {members} members: their product is not the number")
    for i, axis in enumerate(ensemble.axes):
        if axis.kind == "parameter":
            column = ensemble.parameters[:, list(ensemble.map.parameters).index(axis.name)].reshape(shape)
            if not np.array_equal(
                np.moveaxis(column, i, -1), np.broadcast_to(axis.values, np.moveaxis(column, i, -1).shape)
            ):
                raise Refusal(
                    f"the axis {axis.name} has other values than the members have: make them by Ensemble.grid"
                )


def _initial_states(map: Map, states: npt.ArrayLike | None, inits: int | None, seed: int) -> Array:
    if states is not None and inits is not None:
        raise Refusal("give states or inits, not both")
    if states is None:
        inits = 1 if inits is None else whole("inits", inits, 1)
        room("initial states", inits, map.dim)
        return map.initial_states(inits, seed)
    first = numbers("states", in_order(states, map.coordinates, "states"))
    if first.ndim != 2 or first.shape[1] != map.dim or not len(first):
        raise Refusal(f"states of shape {first.shape}: {map.name} needs (n, {map.dim}), one initial state a row")
    if not np.isfinite(first).all():
        row = int(np.flatnonzero(~np.isfinite(first).all(axis=1))[0])
        raise Refusal(f"states: row {row} is not finite: {first[row]}")
    return first


def _axis(map: Map, name: str, values: Any) -> Axis:
    if name not in map.parameters and name not in map.coordinates:
        shown = [*map.parameters, *map.coordinates[:12], *(["…"] if map.dim > 12 else [])]
        raise Refusal(unknown(f"axis for {map.name}", name, shown, map.structure_hint(name)))
    found = np.atleast_1d(numbers(f"axis {name}", values))
    if found.ndim != 1 or not found.size:
        raise Refusal(f"axis {name}: {'no values' if not found.size else 'give a one-dimensional array of values'}")
    if not np.isfinite(found).all():
        raise Refusal(f"axis {name}: value {found[~np.isfinite(found)][0]} is not finite")
    map.check_limits(name, found)
    return Axis(name, found, "parameter" if name in map.parameters else "coordinate")
