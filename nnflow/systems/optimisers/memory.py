"""What a torch optimizer remembers of each weight, in the order of a training map's state.

It may come as an optimizer or as its `state_dict()`. That has no names unless the optimizer was made of
`named_parameters()`; without, it is refused where two parameters of one shape could be taken for one another. One that
steps by another rule than the map's (nesterov or plain SGD for heavy ball, amsgrad, groups with learning rates of
their own that the map does not have) is refused: its memory would be that of another system.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from nnflow import internals
from nnflow.names import Refusal
from nnflow.systems.optimisers.groups import Groups
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.typing import Array

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
    _same_rule(name, groups, {}, kind)
    first, settings = _settings(name, group), dict(_settings(name, group))
    for key, each in zip(_names(groups), groups, strict=True):
        own = {} if key is None else _settings(name, each)
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


def _settings(name: str, group: Mapping[str, Any]) -> dict[str, float]:
    """The settings of a group of a torch optimizer by the map's names."""
    beta1, beta2 = group.get("betas", (None, group.get("alpha")))
    held = {"eta": group["lr"], "beta": group.get("momentum"), "beta1": beta1, "beta2": beta2,
            "epsilon": group.get("eps"), "weight_decay": group["weight_decay"]}  # fmt: skip
    return {key: float(value) for key, value in held.items() if key in OPTIMISERS[name].parameters}


def steps_of(optimizer: Any) -> int | None:
    """How many steps a torch optimizer has taken: 0 without one, None if it does not count them (SGD)."""
    if optimizer is None:
        return 0
    held = optimizer if isinstance(optimizer, Mapping) else optimizer.state_dict()
    steps = {int(entry["step"]) for entry in held["state"].values() if "step" in entry}
    if len(steps) > 1:
        raise Refusal(f"optimizer has parameters that took {min(steps)} steps, and others {max(steps)}: one clock runs")
    if steps:
        return steps.pop()
    return None if all("dampening" in group for group in held["param_groups"]) else 0


def remembered(
    name: str,
    optimizer: Any,
    parameters: Mapping[str, Any],
    mine: bool,
    groups_of_map: Groups | None = None,
    known: Collection[str] = (),
) -> list[Array]:
    """The memory of an optimizer, kind after kind, of each of the named parameters; 0 before the first step.

    Args:
        name: The map's optimizer.
        optimizer: A torch optimizer, its state_dict(), or None.
        parameters: Name → parameter.
        mine: Whether the parameters are those of a module, which an optimizer knows by identity.
        groups_of_map: Those of the map.
        known: The parameters of the map, by which one knows what its groups have of their own.

    Returns:
        Flat arrays, float64.

    Raises:
        Refusal: for an optimizer that is another one, or is of other parameters.
    """
    kinds = OPTIMISERS[name].memory
    if optimizer is None:
        return [np.zeros(p.numel()) for _ in kinds for p in parameters.values()]
    held = optimizer if isinstance(optimizer, Mapping) else optimizer.state_dict()
    if not {"state", "param_groups"} <= set(held):
        raise Refusal(
            f"optimizer has the entries {', '.join(map(str, held))}: give a torch optimizer or its state_dict()"
        )
    groups: list[dict[str, Any]] = held["param_groups"]
    if not isinstance(optimizer, Mapping) and not type(optimizer).step.__module__.startswith("torch.optim"):
        raise Refusal(
            f"optimizer is of class {type(optimizer).__name__}, with a step of its own: give its state_dict() if it "
            f"steps as {name!r} does"
        )
    _same_rule(name, groups, held["state"], "" if isinstance(optimizer, Mapping) else type(optimizer).__name__)
    if isinstance(optimizer, Mapping):
        indices = _by_order(groups, parameters)
    else:
        indices = _by_identity(optimizer, parameters) if mine else _by_value(optimizer, parameters)
    settings = {i: _settings(name, group) for group in groups for i in group["params"]}
    own = {key: settings[i] for key, i in zip(parameters, indices, strict=True)}
    _same_groups(own, groups_of_map or Groups(), known)
    entries = [(key, p, held["state"].get(i, {})) for (key, p), i in zip(parameters.items(), indices, strict=True)]
    found = [_part(TORCH_MEMORY[kind], *entry) for kind in kinds for entry in entries]
    if isinstance(optimizer, Mapping) and not _named(groups) and any(part.any() for part in found):
        _refuse_alike(parameters)
    return found


def _named(groups: Sequence[Mapping[str, Any]]) -> bool:
    return all("param_names" in group for group in groups)


def _refuse_alike(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of which a state_dict without names may hold one in place of another."""
    first: dict[tuple[int, ...], str] = {}
    for name, parameter in parameters.items():
        if (other := first.setdefault(tuple(parameter.shape), name)) != name:
            raise Refusal(
                f"optimizer is a state_dict without names, in which {other} and {name}, of one shape, cannot be told "
                "apart: give the optimizer itself with the module, or make it of module.named_parameters()"
            )


def _same_rule(name: str, groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any], kind: str) -> None:
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


def _same_groups(settings: Mapping[str, Mapping[str, float]], groups: Groups, known: Collection[str]) -> None:
    """Refuse an optimizer with different settings (parameter of the module → its) where the map has one value."""
    first: dict[str, float] = {}
    for name, own in settings.items():
        for key, value in own.items():
            shared = groups.shared(known, key, name)
            if first.setdefault(shared, value) != value:
                raise Refusal(
                    f"optimizer has groups with different {TORCH_NAMES.get(key, key)}: this map has one for all "
                    f"parameters that share {shared}; make it of this optimizer, or with groups="
                )


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


def _by_identity(optimizer: Any, parameters: Mapping[str, Any]) -> list[int]:
    """The place of each parameter in an optimizer, which counts them through its groups."""
    place = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    for name, parameter in parameters.items():
        if id(parameter) not in place:
            raise Refusal(f"optimizer does not train {name} of this module: give the optimizer made of its parameters")
    return [place[id(parameter)] for parameter in parameters.values()]


def _by_value(optimizer: Any, parameters: Mapping[str, Any]) -> list[int]:
    """The place of each parameter of a checkpoint in an optimizer: by its shape, or else by its values."""
    theirs, places = [p for group in optimizer.param_groups for p in group["params"]], []
    if len(theirs) != len(parameters):
        raise Refusal(f"optimizer trains {len(theirs)} parameters, this map has {len(parameters)}")
    for name, parameter in parameters.items():
        alike = [i for i, p in enumerate(theirs) if p.shape == parameter.shape]
        same = alike if len(alike) == 1 else [i for i in alike if bool((theirs[i] == parameter.to(theirs[i])).all())]
        if len(same) != 1:
            raise Refusal(
                f"optimizer has {len(same)} parameters of the shape and values of {name}: give the module that it "
                "trains in place of its state_dict()"
            )
        places += same
    return places


def _by_order(groups: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> list[int]:
    """The same in a state_dict: by names where it has some, else one group in the order of the module."""
    indices = [i for group in groups for i in group["params"]]
    if _named(groups):
        names = [name for group in groups for name in group["param_names"]]
        if missing := [name for name in parameters if name not in names]:
            raise Refusal(f"optimizer does not train {', '.join(missing)}: it has {', '.join(names)}")
        return [indices[names.index(name)] for name in parameters]
    if len(groups) > 1:
        raise Refusal(f"optimizer has {len(groups)} groups without names: give the optimizer and the module themselves")
    if len(indices) != len(parameters):
        raise Refusal(f"optimizer trains {len(indices)} parameters, this map has {len(parameters)}")
    return indices


def _part(keys: Sequence[str], name: str, parameter: Any, held: Mapping[str, Any]) -> Array:
    """One kind of memory of one parameter, flat."""
    found = [held[key] for key in keys if held.get(key) is not None]
    if not found:
        return np.zeros(parameter.numel())
    if found[0].shape != parameter.shape:
        raise Refusal(f"optimizer remembers {name} with shape {tuple(found[0].shape)}: it has {tuple(parameter.shape)}")
    return np.asarray(found[0].detach().cpu().double().numpy()).ravel()
