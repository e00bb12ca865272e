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


def test_what_has_decayed_far_below_its_start_does_not_move() -> None:
    """The square of the start's rounding, in units of what is left, overflowed: an OverflowError."""
    for left in (1e-300, 1e-160, 5e-324):
        assert np.isnan(trajectory_correlation([0.0, left, 0.0, left], 2, floor=1e-14)).all()
        assert np.isfinite(trajectory_correlation([0.0, left, 0.0, left], 2)).all()
