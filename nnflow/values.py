"""Measured numbers as they are meant: what is masked is missing, what is no real number is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.names import Refusal

EXACT = 2**53  # whole numbers beyond lose digits in float64


def real(values: npt.ArrayLike, what: str) -> npt.NDArray[np.float64]:
    """Values as float64, masked ones as NaN: a masked array would else show what lies below its mask.

    Raises Refusal, which says `what` they are, for texts, dates, complex numbers, objects (None and pandas.NA among
    them), rows of unequal length, and whole numbers beyond 2^53, which float64 cannot hold.
    """
    if isinstance(values, (list, tuple)) and any(isinstance(value, np.ma.MaskedArray) for value in values):
        values = [real(value, what) for value in values]
    try:
        array: Any = np.asanyarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise Refusal(f"{what} cannot be made an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise Refusal(f"{what} of dtype {array.dtype}: give real numbers, missing ones as nan")
    if array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), abs(int(array.max()))) > EXACT:
        raise Refusal(f"{what} hold whole numbers beyond 2^53, which lose digits as float64: scale or shift them")
    numbers = array.astype(np.float64, copy=False)
    return numbers.filled(np.nan) if isinstance(numbers, np.ma.MaskedArray) else np.asarray(numbers)
