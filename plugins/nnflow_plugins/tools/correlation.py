"""How alike a trajectory is to itself some time later: the autocorrelation in its whole state space."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft, next_fast_len, rfft

from nnflow.authors import Array, Refusal, real
from nnflow_plugins.tools.observed import ROUNDING, exponent_of, largest_of


def trajectory_correlation(trajectory: npt.ArrayLike, lags: int, floor: float | None = None) -> Array:
    """C(τ) = Σ_t ⟨W_t − W̄, W_{t+τ} − W̄⟩ / Σ_t |W_t − W̄|² for τ = 0 … lags, of a trajectory.

    ⟨·, ·⟩ sums over components: of adjacency matrices, the trace of AᵀB. The sum over t has time − τ terms and is not
    rescaled, so that |C| ≤ 1.

    Args:
        trajectory: ``(time, component)``, or a series ``(time,)``.
        lags: The longest lag, 0 ≤ lags < time.
        floor: What is rounding (default: 1e-12 of the largest value).

    Returns:
        ``(lags + 1,)``; NaN for a trajectory that is not finite or does not move: whose components stay, root mean
        square, within rounding.

    Raises:
        Refusal: (a ValueError) for another shape or other lags.

    >>> trajectory_correlation([[1.0], [-1.0], [1.0], [-1.0]], 2).tolist()
    [1.0, -0.75, 0.5]
    """
    w = real(trajectory, "the trajectory")
    w = w[:, None] if w.ndim == 1 else w
    if w.ndim != 2 or not 0 <= lags < len(w):
        raise Refusal(f"trajectory of shape {w.shape}, lags = {lags}: give (time, component), and lags below time")
    exponent = exponent_of(w)
    if not np.isfinite(w).all():
        return np.full(lags + 1, np.nan)
    rounding = ROUNDING * float(largest_of(w.ravel())) if floor is None else floor
    with np.errstate(over="ignore"):  # what has decayed is far below the rounding of its start
        w, rounding = np.ldexp(w, -exponent), float(np.ldexp(rounding, -exponent))  # squares are within bounds
    away = w - w.mean(axis=0)
    total = float((away * away).sum())
    if (total / w.size) ** 0.5 <= rounding:
        return np.full(lags + 1, np.nan)
    size = next_fast_len(len(w) + lags, real=True)
    power = np.abs(rfft(away, size, axis=0)) ** 2
    return np.asarray(irfft(power.sum(axis=1), size)[: lags + 1] / total)
