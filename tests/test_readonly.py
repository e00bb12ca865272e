"""What is made is not changed: maps, the arrays of ensembles; and what small misuse of a mapping says."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow import Ensemble

HENON = nnflow.maps["henon"]()


@pytest.mark.parametrize("kind", ["parameters", "periods", "observables", "ranges", "limits", "structure"])
@pytest.mark.parametrize("map", [HENON, HENON.with_parameters(a=1.2), pickle.loads(pickle.dumps(HENON))])
def test_the_mappings_of_a_map_are_not_changed(map: Any, kind: str) -> None:
    """map.parameters["r"] = 3. went through, behind the limits and for everybody who holds the map."""
    held = getattr(map, kind)
    before = dict(held)
    for change in (
        lambda: held.__setitem__("a", 9.0),
        lambda: held.__delitem__("a"),
        lambda: held.update(a=9.0),
        lambda: held.setdefault("new", 9.0),
        lambda: held.pop("a"),
        held.popitem,
        held.clear,
        lambda: held.__ior__({"a": 9.0}),
    ):
        with pytest.raises(TypeError, match="a map is not changed once it is made"):
            change()
    assert held == before
    for free in (dict(held), held.copy(), {**held}, held | {}):
        free["a"] = 9.0
    assert copy.deepcopy(held) == before


@pytest.mark.parametrize("name", ["states", "scan", "moved", "taken"])
def test_the_arrays_of_an_ensemble_are_not_changed(name: str) -> None:
    scan = Ensemble.grid(HENON, inits=2, a=[1.2, 1.4])
    given = np.array([[0.1, 0.2]])
    one = {
        "states": Ensemble.grid(HENON).with_states(given),
        "scan": scan,
        "moved": scan.advance(3),
        "taken": scan.take([1, 2]),
    }[name]
    for held in (one.state, one.init, one.escaped, one.parameters, *(axis.values for axis in one.axes)):
        with pytest.raises(ValueError, match="read-only"):
            held[...] = 0
    one.states[:] = 0.0  # a copy
    given[:] = 0.0
    if name == "states":
        assert one.states.tolist() == [[0.1, 0.2]]


def test_a_mapping_for_numba_refuses_other_shapes() -> None:
    """A 2-d u was a TypingError of several lines."""
    mapping, jacobian = nnflow.numba_mapping(HENON)
    p = np.array([1.4, 0.3])
    for u, q in (
        (np.zeros((1, 2)), p), (np.zeros((2, 1)), p), (np.zeros(2), p[None]), (np.zeros(3), p),
    ):  # fmt: skip
        for function in (mapping, jacobian):
            with pytest.raises(ValueError, match=r"henon takes u of shape \(2,\) and parameters of shape \(2,\)"):
                function(u, q)
    assert mapping((0.5, 0.0), (1.4, 0.3)).tolist() == mapping(np.array([0.5, 0.0]), p).tolist()


class Dividing(nnflow.Map):
    """A step with Python's own numbers."""

    def step(self, x: Any, p: Any, t: int) -> Any:
        return np.array([[1.0 / float(value)] for value in x[:, 0]])


@pytest.mark.parametrize("check", [True, False])
def test_a_division_by_zero_names_the_map(check: bool) -> None:
    map = Dividing(dim=1, name="dividing", check=check)
    assert Ensemble.grid(map, x0=0.5).advance(1).states.tolist() == [[2.0]]
    with pytest.raises(nnflow.Refusal, match="the step of 'dividing' fails: ZeroDivisionError") as error:
        Ensemble.grid(map, x0=0.0).advance(1)
    assert "\n" not in str(error.value)
    Ensemble.grid(Dividing(dim=1, box=([0.0], [0.0]), check=check), x0=0.5).advance(1)  # the trial is elsewhere
