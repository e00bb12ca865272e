"""A split: training and test rows, drawn by a seed; and what becomes of the features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.labels import check_same_rows
from nnflow.map import generator
from nnflow.names import Refusal
from nnflow.settings import checked, numbers
from nnflow.typing import Array

Labels = npt.NDArray[np.int64]
SCALES = ("raw", "unit", "standard")


class Split(NamedTuple):
    """Training and test rows: features ``(n, feature)`` float64; labels ``(n,)`` int64, or values ``(n, output)``."""

    inputs: Array
    targets: npt.NDArray[Any]
    test_inputs: Array
    test_targets: npt.NDArray[Any]

    @property
    def train(self) -> tuple[Array, npt.NDArray[Any]]:
        """Inputs and targets of the training rows."""
        return self.inputs, self.targets

    @property
    def test(self) -> tuple[Array, npt.NDArray[Any]] | None:
        """Inputs and targets of the test rows; None if there are none."""
        return (self.test_inputs, self.test_targets) if len(self.test_inputs) else None


@checked
def split_rows(inputs: Any, targets: Any, test: float = 0.2, seed: int = 0) -> Split:
    """Put round(test · n) rows aside, drawn by the seed; of integer labels as near to the same share of each class.

    Every row is in one part, in drawn order; the classes' shares are rounded by largest remainder.

    Args:
        inputs: ``(n, …)``, one row a sample.
        targets: Labels ``(n,)``, or values ``(n, output)``.
        test: The share of test rows, 0 or more and below 1.
        seed: Of the draw.

    Returns:
        The split; labels are int64, everything else float64.

    Raises:
        Refusal: (a ValueError) if there are not as many targets as inputs, none of them is left for training, or test
            is not in 0 … 1, or labels (pandas) say that their rows are not the same.
    """
    check_same_rows(inputs, targets, "the rows of inputs and targets")
    x = numbers("inputs", inputs)
    y: npt.NDArray[Any] = np.array(targets)
    y = y.astype(np.int64) if y.dtype.kind in "iub" else numbers("targets", targets)
    if len(x) != len(y):
        raise Refusal(f"{len(x)} inputs and {len(y)} targets: give one target a row")
    if not 0 <= test < 1 or round(test * len(x)) >= len(x):
        raise Refusal(f"test = {test}: give the share of test rows, 0 or more, so that some of {len(x)} are left")
    order = generator(seed, "split").permutation(len(x))
    count = round(test * len(x))
    classes = (y[order] if y.ndim == 1 and y.dtype.kind == "i" else np.zeros(len(x))).astype(np.int64)
    aside = np.zeros(len(x), dtype=bool)
    for label, quota in _quotas(classes, count).items():
        aside[np.flatnonzero(classes == label)[:quota]] = True
    return Split(x[order[~aside]], y[order[~aside]], x[order[aside]], y[order[aside]])


def _quotas(classes: Labels, count: int) -> dict[int, int]:
    """How many rows of each class are put aside, `count` in all: shares rounded by largest remainder."""
    labels, sizes = np.unique(classes, return_counts=True)
    shares = count * sizes / len(classes)
    quotas = np.floor(shares).astype(int)
    for i in np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]:
        quotas[i] += 1
    return dict(zip(labels.tolist(), quotas.tolist(), strict=True))


def scaled(split: Split, scale: str, nominal: float | None = None) -> Split:
    """The same rows with scaled features. A feature that never changes is left at 0.

    Args:
        split: Training and test rows.
        scale: "raw" leaves features, "unit" maps them to 0 … 1, "standard" to mean 0 and variance 1, as the training
            rows have them.
        nominal: The largest value that pixels can have, by which "unit" goes then.

    Returns:
        The split, with other features.

    Raises:
        Refusal: (a ValueError) for an unknown scale.
    """
    if scale not in SCALES:
        raise Refusal(f"scale = {scale!r}: give one of {', '.join(SCALES)}")
    x = split.inputs
    if scale == "raw":
        return split
    if scale == "standard":
        low, size = x.mean(axis=0), x.std(axis=0)
    elif nominal is not None:
        low, size = np.zeros(x.shape[1]), np.full(x.shape[1], nominal)
    else:
        low, size = x.min(axis=0), np.ptp(x, axis=0)
    size = np.where(size > 0, size, 1.0)
    return split._replace(inputs=(x - low) / size, test_inputs=(split.test_inputs - low) / size)
