"""Parameter groups: weights with a learning rate, or another parameter of the optimizer, of their own.

Group "head" has the rate `eta.head`, and `beta.head`, `weight_decay.head`, … where they are given. What a group has no
parameter of its own for it shares with the weights in no group.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.names import Refusal, shown


@dataclass(frozen=True)
class Groups:
    """Which weights belong together.

    Attributes:
        held: Group → the names of its parameters.
        which: ``(weights,)`` int64, of each weight: 0 where it is in no group, i in the i-th.
    """

    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    which: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def used(self) -> list[int]:
        """The values of `which` that occur."""
        return [int(i) for i in np.unique(self.which)]

    @property
    def everywhere(self) -> bool:
        """Whether each weight is in a group."""
        return bool(self.held) and 0 not in self.used

    def values(self, p: Mapping[str, Any], key: str) -> list[Any]:
        """The values of a parameter: of the weights in no group, and of each group."""
        own = [p.get(f"{key}.{group}", p.get(key)) for group in self.held]
        return [p.get(key, own[0] if own else None), *own]

    def own(self, p: Mapping[str, Any]) -> list[str]:
        """The parameters of which some group has a value of its own."""
        return list(dict.fromkeys(kind_of(name) for name in p if name != kind_of(name)))

    def shared(self, p: Collection[str], key: str, name: str) -> str:
        """What the value of a parameter is called that the weights of one of the module's parameters have."""
        group = next((group for group, names in self.held.items() if name in names), None)
        return f"{key}.{group}" if group is not None and f"{key}.{group}" in p else key


def kind_of(name: str) -> str:
    """What a parameter of a map is, whichever group it is of: eta of eta.head."""
    return name.partition(".")[0]


def groups_of(
    given: Mapping[str, str | Sequence[str]] | None,
    layout: Sequence[tuple[str, tuple[int, ...]]],
    names: Mapping[str, str],
) -> Groups:
    """The groups that a user names.

    Args:
        given: Group → its parameters: names, names of submodules that hold them ("2", "encoder"), or patterns
            ("*.bias").
        layout: (name, shape) of the module's parameters.
        names: All their names → those in the layout: what is shared has several.

    Returns:
        The groups.

    Raises:
        Refusal: for what names no parameter, a parameter in two groups, or a group without one.
    """
    if not given:
        return Groups()
    if not isinstance(given, Mapping):
        raise Refusal(f"groups = {shown(given)}: give a mapping, from a group's name to its parameters")
    held: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for group, parts in given.items():
        if not isinstance(group, str) or not re.fullmatch(r"\w+(\.\w+)*", group):
            raise Refusal(f"groups: {shown(group)}: give a group a name of letters and digits: its rate is eta.NAME")
        if isinstance(parts, str) or not isinstance(parts, Iterable):
            parts = [parts]
        listed = list(parts)
        held[group] = tuple(dict.fromkeys(name for part in listed for name in _named(group, part, names)))
        if not held[group]:
            raise Refusal(f"groups: {group!r} holds no parameters: name some, or leave the group out")
        for name in held[group]:
            if (other := owner.setdefault(name, group)) != group:
                raise Refusal(f"groups: {name} is in {other!r} and in {group!r}: a parameter is in one group")
    place = {group: i for i, group in enumerate(held, start=1)}
    marks = [place[owner[name]] if name in owner else 0 for name, _ in layout]
    return Groups(held, np.repeat(np.array(marks, dtype=np.int64), [int(np.prod(shape)) for _, shape in layout]))


def _named(group: str, part: Any, names: Mapping[str, str]) -> list[str]:
    """The parameters that a name, the name of a submodule or a pattern means, in order."""
    if not isinstance(part, str):
        raise Refusal(f"groups: {group!r} holds {shown(part)}: give names of parameters, such as {next(iter(names))!r}")
    found = [own for name, own in names.items()
             if name == part or name.startswith(f"{part}.") or fnmatchcase(name, part)]  # fmt: skip
    if not found:
        raise Refusal(f"groups: {group!r}: {part!r} matches no parameter that is trained: there are {', '.join(names)}")
    return found
