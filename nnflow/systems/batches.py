"""Samples in blocks for the sheets of a compiled network, and the batch that the step at t sees of them.

A block holds at most 248 samples, one column each, and is filled up with copies of weight zero: its loops run over
whole vector registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.systems.order import Order, permutation
from nnflow.systems.passes import inner
from nnflow.systems.rows import Array

Integers = npt.NDArray[np.int64]
LONGEST = 248  # samples in a block


class Data(NamedTuple):
    """Samples in blocks (block, row, sample), each block filled up with copies of its first, of weight zero."""

    inputs: Array
    targets: Array  # one-hot rows times the weight, or the target values
    weights: Array  # (block, sample): 1/n for cross-entropy, 2/(n outputs) for the squared error
    counts: Integers  # samples of weight > 0
    labels: Integers  # (block, sample), of cross-entropy


def blocks_of(inputs: Array, targets: npt.NDArray[Any], outputs: int, loss: str, order: Order) -> Data:
    """All batches of an order, one after the other, each in the same number of blocks."""
    blocks, length = shape(order.size)
    place, first = np.arange(blocks * length), order.size * np.arange(order.batches)[:, None]
    counts = np.minimum(order.size, len(inputs) - first)
    source = np.where(place < counts, first + place, first).reshape(-1, length)
    weights = ((place < counts) / counts).reshape(-1, length)
    real = np.clip(counts - length * np.arange(blocks), 0, length).ravel()
    data = np.ascontiguousarray(inputs[source].transpose(0, 2, 1))
    if loss == "mse":
        values = np.ascontiguousarray(targets[source].transpose(0, 2, 1))
        return Data(data, values, weights * (2.0 / outputs), real, np.zeros_like(source))
    labels = targets[source].astype(np.int64)
    hot = (labels[:, None, :] == np.arange(outputs)[:, None]) * weights[:, None, :]
    return Data(data, np.ascontiguousarray(hot), weights, real, labels)


def shape(samples: int) -> tuple[int, int]:
    """How many blocks, and how long, a batch of this many samples makes."""
    blocks = -(-samples // LONGEST)
    length = -(-samples // (8 * blocks)) * 8
    return blocks, length if length % 64 else length + 8  # rows a power of two apart get in each other's way in a cache


Batch = Callable[[int], tuple[Array, Array, Array, Integers, int, int]]


def in_order(data: Data, blocks: int) -> Batch:
    """The batch of step t: the arrays of all data, and its first block and its last but one."""
    inputs, targets, weights, counts, _ = data
    batches = len(counts) // blocks

    @inner
    def batch(t: int) -> tuple[Array, Array, Array, Integers, int, int]:
        first = t % batches * blocks
        return inputs, targets, weights, counts, first, first + blocks

    return batch


def shuffled(data: Data, order: Order, loss: str) -> Batch:
    """The batch of step t, gathered from data in one batch by the order of its epoch."""
    inputs, targets, weights, _, _ = data
    samples, batches, size, seed = order.samples, order.batches, order.size, order.shuffle or 0
    width, one, hot = inputs.shape[2], weights[0, 0], loss == "cross_entropy"
    blocks, length = shape(size)

    @inner
    def batch(t: int) -> tuple[Array, Array, Array, Integers, int, int]:
        rows, first = permutation(samples, seed, t // batches), t % batches * size
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
