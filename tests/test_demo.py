"""The demo at a small size: what it writes, what it says, and the physics in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from nnflow_studies.demo import CHANCE, Demo, first_chaos, first_doubling, table

import nnflow

NAMES = ("logistic", "henon", "iris")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "results"
    Demo(out=folder, values=24, inits=3, settle=0.3)()
    return folder


@pytest.fixture(scope="module")
def results(out: Path) -> dict[str, xr.Dataset]:
    return {name: nnflow.load(out / f"{name}.nc") for name in NAMES}


def test_it_writes_a_picture_and_three_datasets(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == ["demo.png", "henon.nc", "iris.nc", "logistic.nc"]
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "demo.png").stat().st_size > 100_000


def test_the_scans_are_those_asked_for(results: dict[str, xr.Dataset]) -> None:
    for name, (parameter, low, high) in zip(
        NAMES, [("r", 2.5, 4.0), ("a", 0.0, 1.4), ("eta", 0.01, 12.0)], strict=True
    ):
        data = results[name]
        np.testing.assert_allclose(data[parameter].values, np.linspace(low, high, 24))
        assert data.sizes["init"] == 3
        assert {"value", "period", "exponent", "K", "drift", "kind", "ending", "escaped"} <= set(data.data_vars)


def test_doublings_and_chaos_are_where_they_belong(results: dict[str, xr.Dataset]) -> None:
    spacing = {"r": 1.5 / 23, "a": 1.4 / 23}
    for name, parameter, doubling, chaos in (("logistic", "r", 3.0, 3.5699), ("henon", "a", 0.3675, 1.058)):
        assert 0 <= first_doubling(results[name], parameter) - doubling <= spacing[parameter]
        assert 0 <= first_chaos(results[name], parameter) - chaos <= 2 * spacing[parameter]


def test_the_network_learns_at_small_rates_and_is_at_chance_at_large_ones(results: dict[str, xr.Dataset]) -> None:
    iris = results["iris"]
    assert (iris.mean_accuracy.sel(eta=slice(0.1, 1.2)) > 0.8).all()
    assert float((iris.mean_accuracy.sel(eta=slice(8, 12)) < CHANCE).mean()) > 0.8
    assert (iris.escaped == -1).all()
    drifting = (iris["drift"] > iris["drift"].attrs["threshold"]).sel(eta=slice(0, 0.9))
    assert float(drifting.mean()) > 0.5  # the loss still falls there: no attractor
    assert "exponents" not in iris.attrs  # they are finite-time, and labelled so


def test_the_table_has_the_known_values_beside_the_found_ones(results: dict[str, xr.Dataset]) -> None:
    text = table(results)
    for word in ("3.56995", "0.3675", "1.05805", "finite-time", "iris", "grid spacing"):
        assert word in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": 3}, "values = 3"),
        ({"inits": 0}, "inits = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"settle": 0.0}, "settle"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Demo(**settings)  # type: ignore[arg-type]


def test_one_initial_state_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Demo(out=tmp_path, values=4, inits=1, settle=0.01)()
    assert (tmp_path / "demo.png").exists()
    assert "Wrote" in capsys.readouterr().out
