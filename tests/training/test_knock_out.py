"""Knocking out weights, against the loss written out."""

from __future__ import annotations

import numpy as np
import torch

import nnflow


def test_knock_out_of_each_weight() -> None:
    h = torch.tensor([1.0, 4.0, 0.0])
    map = nnflow.gradient_map(lambda w: 1 + (h * w**2).sum(), 3, "heavy_ball", eta=0.01)
    ensemble = nnflow.Ensemble.grid(map, inits=2)
    found = nnflow.run("knock_out", ensemble)
    w, whole = ensemble.states[:, :3], 1 + (h.numpy() * ensemble.states[:, :3] ** 2).sum(axis=1)
    np.testing.assert_allclose(found.baseline, whole, rtol=1e-14)
    np.testing.assert_allclose(found.ratio, (whole[:, None] - h.numpy() * w**2) / whole[:, None], rtol=1e-13)
    assert found.weight.values.tolist() == ["w0", "w1", "w2"]
    some = nnflow.run("knock_out", ensemble, where="w1", observable="gradient_norm")
    assert some.weight.values.tolist() == ["w1"]
    g = 2 * h.numpy() * w
    np.testing.assert_allclose(some.ratio[:, 0], np.hypot(g[:, 0], g[:, 2]) / np.linalg.norm(g, axis=1), rtol=1e-12)


def test_a_baseline_of_zero_is_a_value() -> None:
    map = nnflow.gradient_map(lambda w: (w @ w) ** 2, 2, eta=0.1)
    found = nnflow.run("knock_out", nnflow.Ensemble.grid(map, states=[[0.0, 0.0]]))
    assert np.isnan(found.ratio).all()
