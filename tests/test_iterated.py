"""The n-th iterate of a map: n steps in one, with every tool; and training by the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import nnflow
from nnflow import iterate
from nnflow.data.order import Order
from nnflow.testing import check_map

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(11, 2)), RNG.normal(size=(11, 1))


def test_iterates_satisfy_the_contract() -> None:
    check_map(iterate(nnflow.maps["henon"](), 2))
    check_map(iterate(nnflow.gradient_map(lambda w: (w**4).sum() / 8, 2, "adam", eta=0.1), 2))


def test_exponents_of_the_iterate_are_n_times_those_of_the_map() -> None:
    one = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](r=3.2), steps=300)
    three = nnflow.run("lyapunov_spectrum", iterate(nnflow.maps["logistic"](r=3.2), 3), steps=100, transient=400)
    assert three.exponent.item() == pytest.approx(3 * one.exponent.item(), abs=1e-9)


def test_a_two_cycle_is_a_fixed_point_of_the_second_iterate() -> None:
    map = nnflow.maps["logistic"](r=3.2)
    assert nnflow.run("orbit_diagram", map).period.item() == 2
    assert nnflow.run("orbit_diagram", iterate(map, 2)).period.item() == 1


def test_time_and_escapes_count_iterates() -> None:
    map = nnflow.maps["henon"]()
    states = [[0.1, 0.1], [3.0, 3.0]]
    inner, outer = (nnflow.Ensemble.grid(m, states=states).advance(n) for m, n in ((map, 30), (iterate(map, 3), 10)))
    assert outer.t == 10
    assert inner.escaped[1] > 0
    assert outer.escaped.tolist() == [-1, -(-inner.escaped[1] // 3)]
    assert np.array_equal(inner.states, outer.states, equal_nan=True)
    with pytest.raises(ValueError, match="n = 0: give how many steps"):
        iterate(map, 0)


# --------------------------------------------------------------------------------------------------- training by epochs


def regression(**settings: object) -> nnflow.TensorMap:
    """Least squares: a step is linear, so that exponents are those of products of matrices."""
    return nnflow.training_map(nn.Linear(2, 1), mse_loss, X, Y, batch=4, backend="tensor", eta=0.1, **settings)


def step_matrix(rows: np.ndarray, eta: float = 0.1) -> np.ndarray:
    """I − ηH of the batch, H = 2 ⟨(x, 1)(x, 1)ᵀ⟩."""
    z = np.hstack([X[rows], np.ones((len(rows), 1))])
    return np.eye(3) - eta * 2 * z.T @ z / len(rows)


def test_exponents_per_epoch_are_those_of_the_epochs_matrix() -> None:
    map = regression()
    assert (map.epoch, map.repeats, map.autonomous) == (3, True, False)
    product = np.linalg.multi_dot([step_matrix(Order(11, 4).rows(t)) for t in (2, 1, 0)])
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(product))))[::-1]
    found = nnflow.run("lyapunov_spectrum", map, steps=61, transient=200, k=3)
    assert found.exponent.attrs["steps"] == 63  # whole epochs
    np.testing.assert_allclose(found.exponent_per_epoch, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.exponent_per_epoch, 3 * found.exponent, rtol=1e-14)
    epoch = iterate(map, map.epoch)
    assert epoch.autonomous
    by_epoch = nnflow.run("lyapunov_spectrum", epoch, steps=21, transient=67, k=3)
    np.testing.assert_allclose(by_epoch.exponent, expected, rtol=0, atol=1e-10)
    assert (
        nnflow.run("orbit_diagram", epoch, observable="0" if False else "weight[0,0]", transient=500, steps=64).period
        == 1
    )
    assert nnflow.run("orbit_diagram", map, observable="weight[0,0]", transient=501, steps=64).period == 3


def test_a_shuffled_order_is_the_same_product_for_all_members() -> None:
    """The sum of exponents over 40 epochs against determinants of the batches that the seed draws."""
    map = regression(shuffle=5)
    assert not map.repeats
    found = nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(map, inits=2), steps=120, transient=6, k=3)
    logs = [np.linalg.slogdet(step_matrix(Order(11, 4, 5).rows(t)))[1] for t in range(6, 126)]
    np.testing.assert_allclose(found.exponent.sum("index"), np.mean(logs), rtol=0, atol=1e-12)
    with torch.no_grad():
        ends = nnflow.Ensemble.grid(map, inits=2).advance(600).states
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-9)  # one noise, one orbit in the end


def test_records_of_the_inner_map_are_held_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iterate of millions of steps takes no memory for them; blocks change no bit, and no time of escape."""
    scan = nnflow.Ensemble.grid(nnflow.iterate(nnflow.maps["henon"](), 20), states=[[0.1, 0.1], [5.0, 5.0]]).with_frame(
        2
    )
    known, end = scan.tangent_orbit(6, every=2)
    assert (end.escaped >= 0).tolist() == [False, True]
    monkeypatch.setattr("nnflow.iterated.BLOCK", 7)
    found, now = scan.tangent_orbit(6, every=2)
    np.testing.assert_array_equal(found.log_stretches, known.log_stretches)
    np.testing.assert_array_equal(now.states, end.states)
    np.testing.assert_array_equal(now.escaped, end.escaped)


def test_the_iterate_of_a_rule_that_reads_the_time_is_not_autonomous() -> None:
    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = x[0] + t

    map = nnflow.CompiledMap(rule)
    assert not map.autonomous
    assert not nnflow.iterate(map, 3).autonomous


def test_work_is_counted_in_steps_of_the_inner_map() -> None:
    many = iterate(iterate(nnflow.maps["logistic"](), 10**6), 10**6)
    assert many.substeps == 10**12
    with pytest.raises(nnflow.Refusal, match="steps of members"):
        nnflow.Ensemble.grid(many).advance(10**6)
    with pytest.raises(nnflow.Refusal, match="steps of members"):
        nnflow.run("displacement", many, steps=10**6)
