"""States and frames of tensor maps: who has escaped, what stands in for them, and frames made orthonormal."""

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


def orthonormalise(frame: Tensor, escaped: Tensor | None) -> tuple[Tensor, Tensor]:
    """QR of each member's rows with a positive diagonal: the new rows ``(member, k, dim)`` and R ``(member, k, k)``."""
    if escaped is None and frame.device.type == "cpu" and bool(torch.isfinite(frame.sum())):
        return _turned(frame)
    bad = ~torch.isfinite(frame).all(dim=2).all(dim=1)
    hole = (bad if escaped is None else bad | (escaped >= 0))[:, None, None]
    rows, factor = _turned(torch.where(hole, 0.0, frame))
    return torch.where(hole, torch.nan, rows).contiguous(), torch.where(hole, torch.nan, factor)


def _turned(frame: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(frame.transpose(1, 2))
    sign = torch.where(torch.diagonal(r, dim1=1, dim2=2) < 0, -1.0, 1.0).to(frame.dtype)
    return (q * sign[:, None, :]).transpose(1, 2).contiguous(), r * sign[:, :, None]
