"""Symmetric matrices with given eigenvalues, and descent on the quadratic losses that have them as Hessian."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import nnflow
from nnflow.typing import Array


def symmetric(values: Any, seed: int = 0) -> Array:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))
    return q * values @ q.T


def quadratic(h: Any, **settings: Any) -> nnflow.TensorMap:
    matrix = torch.tensor(symmetric(np.array(h)))
    return nnflow.gradient_map(lambda w: w @ matrix @ w / 2, len(h), **settings)
