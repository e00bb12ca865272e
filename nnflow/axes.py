"""Axes, members by index, steps in blocks: what an ensemble and a recording check of them, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.labels import labelled
from nnflow.names import Refusal, shown, unknown
from nnflow.settings import is_bool, plain, whole
from nnflow.typing import Integers
from nnflow.values import leaves


class Axis(NamedTuple):
    """One axis of a scan.

    Attributes:
        name: What it is called in results.
        values: ``(n,)``, in the order given.
        kind: What it varies: "parameter", "coordinate", "init" or "member".
    """

    name: str
    values: npt.NDArray[Any]
    kind: str


def named(axes: Sequence[Axis], names: Sequence[str]) -> list[Axis]:
    """The axes of these names, in the ensemble's order. Raises Refusal for a name that is not there."""
    known = [axis.name for axis in axes]
    for name in names:
        if name not in known:
            raise Refusal(unknown("axis of the ensemble", name, known))
    return [axis for axis in axes if axis.name in names]


def whole_blocks(steps: Any, every: Any, least: int = 1) -> tuple[int, int, int]:
    """Steps, every, and how many blocks of `every` the steps make."""
    steps, every = whole("steps", steps), whole("every", every)
    if every < 1 or steps < least or steps % every:
        raise Refusal(
            f"steps = {steps}, every = {every}: steps must be a {'positive ' if least else ''}multiple of every >= 1"
        )
    return steps, every, steps // every


def chosen_members(given: Any, axes: Sequence[Axis], count: int) -> Integers:
    """Member indices, from indices or from a mask: flat, or of the axes' shape, by name where it has names."""
    if np.ma.is_masked(given):
        raise Refusal(f"members = {shown(given)}: some are masked, so that it is not said whether they are meant")
    chosen, shape, found = np.asarray(plain(given)), tuple(len(axis.values) for axis in axes), labelled(given)
    if found is not None and chosen.dtype == bool and chosen.ndim:
        chosen = found.over(axes, "members")
    if chosen.dtype == bool and chosen.shape in ((count,), shape):
        return np.flatnonzero(chosen)
    if chosen.dtype == bool and chosen.size == count:
        raise Refusal(f"a mask of shape {chosen.shape}: the members have the shape {shape}, in this order of the axes")
    if (chosen.dtype.kind not in "iu" and chosen.size) or any(map(is_bool, leaves(given))):
        raise Refusal(f"members = {shown(given)}: give whole numbers, or a mask of {count} bools")
    chosen = chosen.ravel()
    outside = chosen[(chosen < 0) | (chosen >= count)]
    if outside.size:
        raise Refusal(f"member {outside[0]}: there are {count}, 0 … {count - 1}")
    return chosen.astype(np.int64)


def check_shape(what: str, values: Any, wanted: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    shape = tuple(np.shape(values))
    if shape != wanted:
        raise Refusal(f"{what} of shape {shape}: give {wanted}")


def step_indices(what: str, values: Any, members: int) -> Integers:
    """Whole numbers, one a member."""
    check_shape(what, values, (members,))
    found = np.asarray(values)
    if found.dtype.kind not in "iu":
        raise Refusal(f"{what} = {shown(values)}: give whole numbers")
    return found.astype(np.int64, copy=False)
