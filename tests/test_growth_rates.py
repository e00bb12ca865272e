"""Growth rates other than the spectrum: what all of them have to satisfy, and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from nnflow_plugins.growth.clipped_lyapunov import ClippedLyapunov
from nnflow_plugins.growth.finite_time_lyapunov import FiniteTimeLyapunov
from nnflow_plugins.growth.two_orbit_lyapunov import TwoOrbitLyapunov

import nnflow
from nnflow.testing import check_analysis


@dataclass(frozen=True)
class Short(TwoOrbitLyapunov):
    """The exponent of two orbits, put back fewer times: each is a call, and the contract takes a dozen runs."""

    steps: int = 500
    transient: int = 50


@pytest.mark.parametrize(
    ("kind", "name"),
    [(FiniteTimeLyapunov, "double_well_descent"), (Short, "double_well_descent"), (ClippedLyapunov, "softmax")],
)
def test_they_satisfy_the_contract(kind: Any, name: str) -> None:
    check_analysis(kind)
    check_analysis(kind, nnflow.maps[name]())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("finite_time_lyapunov", {"window": 300}, "steps = 1000, window = 300"),
        ("finite_time_lyapunov", {"k": 0}, "k = 0"),
        ("two_orbit_lyapunov", {"every": 3}, "every = 3"),
        ("two_orbit_lyapunov", {"size": -1.0}, "size = -1.0"),
        ("clipped_lyapunov", {"steps": 0}, "steps = 0"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnflow.run(name, nnflow.maps["henon"](), **settings)
