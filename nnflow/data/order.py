"""Data order as dynamics: which rows of the data the step at t sees, as a pure function of (seed, t).

Full batch: all rows at every step. Mini-batches in a fixed order: the rule repeats after each epoch, so the map of one
epoch is autonomous. Reshuffled in each epoch by a seed: a random map whose noise depends on (seed, t) alone and is the
same for all members of an ensemble, so that the exponents of the random system are defined
(L. Arnold, Random Dynamical Systems, Springer 1998, doi:10.1007/978-3-662-12878-7).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnflow.compiled.ways import kernel
from nnflow.names import Refusal
from nnflow.typing import Integers


@dataclass(frozen=True)
class Order:
    """Rows of data in batches.

    Args:
        samples: How many rows.
        batch: Rows a step (None: all at once; the last batch of an epoch may be smaller).
        shuffle: The seed of a new order for each epoch; None keeps the order of the data.

    Raises:
        Refusal: (a ValueError) for a batch that is not 1 … samples, a seed below 0, or a seed without a batch.
    """

    samples: int
    batch: int | None = None
    shuffle: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None and (isinstance(self.batch, bool) or not 1 <= self.batch <= self.samples):
            raise Refusal(f"batch = {self.batch!r}: give 1 to {self.samples} samples, or None for all of them")
        if self.shuffle is not None and (isinstance(self.shuffle, bool) or self.shuffle < 0):
            raise Refusal(f"shuffle = {self.shuffle!r}: give the seed of the order, a whole number from 0 on")
        if self.shuffle is not None and self.batches == 1:
            raise Refusal(f"shuffle = {self.shuffle}: all samples are one batch, whose order is nothing; set batch")

    @property
    def size(self) -> int:
        """How many rows a batch has, the last one of an epoch perhaps excepted."""
        return self.samples if self.batch is None else self.batch

    @property
    def batches(self) -> int:
        """Steps of one epoch."""
        return -(-self.samples // self.size)

    def rows(self, t: int) -> Integers:
        """The rows that the step at t sees, int64."""
        epoch, place = divmod(t, self.batches)
        order = np.arange(self.samples) if self.shuffle is None else permutation(self.samples, self.shuffle, epoch)
        return np.asarray(order[place * self.size : (place + 1) * self.size])


@kernel
def permutation(n: int, seed: int, epoch: int) -> Integers:
    """A random order of n rows: Fisher–Yates, its numbers hashed from (seed, epoch, position) by splitmix64.

    The remainder's bias is n/2⁶⁴.

    Args:
        n: How many rows.
        seed: Of the order.
        epoch: Each has an order of its own.

    Returns:
        ``(n,)``, the rows in their order.

    Source:
        G. L. Steele, D. Lea, C. H. Flood, OOPSLA 2014, doi:10.1145/2660193.2660195.
    """
    order = np.arange(n)
    key = mixed(mixed(np.uint64(seed)) ^ np.uint64(epoch))
    for i in range(n - 1, 0, -1):
        j = np.int64(mixed(np.uint64(key + np.uint64(i))) % np.uint64(i + 1))
        order[i], order[j] = order[j], order[i]
    return order


@kernel
def mixed(z: np.uint64) -> np.uint64:
    """One output of splitmix64 from the state z: 64 bits, each of which depends on each bit of z."""
    z = np.uint64(z + np.uint64(0x9E3779B97F4A7C15))
    z = np.uint64((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    z = np.uint64((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(z ^ (z >> np.uint64(31)))
