"""Data for training maps: tables that installed packages ship, and problems drawn by a seed; nothing is downloaded.

Each function returns a `Split`: ``nnflow.training_map(module, loss, *data.train, test=data.test)``. Splits are drawn by
`seed`, with the share `test` of the rows (0: no test rows) and, of labels, the same share of each class. `scale` says
what becomes of the features: "raw" leaves them, "unit" maps them to 0 … 1, "standard" to mean 0 and variance 1, both as
the training rows have them (pixels by their nominal range).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.map import generator
from nnflow.settings import at_least, checked, numbers
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
        ValueError: if there are not as many targets as inputs, none of them is left for training, or test is not in 0 …
            1.
    """
    x = numbers("inputs", inputs)
    y: npt.NDArray[Any] = np.array(targets)
    y = y.astype(np.int64) if y.dtype.kind in "iub" else numbers("targets", targets)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} inputs and {len(y)} targets: give one target a row")
    if not 0 <= test < 1 or round(test * len(x)) >= len(x):
        raise ValueError(f"test = {test}: give the share of test rows, 0 or more, so that some of {len(x)} are left")
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
        ValueError: for an unknown scale.
    """
    if scale not in SCALES:
        raise ValueError(f"scale = {scale!r}: give one of {', '.join(SCALES)}")
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


# -- tables that packages ship -----------------------------------------------------------------------------------


@cache
def iris_table() -> tuple[Array, Labels]:
    """Fisher's Iris data: 150 rows of 4 lengths in cm, and the species.

    Read from scikit-learn's copy without importing scikit-learn, which takes a second.

    Returns:
        Lengths ``(150, 4)`` float64, and labels ``(150,)`` int64.

    Source:
        R. A. Fisher (1936), doi:10.1111/j.1469-1809.1936.tb02137.x.
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/iris.csv")
    table = np.loadtxt(str(path), delimiter=",", skiprows=1)
    return table[:, :4].copy(), table[:, 4].astype(np.int64)


@checked
def iris_split(split: int) -> Split:
    """120 training rows and 30 test rows of Iris, raw features, drawn by a seed.

    As in the reference study the class counts of the training rows are 39, 40 and 41 in some order: permutations are
    drawn until one has them.

    Args:
        split: The seed.

    Returns:
        The split.

    Raises:
        ValueError: for a negative seed.

    Source:
        arXiv:2404.05782.
    """
    at_least(0, split=split)
    inputs, labels = iris_table()
    rng = np.random.default_rng([split, 120])
    while True:
        order = rng.permutation(len(labels))
        train, test = order[:120], order[120:]
        if sorted(np.bincount(labels[train], minlength=3)) == [39, 40, 41]:
            return Split(inputs[train], labels[train], inputs[test], labels[test])


@checked
def iris(test: float = 0.2, seed: int = 0, scale: str = "raw") -> Split:
    """Iris, 150 rows of 4 lengths in 3 classes, the same share of each (the reference study's splits: `iris_split`)."""
    return scaled(split_rows(*iris_table(), test, seed), scale)


@checked
def digits(test: float = 0.2, seed: int = 0, scale: str = "raw") -> Split:
    """Handwritten digits, 1797 rows of 8 × 8 pixels from 0 to 16, in 10 classes.

    Args:
        test: The share of test rows.
        seed: Of the split.
        scale: Of the pixels, see `scaled`; "unit" is a sixteenth.

    Returns:
        The split.

    Source:
        E. Alpaydin, C. Kaynak, UCI Machine Learning Repository 1998, doi:10.24432/C50P49.
    """
    return scaled(split_rows(*_shipped("digits"), test, seed), scale, nominal=16.0)


@checked
def wine(test: float = 0.2, seed: int = 0, scale: str = "standard") -> Split:
    """Chemical analyses of wines, 178 rows of 13 features in 3 classes.

    Args:
        test: The share of test rows.
        seed: Of the split.
        scale: Of the features, see `scaled`.

    Returns:
        The split.

    Source:
        S. Aeberhard, M. Forina, UCI Machine Learning Repository 1991, doi:10.24432/C5PC7J.
    """
    return scaled(split_rows(*_shipped("wine"), test, seed), scale)


@checked
def breast_cancer(test: float = 0.2, seed: int = 0, scale: str = "standard") -> Split:
    """Shapes of cell nuclei, 569 rows of 30 features in 2 classes (malignant 0, benign 1).

    Args:
        test: The share of test rows.
        seed: Of the split.
        scale: Of the features, see `scaled`.

    Returns:
        The split.

    Source:
        W. Wolberg, O. Mangasarian, N. Street, W. Street, UCI Machine Learning Repository 1993, doi:10.24432/C5DW2B.
    """
    return scaled(split_rows(*_shipped("breast_cancer"), test, seed), scale)


@cache
def _shipped(name: str) -> tuple[Array, Labels]:
    import sklearn.datasets

    load: Callable[..., Any] = getattr(sklearn.datasets, f"load_{name}")
    inputs, labels = load(return_X_y=True)
    return inputs, labels.astype(np.int64)


# -- drawn problems ----------------------------------------------------------------------------------------------


@checked
def moons(samples: int = 200, noise: float = 0.1, test: float = 0.2, seed: int = 0) -> Split:
    """Two interleaved half circles in the plane, with Gaussian noise of this standard deviation; 2 classes."""
    from sklearn.datasets import make_moons

    at_least(1, samples=samples)
    at_least(0, noise=noise)
    inputs, labels = make_moons(samples, noise=noise, random_state=_state(seed))
    return split_rows(inputs, labels.astype(np.int64), test, seed)


@checked
def blobs(
    samples: int = 300, classes: int = 3, features: int = 2, spread: float = 1.0, test: float = 0.2, seed: int = 0
) -> Split:
    """One Gaussian blob a class, of this standard deviation, its center uniform in (−10, 10) in each feature."""
    from sklearn.datasets import make_blobs

    at_least(1, samples=samples, classes=classes, features=features)
    at_least(0, spread=spread)
    settings = {"centers": classes, "cluster_std": spread, "random_state": _state(seed)}
    inputs, labels = make_blobs(samples, features, **settings)
    return split_rows(inputs, labels.astype(np.int64), test, seed)


def _state(seed: int) -> int:
    return int(generator(seed, "data").integers(2**31))


@checked
def two_gaussians(
    samples: int = 200, features: int = 2, distance: float = 2.0, test: float = 0.2, seed: int = 0
) -> Split:
    """Two classes N(±distance/2 · e, 1) along a random direction e, half of the samples each.

    The best possible classifier, a plane between them, is wrong with probability Φ(−distance/2).

    Args:
        samples: How many rows.
        features: How many features.
        distance: Of the two means, in standard deviations.
        test: The share of test rows.
        seed: Of the samples and of the split.

    Returns:
        The split.
    """
    at_least(1, samples=samples, features=features)
    rng = generator(seed, "data")
    direction = rng.standard_normal(features)
    labels = np.arange(samples) % 2
    shift = (labels - 0.5)[:, None] * distance * direction / np.linalg.norm(direction)
    return split_rows(rng.standard_normal((samples, features)) + shift, labels, test, seed)


@checked
def chebyshev(degree: int = 3, samples: int = 100, noise: float = 0.0, test: float = 0.0, seed: int = 0) -> Split:
    """Regression of the Chebyshev polynomial T_n(x) = cos(n arccos x), x evenly spaced on [−1, 1].

    Args:
        degree: n.
        samples: How many rows.
        noise: The standard deviation of Gaussian noise on the values.
        test: The share of test rows.
        seed: Of the noise and of the split.

    Returns:
        The split, of inputs ``(n, 1)`` and values ``(n, 1)``.

    Raises:
        ValueError: for a negative degree.
    """
    at_least(0, degree=degree, noise=noise)
    at_least(1, samples=samples)
    x = np.linspace(-1.0, 1.0, samples)
    values = np.cos(degree * np.arccos(x)) + noise * generator(seed, "data").standard_normal(samples)
    return split_rows(x[:, None], values[:, None], test, seed)


@checked
def teacher_student(
    samples: int = 200,
    features: int = 10,
    hidden: int = 4,
    outputs: int = 1,
    noise: float = 0.0,
    test: float = 0.2,
    seed: int = 0,
) -> Split:
    """Regression of a random teacher V tanh(W x) on x ~ N(0, 1), W ~ N(0, 1/features), V ~ N(0, 1/hidden).

    Args:
        samples: How many rows.
        features: How many components x has.
        hidden: How many hidden units the teacher has.
        outputs: How many values it gives.
        noise: The standard deviation of Gaussian noise on the values.
        test: The share of test rows.
        seed: Of everything that is drawn.

    Returns:
        The split, of inputs ``(n, features)`` and values ``(n, outputs)``.

    Source:
        H. S. Seung, H. Sompolinsky, N. Tishby, Phys. Rev. A 45, 6056 (1992), doi:10.1103/PhysRevA.45.6056.
    """
    at_least(1, samples=samples, features=features, hidden=hidden, outputs=outputs)
    at_least(0, noise=noise)
    rng = generator(seed, "data")
    first = rng.standard_normal((hidden, features)) / np.sqrt(features)
    second = rng.standard_normal((outputs, hidden)) / np.sqrt(hidden)
    inputs = rng.standard_normal((samples, features))
    values = np.tanh(inputs @ first.T) @ second.T + noise * rng.standard_normal((samples, outputs))
    return split_rows(inputs, values, test, seed)
