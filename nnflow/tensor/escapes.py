"""Who of the members of a tensor map has escaped, and what stands in for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nnflow.typing import Integers


def settle(x: Tensor, escaped: Tensor | None, t: int) -> tuple[Tensor, Tensor | None]:
    """Make every state that is not finite NaN, for good, and note the step index of its first such state.

    Returns:
        The states, and the step indices, −1 where there is none; None for no state at all, as nearly always (an
        accelerator is not asked: it would have to wait).
    """
    asked = escaped is None and x.device.type == "cpu"
    if asked and bool(torch.isfinite(x.sum())):
        return x, None
    if escaped is None:
        escaped = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    bad = ~torch.isfinite(x).all(dim=1) | (escaped >= 0)
    if asked and not bool(bad.any()):  # finite states whose sum is not
        return x, None
    return torch.where(bad[:, None], torch.nan, x), torch.where(bad & (escaped < 0), t, escaped)


def standing_in(x: Tensor, escaped: Tensor | None) -> Tensor:
    """States to compute with in place of those that escape: where each started, or the first that is finite did."""
    if escaped is None:
        return x
    finite = torch.isfinite(x).all(dim=1)
    return torch.where(finite[:, None], x, x[finite.to(torch.int8).argmax()])


def safe(x: Tensor, escaped: Tensor | None, start: Tensor) -> Tensor:
    """States with others in place of those that have escaped: the rule of one member is not to fail for all of them."""
    if escaped is None:
        return x
    return torch.where((escaped >= 0)[:, None], start.nan_to_num(0.0, 0.0, 0.0), x)


def steps_of(escaped: Tensor | None, members: int) -> Integers:
    """The step indices of first states that are not finite as numpy, ``(member,)``; −1 where there is none."""
    if escaped is None:
        return np.full(members, -1, dtype=np.int64)
    return np.asarray(escaped.cpu().numpy(), dtype=np.int64)
