"""What a torch optimizer does: its rule, its settings and its groups by the map's names.

What no map does is refused: another rule, a step with hooks, a scheduler or a patch, parameters that are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnflow import internals
from nnflow.names import Refusal
from nnflow.systems.optimisers.table import OPTIMISERS

TORCH_MEMORY = {
    "velocity": ("momentum_buffer",),
    "moment1": ("exp_avg",),
    "moment2": ("exp_avg_sq", "square_avg"),
}  # memory -> its names in torch.optim
SETTING_OF = {  # optimiser -> a setting that only the class of torch.optim has that steps as it does
    "gd": "dampening", "heavy_ball": "dampening", "nesterov": "dampening",
    "adam": "amsgrad", "adamw": "amsgrad", "rmsprop": "centered",
}  # fmt: skip
TORCH_CLASSES = {"SGD": "gd", "Adam": "adam", "AdamW": "adamw", "RMSprop": "rmsprop"}
TORCH_NAMES = {"eta": "lr", "beta": "momentum", "beta1": "betas", "beta2": "betas", "epsilon": "eps"}


def rule_of(optimizer: Any, module: Any) -> tuple[str, dict[str, float]]:
    """The map's name of a torch optimizer's rule, and its settings by the map's names.

    Args:
        optimizer: A torch optimizer.
        module: What it trains.

    Returns:
        The name, and parameter → value: of its first group, and for group i (or "head", if that is its name) eta.i and
        what else differs there.

    Raises:
        Refusal: for a rule that no map has, groups that step by different ones, one that trains other parameters than
            those of the module that require gradients, or one whose step calls more than its class does.
    """
    kind, groups = type(optimizer).__name__, getattr(optimizer, "param_groups", None)
    if not groups or kind not in TORCH_CLASSES or not type(optimizer).step.__module__.startswith("torch.optim"):
        raise Refusal(f"optimizer is a {kind}: the maps step as torch.optim's {', '.join(TORCH_CLASSES)} do")
    _plain(optimizer)
    _of_all(optimizer, module)
    group = groups[0]
    name = TORCH_CLASSES[kind]
    if name == "gd" and group["momentum"]:
        name = "nesterov" if group["nesterov"] else "heavy_ball"
    if name == "adam" and group.get("decoupled_weight_decay"):
        name = "adamw"
    same_rule(name, groups, {}, kind)
    first, settings = settings_of(name, group), dict(settings_of(name, group))
    for key, each in zip(_names(groups), groups, strict=True):
        own = {} if key is None else settings_of(name, each)
        settings |= {f"{ours}.{key}": value for ours, value in own.items() if ours == "eta" or value != first[ours]}
    return name, settings


def groups_in(optimizer: Any, module: Any) -> dict[str, list[str]]:
    """The groups of a torch optimizer: a group's name → the names of its parameters in a module.

    The only one, and the first if it has no "name", is what is in no group.

    Args:
        optimizer: A torch optimizer.
        module: The module that it trains.

    Returns:
        The groups.

    Raises:
        Refusal: for several groups of one name.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    theirs = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    fixed = {id(p) for p in module.parameters() if not p.requires_grad}
    keys = _names(optimizer.param_groups)
    found = {key: [names[i] for i in part if i in names and i not in fixed]
             for key, part in zip(keys, theirs, strict=True) if key is not None}  # fmt: skip
    if twice := sorted({key for key in keys if key is not None and keys.count(key) > 1}):
        raise Refusal(f"optimizer has several groups of the name {', '.join(twice)}: give each a name of its own")
    return {key: part for key, part in found.items() if part}


def _names(groups: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """What the groups of a torch optimizer are called: by their "name" or their number; None: the first."""
    if len(groups) == 1:
        return [None]
    return [group.get("name") or (str(i) if i else None) for i, group in enumerate(groups)]


def settings_of(name: str, group: Mapping[str, Any]) -> dict[str, float]:
    """The settings of a group of a torch optimizer by the map's names."""
    beta1, beta2 = group.get("betas", (None, group.get("alpha")))
    held = {"eta": group["lr"], "beta": group.get("momentum"), "beta1": beta1, "beta2": beta2,
            "epsilon": group.get("eps"), "weight_decay": group["weight_decay"]}  # fmt: skip
    return {key: float(value) for key, value in held.items() if key in OPTIMISERS[name].parameters}


def same_rule(name: str, groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any], kind: str) -> None:
    """Refuse an optimizer that does not step as the map does."""
    needed = " and ".join(" or ".join(TORCH_MEMORY[part]) for part in OPTIMISERS[name].memory) or "no memory"
    seen = ", ".join(next(iter(state.values()), {})) or "nothing yet"
    if not all(SETTING_OF[name] in group for group in groups):
        raise Refusal(
            f"optimizer is a {kind or 'state_dict of another kind'}, which remembers {seen}: the map is trained with "
            f"{name!r} and needs {needed}"
        )
    wanted = {"momentum": "velocity" in OPTIMISERS[name].memory, "nesterov": name == "nesterov", "dampening": False,
              "decoupled_weight_decay": name == "adamw", "maximize": False, "amsgrad": False,
              "centered": False}  # fmt: skip
    for group in groups:
        for key, value in wanted.items():
            if bool(group.get(key, value)) != value:  # a momentum that is not 0 may be any, as `beta` is
                raise Refusal(f"optimizer has {key} = {group[key]}: that is another rule than {name!r} of this map")


def _plain(optimizer: Any) -> None:
    """Refuse an optimizer whose step is not that of its class alone: a map would go without the rest."""
    step = vars(optimizer).get("step")
    if getattr(step, "_wrapped_by_lr_sched", False):
        raise Refusal("optimizer has a scheduler of its rate: give one without, and the factors of eta as schedule=")
    if step is not None:
        raise Refusal("optimizer has a step of its own in place of its class's, which the map would not call")
    own = (getattr(optimizer, f"_optimizer_step_{when}_hooks", None) for when in ("pre", "post"))
    if any(own) or internals._global_optimizer_pre_hooks or internals._global_optimizer_post_hooks:
        raise Refusal("optimizer has hooks on its steps, which the map would not call: remove them")


def _of_all(optimizer: Any, module: Any) -> None:
    """Refuse an optimizer of other parameters than those that the map will move."""
    own = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    theirs = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if left := [name for key, name in own.items() if key not in theirs]:
        raise Refusal(
            f"optimizer does not train {', '.join(left)}, which require gradients: fix them by "
            "requires_grad_(False), or make the optimizer of the module's present parameters"
        )
    if theirs - {id(p) for p in module.parameters()}:
        raise Refusal("optimizer trains parameters that are not in the module: make it of the module's own alone")
