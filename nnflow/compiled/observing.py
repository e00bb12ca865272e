"""Observables of recorded states: a loop of its own for each function, apart from the orbit.

An orbit records states; what is asked of them is computed from the records, tile by tile, so that another choice of
observables compiles nothing that was compiled before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnflow.compiled.loops import Constants, Integers
from nnflow.compiled.memory import Array
from nnflow.machine import loop

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Component:
    """An observable that is one entry of what `function(x, p, t, out)` writes: run once for all entries asked for."""

    function: Rule
    index: int
    size: int  # entries of out

    def __call__(self, *arguments: Any) -> float:
        """The entry, of (x, p, t), and the map's constants if it has any."""
        out = np.empty(self.size)
        self.function(*arguments, out)
        return float(out[self.index])


def single_loop(mark: str, function: Rule) -> Rule:
    """Build what writes an observable of states (member, block, dim) into out (member, block, channel).

    `columns (2, n)`: those of out, and the entries that belong there; here there is one entry.
    """

    @loop(mark, _nrt=True)
    def observe(states: Array, p: Array, t: int, c: Constants, every: int, columns: Integers, out: Array) -> None:
        for m in range(states.shape[0]):
            for block in range(states.shape[1]):
                known = not np.isnan(states[m, block, 0])  # of an escaped member all is NaN
                out[m, block, columns[0, 0]] = (
                    function(states[m, block], p[m], t + block * every, c) if known else np.nan
                )

    return observe


def several_loop(mark: str, function: Rule, size: int) -> Rule:
    """Build the same for a function that writes several entries in one pass."""

    @loop(mark, _nrt=True)
    def observe(states: Array, p: Array, t: int, c: Constants, every: int, columns: Integers, out: Array) -> None:
        seen = np.empty(size)
        for m in range(states.shape[0]):
            for block in range(states.shape[1]):
                if np.isnan(states[m, block, 0]):
                    seen[:] = np.nan
                else:
                    function(states[m, block], p[m], t + block * every, c, seen)
                for i in range(columns.shape[1]):
                    out[m, block, columns[0, i]] = seen[columns[1, i]]

    return observe
