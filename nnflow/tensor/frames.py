"""Frames of tensor maps, made orthonormal."""

from __future__ import annotations

import torch
from torch import Tensor


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
