"""What verbs hand on: where they ended, who has escaped, and what they recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nnflow.names import Refusal, unknown
from nnflow.typing import Array, Integers

KEEP = ("frames", "factors")


class End(NamedTuple):
    """Where a verb stopped, so that whatever comes next continues exactly there.

    Attributes:
        states: ``(member, dim)``, in the backend's own arrays.
        frame: What was carried along, in the backend's own arrays: after `tangent_orbit` the frame
            ``(member, k, dim)``, after `separation_orbit` the perturbed states ``(member, perturbation, dim)``, else
            None.
        t: The next step index.
        escaped: ``(member,)`` int64: the step index of the first non-finite state, -1 = never.
    """

    states: Any
    frame: Any
    t: int
    escaped: Integers


class Into(NamedTuple):
    """Where an orbit writes: ``records (member, block, channel)``, from block `first` on."""

    records: Array
    first: int


class TangentRecords(NamedTuple):
    """What `tangent_orbit` saw, one entry a block of `every` steps.

    Attributes:
        log_stretches: ``(member, block, k)`` float64: ln R_jj of the block, in nats.
        frames: ``(member, block, k, dim)``, the orthonormal frame at the start of each block; None if not asked for.
        factors: ``(member, block, k, k)``, the upper-triangular R with M Q = Q' R (M the block's tangent map, Q and Q'
            the frames before and after it, as columns); None if not asked for.
    """

    log_stretches: Array
    frames: Array | None
    factors: Array | None


def begin(x: Any) -> Integers:
    """No member has escaped yet."""
    return np.full(len(x), -1, dtype=np.int64)


def settle(x: Any, escaped: Integers, t: int) -> tuple[Any, Integers]:
    """Make every state that is not finite NaN, for good, and note the step index t of its first such state.

    Args:
        x: States ``(member, dim)``.
        escaped: ``(member,)``, what was noted before; -1 = never.
        t: The step index at which the states are.

    Returns:
        The states and `escaped`, as new arrays.
    """
    bad = ~np.isfinite(x).all(axis=1) | (escaped >= 0)
    return np.where(bad[:, None], np.nan, x), np.where(bad & (escaped < 0), t, escaped)


def follow(before: End, after: End) -> End:
    """`after`, with the escapes of `before` kept."""
    return after._replace(escaped=np.where(before.escaped >= 0, before.escaped, after.escaped))


def new_records(members: int, blocks: int, channels: int) -> Into:
    """Room for the records of an orbit, from its beginning on."""
    return Into(np.empty((members, blocks, channels)), 0)


def tangent_records(members: int, blocks: int, k: int, dim: int, keep: Sequence[str]) -> TangentRecords:
    """Empty records of the asked-for kinds.

    Args:
        members: How many members.
        blocks: How many blocks.
        k: How many tangent vectors.
        dim: How many components a vector has.
        keep: "frames", "factors", both or none.

    Returns:
        Records that are not filled yet.

    Raises:
        Refusal: for a kind that does not exist.
    """
    for name in keep:
        if name not in KEEP:
            raise Refusal(unknown("record", name, KEEP))
    frames = np.empty((members, blocks, k, dim)) if "frames" in keep else None
    factors = np.empty((members, blocks, k, k)) if "factors" in keep else None
    return TangentRecords(np.empty((members, blocks, k)), frames, factors)


class Gathered:
    """Records of `tangent_orbit`, one a block of `every` steps, put together from records of single steps.

    A frame that is left alone for many steps is lost: its vectors turn to the direction that grows fastest until
    rounding hides what tells them apart, and their lengths overflow or vanish. Re-orthonormalized at each step it is
    not, and a block's log-stretches are the sum of its steps', its factor their product. The steps are added one after
    another, so that the sums do not depend on where the time was cut.
    """

    def __init__(self, members: int, steps: int, every: int, k: int, dim: int, keep: Sequence[str]) -> None:
        self.records = tangent_records(members, steps // every, k, dim, keep)
        self.every, self.done = every, 0
        self.records.log_stretches[:] = 0.0
        if self.records.factors is not None:
            self.records.factors[:] = np.eye(k)

    def add(self, steps: TangentRecords) -> None:
        """The next steps."""
        total, frames, factors = self.records
        step = self.done + np.arange(steps.log_stretches.shape[1])
        self.done += len(step)
        first, block = step % self.every == 0, step // self.every
        if self.every == 1:  # nothing to add up
            total[:, block] = steps.log_stretches
        else:
            cells = np.arange(total.size).reshape(total.shape)[:, block]
            np.add.at(total.reshape(-1), cells.ravel(), steps.log_stretches.ravel())
        if frames is not None and steps.frames is not None:
            frames[:, block[first]] = steps.frames[:, first]
        if factors is not None and steps.factors is not None:
            for i, b in enumerate(block):
                with np.errstate(all="ignore"):  # a long product may overflow
                    factors[:, b] = steps.factors[:, i] @ factors[:, b]
