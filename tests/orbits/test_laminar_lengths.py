"""Laminar phases: lengths counted by hand, and a known scaling law."""

from __future__ import annotations

import math

import numpy as np
import pytest
from nnflow_plugins.orbits.laminar_lengths import LaminarLengths, laminar_lengths, laminar_phases, length_bins

import nnflow


def test_laminar_lengths_by_hand() -> None:
    #         | cut |      | 3 samples |           | too short |     | cut |
    series = [1, 1, 1, 9.0, 4, 4.1, 4.2, 4.1, 20.0, 7, 7, 0.0, 5, 5, 5]
    found = laminar_phases(series, tolerance=0.15, shortest=2)
    assert found.start.tolist() == [0, 4, 12]
    assert found.length.tolist() == [2, 3, 2]
    assert found.complete.tolist() == [False, True, False]
    assert laminar_lengths(series, tolerance=0.15, shortest=1).tolist() == [3, 1]
    assert laminar_lengths(series, tolerance=0.05).tolist() == []
    two = [0, 9, 1, 5, 1, 5, 1, 5, 3, 8]  # period 2 from sample 2 on: four samples are alike two later
    assert laminar_lengths(two, period=2, tolerance=0.5).tolist() == [4]
    assert laminar_lengths(two, period=1, tolerance=0.5).tolist() == []


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_a_constant_is_laminar_and_has_no_end(value: float) -> None:
    found = laminar_phases(np.full(50, value), period=3)
    assert found.length.tolist() == [47]
    assert not found.complete.any()


def test_the_bins_hold_every_length_once() -> None:
    assert length_bins(2, 100_000, 24)[[0, -1]].tolist() == [2, 100_001]
    assert length_bins(1, 5, 50).tolist() == [1, 2, 3, 4, 5, 6]
    r = 1 + math.sqrt(8) - 1e-4
    found = nnflow.run(LaminarLengths(period=3, steps=30_000, shortest=1), nnflow.maps["logistic"](r=r))
    assert found.histogram.sum() == found.phases > 100
    assert float((found.histogram * found.length).sum() / found.phases) == pytest.approx(
        found.mean_length.item(), rel=0.1
    )
    alone = found.width == 1
    assert (found.length[alone] == np.round(found.length[alone])).all()
    assert found.longest <= 30_000


def test_type_one_intermittency_scales_with_the_inverse_square_root() -> None:
    """Below the period-three window of the logistic map; its chaotic bursts hold no phase of 20 samples."""
    distance = np.geomspace(1e-6, 1e-3, 7)
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=1 + math.sqrt(8) - distance)
    found = nnflow.run(LaminarLengths(period=3, tolerance=0.03, shortest=20, steps=500_000), scan)
    exponent = np.polyfit(np.log(distance), np.log(found.mean_length), 1)[0]
    assert exponent == pytest.approx(-0.5, abs=0.03)
    assert (found.phases > 300).all()
    assert (np.diff(found.laminar_share) < 0).all()
    inside = nnflow.run(LaminarLengths(period=3), nnflow.maps["logistic"](r=1 + math.sqrt(8) + 1e-3))
    assert inside.laminar_share == 1
    assert inside.phases == 0
    assert math.isnan(inside.mean_length)
