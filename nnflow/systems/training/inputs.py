"""What a module is called with: one array with a row a sample, or several, by position or by keyword.

Several go together: whatever takes rows of one takes the same rows of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nnflow.labels import columns, in_order
from nnflow.names import Refusal
from nnflow.values import array_of, hidden


@dataclass(frozen=True)
class Several:
    """Arrays, or tensors, with the same number of rows; with names they are keywords."""

    parts: tuple[Any, ...]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: Any) -> Several:
        return self.each(lambda part: part[rows])

    def each(self, function: Callable[[Any], Any]) -> Several:
        """The same of what a function makes of each."""
        return Several(tuple(map(function, self.parts)), self.names)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(int(part.size) for part in self.parts)

    @property
    def nbytes(self) -> int:
        """How many bytes these take."""
        return sum(int(part.nbytes) for part in self.parts)


Inputs: TypeAlias = npt.NDArray[Any] | Several


def parts(inputs: Any) -> tuple[Any, ...]:
    """The arrays or tensors in it."""
    return inputs.parts if isinstance(inputs, Several) else (inputs,)


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a module is called with it: by position, by keyword."""
    if isinstance(inputs, Several) and inputs.names:
        return (), dict(zip(inputs.names, inputs.parts, strict=True))
    return parts(inputs), {}


def outputs_of(module: Callable[..., Any], inputs: Any) -> Any:
    """What a module makes of it."""
    positional, named = arguments(inputs)
    return module(*positional, **named)


def told(inputs: Inputs) -> str:
    """Shapes and number types, for messages."""
    named = inputs.names if isinstance(inputs, Several) else ()
    names = [f"{name} " for name in named] or [""] * len(parts(inputs))
    return " and ".join(f"{name}{part.shape} of {part.dtype}" for name, part in zip(names, parts(inputs), strict=True))


def told_as(values: Any, like: Any, name: str) -> Any:
    """Inputs with the columns in the order of others, where both are labelled. Raises Refusal for other labels."""
    if isinstance(values, Mapping) and isinstance(like, Mapping):
        return {key: told_as(value, like.get(key), f"{name}[{key}]") for key, value in values.items()}
    if _several(values) and _several(like):
        pairs = enumerate(zip_longest(values, like[: len(values)]))
        return tuple(told_as(value, other, f"{name}[{i}]") for i, (value, other) in pairs)
    return in_order(values, names, name) if (names := columns(like)) and columns(values) else values


def inputs_of(values: Any, name: str) -> Inputs:
    """Copies of what a module is called with.

    Args:
        values: An array or a tensor; a tuple of them; or a mapping of keywords to them.
        name: What it is, for messages.

    Returns:
        An array, or several.

    Raises:
        Refusal: for what is no array of numbers with a row a sample, or for several of different length.
    """
    names = tuple(values) if isinstance(values, Mapping) else ()
    if not names and not _several(values):
        return rows(values, name)
    if not all(isinstance(key, str) and key.isidentifier() for key in names):
        raise Refusal(f"{name} have the keys {', '.join(map(repr, names))}: give the keywords of the module's forward")
    given = tuple(values.values()) if names else values
    arrays = tuple(rows(part, f"{name}[{names[i] if names else i}]", "fiub") for i, part in enumerate(given))
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise Refusal(f"{name} have {', '.join(map(str, lengths))} rows: give each of them one row a sample")
    return Several(arrays, names) if names or len(arrays) > 1 else arrays[0]


def _several(values: Any) -> bool:
    """Whether it is a tuple of arrays; one of numbers or lists is a table that is written down."""
    return isinstance(values, tuple) and bool(values) and all(getattr(part, "shape", ()) for part in values)


def rows(values: Any, name: str, kinds: str = "fiu") -> npt.NDArray[Any]:
    """A copy of an array or a tensor. Raises Refusal for what holds no numbers, one row a sample."""
    if hidden(values):
        raise Refusal(f"{name} are masked: leave out the rows with what is missing, or fill it")
    array = np.array(array_of(values))
    if array.dtype.kind not in kinds or array.ndim < 1 or not len(array):
        raise Refusal(f"{name} of shape {array.shape} and {array.dtype}: give numbers, one row a sample")
    return array
