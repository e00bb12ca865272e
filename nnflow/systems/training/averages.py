"""Norm layers in training mode that keep running averages: without them, or with the averages as a part of the state.

In training such a layer norms by the statistics of its batch, and its averages follow these; evaluation norms by the
averages. A step is then a map of weights and averages together. Where they are left out, evaluation norms by the
statistics of what is evaluated, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nnflow import internals
from nnflow.names import Refusal, unknown

if TYPE_CHECKING:
    from nnflow.systems.training.state import Layout

Norm = internals._NormBase
KINDS = ("batch", "state")
KEPT = ("running_mean", "running_var")


def tracking(module: nn.Module) -> dict[str, Norm]:
    """The layers in training mode that keep running averages, by name."""
    parts = module.named_modules()
    return {name: p for name, p in parts if isinstance(p, Norm) and p.training and p.running_mean is not None}


def refuse_untold(module: nn.Module, kind: str | None) -> None:
    """Refuse running averages of which the user does not say what becomes of them, and a word on those there are not.

    Args:
        module: As the user has it.
        kind: "batch", "state" or None.

    Raises:
        Refusal: with the layer, and what to do.
    """
    if kind is not None and kind not in KINDS:
        raise Refusal(unknown("batch_norm", kind, KINDS))
    parts = tracking(module)
    if kind is not None and not parts:
        raise Refusal(f"batch_norm = {kind!r}: no layer in training mode keeps running averages; leave it out")
    for name, part in parts.items():
        told = f"{name or 'the module'} is a {type(part).__name__} in training mode"
        if kind is None:
            raise Refusal(
                f"{told}: its running averages would be a state of their own: give batch_norm='state' (they are a part "
                "of the state) or 'batch' (there are none), or call module.eval() (they stay as they are)"
            )
        if kind == "state" and part.momentum is None:
            raise Refusal(f"{told} with momentum=None, an average over all steps: give the layer a momentum")


def forget(module: nn.Module) -> dict[str, Norm]:
    """Leave the running averages of layers in training mode out, in place; the layers by name."""
    parts = tracking(module)
    for part in parts.values():
        part.running_mean = part.running_var = part.num_batches_tracked = None
        part.track_running_stats = False
    return parts


def averages_of(module: nn.Module) -> Layout:
    """(name, shape) of the running averages of layers in training mode, in the module's order."""
    named = [(f"{name}.{kind}" if name else kind, part) for name, part in tracking(module).items() for kind in KEPT]
    return tuple((name, (part.num_features,)) for name, part in named)


def updated(part: Norm, mean: Tensor, variance: Tensor, input: Tensor) -> tuple[Tensor, Tensor]:
    """The running averages after a layer has seen a batch: (1 − momentum) · average + momentum · statistic.

    The statistics are those of each channel, the variance with n − 1; of an instance norm their mean over samples.

    Args:
        part: The layer.
        mean: ``(channel,)``.
        variance: ``(channel,)``.
        input: What it sees.

    Returns:
        The new mean and variance.
    """
    momentum = part.momentum or 0.0
    each = isinstance(part, internals._InstanceNorm)
    places = [i for i in range(input.dim()) if i != 1 and not (each and i == 0)]
    center = input.mean(places, keepdim=True)
    apart = input - center
    count = math.prod(input.shape[i] for i in places)
    seen = center.squeeze(places), (apart * apart).sum(places) / (count - 1)  # torch's own var takes five times as long
    if each:
        seen = seen[0].mean(0), seen[1].mean(0)
    return (1 - momentum) * mean + momentum * seen[0], (1 - momentum) * variance + momentum * seen[1]
