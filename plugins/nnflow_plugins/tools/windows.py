"""Straight stretches of a series: least-squares lines on many windows of it, and the window that its line fits best."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import Array

Windows = npt.NDArray[np.int64]


def windows(first: int, last: int, stride: int, shortest: int, longest: int, samples: int) -> Windows:
    """All windows [start, end) with start = first, first + stride, … ≤ last and as many lengths.

    Args:
        first: The first start.
        last: The last start.
        stride: Between starts, and between lengths.
        shortest: The shortest length.
        longest: The longest length.
        samples: Windows that end after so many are left out.

    Returns:
        ``(window, 2)`` int64.
    """
    starts = np.arange(first, min(last, samples) + 1, stride)
    lengths = np.arange(shortest, min(longest, samples) + 1, stride)
    pairs = np.stack(np.meshgrid(starts, lengths, indexing="ij"), axis=-1).reshape(-1, 2)
    ends = pairs.sum(axis=1)
    return np.asarray(np.stack([pairs[:, 0], ends], axis=1)[ends <= samples])


def fits(y: Array, time: Array, spans: Windows) -> tuple[Array, Array]:
    """Slope and R² of the least-squares line on each window.

    Args:
        y: ``(…, time)``.
        time: ``(time,)``.
        spans: The windows, ``(window, 2)``, in samples.

    Returns:
        Slopes and R², ``(…, window)`` both. R² is 0 where y is constant, NaN where y is not finite.
    """
    slopes, squares = np.empty((2, *y.shape[:-1], len(spans)))
    for i, (start, end) in enumerate(spans):
        t, part = time[start:end] - time[start:end].mean(), y[..., start:end]
        away = part - part.mean(axis=-1, keepdims=True)
        covariance, spread = (away * t).sum(axis=-1), (away * away).sum(axis=-1)
        slopes[..., i] = covariance / (t * t).sum()
        squares[..., i] = np.where(spread == 0, 0.0, covariance * slopes[..., i] / np.where(spread == 0, 1.0, spread))
    return slopes, squares


def logarithm(distance: Array) -> Array:
    """ln d, NaN where d is 0 or not finite."""
    with np.errstate(divide="ignore"):
        y = np.log(distance)
    return np.where(np.isfinite(y), y, np.nan)


def best_window(squares: Array, allowed: Any) -> npt.NDArray[np.int64]:
    """``(…)``: the index of the allowed window of largest R², −1 where there is none."""
    known = np.where(allowed & np.isfinite(squares), squares, -np.inf)
    return np.where(known.max(axis=-1) > -np.inf, known.argmax(axis=-1), -1)
