"""Data for the registered networks: from files that installed packages ship, split by a seed; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.map import Array

Labels = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Training and test rows: features ``(n, feature)`` float64 and class labels ``(n,)``."""

    inputs: Array
    labels: Labels
    test_inputs: Array
    test_labels: Labels


@cache
def iris_table() -> tuple[Array, Labels]:
    """Fisher's Iris data (1936, doi:10.1111/j.1469-1809.1936.tb02137.x): 150 rows of 4 lengths in cm, and the species.

    Read from scikit-learn's copy without importing scikit-learn, which takes a second.
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/iris.csv")
    table = np.loadtxt(str(path), delimiter=",", skiprows=1)
    return table[:, :4].copy(), table[:, 4].astype(np.int64)


def iris_split(split: int) -> Split:
    """120 training rows and 30 test rows, raw features, drawn by a seed.

    As in the reference study (arXiv:2404.05782) the class counts of the training rows are 39, 40 and 41 in some order:
    permutations are drawn until one has them. Raises ValueError for a negative seed.
    """
    if split < 0:
        raise ValueError(f"split = {split}: give the seed of the split, 0 or larger")
    inputs, labels = iris_table()
    rng = np.random.default_rng([split, 120])
    while True:
        order = rng.permutation(len(labels))
        train, test = order[:120], order[120:]
        if sorted(np.bincount(labels[train], minlength=3)) == [39, 40, 41]:
            return Split(inputs[train], labels[train], inputs[test], labels[test])
