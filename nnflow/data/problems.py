"""Problems drawn by a seed, whose best possible answer is known."""

from __future__ import annotations

import numpy as np

from nnflow.data.split import Split, split_rows
from nnflow.map import generator
from nnflow.settings import at_least, checked


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
        Refusal: (a ValueError) for a negative degree.
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
