"""Plateaus: known edges, an exhaustive partition, and series that have none."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.orbits.plateaus import Plateaus, block_means, block_noise, merged, partition, segment, smallest_jump

import nnflow

LEVELS, LENGTHS = [10.0, 14.0, 11.0, 12.0], [730, 1205, 404, 961]
EDGES = np.cumsum([0, *LENGTHS])


def steps() -> np.ndarray[Any, Any]:
    return np.repeat(LEVELS, LENGTHS)


def chaos(samples: int, r: float = 3.9) -> Any:
    return nnflow.Ensemble.grid(nnflow.maps["logistic"](r=r), states=[[0.3]]).advance(1000).orbit(samples)[0][0, :, 0]


def share(series: Any, **settings: Any) -> float:
    found = segment(series, **settings)
    return float((found.end - found.start)[found.flat].sum() / len(series))


def test_steps_are_found_to_the_sample() -> None:
    found = segment(steps())
    assert found.start.tolist() == EDGES[:-1].tolist()
    assert found.end.tolist() == EDGES[1:].tolist()
    assert found.level.tolist() == LEVELS
    assert found.spread.tolist() == [0.0] * 4
    assert found.flat.all()


@pytest.mark.parametrize("r", [3.55, 3.7, 3.9, 4.0])
def test_steps_under_a_chaotic_band_are_found_within_a_block(r: float) -> None:
    band = chaos(EDGES[-1], r)
    found = segment(steps() + band)
    assert found.flat.all()
    np.testing.assert_allclose(found.start, EDGES[:-1], atol=20)
    np.testing.assert_allclose(found.level - band.mean(), LEVELS, atol=0.05)
    np.testing.assert_allclose(found.spread, np.ptp(band), atol=0.2)  # where bands overlap, an edge is a guess


def test_chaos_alone_and_a_period_that_blocks_do_not_divide_are_one_plateau() -> None:
    for series in (chaos(10_000), chaos(10_000, 3.84), np.tile([0.0, 1.0, 5.0], 2000)):
        found = segment(series)
        assert len(found.start) == 1
        assert found.flat.all()


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_one_plateau_whatever_the_jump(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=10_000)
    for jump in (None, 0.05):
        assert segment(noise, jump=jump).flat.tolist() == [True]
    assert smallest_jump(noise, 20) == pytest.approx(3 * 20**-0.5, rel=0.2)
    step = noise + np.repeat([0.0, 2 * 20**-0.5], 5000)  # two deviations of a block mean: seen, but no jump by default
    assert (len(segment(step).start), len(segment(step, jump=0.2).start)) == (1, 2)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, 1e-300])
def test_a_constant_is_one_plateau(value: float) -> None:
    found = segment(np.full(1010, value))
    assert (found.start.tolist(), found.end.tolist(), found.flat.tolist()) == ([0], [1010], [True])
    assert found.level[0] == pytest.approx(value, rel=1e-12)
    wobble = value * (1 + np.finfo(float).eps * np.repeat([0, 1, 0, 3], 250))
    assert segment(wobble).flat.tolist() == [True]


@pytest.mark.parametrize("samples", [200, 505, 3000, 10_000, 30_000])
def test_a_drift_is_no_plateau(samples: int) -> None:
    time = np.linspace(0, 1, samples)
    for series in (time, -time, np.sqrt(time), time**2, np.log1p(9 * time)):
        assert share(series) == 0
        assert len(segment(series).start) == 1
    assert max(share(time, jump=jump) for jump in np.geomspace(0.003, 0.4, 12)) == 0


def test_a_stretch_that_moves_lies_between_two_plateaus() -> None:
    series = np.concatenate([np.zeros(1000), np.linspace(0, 5, 1000), np.full(1000, 5.0)])
    found = segment(series)
    assert found.flat.tolist() == [True, False, True]
    np.testing.assert_allclose(found.start[1:], [1000, 2000], atol=40)
    visit = np.concatenate([np.zeros(1000), np.full(60, 5.0), np.zeros(1000)])
    assert segment(visit).flat.tolist() == [True, False, True]  # three blocks are no plateau …
    assert segment(visit, shortest=3).flat.all()  # … unless plateaus may be as short


def test_levels_nearer_than_a_jump_are_one() -> None:
    series = np.repeat([0.0, 1.0, 5.0], 500)
    assert len(segment(series, jump=0.9).start) == 3
    found = segment(series, jump=1.1)
    assert found.start[-1] == 1000
    assert merged(np.array([0.0, 0.0, 0.9, 5.0]), np.array([0, 2, 3, 4])).tolist() == [0, 3, 4]
    assert merged(np.array([0.0, 0.6, 1.3]), np.arange(4)).tolist() == [0, 2, 3]  # the closest first, then 0.3 and 1.3


def test_the_partition_is_the_best_of_all() -> None:
    """Every partition of eleven values, one by one."""
    rng = np.random.default_rng(1)
    for penalty in (0.05, 0.5, 2.0, 30.0):
        values = rng.normal(size=11) + np.repeat([0.0, 2.0, -1.0], [4, 3, 4])

        def cost(edges: Any, values: Any = values, penalty: float = penalty) -> float:
            return penalty * (len(edges) - 1) + sum(values[a:b].var() * (b - a) for a, b in pairwise(edges))

        every = [(0, *inner, 11) for k in range(11) for inner in combinations(range(1, 11), k)]
        assert tuple(partition(values, penalty)) == min(every, key=cost)


def test_the_noise_of_block_means_sees_no_level_and_no_drift() -> None:
    rng = np.random.default_rng(0)
    means = block_means(rng.normal(size=80_007), 20)
    assert len(means) == 4000
    assert block_noise(means) == pytest.approx(20**-0.5, rel=0.05)
    assert block_noise(means + np.linspace(0, 100, 4000)) == pytest.approx(block_noise(means), rel=0.01)
    assert block_noise(means + np.repeat([0, 50, 20, 90], 1000)) == pytest.approx(block_noise(means), rel=0.01)


def test_the_analysis_counts_jumps_and_pads() -> None:
    values = np.stack([steps(), np.full(EDGES[-1], 2.0), np.linspace(0, 1, EDGES[-1])])
    recording = nnflow.Recording(values[:, :, None], "height")
    found = nnflow.run(Plateaus(steps=3200, transient=100), recording)
    assert found.segments.values.tolist() == [4, 1, 1]
    assert found.jumps.values.tolist() == [3, 0, 0]
    assert found.plateau_share.values.tolist() == [1.0, 1.0, 0.0]
    assert found.start[0, :5].values.tolist() == [100, *EDGES[1:4], -1]
    assert found.end[0, 4:].values.max() == -1
    assert found.level[1].isnull().sum() == 31
    assert found.level.attrs["long_name"] == "height"
    assert found.threshold.values[0] == pytest.approx(0.08)
    few = nnflow.run(Plateaus(steps=3300, most=2), recording)
    assert few.start[0].values.tolist() == [EDGES[1], EDGES[3]]  # the two longest, in time order
    assert few.segments.values[0] == 4
    assert few.jumps.values[0] == 3


def test_iris_at_learning_rate_five_climbs_from_plateau_to_plateau() -> None:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["iris"](eta=5.0), inits=5, seed=0).take([4])
    found = nnflow.run(Plateaus("l1"), ensemble).isel(member=0)
    levels = found.level.values[found.flat.values]
    assert found.jumps >= 2
    assert (np.diff(levels) > 0).all()
    assert 100 < levels.min() < levels.max() < 214
    assert found.plateau_share > 0.9
