"""The registered networks: Iris, on which the reference study stands, and handwritten digits."""

from __future__ import annotations

from functools import partial
from typing import Any

from nnflow.data.split import Split
from nnflow.data.tables import digits as digits_table
from nnflow.data.tables import iris_split
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.systems.perceptron.network import Perceptron
from nnflow.systems.training.compiled import CompiledTraining, perceptron_map


def iris(
    split: int = 0, optimizer: str = "gd", batch: int | None = None, shuffle: int | None = None, **parameters: float
) -> CompiledTraining:
    """The network of the reference study on Iris: 4-10-3, sigmoid, softmax cross-entropy, raw features.

    83 weights: 10 × 4, 10 biases, 3 × 10, 3 biases; kernels drawn N(0, 1), biases 0. Observables as in
    `perceptron_map`.

    Args:
        split: Seed of the split into 120 training and 30 test rows.
        optimizer: As in `training_map` (the study: plain gradient descent).
        batch: As in `training_map` (the study: full batch).
        shuffle: As in `training_map`.
        **parameters: Parameter → its default; weight_decay is a parameter if it is given.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for a negative split, an unknown optimizer, or a batch that does not fit.

    Source:
        K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.
    """
    source = "K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782"
    made = partial(_classifier, "iris", (4, 10, 3), "sigmoid", iris_split(split), source=source, split=split)
    return made(optimizer, batch, shuffle, parameters)


def digits(
    split: int = 0,
    hidden: int = 64,
    optimizer: str = "gd",
    batch: int | None = None,
    shuffle: int | None = None,
    **parameters: float,
) -> CompiledTraining:
    """A 64-64-10 network on the handwritten digits of scikit-learn: tanh, softmax cross-entropy, pixels from 0 to 1.

    4810 weights, drawn as for `iris`. A small stand-in for MNIST, on which learning speeds up where training turns
    chaotic.

    Args:
        split: Seed of the split into 1200 training and 597 test rows.
        hidden: How many hidden units.
        optimizer: As in `training_map`.
        batch: As in `training_map`.
        shuffle: As in `training_map`.
        **parameters: Parameter → its default.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for a negative split, an unknown optimizer, or a batch that does not fit.

    Source:
        After P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv:2506.08523.
    """
    source = "P. Jiménez-González, M. C. Soriano, L. Lacasa, arXiv:2506.08523"
    data = digits_table(test=597 / 1797, seed=split, scale="unit")
    made = partial(_classifier, "digits", (64, hidden, 10), "tanh", data, source=source, split=split, hidden=hidden)
    return made(optimizer, batch, shuffle, parameters)


def _classifier(
    name: str,
    sizes: tuple[int, ...],
    activation: str,
    data: Split,
    optimizer: str,
    batch: int | None,
    shuffle: int | None,
    parameters: dict[str, float],
    source: str,
    **structure: int,
) -> CompiledTraining:
    """A registered network: its data, and the ranges over which one scans its parameters."""
    train, test = (data.inputs, data.targets), (data.test_inputs, data.test_targets)
    network = Perceptron(sizes, activation, "cross_entropy", *train, *test, batch=batch, shuffle=shuffle)
    adaptive = optimizer in OPTIMISERS and OPTIMISERS[optimizer].preconditioned
    defaults: dict[str, Any] = {**({} if adaptive else {"eta": 1.0}), **parameters}
    ranges = {"eta": (0.01, 12.0), "beta": (0.0, 0.95)} if not adaptive else {"eta": (1e-3, 1.0)}
    settings: dict[str, Any] = {"structure": structure, "ranges": ranges}
    return perceptron_map(network, optimizer, name=name, source=source, **settings, **defaults)
