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

from nnflow.names import Refusal
from nnflow.systems.optimisers.groups import Groups
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.systems.optimisers.torch_rule import TORCH_MEMORY, TORCH_NAMES, same_rule, settings_of
from nnflow.typing import Array


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
    same_rule(name, groups, held["state"], "" if isinstance(optimizer, Mapping) else type(optimizer).__name__)
    if isinstance(optimizer, Mapping):
        indices = _by_order(groups, parameters)
    else:
        indices = _by_identity(optimizer, parameters) if mine else _by_value(optimizer, parameters)
    settings = {i: settings_of(name, group) for group in groups for i in group["params"]}
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
