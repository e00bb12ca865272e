"""What a step of training takes of t: the optimizer's clock, the learning rate's factor, and the rows of its batch."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nnflow.data.order import Order
from nnflow.schedules import Schedule


class Moment(NamedTuple):
    """What a step takes of t, as tensors: so its operations are the same at all t."""

    clock: Tensor  # t + 1
    factor: Tensor  # of the learning rate
    rows: Tensor | None  # that the step sees; None: all


class Clock:
    """t → its `Moment`."""

    def __init__(
        self, schedule: Schedule | None, order: Order | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.schedule, self.order = schedule, order
        self.one = torch.ones((), dtype=dtype, device=device)
        self.number = partial(torch.as_tensor, dtype=dtype, device=device)
        self.device = device

    def __call__(self, t: int) -> Moment:
        """The moment of step t."""
        factor = self.one if self.schedule is None else self.number(float(self.schedule(t)))
        rows = None if self.order is None or self.order.batches == 1 else self.order.rows(t)
        return Moment(self.number(t + 1.0), factor,
                      None if rows is None else torch.as_tensor(rows, device=self.device))  # fmt: skip
