"""A torch Dataset or DataLoader as arrays: read once, in the order in which it gives its samples.

A map needs the same data each time. What gives other numbers when it is read again (a random transform) is refused, and
so is a loader that draws an order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, default_collate

from nnflow.internals import tree_leaves
from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES, first_line
from nnflow.tensor.modes import drawing_apart


class Loaded(NamedTuple):
    """What was read: inputs, as a module takes them, targets, and how many samples the loader puts into a batch."""

    inputs: Any
    targets: Any
    batch: int | None


def is_loadable(data: Any) -> bool:
    """Whether it is a torch Dataset or DataLoader."""
    return isinstance(data, (Dataset, DataLoader))


def loaded(data: Any, shuffled: bool = False, whole: bool = False) -> Loaded:
    """Read a Dataset or a DataLoader.

    Args:
        data: Its samples are pairs (input, target); an input may be a tuple of tensors, or a dict of them by keyword.
        shuffled: Whether the map will shuffle them.
        whole: Whether all samples are meant, in any order: of test data.

    Returns:
        Tensors with a row a sample, those that the loader gives; no batch of a Dataset, or where all are one.

    Raises:
        Refusal: for a loader that shuffles, samples or batches in a way of its own, or drops rows that a map that
            shuffles would take; samples that are no pairs, of unequal shape, or other ones when they are read again.
    """
    loader = data if isinstance(data, DataLoader) else None
    dataset = data if loader is None else loader.dataset
    if loader is not None and type(loader).__iter__ is not DataLoader.__iter__:
        raise Refusal(f"the {type(loader).__name__} has an __iter__ of its own: give what it yields, as arrays")
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise Refusal(f"{type(dataset).__name__} has no length: give arrays, or a Dataset with __len__ and __getitem__")
    count: int = len(dataset)
    size = None if loader is None else loader.batch_size if whole else _size(loader)
    if loader is not None and size is not None and loader.drop_last and not whole:
        count, left = count - count % size, count % size
        if left and shuffled:
            raise Refusal(f"drop_last leaves the same {left} rows out for ever: shuffle = … shuffles the others only")
    if count == 0:
        raise Refusal(f"the {type(data).__name__} gives no samples")
    collate = default_collate if loader is None else loader.collate_fn
    with drawing_apart():  # around both, for what is drawn by torch to be seen
        found, again = (_read(dataset, count, size or count, collate) for _ in range(2))
    if not _same(found, again):
        raise Refusal(
            f"the {type(dataset).__name__} gives other numbers when it is read again (a random transform?), so a step "
            "is no fixed map: give it without what is random"
        )
    return Loaded(*found, None if size is None or size >= count else size)


def _size(loader: DataLoader[Any]) -> int:
    """The batch size of a loader that takes its samples in order. Raises Refusal for another one."""
    order, batches, dataset = loader.sampler, loader.batch_sampler, loader.dataset
    if type(order) is SequentialSampler and order.data_source is not dataset:  # type: ignore[comparison-overlap]
        raise Refusal("the DataLoader's sampler is of other data than its dataset: give a dataset of those samples")
    if type(order) is not SequentialSampler or type(batches) is not BatchSampler or loader.batch_size is None:
        how = "shuffle=True" if type(order).__name__ == "RandomSampler" else f"{type(batches or order).__name__}"
        raise Refusal(
            f"the DataLoader has an order of its own ({how}), which no map can repeat: give its dataset, with batch=… "
            "and shuffle=… (a seed)"
        )
    return int(loader.batch_size)


def _read(dataset: Any, count: int, size: int, collate: Any) -> tuple[Any, Any]:
    """Inputs and targets of the first samples, put together batch by batch as a loader does."""
    try:
        batches = [collate(_fetched(dataset, range(j, min(j + size, count)))) for j in range(0, count, size)]
    except FAILURES as error:
        raise Refusal(f"the samples of {type(dataset).__name__} cannot be put together: {first_line(error)}") from error
    for batch in batches:
        if isinstance(batch, (str, bytes, Mapping)) or not isinstance(batch, Sequence) or len(batch) != 2:
            raise Refusal(
                f"the samples of {type(dataset).__name__} are no pairs: give (input, target), several inputs as a "
                "tuple or a dict in it"
            )
    try:
        return _joined([batch[0] for batch in batches]), _joined([batch[1] for batch in batches])
    except FAILURES as error:
        raise Refusal(f"the batches of {type(dataset).__name__} differ in shape: {first_line(error)}") from error


def _fetched(dataset: Any, places: range) -> Any:
    """Samples, as torch fetches them."""
    if callable(several := getattr(dataset, "__getitems__", None)):
        return several(list(places))
    return [dataset[i] for i in places]


def _joined(batches: list[Any]) -> Any:
    """Tensors of several batches, one after another; of tuples and dicts each part."""
    first = batches[0]
    if isinstance(first, Mapping):
        return {key: _joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_joined([batch[i] for batch in batches]) for i in range(len(first)))
    return torch.cat([torch.as_tensor(batch) for batch in batches])


def _same(one: Any, other: Any) -> bool:
    parts = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(isinstance(a, Tensor) and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in parts)
