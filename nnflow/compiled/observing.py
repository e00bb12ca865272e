"""Observables of recorded states: a loop of its own for each function, apart from the orbit.

An orbit records states; what is asked of them is computed from the records, tile by tile, so that another choice of
observables compiles nothing that was compiled before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnflow.compiled.loops import Constants
from nnflow.compiled.memory import sealed
from nnflow.compiled.ways import Rule, part
from nnflow.machine import loop
from nnflow.typing import Array, Integers


@dataclass(frozen=True)
class Component:
    """An observable that is one entry of what `function(x, p, t, out)` writes: run once for all entries asked for."""

    function: Rule
    index: int
    size: int  # entries of out

    def __call__(self, *arguments: Any) -> float:
        """The entry, of what the function takes beside `out`: (x, p, t), and the map's constants if it has any."""
        out = np.empty(self.size)
        self.function(*arguments, out)
        return float(out[self.index])


def single(function: Rule) -> Rule:
    """Build what writes an observable f(x, p, t, c) as the only entry of out."""

    @part
    def write(x: Array, p: Array, t: int, c: Constants, out: Array) -> None:
        out[0] = function(x, p, t, c)

    return write


def observing_loop(mark: str, function: Rule, size: int) -> Rule:
    """Build what writes observables of states (member, block, dim) into out (member, block, entry).

    Args:
        mark: Under which the machine code is kept.
        function: Writes `size` entries in one pass, of which those at `entries` are kept.
        size: How many it writes.

    Returns:
        The loop.
    """

    @loop(mark, _nrt=True)
    def observe(states: Array, p: Array, t: int, c: Constants, every: int, entries: Integers, out: Array) -> None:
        seen = np.empty(size)
        for m in range(states.shape[0]):
            for block in range(states.shape[1]):
                if np.isnan(states[m, block, 0]):  # of an escaped member all is NaN
                    seen[:] = np.nan
                else:
                    function(sealed(states[m, block]), p[m], t + block * every, c, seen)
                for i in range(entries.shape[0]):
                    out[m, block, i] = seen[entries[i]]

    return observe
