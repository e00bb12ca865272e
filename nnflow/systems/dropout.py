"""Dropout inside torch's own attention and recurrent layers, in calls that torch can batch and differentiate.

In there torch drops by a function of its own, `native_dropout`, which crashes the process under vmap of a forward
derivative. Here the same numbers are drawn in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class WrittenOut(TorchFunctionMode):
    """While it lasts, attention with dropout and recurrent layers with dropout go through the functions below."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is functional.multi_head_attention_forward and not given.get("need_weights", True):
            return func(*args, **{**given, "need_weights": True})[0], None  # with weights, it drops by itself
        if func is functional.scaled_dot_product_attention:
            return attention(*args, **given)
        if getattr(func, "__name__", "") in RECURRENT and len(args) == 9 and args[5] > 0 and args[6]:
            return recurrent(func, *args)
        return func(*args, **given)


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
    return functional.dropout(scores.softmax(-1), dropout_p) @ value


def recurrent(
    layer: Callable[..., Any],
    inputs: Tensor,
    start: Any,
    weights: list[Tensor],
    biases: bool,
    layers: int,
    dropout: float,
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
            out = functional.dropout(out, dropout)
    return (out.transpose(0, 1) if batch_first else out, *(torch.cat(parts) for parts in zip(*ends, strict=True)))
