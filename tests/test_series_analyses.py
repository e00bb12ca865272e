"""Autocorrelation and displacement: what both have to satisfy, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from nnflow_plugins.orbits.displacement import Displacement
from nnflow_plugins.signals.autocorrelation import Autocorrelation

import nnflow
from nnflow.testing import check_analysis


def test_they_satisfy_the_contract() -> None:
    check_analysis(Autocorrelation)
    check_analysis(Displacement)
    check_analysis(Displacement, nnflow.maps["cubic_descent"]())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("autocorrelation", {"level": 1.0}, "level = 1.0"),
        ("autocorrelation", {"lags": 20, "steps": 20}, "lags = 20: 20 samples need"),
        ("displacement", {"steps": 0}, "steps = 0"),
        ("displacement", {"where": "q"}, "'q': matches no coordinate"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run(name, nnflow.maps["henon"](), **settings)
