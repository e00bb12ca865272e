"""Going on from a result that went through other hands: what it tells no more is refused, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import nnflow
from nnflow import Ensemble

L = nnflow.maps["logistic"]()


@pytest.fixture(scope="module")
def full() -> xr.Dataset:
    return nnflow.run("series", Ensemble.grid(L, r=[3.5, 3.9], inits=2), steps=4, return_states=True)


def refused(dataset: Any, match: str) -> None:
    with pytest.raises(nnflow.Refusal, match=match) as error:
        Ensemble.from_result(L, dataset)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda d: d.isel(r=0, drop=True), "r"),
        (lambda d: d.rename(r="q"), "r"),
        (lambda d: d.drop_vars("r"), "r"),
        (lambda d: d.isel(init=1, drop=True), "init"),
        (lambda d: d.rename(init="start"), "init"),
    ],
)
def test_a_scanned_axis_that_is_gone_is_not_guessed(full: xr.Dataset, change: Callable[[Any], Any], name: str) -> None:
    """r was 3.9999, the map's default, and each init 0, so that other frames were drawn."""
    refused(change(full), rf"the run scanned {name}, .*isel\({name}=0\) without drop=True.*assign_coords\({name}=")


def test_what_differs_without_an_axis_is_told_too(full: xr.Dataset) -> None:
    """A KeyError: what `take` leaves has no axis r, and the attributes have no r."""
    part = nnflow.run("series", Ensemble.grid(L, r=[3.5, 3.9], inits=2).take([1, 2]), steps=4, return_states=True)
    assert Ensemble.from_result(L, part).parameters.ravel().tolist() == [3.5, 3.9]
    refused(part.drop_vars("r"), "the run scanned r")
    refused(part.drop_vars("init"), "the run scanned init")


def test_what_a_result_still_tells_is_taken(full: xr.Dataset) -> None:
    start = Ensemble.grid(L, r=[3.5, 3.9], inits=2).advance(4)
    for found, own in (
        (full.isel(r=0), start.select("r", 0)),
        (full.isel(init=1), start.select("init", 1)),
        (full.sel(r=3.9).isel(init=1), start.select("r", 1).select("init", 1)),
        (full.isel(r=0, drop=True).assign_coords(r=3.5), start.select("r", 0)),
        (full.where(full.r > 3.6, drop=True).isel(r=0), start.select("r", 1)),
        (full.transpose("component", "init", ...).transpose("r", "init", ...), start),
    ):
        after = Ensemble.from_result(L, found)
        np.testing.assert_array_equal(after.parameters, own.parameters)
        np.testing.assert_array_equal(after.states, own.states)
        np.testing.assert_array_equal(after.init, own.init)
        np.testing.assert_array_equal(after.with_frame(1).frames, own.with_frame(1).frames)
    scan = nnflow.run("series", Ensemble.grid(L, x=[0.1, 0.2]), steps=4, return_states=True)
    assert Ensemble.from_result(L, scan.isel(x=1, drop=True)).states.ravel() == scan.state.values[1]


def test_masked_members_are_refused(full: xr.Dataset) -> None:
    """`escaped` was -9223372036854775808, beside numpy's warning of a cast."""
    refused(full.where(full.r > 3.6), r"escaped of the result is nan for some members, as where\(\) leaves")
    refused(full.reindex(r=[3.5, 3.7]), "escaped of the result is nan")
    refused(full.assign(escaped=full.escaped + 0.5), "escaped of the result is -0.5 for some members")
    refused(full.assign_coords(r=[3.5, np.nan]), "r of the result is nan")
    refused(full.assign_coords(r=["a", "b"]), "r of the result is .*: give numbers")
    refused(full.drop_vars("escaped"), "the result has no 'escaped' of each member")
    refused(full.assign(escaped=full.value), "the result has no 'escaped' of each member")
    refused(full.state, "the result holds no states")


@pytest.mark.parametrize("name", ["parameters", "scanned", "seed", "map", "structure"])
@pytest.mark.parametrize("value", ["{", "[1]", '{"r": "x"}', "", 1.5, [1, 2], None])
def test_damaged_attributes_are_refused_in_one_line(full: xr.Dataset, name: str, value: Any, tmp_path: Path) -> None:
    """JSONDecodeError, an error of int(), a KeyError: the checksum does not know who wrote a file."""
    damaged = full.copy()
    damaged.attrs = {k: v for k, v in {**full.attrs, name: value}.items() if v is not None}
    nnflow.save(damaged, tmp_path / "damaged.nc")
    refused(nnflow.load(tmp_path / "damaged.nc"), rf"{name}|the result is of")


@pytest.mark.parametrize("name", ["t", "began", "origin"])
def test_damaged_attributes_of_the_states_are_refused(full: xr.Dataset, name: str) -> None:
    for value in (-1, 1.5, [1, 2], LACKING):
        damaged = full.copy(deep=True)
        damaged.state.attrs[name] = value
        if value is LACKING:
            del damaged.state.attrs[name]
        refused(damaged, f"attribute '{name}'")
    refused(full.assign(state=full.state.astype(str)), "states of the result are <U")
    refused(full.assign_coords(component=["z"]), r"of components \['z'\] and not \['x'\]")


LACKING = object()
