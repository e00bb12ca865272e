"""Which answers are right: how an accuracy reads outputs and targets, where they tell classes at all.

A row's target is a label (a whole number), shares of classes (one of them the largest: one-hot rows, soft targets), or,
under a binary cross-entropy of one output, 0 or 1. The answer is the largest output, or the side of the threshold.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional

from nnflow.values import shares

THRESHOLDS: dict[Any, float] = {
    functional.binary_cross_entropy_with_logits: 0.0,
    nn.BCEWithLogitsLoss: 0.0,
    functional.binary_cross_entropy: 0.5,
    nn.BCELoss: 0.5,
}  # where a loss of one output parts the classes


class Answers(NamedTuple):
    """How rows are read: by "labels", "shares", or "sides" of a threshold."""

    kind: str
    threshold: float = 0.0

    def fits(self, shape: tuple[int, ...] | None, targets: npt.NDArray[Any]) -> bool:
        """Whether outputs of this shape, a row, can be read so (None: of no shape)."""
        return shape is not None and (len(shape) == 1 if self.kind == "labels" else targets.shape[1:] == shape)

    def right(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Whether the answers are right, ``(row,)`` bool; of equal outputs the first counts."""
        if self.kind == "sides":
            return (outputs.reshape(-1) > self.threshold) == (y.reshape(-1) > 0.5)
        return outputs.argmax(dim=1) == (y.argmax(dim=1) if self.kind == "shares" else y)


def answers_of(loss_fn: Any, targets: npt.NDArray[Any]) -> Answers | None:
    """How to read the targets ``(row, …)`` of a loss, and outputs that fit them; None where they tell no classes."""
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        return Answers("labels")
    if shares(targets):
        return Answers("shares")
    function = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    kind = type(function) if isinstance(function, nn.Module) else function
    threshold = next((value for known, value in THRESHOLDS.items() if known is kind), None)
    one, sides = targets.size == len(targets), bool(np.isin(targets, (0, 1)).all())
    return Answers("sides", threshold) if one and sides and threshold is not None else None
