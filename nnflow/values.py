"""Measured numbers as they are meant: what is masked is missing, what is no real number is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.names import Refusal

EXACT = 2**53  # whole numbers beyond lose digits in float64


def array_of(values: Any) -> Any:
    """A torch tensor as a numpy array of its numbers, whatever it is computed from; anything else as it is."""
    if not (hasattr(values, "detach") and hasattr(values, "resolve_conj")):
        return values
    held = values.detach().cpu()
    held = held.to_dense() if str(held.layout) != "torch.strided" else held.resolve_conj().resolve_neg()
    return (held.float() if str(held.dtype) == "torch.bfloat16" else held).numpy()


def leaves(values: Any) -> Iterator[Any]:
    """What nested lists hold at last, arrays as they are: numpy looks through masks, and takes True beside 2 for 1."""
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes, range)):
        for value in values:
            yield from leaves(value)
    else:
        yield values


def masked(values: Any) -> bool:
    """Whether anything in nested lists comes with a mask."""
    return any(isinstance(leaf, np.ma.MaskedArray) for leaf in leaves(values))


def hidden(values: Any) -> bool:
    """Whether anything in nested lists is masked, so that what lies below is not meant."""
    return any(map(np.ma.is_masked, leaves(values)))


def _unmasked(values: Any, what: str) -> Any:
    """Nested lists with NaN wherever an array in them is masked."""
    if isinstance(values, np.ma.MaskedArray):
        return real(values, what)
    return [_unmasked(value, what) for value in values] if masked(values) else values


def shares(values: npt.NDArray[Any]) -> bool:
    """Whether each row of an array is shares of two classes or more: 0 or larger, of sum 1, one of them the largest."""
    if values.ndim != 2 or values.shape[1] < 2:
        return False
    top = np.sort(values, axis=1)[:, -2:]
    told = (values >= 0).all() and (top[:, 0] < top[:, 1]).all()
    return bool(told and np.allclose(values.sum(axis=1), 1.0, rtol=0, atol=1e-5))


def real(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    """Values as float64, masked ones as NaN: a masked array would else show what lies below its mask.

    Args:
        values: Real numbers.
        what: They are, for the message.

    Returns:
        The array, float64.

    Raises:
        Refusal: for texts, dates, complex numbers, objects (None and pandas.NA among them), rows of unequal length, and
            what float64 cannot hold: whole numbers beyond 2^53, the ends of longer floats.
    """
    values = array_of(values)
    try:
        array: Any = np.asanyarray(values if isinstance(values, np.ma.MaskedArray) else _unmasked(values, what))
    except Refusal:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise Refusal(f"{what} cannot be made an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise Refusal(f"{what} of dtype {array.dtype}: give real numbers, missing ones as nan")
    if array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), abs(int(array.max()))) > EXACT:
        raise Refusal(f"{what} hold whole numbers beyond 2^53, which lose digits as float64: scale or shift them")
    with np.errstate(over="ignore", under="ignore"):
        numbers = array.astype(np.float64, copy=False)
    numbers = numbers.filled(np.nan) if isinstance(numbers, np.ma.MaskedArray) else np.asarray(numbers)
    whole = np.ma.getdata(array)
    if whole.dtype.itemsize > 8 and np.any((np.isinf(numbers) & np.isfinite(whole)) | ((numbers == 0) & (whole != 0))):
        raise Refusal(f"{what} hold numbers that float64 cannot hold, beyond 1e308 or below 1e-323: scale them")
    return numbers
