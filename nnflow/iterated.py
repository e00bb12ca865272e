"""The n-th iterate of a map: one step of it is n steps of the map, whatever the backend.

For mini-batches in a fixed order, the iterate over one epoch does without t: its fixed points, periods and exponents
are those of training, per epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from math import gcd
from typing import Any

import numpy as np

from nnflow.map import Map
from nnflow.names import Refusal, WrongKind, shown
from nnflow.records import End, Gathered, Into, TangentRecords, begin
from nnflow.room import refuse_endless
from nnflow.settings import whole
from nnflow.typing import Array

BLOCK = 2**14  # steps of the inner map whose records are held at a time


def iterate(map: Map, n: int) -> Map:
    """The map x → f(f(…f(x))), n times: exponents, periods and `t` count iterates, observables stay those of `map`.

    Args:
        map: The map f.
        n: How many steps of it make one iterate; `map.epoch` is those of one epoch.

    Returns:
        A map named ``map^n``.

    Raises:
        Refusal: (a ValueError) for n < 1, or so large that no clock could finish an iterate.
        WrongKind: (a TypeError) for what is no map.

    >>> import nnflow
    >>> twice = iterate(nnflow.maps["logistic"](r=3.2), 2)  # the 2-cycle of the logistic map is a fixed point of it
    >>> int(nnflow.run("orbit_diagram", twice).period)
    1
    """
    n = whole("n", n)
    if n < 1:
        raise Refusal(f"n = {n}: give how many steps make one iterate, 1 or more")
    if not isinstance(map, Map):
        raise WrongKind(f"{shown(map)} is not a map: make one first, e.g. nnflow.maps['henon']()")
    refuse_endless(n * map.substeps)
    settings = {f.name: getattr(map, f.name) for f in fields(Map)}
    settings |= {"name": f"{map.name}^{n}", "epoch": map.epoch // gcd(map.epoch, n)}
    return Iterated(map, n, **settings)


class Iterated(Map):
    """The n-th iterate of a map, see `iterate`.

    Attributes:
        inner: The map that is iterated.
        n: How many times.
    """

    in_numpy = False
    inner: Map
    n: int

    def __init__(self, inner: Map, n: int, **settings: Any) -> None:
        super().__init__(**settings)
        for name, value in {"inner": inner, "n": n, "threads": inner.threads, "compiled": inner.compiled}.items():
            object.__setattr__(self, name, value)

    def uncompiled(self) -> AbstractContextManager[None]:
        """That of the inner map."""
        return self.inner.uncompiled()

    @property
    def substeps(self) -> int:
        """n, times those of the inner map."""
        return self.n * self.inner.substeps

    @property
    def exact_tangent(self) -> bool:
        """Whether the inner map's tangent is exact."""
        return self.inner.exact_tangent

    @property
    def autonomous(self) -> bool:
        """Whether the inner map does without t, or n is a multiple of its epoch."""
        return super().autonomous and (self.inner.autonomous or self.inner.epoch > 1)

    @property
    def resolution(self) -> float:
        """That of the inner map."""
        return self.inner.resolution

    def step(self, x: Any, p: Any, t: int) -> Any:
        """n steps of the inner map."""
        for s in range(t * self.n, (t + 1) * self.n):
            x = self.inner.step(x, p, s)
        return x

    def tangent(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """The product of n Jacobians, by the chain rule."""
        for s in range(t * self.n, (t + 1) * self.n):
            x, v = self.inner.step(x, p, s), self.inner.tangent(x, p, s, v)
        return v

    def difference(self, x: Any, y: Any) -> Any:
        """That of the inner map."""
        return self.inner.difference(x, y)

    def gauge(self, x: Any, p: Any) -> Array:
        """That of the inner map: what one step leaves as it is, n steps do."""
        return self.inner.gauge(x, p)

    def native(self, x: Array) -> Any:
        """That of the inner map."""
        return self.inner.native(x)

    def to_numpy(self, x: Any) -> Array:
        """That of the inner map."""
        return self.inner.to_numpy(x)

    def observable(self, name: str, x: Any, p: Any, t: int) -> Array:
        """One observable of every member, ``(member,)``."""
        return self.inner.observable(name, x, p, t * self.n)

    def advance(self, x: Any, p: Any, t: int, steps: int) -> End:
        """`steps` iterates from t; no record."""
        return self._counted(self.inner.advance(x, p, t * self.n, steps * self.n))

    def orbit(
        self, x: Any, p: Any, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """As `Map.orbit`, by the inner map; steps, `every` and t count iterates."""
        records, end = self.inner.orbit(x, p, t * self.n, steps * self.n, every * self.n, observe, into)
        return records, self._counted(end)

    def tangent_orbit(
        self, x: Any, p: Any, t: int, frame: Any, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """Carry ``frame (member, k, dim)`` along the orbit; re-orthonormalized at each step of the inner map."""
        members, k, dim = frame.shape
        gathered = Gathered(members, steps * self.n, every * self.n, k, dim, keep)
        end = End(x, frame, t * self.n, begin(x))
        for done in range(0, max(1, steps * self.n), BLOCK):
            few = min(BLOCK, steps * self.n - done)
            records, now = self.inner.tangent_orbit(end.states, p, end.t, end.frame, few, 1, keep)
            end = now._replace(escaped=np.where(end.escaped < 0, now.escaped, end.escaped))
            gathered.add(records)
        return gathered.records, self._counted(end)

    def separation_orbit(
        self, x: Any, y: Any, p: Any, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """Distances ``(member, perturbation, steps // every)`` of y ``(member, perturbation, dim)`` from the orbit."""
        distances, end = self.inner.separation_orbit(x, y, p, t * self.n, steps * self.n, every * self.n, norm)
        return distances, self._counted(end)

    def _counted(self, end: End) -> End:
        """The end with time in iterates; a member that escaped within one has escaped at its end."""
        return end._replace(t=end.t // self.n, escaped=np.where(end.escaped < 0, -1, -(-end.escaped // self.n)))
