"""Labels of arrays: a frame's columns, a labelled array's dims say what is what, so position does not.

What a label says is followed where it is clear (all the names, in any order), and refused where it contradicts. Labels
that count from 0, as frames have them where nobody gave any, say nothing, and neither do dims without labels: there the
order is that of the numbers. Frames and labelled arrays are known by what they offer: nothing is imported for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.names import Refusal, shown
from nnflow.values import leaves

COMPONENTS = ("component", "channel")  # what results call the dim of coordinates or observables
MEMBERS = (None, "member")  # a dim of this name is any order of members


class Labelled(NamedTuple):
    """An array, and what is said of its axes.

    Attributes:
        array: The numbers.
        dims: The name of each axis, None = none.
        labels: Those along each axis, None = they say nothing.
    """

    array: npt.NDArray[Any]
    dims: tuple[Any, ...]
    labels: tuple[list[Any] | None, ...]

    def moved(self, order: Sequence[int]) -> Labelled:
        """The same with its axes in another order."""
        dims, labels = tuple(self.dims[i] for i in order), tuple(self.labels[i] for i in order)
        return Labelled(self.array.transpose(order), dims, labels)

    def place(self, names: Iterable[str], called: Sequence[str] = COMPONENTS) -> int | None:
        """The axis whose labels are these names, or that is called so; None = none says that it is."""
        wanted, axes = sorted(names), range(self.array.ndim)[::-1]
        for i in axes:
            if (labels := self.labels[i]) is not None and _same(labels, wanted):
                return i
        return next((i for i in axes if self.dims[i] in called), None)

    def along(self, names: Sequence[str], what: str) -> Labelled:
        """The same with its last axis as the names have it. Raises Refusal for other labels."""
        if not self.array.ndim:
            return self
        at = self.place(names)
        at = self.array.ndim - 1 if at is None else at
        found = self.moved([*(i for i in range(self.array.ndim) if i != at), at])
        if (labels := found.labels[-1]) is None:
            return found
        if not _same(labels, sorted(names)):
            raise Refusal(
                f"{what} are labelled {shown(labels)}, and are to be {shown(list(names))}: give these, in any order, "
                "or numbers without labels (np.asarray)"
            )
        known = {label: i for i, label in enumerate(labels)}
        array = found.array[..., [known[name] for name in names]]
        return found._replace(array=array, labels=(*found.labels[:-1], list(names)))

    def over(self, axes: Sequence[Any], what: str, rest: int = 0) -> npt.NDArray[Any]:
        """The array with its axes in the order of an ensemble's.

        Args:
            axes: Those of the ensemble, which have names and values.
            what: It is, for the message.
            rest: How many further axes it has at its end, which stay there.

        Returns:
            The array; flat where it was.

        Raises:
            Refusal: for dims that are not the axes, and labels that are not their values.
        """
        count, names = self.array.ndim - rest, [axis.name for axis in axes]
        dims = self.dims[:count]
        if not count:
            return self.array
        if set(dims) == set(names) and len(dims) == len(names):
            found = self.moved([*map(dims.index, names), *range(count, self.array.ndim)])
        elif count == 1 and self.labels[0] is None and dims[0] in MEMBERS:
            return self.array
        elif count == len(axes) and all(dim in (None, name) for dim, name in zip(dims, names, strict=True)):
            found = self
        elif count == 1 and len(self.array) == 1:  # one row has no order
            return self.array
        else:
            named = f"dims {shown(list(dims))}" if any(dims) else f"labels {shown(list(self.labels[:count]))}"
            raise Refusal(f"{what} have the {named}: the axes of the members are {', '.join(names) or 'none'}")
        for axis, labels in zip(axes, found.labels, strict=False):
            if labels is not None and not np.array_equal(np.asarray(labels), axis.values):
                raise Refusal(
                    f"{what} are labelled {shown(labels)} along {axis.name}, whose values are "
                    f"{shown(axis.values.tolist())}: give them for these"
                )
        return found.array


def _same(labels: list[Any], wanted: list[str]) -> bool:
    """Whether labels are just these names, whatever their order."""
    return len(labels) == len(wanted) and all(isinstance(label, str) for label in labels) and sorted(labels) == wanted


def labelled(values: Any) -> Labelled | None:
    """What is said of the axes of a frame, a series or a labelled array; None of anything else."""
    if isinstance(values, np.ndarray):
        return None
    if hasattr(values, "iloc") and hasattr(values, "axes"):  # pandas
        axes = values.axes
        return _labelled(values, tuple(axis.name for axis in axes), [axis.tolist() for axis in axes])
    if hasattr(values, "dims") and hasattr(values, "values") and not hasattr(values, "data_vars"):  # xarray
        dims, coords = tuple(values.dims), getattr(values, "coords", {})
        names = tuple(None if dim == f"dim_{i}" else dim for i, dim in enumerate(dims))
        return _labelled(values, names, [_listed(coords[dim].values) if dim in coords else None for dim in dims])
    if hasattr(values, "to_numpy") and isinstance(columns := getattr(values, "columns", None), list):  # polars
        unnamed = columns == [f"column_{i}" for i in range(len(columns))]
        return _labelled(values, (None, None), [None, None if unnamed else columns])
    return None


def _listed(labels: npt.NDArray[Any]) -> list[Any]:
    """Labels one by one; dates and time differences as such, unless they are finer than Python's, or one is none."""
    if labels.dtype.kind in "mM" and not np.isnat(labels).any():
        coarse = labels.astype(f"{labels.dtype.kind}8[us]")
        labels = coarse if (coarse == labels).all() else labels
    return list(labels.tolist())


def _labelled(values: Any, dims: tuple[Any, ...], labels: list[list[Any] | None]) -> Labelled:
    """With those labels left out that only count."""
    said = (None if each is None or each == list(range(len(each))) else each for each in labels)
    return Labelled(np.asarray(values), dims, tuple(said))


def in_order(values: Any, names: Sequence[str], what: str) -> Any:
    """Values whose last axis is as the names have it, also those in lists; what has no labels, as it is.

    Args:
        values: An array, a frame, a labelled array, or lists of them.
        names: What the last axis holds, in order.
        what: It is, for the message.

    Returns:
        Numbers without labels.

    Raises:
        Refusal: for other labels.
    """
    if isinstance(values, (list, tuple)):
        some = any(labelled(leaf) for leaf in leaves(values) if not isinstance(leaf, (int, float)))
        return [in_order(value, names, what) for value in values] if some else values
    found = labelled(values)
    return values if found is None else found.along(names, what).array


def by_label(values: Any) -> Any:
    """A series whose labels say something as a mapping from them; anything else as it is."""
    found = labelled(values)
    if found is None or found.array.ndim != 1 or found.labels[0] is None:
        return values
    return dict(zip(found.labels[0], found.array, strict=True))


def columns(values: Any) -> tuple[str, ...]:
    """The labels of the last axis of a table, if they are texts; else none."""
    found = labelled(values)
    return () if found is None or found.array.ndim != 2 else texts(found.labels[-1])


def texts(labels: list[Any] | None) -> tuple[str, ...]:
    """Labels that are texts; none where one is not."""
    return tuple(labels) if labels and all(isinstance(label, str) for label in labels) else ()


def check_same_rows(one: Any, other: Any, what: str) -> None:
    """Refuse arrays whose rows are labelled otherwise, as those of samples and of their targets after a sort.

    Here labels that count from 0 say something, too: beside others, they are other rows.

    Args:
        one: An array, or several.
        other: An array.
        what: They are, for the message.

    Raises:
        Refusal: with the labels that differ.
    """
    for theirs in _rows(other):
        for rows in _rows(one):
            pairs = zip(rows, theirs, strict=False)
            if len(rows) != len(theirs) or not all(a == b or (a != a and b != b) for a, b in pairs):
                raise Refusal(
                    f"{what} are labelled {shown(rows)} and {shown(theirs)}: give the same rows, in one order, or "
                    "numbers without labels (np.asarray)"
                )


def _rows(values: Any) -> list[list[Any]]:
    """The labels of the rows of an array, or of each of several."""
    each = values.values() if isinstance(values, dict) else values if isinstance(values, tuple) else (values,)
    found = []
    for array in each:
        if hasattr(array, "iloc") and hasattr(array, "index"):  # pandas, which labels rows always
            found.append(array.index.tolist())
        elif getattr(array, "dims", ()) and array.dims[0] in getattr(array, "coords", ()):  # xarray
            found.append(array.coords[array.dims[0]].values.tolist())
    return found
