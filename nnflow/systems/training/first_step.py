"""A step of a training map against one of torch.optim with the same groups and clips, once, when the map is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from nnflow.names import Refusal
from nnflow.systems.derivatives import easy, resting
from nnflow.systems.optimisers.table import CLIPS
from nnflow.typing import Array

if TYPE_CHECKING:
    from nnflow.systems.training.task import Task
    from nnflow.systems.training.tensor import TensorTraining


def compare_step(map: TensorTraining, task: Task, w: Array, gradient: Array, room: float) -> None:
    """Refuse a first step other than that of torch.optim; only maps with groups or clips are compared.

    Args:
        map: The map.
        task: The training.
        w: Weights ``(weights,)``.
        gradient: Torch's gradient there.
        room: How far the map's gradient may be from it, and each weight from what it is in the map's number type.

    Raises:
        Refusal: if a weight differs.
    """
    if not (map.groups.held or set(map.parameters) & set(CLIPS)):
        return
    p = easy(map, gradient)
    values = dict(zip(map.parameters, p[0].tolist(), strict=True))
    theirs = _stepped(map, task, w, gradient, values)
    ours = map.to_numpy(map.step(np.concatenate([w, resting(map)])[None], p, 0))[0, : map.weights]
    apart = np.abs(ours - theirs)
    momenta = [abs(value) for name, value in values.items() if name.startswith("beta")]
    if not apart.max() <= (2 + max(momenta, default=0.0)) * room:
        worst = int(np.nan_to_num(apart, nan=np.inf).argmax())
        raise Refusal(
            f"a step takes {map.coordinates[worst]} to {theirs[worst]:.9g} by torch.optim with these groups and clips, "
            f"and to {ours[worst]:.9g} by the map: tell us of it (check=False goes on anyway)"
        )


def _stepped(map: TensorTraining, task: Task, w: Array, gradient: Array, values: dict[str, float]) -> Array:
    """What torch's optimizer makes of weights and a gradient in its first step."""
    parts = [
        nn.Parameter(torch.tensor(part, dtype=task.dtype).reshape(shape))
        for part, (_, shape) in zip(np.split(w, np.cumsum(task.sizes)[:-1]), task.layout, strict=True)
    ]
    slopes = torch.split(torch.as_tensor(gradient, dtype=task.dtype), task.sizes)
    for part, slope in zip(parts, slopes, strict=True):
        part.grad = slope.clone().view_as(part)
    if "clip_norm" in values:
        nn.utils.clip_grad_norm_(parts, values["clip_norm"])
    if "clip_value" in values:
        nn.utils.clip_grad_value_(parts, values["clip_value"])
    factor = 1.0 if map.schedule is None else float(map.schedule(0))
    named = dict(zip((name for name, _ in task.layout), parts, strict=True))
    _optimizer(map, named, {k: v * factor if k.startswith("eta") else v for k, v in values.items()}).step()
    return np.concatenate([part.detach().double().numpy().ravel() for part in parts])


def _optimizer(map: TensorTraining, named: Mapping[str, Tensor], values: dict[str, float]) -> optim.Optimizer:
    """Torch's own, with a group for each of the map's."""
    grouped = {name for names in map.groups.held.values() for name in names}
    rest = [name for name in named if name not in grouped]
    held = {"": rest, **map.groups.held}
    groups = []
    for group, names in held.items():
        own = {key: values.get(f"{key}.{group}", values.get(key, 0.0)) for key in (*_NAMES, "beta1", "beta2")}
        settings: dict[str, Any] = {theirs: own[ours] for ours, theirs in _NAMES.items()}
        settings |= {"betas": (own["beta1"], own["beta2"]), "alpha": own["beta2"]}
        if names:
            groups.append({"params": [named[name] for name in names], **settings})
    kind = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop}.get(map.optimizer, optim.SGD)
    taken = {"params"} | _TAKEN[kind]
    groups = [{key: value for key, value in group.items() if key in taken} for group in groups]
    nesterov: dict[str, Any] = {"nesterov": True, "momentum": 0.9} if map.optimizer == "nesterov" else {}
    made: optim.Optimizer = kind(groups, lr=1.0, **nesterov)
    return made


_NAMES = {"eta": "lr", "beta": "momentum", "epsilon": "eps", "weight_decay": "weight_decay"}
_TAKEN: dict[Any, set[str]] = {
    optim.SGD: {"lr", "momentum", "weight_decay"},
    optim.Adam: {"lr", "betas", "eps", "weight_decay"},
    optim.AdamW: {"lr", "betas", "eps", "weight_decay"},
    optim.RMSprop: {"lr", "alpha", "eps", "weight_decay"},
}
