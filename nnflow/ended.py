"""Where a run ended, read from its result: what a dataset tells of the members, and what it should and does not.

A dataset goes through many hands before it comes back: dims are dropped and renamed, members masked, attributes edited.
Nothing that is not told any more is guessed: it is refused, with what to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.names import Refusal, shown
from nnflow.settings import convert, whole

if TYPE_CHECKING:
    from nnflow.map import Map

LACKING = object()


def ended(map: Map, dataset: Any) -> dict[str, Any]:
    """The fields of the ensemble that a run left.

    Args:
        map: The map of that run.
        dataset: Its result, with states.

    Returns:
        The arguments of `Ensemble`, but for the map; axes as (name, values, kind).

    Raises:
        Refusal: for a dataset without states, of another map, whose attributes say nothing that can be read, or that
            has lost what told one member from another.
    """
    state = _state(map, dataset)
    told = _Members(map, dataset, state)
    members = np.array(state.values, dtype=np.float64).reshape(-1, map.dim)
    parameters = np.array([told.values(name) for name in map.parameters]).reshape(-1, len(members)).T
    return {
        "state": map.native(members),
        "parameters": parameters,
        "t": _attribute(state, "t", lambda value: whole("t", value, 0)),
        "escaped": told.indices("escaped"),
        "axes": tuple((str(dim), dataset[dim].values, _kind(map, str(dim))) for dim in state.dims[:-1]),
        "init": told.indices("init"),
        "seed": _attribute(dataset, "seed", lambda value: whole("seed", value, 0)),
        "origin": _attribute(state, "origin", lambda value: convert("origin", value, str)),
        "began": _attribute(state, "began", lambda value: whole("began", value, 0)),
    }


class _Members:
    """What a dataset tells of each member: by coordinates, or in one word for all."""

    def __init__(self, map: Map, dataset: Any, state: Any) -> None:
        self.dataset, self.state, dims = dataset, state, state.dims[:-1]
        own = {name for name, values in dataset.coords.items() if set(values.dims) <= set(dims)}
        self.told = own | {"escaped"}  # a variable may have the name of a parameter, a coordinate of members may not
        scanned = _attribute(dataset, "scanned", lambda text: convert("scanned", json.loads(text), tuple[str, ...]))
        for name in scanned:
            if name not in own:
                raise Refusal(
                    f"the run scanned {name}, and the result tells its values no more: keep the coordinate {name!r} "
                    f"(isel({name}=0) without drop=True), or bring it back by assign_coords({name}=…)"
                )
        self.alike = {**({} if "init" in scanned else {"init": 0}), **_attribute(dataset, "parameters", _parameters)}
        for name in map.parameters:
            if name not in self.told and name not in self.alike:
                raise Refusal(f"the result does not tell the parameter {name}: its attributes are damaged")

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """Finite numbers, one a member. Raises Refusal."""
        if name not in self.told:
            found = self.alike[name]
        elif name not in self.dataset or not set(self.dataset[name].dims) <= set(self.state.dims[:-1]):
            raise Refusal(f"the result has no {name!r} of each member, which tells where the run ended: leave it in")
        else:
            found = self.dataset[name].broadcast_like(self.state).transpose(*self.state.dims).values[..., 0]
        try:
            numbers = np.broadcast_to(np.asarray(found, dtype=np.float64), self.state.shape[:-1]).ravel()
        except (TypeError, ValueError):
            raise Refusal(f"{name} of the result is {shown(found)}: give numbers") from None
        if not np.isfinite(numbers).all():
            raise Refusal(
                f"{name} of the result is {numbers[~np.isfinite(numbers)][0]} for some members, as where() leaves "
                "those that it masks: leave them out, by isel, sel or where(…, drop=True)"
            )
        return numbers

    def indices(self, name: str) -> npt.NDArray[np.int64]:
        """Whole numbers, one a member. Raises Refusal."""
        numbers = self.values(name)
        if (odd := numbers[(numbers != np.rint(numbers)) | (np.abs(numbers) > 2**53)]).size:
            raise Refusal(f"{name} of the result is {odd[0]} for some members: it counts, and has to be whole")
        return numbers.astype(np.int64)


def _state(map: Map, dataset: Any) -> Any:
    """The states in a result. Raises Refusal if it has none, or is of another map."""
    if "state" not in getattr(dataset, "data_vars", ()) or "component" not in dataset["state"].dims:
        raise Refusal("the result holds no states: run it with return_states=True")
    mine = (map.name, json.dumps(dict(map.structure), default=str), list(map.coordinates))
    names = (_attribute(dataset, name, lambda value: convert("it", value, str)) for name in ("map", "structure"))
    if (told := (*names, dataset["component"].values.tolist())) != mine:
        beside = "" if told[:2] != mine[:2] else f", of components {shown(told[2])} and not {shown(mine[2])}"
        raise Refusal(
            f"the result is of {told[0]} {told[1]}, this map is {mine[0]} {mine[1]}{beside}: make the same map"
        )
    state = dataset["state"].transpose(..., "component")
    if state.dtype.kind not in "fiu":
        raise Refusal(f"the states of the result are {state.dtype}: give numbers")
    return state


def _attribute(held: Any, name: str, read: Callable[[Any], Any]) -> Any:
    """What an attribute of the result says. Raises Refusal if it is not there, or cannot be read."""
    if (value := held.attrs.get(name, LACKING)) is LACKING:
        raise Refusal(
            f"the result has lost its attribute {name!r}: give it as run or load returned it, attributes kept"
        )
    try:
        return read(value)
    except (ValueError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise Refusal(f"the attribute {name!r} of the result is damaged: {shown(value)} ({why})") from error


def _parameters(text: Any) -> Mapping[str, Any]:
    """Parameter → value, from JSON. Raises ValueError or TypeError."""
    if not isinstance(found := json.loads(text), dict):
        raise TypeError("no mapping from names")
    return {name: convert(name, value, float) for name, value in found.items()}


def _kind(map: Map, name: str) -> str:
    """What the axis of a result varies."""
    known = {**dict.fromkeys(map.coordinates, "coordinate"), **dict.fromkeys(map.parameters, "parameter")}
    return known.get(name, "init" if name == "init" else "member")
