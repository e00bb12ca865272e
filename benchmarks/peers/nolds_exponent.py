"""nolds: the largest Lyapunov exponent, estimated from a series."""

from __future__ import annotations

import nolds
import numpy as np


def exponent(series: np.ndarray) -> float:
    """Rosenstein's method: how fast neighbours part, over four steps."""
    return float(nolds.lyap_r(series, emb_dim=2, lag=1, min_tsep=10, trajectory_len=5))
