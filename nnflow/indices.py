"""Whether a column of a table is an index: it counts the rows or tells their time, and was not measured.

A column is known by its name, or by its numbers if it has none that says more. An index may have holes, repetitions
and rows that were lost or put in twice: then the samples beside it are not equally spaced, and that is said.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
NAMES = {
    "batch", "batches", "count", "counter", "date", "datetime", "day", "elapsed", "epoch", "epochs", "frame",
    "generation", "global step", "hour", "i", "id", "idx", "index", "it", "iter", "iteration", "iterations",
    "iters", "k", "line", "minute", "month", "n", "no", "nr", "num", "number", "round", "row", "rownames",
    "sample", "samples", "second", "seconds", "step", "steps", "t", "time", "time step", "timestamp",
    "timestep", "update", "updates", "wall time", "walltime", "year",
}  # fmt: skip
MOSTLY = 0.9  # of the steps go one way: a run that was resumed, or rows that were swapped, and no noise


def is_named(name: str) -> bool:
    """Whether a column is called as an index is, whatever the case and the unit: "Wall time", "time [s]", "n"."""
    plain = re.sub(r"\s*[\[(].*[\])]$", "", name).replace("_", " ").replace("-", " ")
    return plain.lower() in NAMES or name.startswith("Unnamed")


def is_index(name: str, values: Array, first: bool) -> bool | None:
    """Whether numbers ``(…, time)`` are an index, the `first` column or not; None if they may be one or measured.

    It is one that is named so and goes one way; or, in whole numbers that go one way, the first, and any in equal
    steps; or, without a name, any that rises in equal steps.
    """
    steps = _steps(values)
    rising, falling = int((steps > 0).sum()), int((steps < 0).sum())
    way = max(rising, falling) / (rising + falling) if rising + falling else 1.0
    if is_named(name):
        return True if way >= MOSTLY else False if len(name) == 1 else None
    if len(steps) < 2 or way < MOSTLY or not rising + falling or np.isinf(values).any():
        return False
    even = not unevenness(name, values)
    if (values == np.round(values))[~np.isnan(values)].all():
        return True if way == 1.0 and (first or even) else None
    if re.fullmatch(r"x[0-9]+", name) and rising == len(steps):
        return True if even else None
    return None if even else False


def unevenness(name: str, values: Array | str) -> str:
    """Where an index ``(…, time)`` is not equally spaced, in words; "" if it is."""
    if isinstance(values, str):
        return f"{name} is not checked for holes, for it is no column of numbers"
    for row in values.reshape(-1, values.shape[-1]):
        missing = np.flatnonzero(np.isnan(row))
        if missing.size:
            return f"{name} is empty at sample {missing[0]}"
        steps = np.diff(row)
        usual = float(np.median(steps)) if steps.size else 0.0
        with np.errstate(invalid="ignore"):
            odd = np.flatnonzero(np.abs(steps - usual) > 1e-6 * abs(usual) + 4 * np.spacing(np.abs(row).max()))
        if odd.size:
            return (
                f"{name} is not equally spaced: {row[odd[0]]:.15g}, then {row[odd[0] + 1]:.15g} at sample {odd[0] + 1}"
            )
    return ""


def _steps(values: Array) -> Array:
    """All differences of neighbours that are known, of all rows in one line."""
    rows = values.reshape(-1, values.shape[-1])
    with np.errstate(invalid="ignore"):
        return np.concatenate([np.diff(row[~np.isnan(row)]) for row in rows])
