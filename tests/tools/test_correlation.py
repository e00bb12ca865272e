"""The correlation of a trajectory with itself, against the double loop."""

from __future__ import annotations

import numpy as np
from nnflow_plugins.tools.correlation import trajectory_correlation

RNG = np.random.default_rng(4)


def test_the_correlation_is_that_of_the_double_loop() -> None:
    w = RNG.normal(size=(40, 3)).cumsum(axis=0)
    away = w - w.mean(axis=0)
    expected = [(away[: 40 - lag] * away[lag:]).sum() / (away * away).sum() for lag in range(12)]
    np.testing.assert_allclose(trajectory_correlation(w, 11), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(trajectory_correlation(w[:, 0], 5), trajectory_correlation(w[:, :1], 5), atol=1e-15)
