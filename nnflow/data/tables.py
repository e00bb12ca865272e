"""Tables that installed packages ship, as training maps take them; nothing is downloaded.

`scale` says what becomes of the features: "raw" leaves them, "unit" maps them to 0 … 1, "standard" to mean 0 and
variance 1, both as the training rows have them (pixels by their nominal range).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from typing import Any

import numpy as np

from nnflow.data.split import Labels, Split, scaled, split_rows
from nnflow.settings import at_least, checked
from nnflow.typing import Array


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
        Refusal: (a ValueError) for a negative seed.

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
