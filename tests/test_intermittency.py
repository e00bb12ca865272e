"""Plateaus and laminar phases beside one another: series that escape, pictures of nothing, what both refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.orbits.laminar_lengths import LaminarLengths, laminar_lengths
from nnflow_plugins.orbits.plateaus import Plateaus, segment

import nnflow
from nnflow.testing import check_analysis


def test_a_series_that_escapes_has_no_segments_and_no_phases() -> None:
    for value in (np.nan, np.inf):
        series = np.append(np.repeat([10.0, 14.0, 11.0, 12.0], [730, 1205, 404, 961]), value)
        assert len(segment(series).start) == len(laminar_lengths(series)) == 0
    assert laminar_lengths([9, 1, 1, 1, 9], tolerance=0.5).tolist() == [2]
    assert laminar_lengths([9, 1, 1, 1, 9, np.nan], tolerance=0.5).tolist() == []
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[3.2, 4.5])
    plateaus = nnflow.run(Plateaus(steps=500), scan)
    assert plateaus.segments.values.tolist() == [1, 0]
    assert math.isnan(plateaus.plateau_share[1])
    assert plateaus.start[1].max() == -1
    phases = nnflow.run(LaminarLengths(steps=500), scan)
    assert phases.phases.values.tolist() == [0, 0]
    assert math.isnan(phases.laminar_share[1])


@pytest.mark.parametrize("method", [Plateaus(steps=500), LaminarLengths(steps=500)])
@pytest.mark.parametrize("r", [3.2, 3.9, 4.5])
def test_they_draw_what_there_is_even_nothing(method: Any, r: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    method.draw(nnflow.run(method, nnflow.maps["logistic"](r=r)), axes)
    FigureCanvasAgg(figure).draw()
    assert axes.get_xlabel()


@pytest.mark.parametrize("kind", [Plateaus, LaminarLengths])
def test_they_satisfy_the_contract(kind: Any) -> None:
    check_analysis(kind)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Plateaus, {"block": 0}, "block = 0: give 1 or more"),
        (Plateaus, {"jump": 0.0}, "jump = 0.0: give a positive"),
        (Plateaus, {"shortest": 1}, "shortest = 1: give 2 or more"),
        (Plateaus, {"most": 0}, "most = 0: give 1 or more"),
        (Plateaus, {"transient": -1}, "transient = -1: give 0 or more"),
        (Plateaus, {"steps": 99}, "steps = 99: give 100 or more"),
        (LaminarLengths, {"period": 0}, "period = 0: give 1 or more"),
        (LaminarLengths, {"tolerance": -1.0}, "tolerance = -1.0: give a positive"),
        (LaminarLengths, {"shortest": 0}, "shortest = 0: give 1 or more"),
        (LaminarLengths, {"bins": 0}, "bins = 0: give 1 or more"),
        (LaminarLengths, {"transient": -1}, "transient = -1: give 0 or more"),
        (LaminarLengths, {"steps": 2}, "steps = 2: give 3 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_series_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="20 samples"):
        segment(np.zeros(19))
    with pytest.raises(ValueError, match="more samples than period = 5"):
        laminar_lengths(np.zeros(5), period=5)
