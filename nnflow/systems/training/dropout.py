"""Dropout written out, also inside torch's own attention and recurrent layers.

In there torch drops by a function of its own, `native_dropout`, which crashes the process under vmap of a forward
derivative. And what torch draws depends on how a tensor lies in memory: here it is drawn as for a contiguous one, so
that a step, its tangent and torch's own gradient see the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nnflow.names import WrongKind
from nnflow.systems.written import rrelu

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class WrittenOut(TorchFunctionMode):
    """While it lasts, attention with dropout and recurrent layers with dropout go through the functions below."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func in (functional.dropout, torch.dropout):
            return dropout(*args, **given)
        if func is functional.multi_head_attention_forward:
            told: dict[str, Any] = {"dropout": dropout} | (
                {} if given.get("need_weights", True) else {"softmax": safe_softmax}
            )
            with mock.patch.multiple(functional, **told):  # in here, this mode does not see its calls
                out, weights = func(*args, **{**given, "need_weights": True})
            return out, weights if given.get("need_weights", True) else None
        if func is functional.rrelu:
            return rrelu(*args, **given)
        if func is functional.scaled_dot_product_attention:
            return attention(*args, **given)
        if getattr(func, "__name__", "") in RECURRENT and len(args) == 9 and drops(*args):
            return recurrent(func, *args)
        return func(*args, **given)


def written_out(noise: int | None) -> AbstractContextManager[Any]:
    """`WrittenOut` where a loss draws, and nothing where it does not."""
    return nullcontext() if noise is None else WrittenOut()


def drops(*args: Any) -> bool:
    """Whether a recurrent layer has dropout between its parts. Raises WrongKind for packed sequences."""
    if not isinstance(args[3], bool):
        raise WrongKind("packed sequences go through torch's own dropout, which has no forward derivative: pad them")
    return bool(args[5] > 0 and args[6])


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, train: bool = True) -> Tensor:
    """Each entry 0 with probability p, else divided by 1 − p; `train` is what `torch.dropout` calls `training`."""
    if p == 0 or not (training and train):
        return input
    factor = torch.empty(input.shape, dtype=input.dtype, device=input.device).bernoulli_(1 - p).div_(1 - p or 1)
    return input.mul_(factor) if inplace else input * factor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ scale + mask) with dropout, times v: `torch.nn.functional.scaled_dot_product_attention`."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.size(-3) // part.size(-3), -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.size(-1) ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return dropout(safe_softmax(scores, -1), dropout_p) @ value


def safe_softmax(scores: Tensor, dim: int) -> Tensor:
    """The softmax, and 0 where a whole row is masked: as in torch's own attention."""
    masked = scores.isneginf().all(dim, keepdim=True)
    return scores.masked_fill(masked, 0.0).softmax(dim).masked_fill(masked, 0.0)


def recurrent(
    layer: Callable[..., Any],
    inputs: Tensor,
    start: Any,
    weights: list[Tensor],
    biases: bool,
    layers: int,
    p: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """torch's recurrent layers one by one, with dropout between them: what `torch.lstm` and its kin return."""
    starts, pair = (start, True) if isinstance(start, (tuple, list)) else ((start,), False)
    each, both = len(weights) // layers, 2 if bidirectional else 1
    out, ends = inputs.transpose(0, 1) if batch_first else inputs, []
    for i in range(layers):
        own = tuple(part[i * both : (i + 1) * both] for part in starts)
        chosen = weights[i * each : (i + 1) * each]
        out, *end = layer(out, own if pair else own[0], chosen, biases, 1, 0.0, train, bidirectional, False)
        ends.append(end)
        if i < layers - 1:
            out = dropout(out, p)
    return (out.transpose(0, 1) if batch_first else out, *(torch.cat(parts) for parts in zip(*ends, strict=True)))
