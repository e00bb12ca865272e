"""Functions that torch cannot differentiate forward, or batch over members, written out in operations that it can.

Some losses and layers of torch are one kernel with a gradient, but without the derivative of that gradient, or without
a rule for vmap; others look at their numbers first, which many members at once do not have. While `Written` lasts,
calls of them go through the functions below: the same values and gradients, to rounding. `witness` compares them with
torch's own on the user's module. Where a factorization fails the result is NaN, so that one member escapes and not all
stop.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nnflow.internals import _reduction, _weight_norm


class Written(TorchFunctionMode):
    """While it lasts, torch's functions in a table (default: `WRITTEN`) are those of this file."""

    def __init__(self, table: Mapping[Any, Callable[..., Any]] | None = None) -> None:
        super().__init__()
        self.table = WRITTEN if table is None else table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.table.get(func, func)(*args, **(kwargs or {}))


def reduced(loss: Tensor, size_average: bool | None, reduce: bool | None, reduction: str) -> Tensor:
    """The mean or the sum of a loss, or the loss itself, as torch's losses are told."""
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """The square of the error; torch's kernel cannot be differentiated forward for a target without a derivative."""
    error = input - target
    if weight is None:
        return reduced(error * error, size_average, reduce, reduction)
    weighted = error * error * weight
    return weighted.sum() / weight.sum() if reduction == "mean" else reduced(weighted, None, None, reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """Half the square of the error up to delta, beyond it a line."""
    error = input - target
    size = error.abs()
    loss = torch.where(size < delta, 0.5 * error * error, delta * (size - 0.5 * delta))
    return reduced(loss if weight is None else loss * weight, None, None, reduction)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """ln(1 + exp(−target · output))."""
    return reduced(-logsigmoid(target * input), size_average, reduce, reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The mean over the other classes of (margin − right output + other output)₊ to the power p."""
    right = target[..., None]
    short = (margin - input.gather(-1, right) + input).relu() ** p
    if weight is not None:
        short = short * weight[right]
    others = torch.arange(input.shape[-1], device=input.device) != right
    return reduced((short * others).sum(-1) / input.shape[-1], size_average, reduce, reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The sum over right and wrong classes of (1 − right output + wrong output)₊, over the number of classes.

    The right ones are those that stand in a row of `target` before its first −1.

    Returns:
        The loss, reduced.
    """
    listed = (target < 0).cumsum(-1) == 0
    rows = target.clamp(min=0)
    marks = functional.one_hot(rows, input.shape[-1]) * listed[..., None]
    wrong = marks.sum(-2) == 0
    short = (1 - input.gather(-1, rows)[..., :, None] + input[..., None, :]).relu()
    loss = (short * listed[..., :, None] * wrong[..., None, :]).sum((-2, -1)) / input.shape[-1]
    return reduced(loss, size_average, reduce, reduction)


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Tensor | float, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """Half of ln var + error²/var. Torch's refusal of a negative variance is left to the first evaluation."""
    spread = torch.full_like(input, var) if isinstance(var, float | int) else var.clone()
    if spread.shape != input.shape and spread.shape == input.shape[:-1]:
        spread = spread[..., None]
    with torch.no_grad():
        spread.clamp_(min=eps)
    loss = 0.5 * (spread.log() + (input - target) ** 2 / spread + (math.log(2 * math.pi) if full else 0.0))
    return reduced(loss, None, None, reduction)


def logsigmoid(input: Tensor) -> Tensor:
    """−ln(1 + exp(−x)); torch's kernel warns of a tensor that it resizes itself."""
    return -torch.logaddexp(-input, torch.zeros_like(input))


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """A line from 0 at −3 to 1 at 3."""
    out = functional.relu6(input + 3) / 6
    return input.copy_(out) if inplace else out


def rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """A leaky ReLU with the mean slope, or in training with a slope drawn for each entry."""
    slope: Any = torch.empty_like(input).uniform_(lower, upper) if training else (lower + upper) / 2
    out = torch.where(input > 0, input, slope * input)
    return input.copy_(out) if inplace else out


def embedding(input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """torch's own, with a dense gradient."""
    return functional.embedding(input, weight, *args[:4], **{**kwargs, "sparse": False})


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    *rest: Any,
    **more: Any,
) -> Tensor:
    """The sum, the mean or the largest of the rows that each bag names, for bags of one size."""
    if any(part is not None for part in (offsets, max_norm, *rest, *more.values()) if part is not False):
        raise NotImplementedError("an EmbeddingBag with offsets, max_norm or padding_idx: give bags of one size")
    rows = functional.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[..., None]
    if mode == "max":
        return rows.amax(-2)
    return rows.mean(-2) if mode == "mean" else rows.sum(-2)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g v/‖v‖, the norm over all dimensions but one; −1: over all of them."""
    others = [i for i in range(v.ndim) if i != dim]
    size: Tensor = torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1)
    return v * (g / size)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """Distances of all rows of one set from all rows of another."""
    distance: Tensor = torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], p, dim=-1)
    return distance


class _Symmetric(torch.autograd.Function):
    """A matrix with its lower triangle on both sides, which is what torch reads of a matrix that should be symmetric.

    Torch's gradient is that of a symmetric matrix all the same, so it goes through here as it comes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return A.tril() + A.tril(-1).mT

    @staticmethod
    def setup_context(_ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def jvp(_ctx: Any, v: Tensor) -> Tensor:
        return v.tril() + v.tril(-1).mT


def symmetric(A: Tensor, lower: bool) -> Tensor:
    """A matrix with one of its triangles on both sides."""
    whole: Tensor = _Symmetric.apply(A if lower else A.mT)  # type: ignore[no-untyped-call]
    return whole


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """The Cholesky factor; NaN where there is none."""
    factor, info = torch.linalg.cholesky_ex(symmetric(A, not upper), upper=upper)
    return torch.where((info > 0)[..., None, None], torch.nan, factor)


def eigh(A: Tensor, UPLO: str = "L") -> Any:
    """Eigenvalues and eigenvectors of a symmetric matrix."""
    return torch.linalg.eigh(symmetric(A, UPLO.upper() == "L"))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of a symmetric matrix."""
    values: Tensor = torch.linalg.eigvalsh(symmetric(A, UPLO.upper() == "L"))
    return values


def inv(A: Tensor) -> Tensor:
    """The inverse; NaN where there is none."""
    inverse, info = torch.linalg.inv_ex(A)
    return torch.where((info > 0)[..., None, None], torch.nan, inverse)


def det(A: Tensor) -> Tensor:
    """The determinant: by its minors up to 4 × 4, a polynomial; torch's own has no second derivative everywhere."""
    n = A.shape[-1]
    if not 1 <= n <= 4 or A.shape[-2] != n:
        beyond: Tensor = torch.linalg.det(A)
        return beyond
    if n == 1:
        return A[..., 0, 0]
    terms = ((-1) ** j * A[..., 0, j] * det(A[..., 1:, [k for k in range(n) if k != j]]) for j in range(n))
    total: Tensor = functools.reduce(operator.add, terms)
    return total


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """Of classes, 1 in the column of each; torch's own looks at the numbers, which no trace can."""
    if num_classes < 1:
        counted: Tensor = functional.one_hot(tensor, num_classes)
        return counted
    same: Tensor = tensor[..., None] == torch.arange(num_classes, device=tensor.device)
    return same.long()


def lstm_cell(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    w_x: Tensor,
    w_h: Tensor,
    b_x: Tensor | None = None,
    b_h: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A step of an LSTM: hidden state and cell."""
    hidden, cell = state
    gates = functional.linear(x, w_x, b_x) + functional.linear(hidden, w_h, b_h)
    put, kept, new, shown = gates.chunk(4, -1)
    cell = kept.sigmoid() * cell + put.sigmoid() * new.tanh()
    return shown.sigmoid() * cell.tanh(), cell


WRITTEN: dict[Any, Callable[..., Any]] = {
    functional.mse_loss: mse_loss,
    functional.huber_loss: huber_loss,
    functional.soft_margin_loss: soft_margin_loss,
    functional.multi_margin_loss: multi_margin_loss,
    functional.multilabel_margin_loss: multilabel_margin_loss,
    functional.gaussian_nll_loss: gaussian_nll_loss,
    functional.embedding: embedding,
    functional.embedding_bag: embedding_bag,
    functional.logsigmoid: logsigmoid,
    functional.hardsigmoid: hardsigmoid,
    functional.rrelu: rrelu,
    functional.one_hot: one_hot,
    torch.lstm_cell: lstm_cell,
    _weight_norm: weight_norm,
    torch.cdist: cdist,
    torch.linalg.cholesky: cholesky,
    torch.linalg.eigh: eigh,
    torch.linalg.eigvalsh: eigvalsh,
    torch.linalg.inv: inv,
    torch.inverse: inv,
    Tensor.inverse: inv,
    torch.linalg.det: det,
    torch.det: det,
    Tensor.det: det,
}
OFF: dict[Any, Callable[..., Any]] = {  # where torch itself is off by more than rounding
    functional.hardsigmoid: hardsigmoid,  # its gradient has the 1/6 of float32, in float64 too
    torch.cdist: cdist,  # of more than 25 rows it takes differences of squares
}
