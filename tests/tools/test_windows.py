"""Windows of a series: how many there are, and their lines against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from nnflow_plugins.tools.windows import fits, windows


def test_the_study_has_315_windows() -> None:
    spans = windows(0, 100, 5, 30, 100, 200)
    assert len(spans) == 21 * 15
    assert spans.min(axis=0).tolist() == [0, 30]
    assert spans.max() == 200
    assert len(windows(0, 100, 5, 30, 100, 120)) < 315


def test_fits_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    time, y = np.arange(60.0), rng.normal(size=(3, 60)).cumsum(axis=1)
    spans = windows(0, 20, 10, 20, 40, 60)
    slopes, squares = fits(y, time, spans)
    for i in range(3):
        for j, (a, b) in enumerate(spans):
            exact = np.polyfit(time[a:b], y[i, a:b], 1)
            assert slopes[i, j] == pytest.approx(exact[0], rel=1e-9)
            assert squares[i, j] == pytest.approx(np.corrcoef(time[a:b], y[i, a:b])[0, 1] ** 2, rel=1e-9)
    assert fits(np.zeros((1, 60)), time, spans)[1].max() == 0
