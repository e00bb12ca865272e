"""Whether a map's functions say the same: the tangent and differences of the rule, compiled code and plain Python.

The first is asked when a map is made, before anything is compiled; the second of the first steps of each compiled loop,
since some of Python means something else in machine code (`2 ** -t` is a whole number there, and 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nnflow.differences import misfit
from nnflow.frozen import plain
from nnflow.guard import call_plain
from nnflow.methods import UNTRIED, refuse_coarse
from nnflow.names import Refusal
from nnflow.typing import Array

if TYPE_CHECKING:
    from nnflow.compiled.map import CompiledMap

MEMBERS = 2
TRIED = 3  # steps that are compared with plain Python …
LATE = (100, 10_000)  # … and two later ones: powers of a whole t outgrow machine numbers …
CLOSE = 1e-6  # … of which they may be so far off, relatively: a helper may round to 32 bits …
ROUNDING = 1e-12  # … or so far in all: a conserved quantity less its value is rounding alone, and in another order

Compiled = Callable[[Array, Array, int, Array], tuple[Array, Array | None]]
"""One compiled step: states (member, dim), p, t, vectors (k, dim) -> the next states, the vectors' images if it has any
(member, k, dim)."""
Bent = Callable[[Array, Array, int, Array, Array], Array]
"""A compiled Hessian: states (member, dim), p, t, vectors (member, k, weights), out -> out, the products."""


class Plain(NamedTuple):
    """A map's functions as plain Python, at parameters `p`: those it has by default, if nothing else is said."""

    map: CompiledMap
    p: Array
    rule: Callable[..., object]
    tangents: dict[str, Callable[..., object]]

    def step(self, x: Array, t: int) -> Array:
        """The states after a step from ``x (member, dim)``."""
        out = np.full_like(x, np.nan)
        for row, result in zip(x, out, strict=True):
            call_plain(self.rule, row, self.p, t, *self.map.behind(t), out=result)
        return out

    def images(self, kind: str, x: Array, t: int, v: Array) -> Array:
        """The Jacobian at ``x (dim,)`` times the rows of ``v (k, dim)``, by the function of that kind."""
        out, given = np.full_like(v, np.nan), (x, self.p, t, *self.map.behind(t))
        if kind == "tangent":
            for vector, result in zip(v, out, strict=True):
                call_plain(self.tangents[kind], *given, vector, out=result)
        elif kind == "frame_tangent":
            call_plain(self.tangents[kind], *given, v, out=out)
        else:
            ahead = np.full_like(x, np.nan)
            call_plain(self.tangents[kind], *given, v, ahead, out=out)
            known = self.step(x[None], t)[0]
            away = np.abs(self.map.difference(ahead, known)).max()
            if away > np.sqrt(self.map.resolution) * np.abs(known).max():  # far beyond what another order of sums does
                raise Refusal(f"the joint of {self.map.name!r} leads to {ahead}, the rule to {known}, from x = {x}")
        return out


def as_plain(map: CompiledMap) -> Plain:
    """The functions of a map, and of what they call, as plain Python; tangents as loops prefer them."""
    functions = plain(map.functions)
    given = {kind: getattr(functions, kind) for kind in ("joint", "frame_tangent", "tangent")}
    tangents = {kind: function for kind, function in given.items() if function is not None}
    return Plain(map, np.array(list(map.parameters.values())), functions.rule, tangents)


def try_derivatives(map: CompiledMap, states: Array) -> None:
    """Compare what claims to be the tangent, as plain Python, with differences of the rule, which must have some.

    Args:
        map: The map.
        states: Where, ``(n, dim)``.

    Raises:
        Refusal: where they differ, and for a rule that computes in single precision.
    """
    functions = as_plain(map)

    def step(x: Array) -> Array:
        return functions.step(x, 0)

    refuse_coarse(map, step, states)
    for kind in functions.tangents:

        def derivative(x: Array, v: Array, kind: str = kind) -> Array:
            return functions.images(kind, x[0], 0, v)

        for x in states[:MEMBERS]:
            if found := misfit(step, derivative, x, map.resolution, map.difference):
                where = found.said(f"the {kind} of {map.name!r}", "rule", map.coordinates, x)
                raise Refusal(f"{where} {UNTRIED}")


def compare_steps(map: CompiledMap, compiled: Compiled, p: Array, last: int, k: int = 0) -> None:
    """Compare a few compiled steps, with the images of `k` unit vectors, with plain Python.

    Args:
        map: The map.
        compiled: One compiled step.
        p: Parameters of members: whole numbers that are made of them may outgrow the machine's.
        last: The last step index.
        k: How many vectors.

    Raises:
        Refusal: where they differ.
    """
    functions, x = as_plain(map), map.initial_states(len(p), 0)
    kind, unit = next(iter(functions.tangents), ""), np.eye(k, map.dim)
    each = [(functions._replace(p=own), state) for own, state in zip(p, x, strict=True)]
    for t in sorted({*range(TRIED), *LATE, last}):
        try:
            ahead = np.concatenate([of.step(state[None], t) for of, state in each])
            images = np.array([of.images(kind, state, t, unit) for of, state in each]) if kind and k else None
        except Refusal:
            raise
        except Exception:  # it cannot run as plain Python, here or on the way: nothing is said of it
            return
        found, turned = compiled(x, p, t, unit)
        for m, state in enumerate(x):
            _compare(map, "rule", map.difference(found[m], ahead[m]), found[m], ahead[m], state, t)
            if images is not None and turned is not None:
                _compare(map, kind, turned[m] - images[m], turned[m], images[m], state, t)


def compare_hessian(map: CompiledMap, bend: Bent, p: Array, last: int) -> None:
    """Compare products with the compiled Hessian with plain Python. Raises Refusal where they differ."""
    function, x = plain(map.functions).hessian, map.initial_states(len(p), 0)
    vectors = np.tile(np.eye(MEMBERS, map.weights)[: map.weights], (len(p), 1, 1))
    for t in sorted({*range(TRIED), *LATE, last}):
        known = np.full_like(vectors, np.nan)
        try:
            for own, state, v, out in zip(p, x, vectors, known, strict=True):
                call_plain(function, state, own, t, *map.behind(t), v, out=out)
        except Exception:  # it cannot run as plain Python: nothing is said of it
            return
        found = bend(x, p, t, vectors, np.empty_like(vectors))
        for one, other, state in zip(found, known, x, strict=True):
            _compare(map, "hessian", one - other, one, other, state, t)


def compare_observed(map: CompiledMap, names: Sequence[str], seen: Callable[..., Array], p: Array, last: int) -> None:
    """Compare observables, as `seen(states (member, time, dim), p, t, c, every)`, with plain Python. Raises Refusal."""
    functions, found = plain([map.observables[name] for name in names]), (len(p), TRIED, len(names))
    states = map.initial_states(len(p) * TRIED, 0).reshape(len(p), TRIED, map.dim)
    for first in sorted({0, *LATE, last}):
        known = np.empty(found)
        try:
            for (m, i, n), _ in np.ndenumerate(known):
                known[m, i, n] = call_plain(functions[n], states[m, i], p[m], first + i, *map.behind(first + i))
        except Exception:  # it cannot run as plain Python: nothing is said of it
            return
        ours = seen(states, p, first, map.handed(first, TRIED), 1)
        for m, i, n in np.ndindex(found):
            one, other = ours[m, i, n : n + 1], known[m, i, n : n + 1]
            _compare(map, f"observable {names[n]}", one - other, one, other, states[m, i], first + i)


def _compare(map: CompiledMap, kind: str, away: Array, found: Array, known: Array, x: Array, t: int) -> None:
    """Refuse what is too far away, at a state x."""
    room = CLOSE * np.abs(known).max() + ROUNDING * max(1.0, np.abs(x).max())
    wrong = np.isfinite(known) & ~(np.abs(away) <= room)
    if wrong.any():
        i = tuple(np.argwhere(wrong)[0])
        raise Refusal(
            f"the {kind} of {map.name!r} gives {known[i]:g} as plain Python and {found[i]:g} when compiled, from "
            f"x = {np.array2string(x, threshold=8)} at t = {t}: whole numbers are not float64, write them as 2.0 or "
            f"float(t) {UNTRIED}"
        )
