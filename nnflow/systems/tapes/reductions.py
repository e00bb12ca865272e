"""Torch's sums and products of small tensors: `w` is the writer, tensors hold registers (int64)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnflow.systems.tapes import loops
from nnflow.systems.tapes.elementwise import both, either, products, total, truth
from nnflow.systems.tapes.writer import Writer

Reduction = Callable[..., Tensor]


def _over(x: Tensor, dim: Any, keepdim: bool) -> tuple[Tensor, list[int]]:
    """x with what is reduced as its last dimension, and the shape of what is left."""
    dims = range(x.ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    gone = sorted({d % max(x.ndim, 1) for d in dims}) if x.ndim else []
    kept = [d for d in range(x.ndim) if d not in gone]
    shape = [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone]
    return x.permute(*kept, *gone).reshape(*(x.shape[d] for d in kept), -1), shape


def _each(function: Callable[[list[int]], int], rows: Tensor, shape: Sequence[int]) -> Tensor:
    """A function of the last dimension."""
    flat = rows.reshape(-1, rows.shape[-1]).tolist()
    return torch.tensor([function(row) for row in flat], dtype=torch.int64).reshape(tuple(shape))


def _reduced(of_row: Callable[[Writer, list[int]], int]) -> Reduction:
    def found(w: Writer, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        return _each(partial(of_row, w), *_over(x, dim, keepdim))

    return found


def _mean(w: Writer, row: list[int]) -> int:
    return w(loops.DIVIDE, total(w, row), w.number(float(len(row))))


def _extreme(op: int) -> Callable[[Writer, list[int]], int]:
    """The largest, or smallest; where several are, its derivative is the mean of theirs."""

    def found(w: Writer, row: list[int]) -> int:
        extreme = reduce(partial(w, op), row)
        if len(row) < 3:
            return extreme
        held = w(loops.HOLD, extreme)
        ties = [w(loops.EQUAL, x, held) for x in row]
        moved = [
            w(loops.CHOOSE, tie, w(loops.SUBTRACT, x, held), w.number(0.0)) for tie, x in zip(ties, row, strict=True)
        ]
        even = w(loops.ADD, held, w(loops.DIVIDE, total(w, moved), total(w, ties)))
        finite = w(loops.LESS, w(loops.ABS, held), w.number(math.inf))
        return w(loops.CHOOSE, finite, even, extreme)

    return found


def _unless_zero(w: Writer, x: int, root: int) -> int:
    """A root of x, at 0 with the derivative 0."""
    return w(loops.CHOOSE, w(loops.EQUAL, x, w.number(0.0)), w.number(0.0), root)


def _product(w: Writer, row: list[int]) -> int:
    return reduce(partial(w, loops.MULTIPLY), row or [w.number(1.0)])


def _norm(w: Writer, x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return _each(partial(_length, w, float(ord)), *_over(x, dim, keepdim))


def _variance(w: Writer, x: Tensor, dim: Any = None, correction: Any = 1, keepdim: bool = False) -> Tensor:
    if isinstance(dim, bool):
        raise TypeError("of a form that torch traces no more")
    rows, shape = _over(x, dim, keepdim)
    return _each(partial(_spread, w, 1 if correction is None else float(correction)), rows, shape)


def _spread(w: Writer, correction: float, row: list[int]) -> int:
    """The variance of a row, from its mean."""
    middle = _mean(w, row)
    away = [w(loops.SUBTRACT, x, middle) for x in row]
    return w(loops.DIVIDE, products(w, [(d, d) for d in away]), w.number(max(0.0, len(row) - correction)))


def _deviation(w: Writer, x: Tensor, *rest: Any, **options: Any) -> Tensor:
    variances = _variance(w, x, *rest, **options)
    return _each(lambda row: _unless_zero(w, row[0], w(loops.SQRT, row[0])), variances[..., None], variances.shape)


def _length(w: Writer, order: float, row: list[int]) -> int:
    """The norm of a row."""
    if order == 2.0:
        square = products(w, [(x, x) for x in row])
        return _unless_zero(w, square, w(loops.SQRT, square))
    sizes = [w(loops.ABS, x) for x in row]
    if math.isinf(order):
        return reduce(partial(w, loops.LARGER if order > 0 else loops.SMALLER), sizes)
    if order == 0.0:
        return total(w, [truth(w, x) for x in row])
    if order == 1.0:
        return total(w, sizes)
    powers = total(w, [w(loops.POWER, size, w.number(order)) for size in sizes])
    return _unless_zero(w, powers, w(loops.POWER, powers, w.number(1.0 / order)))


def _matrix_product(w: Writer, a: Tensor, b: Tensor) -> Tensor:
    """Of vectors, matrices and batches of matrices, as `@`."""
    left = a if a.ndim > 1 else a[None]
    right = b if b.ndim > 1 else b[:, None]
    rows, columns = left[..., :, None, :], right.mT[..., None, :, :]
    shape = np.broadcast_shapes(rows.shape, columns.shape)
    flat = (each.expand(shape).reshape(-1, shape[-1]).tolist() for each in (rows, columns))
    found = torch.tensor([products(w, zip(*pair, strict=True)) for pair in zip(*flat, strict=True)], dtype=torch.int64)
    found = found.reshape(shape[:-1])
    found = found if a.ndim > 1 else found.squeeze(-2)
    return found if b.ndim > 1 else found.squeeze(-1)


def _running(op: int) -> Reduction:
    def found(w: Writer, x: Tensor, dim: int) -> Tensor:
        if x.ndim == 0:
            return x
        rows = x.movedim(dim, -1)
        flat = [list(accumulate(row, partial(w, op))) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
        return torch.tensor(flat, dtype=torch.int64).reshape(rows.shape).movedim(-1, dim)

    return found


def _placed(w: Writer, x: Tensor, indices: Sequence[Tensor | None], source: Tensor, accumulate: bool = False) -> Tensor:
    """x with `source` at these indices, or added there."""
    at = tuple(slice(None) if index is None else index for index in indices)
    places = torch.arange(x.numel()).reshape(x.shape)[at]
    return _put(w, x, places, source.expand(places.shape), accumulate)


def _scattered(w: Writer, x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """x with `source` added at the places of an index along one dimension."""
    places = torch.arange(x.numel()).reshape(x.shape).gather(dim, index)
    return _put(w, x, places, source[tuple(map(slice, index.shape))], True)


def _put(w: Writer, x: Tensor, places: Tensor, source: Tensor, accumulate: bool) -> Tensor:
    found = x.reshape(-1).tolist()
    for place, register in zip(places.reshape(-1).tolist(), source.reshape(-1).tolist(), strict=True):
        found[place] = w(loops.ADD, found[place], register) if accumulate else register
    return torch.tensor(found, dtype=torch.int64).reshape(x.shape)


_SUM = _reduced(total)
REDUCTIONS: dict[str, Reduction] = {
    "sum": _SUM, "mean": _reduced(_mean), "prod": _reduced(_product), "amax": _reduced(_extreme(loops.LARGER)),
    "amin": _reduced(_extreme(loops.SMALLER)), "max": _reduced(_extreme(loops.LARGER)),
    "min": _reduced(_extreme(loops.SMALLER)), "linalg_vector_norm": _norm, "var": _variance, "std": _deviation,
    "any": _reduced(lambda w, row: reduce(partial(either, w), row, w.number(0.0))),
    "all": _reduced(lambda w, row: reduce(partial(both, w), row, w.number(1.0))),
    "dot": _matrix_product, "vdot": _matrix_product, "mv": _matrix_product, "mm": _matrix_product,
    "bmm": _matrix_product, "cumsum": _running(loops.ADD), "cumprod": _running(loops.MULTIPLY), "index_put": _placed,
    "scatter_add": _scattered,
}  # fmt: skip
"""By name in aten."""

OF_ALL = frozenset(["max", "min"])  # of which only the form without dimensions is meant: the other gives places, too
