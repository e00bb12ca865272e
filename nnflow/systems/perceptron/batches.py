"""Samples in blocks for the sheets of a compiled network, and the batch that the step at t sees of them.

A block holds at most 248 samples, one column each, and is filled up with copies of weight zero: its loops run over
whole vector registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.compiled.ways import part
from nnflow.data.order import Order, permutation
from nnflow.typing import Array, Integers

LONGEST = 248  # samples in a block


class Data(NamedTuple):
    """Samples in blocks (block, row, sample), each block filled up with copies of its first, of weight zero.

    Compiled code takes it as a plain tuple, an argument: networks that differ in their data only share machine code.
    """

    inputs: Array
    targets: Array  # one-hot rows times the weight, or the target values
    weights: Array  # (block, sample): 1/n for cross-entropy, 2/(n outputs) for the squared error
    counts: Integers  # samples of weight > 0
    labels: Integers  # (block, sample): of target values, where they are largest
    numbers: Integers  # blocks and samples of a batch's sheets; samples, batches, samples of a batch, seed of the order


BLOCKS, LENGTH, SAMPLES, BATCHES, SIZE, SEED = range(6)  # of Data.numbers


def blocks_of(inputs: Array, targets: npt.NDArray[Any], outputs: int, loss: str, order: Order) -> Data:
    """All batches of an order, one after the other, each in the same number of blocks; of a shuffled one, all rows."""
    numbers = np.array([*shape(order.size), order.samples, order.batches, order.size, order.shuffle or 0])
    order = order if order.shuffle is None else Order(order.samples)
    blocks, length = shape(order.size)
    place, first = np.arange(blocks * length), order.size * np.arange(order.batches)[:, None]
    counts = np.minimum(order.size, len(inputs) - first)
    source = np.where(place < counts, first + place, first).reshape(-1, length)
    weights = ((place < counts) / counts).reshape(-1, length)
    real = np.clip(counts - length * np.arange(blocks), 0, length).ravel()
    data = np.ascontiguousarray(inputs[source].transpose(0, 2, 1))
    if loss == "mse":
        values = np.ascontiguousarray(targets[source].transpose(0, 2, 1))
        return Data(data, values, weights * (2.0 / outputs), real, targets.argmax(axis=1)[source], numbers)
    labels = targets[source].astype(np.int64)
    hot = (labels[:, None, :] == np.arange(outputs)[:, None]) * weights[:, None, :]
    return Data(data, np.ascontiguousarray(hot), weights, real, labels, numbers)


def shape(samples: int) -> tuple[int, int]:
    """How many blocks, and how long, a batch of this many samples makes."""
    blocks = -(-samples // LONGEST)
    length = -(-samples // (8 * blocks)) * 8
    return blocks, length if length % 64 else length + 8  # rows a power of two apart get in each other's way in a cache


Batch = Callable[[Any, int], tuple[Array, Array, Array, Integers, int, int]]


@part
def in_order(data: Any, t: int) -> tuple[Array, Array, Array, Integers, int, int]:
    """The batch of step t: the arrays of all data, and its first block and its last but one."""
    inputs, targets, weights, counts, _, numbers = data
    first = t % numbers[BATCHES] * numbers[BLOCKS]
    return inputs, targets, weights, counts, first, first + numbers[BLOCKS]


def shuffled(loss: str) -> Batch:
    """The batch of step t, gathered from data in one batch by the order of its epoch."""
    hot = loss == "cross_entropy"

    @part
    def batch(data: Any, t: int) -> tuple[Array, Array, Array, Integers, int, int]:
        inputs, targets, weights, _, _, numbers = data
        blocks, length, samples, batches, size = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
        width, one = inputs.shape[2], weights[0, 0]
        rows, first = permutation(samples, numbers[SEED], t // batches), t % batches * size
        count = min(size, samples - first)
        x, y = np.empty((blocks, inputs.shape[1], length)), np.empty((blocks, targets.shape[1], length))
        weight, counts = np.zeros((blocks, length)), np.empty(blocks, np.int64)
        for block in range(blocks):
            counts[block] = min(max(count - block * length, 0), length)
            for s in range(length):
                row = rows[first + block * length + s] if s < counts[block] else rows[first]
                share = samples / count if s < counts[block] else 0.0
                weight[block, s] = share * one
                x[block, :, s] = inputs[row // width, :, row % width]
                y[block, :, s] = targets[row // width, :, row % width] * (share if hot else 1.0)
        return x, y, weight, counts, 0, blocks

    return batch
