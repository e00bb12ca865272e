"""Pictures: every analysis draws what it computed, with labels, in one scan, many scans and none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import nnflow


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def scan(*axes: str) -> nnflow.Ensemble:
    values = {"a": np.linspace(1.0, 1.3, 4), "b": [0.2, 0.3]}
    return nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2, **{axis: values[axis] for axis in axes})


@pytest.mark.parametrize("axes", [(), ("a",), ("a", "b")], ids=["none", "one", "two"])
@pytest.mark.parametrize("name", ["lyapunov_spectrum", "orbit_diagram", "zero_one_test", "recurrence"])
def test_every_analysis_draws_with_labels(name: str, axes: tuple[str, ...]) -> None:
    dataset = nnflow.run(name, scan(*axes), steps=100, transient=10)
    figure = nnflow.plot(dataset)
    assert isinstance(figure, Figure)
    (drawn,) = figure.axes[:1]
    assert drawn.has_data()
    assert drawn.get_xlabel()
    assert drawn.get_ylabel()
    assert drawn.get_title() == f"henon: {name}"
    figure.canvas.draw()


def test_the_scanned_parameter_is_the_horizontal_axis() -> None:
    axes = nnflow.plot(nnflow.run("orbit_diagram", scan("a"), steps=50)).axes[0]
    assert axes.get_xlabel() == "a"
    x = np.concatenate([np.asarray(line.get_xdata()) for line in axes.lines])
    assert x.min() == pytest.approx(1.0)
    assert x.max() == pytest.approx(1.3)


def test_the_values_drawn_are_those_of_the_dataset() -> None:
    dataset = nnflow.run("orbit_diagram", nnflow.Ensemble.grid(nnflow.maps["logistic"](), r=[3.2, 3.5]), steps=20)
    (line,) = nnflow.plot(dataset).axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), dataset.value.values.ravel())


def test_a_history_and_a_matrix_draw() -> None:
    history = nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](), steps=100, history=True)
    drawn = nnflow.plot(history).axes[0]
    assert drawn.get_xlabel() == "time"
    np.testing.assert_array_equal(drawn.lines[0].get_ydata(), history.history.values[:, 0])
    matrix = nnflow.run("recurrence", nnflow.maps["henon"](), steps=60, matrix=True)
    axes = nnflow.plot(matrix).axes[0]
    assert axes.has_data()
    assert axes.get_aspect() in ("equal", 1.0)


def test_axes_of_ones_own_are_drawn_on() -> None:
    figure, axes = plt.subplots()
    assert nnflow.plot(nnflow.run("orbit_diagram", scan("a"), steps=20), axes) is figure
    assert axes.has_data()


def test_escaped_members_leave_gaps_and_no_warning() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2, r=[3.9, 4.5])
    network = nnflow.Ensemble.grid(nnflow.maps["iris"](), inits=2)
    network = network.with_states(network.states * [[1.0], [np.nan]])
    descent = nnflow.Ensemble.grid(nnflow.maps["cubic_descent"](), inits=2, eta=[2.5, 4.5])
    for name in nnflow.analyses.names():
        steps = {"steps": 200} if hasattr(nnflow.analyses[name], "steps") else {}
        members = descent if name in ("sharpness", "hessian_spectrum", "knock_out") else ensemble
        members = network if name == "reduced_model" else members
        few = {"moments": 20} if name == "local_expansion" else {}
        nnflow.plot(nnflow.run(name, members, transient=200, **steps, **few)).canvas.draw()


def test_a_dataset_from_a_file_draws(tmp_path: Any) -> None:
    nnflow.save(nnflow.run("recurrence", scan("a"), steps=100), tmp_path / "out.nc")
    assert nnflow.plot(nnflow.load(tmp_path / "out.nc")).axes[0].has_data()


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no attributes 'analysis' and 'settings'"):
        nnflow.plot(xr.Dataset())
    with pytest.raises(LookupError, match="unknown analysis 'gone'"):
        nnflow.plot(xr.Dataset(attrs={"analysis": "gone", "settings": "{}"}))
