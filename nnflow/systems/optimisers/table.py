"""The optimizers by name: their parameters with defaults, and what they remember of each weight.

With g = ∇L(w), to which every optimizer but "adamw" adds weight_decay · w, and η = eta times the schedule's factor:

    gd           w' = w − ηg
    heavy_ball   v' = βv + g,  w' = w − ηv'                   (Polyak 1964, doi:10.1016/0041-5553(64)90137-5)
    nesterov     v' = βv + g,  w' = w − η(g + βv')            (Sutskever et al. 2013, PMLR 28, 1139)
    adam         m' = β₁m + (1−β₁)g,  s' = β₂s + (1−β₂)g²,
                 w' = w − η m̂/(√ŝ + ε),  m̂ = m'/(1−β₁ᵗ⁺¹),  ŝ = s'/(1−β₂ᵗ⁺¹)    (Kingma, Ba 2015, arXiv:1412.6980)
    adamw        the same, on w (1 − η weight_decay) instead of w    (Loshchilov, Hutter 2019, arXiv:1711.05101)
    rmsprop      s' = β₂s + (1−β₂)g²,  w' = w − ηg/(√s' + ε)         (Tieleman, Hinton 2012)

∇L may be clipped first, by its norm to ∇L · min(1, clip_norm/(‖∇L‖ + 1e-6)), or each entry to ± clip_value;

as torch.optim and torch.nn.utils.clip_grad_norm_ have them; the step index t is Adam's clock. They are written twice,
for compiled gradients and for torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnflow.names import Refusal, unknown
from nnflow.schedules import Schedule, name_of
from nnflow.systems.optimisers.groups import Groups, kind_of


@dataclass(frozen=True)
class Optimiser:
    """An optimizer: its parameters with their defaults, and the kinds of memory it keeps of each weight."""

    parameters: dict[str, float]
    memory: tuple[str, ...] = ()

    @property
    def preconditioned(self) -> bool:
        """Whether each weight has a learning rate of its own, so that the curvature that counts is another one."""
        return "epsilon" in self.parameters


_MOMENTUM = {"eta": 0.1, "beta": 0.9, "weight_decay": 0.0}
_ADAM = {"eta": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
OPTIMISERS = {
    "gd": Optimiser({"eta": 0.1, "weight_decay": 0.0}),
    "heavy_ball": Optimiser(_MOMENTUM, ("velocity",)),
    "nesterov": Optimiser(_MOMENTUM, ("velocity",)),
    "adam": Optimiser({**_ADAM, "weight_decay": 0.0}, ("moment1", "moment2")),
    "adamw": Optimiser({**_ADAM, "weight_decay": 0.01}, ("moment1", "moment2")),
    "rmsprop": Optimiser({"eta": 0.01, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}, ("moment2",)),
}
OTHERS = {
    "lr": "eta", "learning_rate": "eta", "momentum": "beta", "eps": "epsilon", "alpha": "beta2", "beta_1": "beta1",
    "beta_2": "beta2",
}  # fmt: skip
CLIPS = ("clip_norm", "clip_value")  # parameters of a map on tensors if they are given
_NOT_NEGATIVE = (0.0, np.inf)
LIMITS = {  # any other value is a map to study, sensible or not: negative momentum is Hénon's
    "eta": _NOT_NEGATIVE, "clip_norm": _NOT_NEGATIVE, "clip_value": _NOT_NEGATIVE,
}  # fmt: skip


def optimiser(
    name: str, defaults: Mapping[str, float], *, compiled: bool = False, groups: Groups | None = None
) -> dict[str, float]:
    """The parameters of an optimizer with their defaults.

    Args:
        name: The optimizer.
        defaults: Parameter → another default.
        compiled: Of a compiled rule: weight_decay is a parameter only if it is not 0, and gradients are not clipped.
        groups: Each has a rate of its own, and what else there are defaults for.

    Returns:
        Parameter → default, in the order of a map's parameters.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer or parameter, or a negative learning rate or clip.
    """
    if name not in OPTIMISERS:
        raise Refusal(unknown("optimizer", name, OPTIMISERS))
    known, names = OPTIMISERS[name].parameters, list(groups.held) if groups else []
    allowed = [*known, *(f"{key}.{group}" for group in names for key in known), *(() if compiled else CLIPS)]
    for key, value in defaults.items():
        if key in CLIPS and compiled:
            raise Refusal(
                f"{key} = {value}: a compiled map does not clip gradients; use training_map, backend='tensor'"
            )
        if key not in allowed:
            raise Refusal(unknown(f"parameter of {name}", key, allowed, meant(key, known)))
        if kind_of(key) in LIMITS and not value >= 0:
            raise Refusal(f"{key} = {value}: a {'learning rate' if kind_of(key) == 'eta' else 'clip'} is 0 or more")
    if len(defaults.keys() & set(CLIPS)) > 1:
        raise Refusal("clip_norm and clip_value: a gradient is clipped in one of these ways; give one of them")
    values = {**known, **defaults}
    kept = {key: value for key, value in values.items()
            if not compiled or key != "weight_decay" or value or key in defaults}  # fmt: skip
    kept |= {f"eta.{group}": values.get(f"eta.{group}", values["eta"]) for group in names}
    everywhere = groups is not None and groups.everywhere
    idle = [key for key in known if everywhere and all(f"{key}.{group}" in kept for group in names)]
    for key in idle:
        if key in defaults and all(f"{key}.{group}" in defaults for group in names):
            raise Refusal(f"{key} = {defaults[key]}: no weight would have it, each group has its own: leave it out")
    return {key: value for key, value in kept.items() if key not in idle}  # what no weight has is no parameter


def limits_of(parameters: Collection[str]) -> dict[str, tuple[float, float]]:
    """Parameter → (low, high) beyond which a value is refused."""
    return {name: LIMITS[kind_of(name)] for name in parameters if kind_of(name) in LIMITS}


def meant(name: str, known: Collection[str]) -> str:
    """Our name of what torch or Keras call otherwise, and who has it if it is not `known` here."""
    ours = OTHERS.get(name)
    if ours is None:
        return ""
    owners = ", ".join(key for key, each in OPTIMISERS.items() if ours in each.parameters)
    return f"Did you mean {ours!r}?" if ours in known else f"Did you mean {ours!r}, which {owners} have?"


def memory_names(name: str, weights: tuple[str, ...]) -> tuple[str, ...]:
    """The coordinates of an optimizer's memory, in order; none for gradient descent."""
    return tuple(f"{kind}.{weight}" for kind in OPTIMISERS[name].memory for weight in weights)


def is_repeating(optimizer: str, schedule: Schedule | None, *seeds: int | None) -> bool:
    """Whether the rule is the same in each epoch: no bias correction, no schedule, no random order, no noise."""
    return optimizer not in ("adam", "adamw") and schedule is None and all(seed is None for seed in seeds)


def structure_of(optimizer: str, schedule: Schedule | None, **rest: Any) -> dict[str, Any]:
    """What is fixed when a map of descent is made; a schedule by its name, what is None left out."""
    named = None if schedule is None else name_of(schedule)
    given = {"schedule": named, **rest}
    return {"optimizer": optimizer, **{key: value for key, value in given.items() if value is not None}}
