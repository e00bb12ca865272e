"""Net displacement against path length, counted along the orbit."""

from __future__ import annotations

import numpy as np
import pytest

import nnflow


def test_a_weight_that_goes_straight_has_a_path_as_long_as_its_way() -> None:
    map = nnflow.gradient_map(lambda w: (w[0] - 1) ** 2 + 0.1 * (w[1] - 2) ** 2, 2, eta=0.9)
    found = nnflow.run("displacement", nnflow.Ensemble.grid(map, states=[[3.0, 0.5]]), steps=600)
    records, after = nnflow.Ensemble.grid(map, states=[[3.0, 0.5]]).orbit(600)
    ways = np.vstack([records[0], after.states])
    np.testing.assert_allclose(found.path, np.abs(np.diff(ways, axis=0)).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.net, np.abs(ways[-1] - ways[0]), rtol=1e-12)
    ratio = (found.path / found.net).values
    assert ratio[0] > 5  # eta · h = 1.8: it swings
    assert ratio[1] == pytest.approx(1.0, rel=1e-9)
    assert found.relative.item() == pytest.approx((2.0 + 1.5) / 3.5, rel=1e-9)
