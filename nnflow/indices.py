"""Whether a column of a table is an index: it counts the rows or tells their time, and was not measured.

A column is known by its name, or by its numbers if it has none that says more. An index may have holes, repetitions
and rows that were lost or put in twice: then the samples beside it are not equally spaced, and that is said. One that
falls at every sample has the newest first, and the rows are turned round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from nnflow.typing import Array

NAMES = {
    "batch", "batches", "count", "counter", "date", "datetime", "day", "elapsed", "epoch", "epochs", "frame",
    "generation", "global step", "hour", "i", "id", "idx", "index", "it", "iter", "iteration", "iterations",
    "iters", "k", "line", "minute", "month", "n", "no", "nr", "num", "number", "round", "row", "rownames",
    "sample", "samples", "second", "seconds", "step", "steps", "t", "time", "time step", "timestamp",
    "timestep", "update", "updates", "wall time", "walltime", "year",
}  # fmt: skip
EVEN = 1e-3  # of the usual step: times are written with few digits, or in single precision
MOSTLY = 0.9  # of the steps go one way: a run that was resumed, or rows that were swapped, and no noise


def is_named(name: str) -> bool:
    """Whether a column is called as an index is, whatever the case and the unit: "Wall time", "time [s]", "n"."""
    plain = re.sub(r"\s*[\[(].*[\])]$", "", name).replace("_", " ").replace("-", " ")
    return plain.lower() in NAMES or name.startswith("Unnamed")


def is_index(name: str, values: Array, first: bool) -> bool | None:
    """Whether a column is an index.

    It is one that is named so and goes one way; or, in whole numbers that go one way, the first, and any in equal
    steps; or, without a name, any that rises in equal steps. What falls under another name may be a countdown.

    Args:
        name: The column's name; x0, x1, … of one without a name.
        values: ``(…, time)``.
        first: Whether it is the first column.

    Returns:
        Whether it is one; None if it may be one or measured.
    """
    rising, falling, steps = np.array([_ways(row) for row in values.reshape(-1, values.shape[-1])]).T
    moves = int((rising + falling).sum())
    way = float(np.maximum(rising, falling).sum() / moves) if moves else 1.0
    if is_named(name):
        return True if way >= MOSTLY else False if len(name) == 1 else None
    if steps.sum() < 2 or way < MOSTLY or not moves or np.isinf(values).any():
        return False
    even, nameless = not unevenness(name, values), re.fullmatch(r"x[0-9]+", name)
    if (values == np.round(values))[~np.isnan(values)].all():
        if 2 * moves < steps.sum() or (nameless and not even and not rising.any()):  # groups of rows; or measured
            return None
        return True if way == 1.0 and (first or even) and (nameless or rising.any()) else None
    if nameless and (rising == steps).all():
        return True if even else None
    return None if even else False


def unevenness(name: str, values: Array, cells: Sequence[str] = ()) -> str:
    """Where an index ``(…, time)`` is not equally spaced, in words, with its `cells` as written; "" if it is."""
    for row in values.reshape(-1, values.shape[-1]):
        missing = np.flatnonzero(~np.isfinite(row))
        if missing.size:
            return f"{name} is {'empty' if np.isnan(row[missing[0]]) else 'infinite'} at sample {missing[0]}"
        with np.errstate(over="ignore"):
            steps = np.diff(row)
        usual = float(np.median(steps)) if steps.size else 0.0
        with np.errstate(invalid="ignore"):
            odd = np.flatnonzero(np.abs(steps - usual) > EVEN * abs(usual) + 4 * np.spacing(np.abs(row).max()))
        if odd.size:
            one, other = (cells[i] if cells else f"{row[i]:.15g}" for i in (odd[0], odd[0] + 1))
            return f"{name} is not equally spaced: {one}, then {other} at sample {odd[0] + 1}"
    return ""


def direction(values: Array) -> int | None:
    """In which order the samples came.

    Args:
        values: An index, ``(…, time)``.

    Returns:
        1 for an index that rises, here and there a step back apart, 0 for one that stands still, -1 for one that falls
        at every sample, the newest first; None if it does not tell.
    """
    ways = set()
    for row in values.reshape(-1, values.shape[-1]):
        rising, falling, steps = _ways(row)
        falls = falling == steps > 0
        ways.add(-1 if falls else None if rising < MOSTLY * (rising + falling) else int(rising > 0))
    return next(iter(ways)) if len(ways) == 1 else 1 if ways == {0, 1} else None


def _ways(row: Array) -> tuple[int, int, int]:
    """How many steps between neighbors that are known rise, and fall, of how many."""
    with np.errstate(over="ignore"):
        steps = np.diff(row[np.isfinite(row)])
    return int((steps > 0).sum()), int((steps < 0).sum()), len(steps)
