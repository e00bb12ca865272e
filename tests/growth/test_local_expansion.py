"""Local expansion rates: a direct computation, maps of known exponent, false neighbours, and what has no rate."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.growth.local_expansion import LocalExpansion, Rates, expansion_rates, neighbours, slope_p_value
from scipy.stats import linregress

import nnflow
from nnflow.testing import check_analysis


def series(name: str, steps: int, **parameters: float) -> Any:
    ensemble = nnflow.Ensemble.grid(nnflow.maps[name](**parameters), inits=1, seed=1)
    return ensemble.advance(1000).orbit(steps, 1, "x")[0][0, :, 0]


def median(found: Rates) -> float:
    return float(np.median(found.rate[found.kept]))


def direct(x: Any, t: int, settings: Any) -> tuple[float, float, int, float, bool]:
    """Rate, R², neighbours, false share and kept of one seed time, by loops over all other times."""
    e, tau, radius, last = (settings[name] for name in ("embedding", "delay", "radius", "longest"))
    near = []
    for other in range((e - 1) * tau, len(x) - max(last, tau)):
        apart = max(abs(x[t - k * tau] - x[other - k * tau]) for k in range(e))
        if abs(other - t) >= settings["theiler"] and apart < radius:
            near.append(other)
    if not near:
        return math.nan, math.nan, 0, math.nan, False
    false = sum(abs(x[t + tau] - x[other + tau]) > settings["tolerance"] * radius for other in near) / len(near)
    y = [math.log(sum(abs(x[t + n] - x[other + n]) for other in near) / len(near)) for n in range(1, last + 1)]
    fits = [linregress(range(1, m + 1), y[:m]) for m in range(settings["shortest"], last + 1)]
    best = max(fits, key=lambda fit: fit.rvalue**2)
    screen = settings["screen"]
    kept = linregress(range(1, screen + 1), y[:screen]).pvalue <= settings["significance"]
    return best.slope, best.rvalue**2, len(near), false, kept


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"embedding": 2, "radius": 0.05, "tolerance": 1.5},
        {"embedding": 2, "delay": 3, "radius": 0.2, "tolerance": 2.0},
        {"delay": 20, "tolerance": 3.0},
        {"theiler": 40, "radius": 0.03, "screen": 6, "significance": 0.01},
    ],
)
def test_it_is_what_loops_over_all_pairs_find(changed: Any) -> None:
    x = series("henon", 400)
    settings = {
        "moments": 60, "radius": 0.01, "theiler": 1, "embedding": 1, "delay": 1, "shortest": 4, "longest": 12,
        "screen": 8, "significance": 0.05, "tolerance": 10.0, "seed": 4, **changed,
    }  # fmt: skip
    found = expansion_rates(x, **settings)
    assert len(set(found.time)) == 60
    exact = [direct(x, int(t), settings) for t in found.time]
    np.testing.assert_array_equal(found.value, x[found.time])
    for name, expected in zip(("rate", "r_squared", "false_share"), np.array(exact)[:, [0, 1, 3]].T, strict=True):
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-9, err_msg=name)
    assert found.neighbours.tolist() == [row[2] for row in exact]
    assert found.kept.tolist() == [row[4] for row in exact]
    assert 0 < found.kept.sum() < 60  # both kinds are compared
    assert 0 < np.nanmax(found.false_share) <= 1


def test_p_values_are_those_of_linregress() -> None:
    rng = np.random.default_rng(0)
    for points in (3, 10, 24):
        y = rng.normal(size=points)
        exact = linregress(np.arange(points), y)
        assert slope_p_value(np.array(exact.rvalue**2), points) == pytest.approx(exact.pvalue, rel=1e-9)
    assert slope_p_value(np.array([1.0, 1 + 1e-15]), 10).tolist() == [0.0, 0.0]  # an R² may exceed 1 by rounding


def test_the_logistic_map_has_its_exponent_and_no_false_neighbours() -> None:
    """A one-dimensional map: what is near now cannot be farther than four times that one step later."""
    x = series("logistic", 100_000, r=4.0)
    long = expansion_rates(x, radius=1e-6, shortest=16, longest=16)
    assert median(long) == pytest.approx(math.log(2), abs=0.03)
    assert (long.neighbours > 0).sum() > 200
    assert np.nanmax(long.false_share) == 0
    usual = expansion_rates(x)
    assert math.log(2) < median(usual) < 1.1 * math.log(2)  # the window of largest R² is a little too steep
    assert usual.kept.mean() > 0.95


def test_the_henon_map_needs_two_dimensions() -> None:
    """The x of the next step depends on two: beyond them no neighbour is farther than 2|a x| + b radii."""
    x = series("henon", 100_000)
    settings = {"radius": 5e-4, "shortest": 12, "longest": 12}
    flat, whole = (expansion_rates(x, embedding=e, **settings) for e in (1, 2))
    assert np.nanmean(flat.false_share) > 0.5
    assert np.nanmax(whole.false_share) == 0
    assert median(whole) == pytest.approx(0.419, abs=0.06)
    assert median(flat) < 0.25  # parted before the fit begins


def test_false_neighbours_give_a_slow_quasi_periodic_series_a_rate() -> None:
    """The cosine of a rotation has exponent 0; its branches up and down part like n, and ln n has a slope."""
    x = np.cos(0.02 * math.sqrt(2) * np.arange(20_000))
    ballistic = np.polyfit(np.arange(1, 5), np.log(np.arange(1, 5)), 1)[0]
    flat, whole = (expansion_rates(x, embedding=e, radius=1e-3) for e in (1, 2))
    assert median(flat) == pytest.approx(ballistic, abs=0.02)
    assert np.nanmean(flat.false_share) == pytest.approx(0.5, abs=0.06)
    assert abs(median(whole)) < 0.01
    assert np.nanmax(whole.false_share) == 0


@pytest.mark.parametrize("cycle", [[0.5], [0.1, 0.5, 0.9, 0.3]])
def test_a_series_that_repeats_has_neighbours_and_no_rate(cycle: list[float]) -> None:
    found = expansion_rates(np.tile(cycle, 2000 // len(cycle)), moments=50)
    assert (found.neighbours > 400).all()
    assert np.isnan(found.rate).all()
    assert np.isnan(found.r_squared).all()
    assert not found.kept.any()
    assert (found.false_share == 0).all()


def test_neighbours_that_merge_have_no_rate() -> None:
    """Two stretches whose distance is 2^n / 1000 up to n = 7, and 0 from n = 8 on."""
    one = np.arange(20.0)
    other = one + np.where(np.arange(20) < 8, 2.0 ** np.arange(20) / 1000, 0.0)
    settings = {"radius": 0.0015, "longest": 12, "screen": 6, "moments": 28}
    found = expansion_rates(np.concatenate([one, other]), **settings)
    met = found.neighbours > 0
    assert met.any()
    assert np.isnan(found.rate[met]).all()
    assert not found.kept.any()


def test_a_seed_without_neighbours_and_a_series_that_is_not_finite_have_no_rate() -> None:
    lonely = expansion_rates(np.arange(500.0), moments=50)
    broken = expansion_rates(np.where(np.arange(500) == 400, np.nan, 0.0), moments=50)
    for found in (lonely, broken):
        assert not found.neighbours.any()
        assert not found.kept.any()
        assert np.isnan([found.rate, found.r_squared, found.false_share]).all()
    assert np.isfinite(lonely.value).all()
    assert np.isnan(broken.value).all()


def test_neighbours_are_strictly_nearer_than_the_radius_and_outside_the_theiler_window() -> None:
    x, all_times = np.arange(20.0) / 4, np.arange(20)
    for theiler, expected in [(1, [7, 8, 9, 11, 12, 13]), (3, [7, 13]), (4, [])]:
        (found,) = neighbours(x, np.array([10]), all_times, 1.0, theiler, np.array([0]))
        assert sorted(found) == expected  # 6 and 14 lie at exactly 1.0


def test_seeds_are_drawn_from_the_seed_alone_and_have_their_past_and_future() -> None:
    x = np.random.default_rng(0).normal(size=100)
    settings = {"embedding": 3, "delay": 5, "longest": 12}
    every = expansion_rates(x, moments=78, **settings)
    assert every.time.tolist() == list(range(10, 88))
    few, again, other = (expansion_rates(x, moments=20, seed=seed, **settings).time.tolist() for seed in (0, 0, 1))
    assert few == again != other
    with pytest.raises(ValueError, match="steps = 100: give 101 or more"):
        expansion_rates(x, moments=79, **settings)
    with pytest.raises(ValueError, match=r"series of shape \(2, 50\)"):
        expansion_rates(x.reshape(2, 50), moments=5)


def test_a_run_is_the_function_on_each_member_and_an_escaped_one_is_empty() -> None:
    settings = {"moments": 200, "steps": 5000, "transient": 100}
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](), r=[3.9, 4.0, 4.5], inits=1, seed=0)
    found = nnflow.run(LocalExpansion(**settings), ensemble)
    x = ensemble.advance(100).orbit(5000, 1, "x")[0][1, :, 0]
    alone = expansion_rates(x, moments=200)
    member = found.isel(r=1).squeeze()
    for name in ("value", "rate", "r_squared", "neighbours", "false_share", "kept"):
        np.testing.assert_array_equal(member[name], getattr(alone, name), err_msg=name)
    assert member.median_rate.item() == median(alone)
    assert member.seed_point.values.tolist() == (alone.time + 100).tolist()
    lost = found.isel(r=2).squeeze()
    assert lost.escaped.item() >= 0
    assert np.isnan([lost.value, lost.rate, lost.r_squared, lost.false_share]).all()
    assert np.isnan(lost.median_rate)
    assert not lost.kept.any()
    assert not lost.neighbours.any()


def test_a_member_that_escapes_on_the_last_step_is_empty_too() -> None:
    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = 2 * x[0]

    doubling = nnflow.CompiledMap(rule, dim=1, name="doubling")
    for steps, value in [(1023, False), (1024, True)]:  # 2^1024 is not finite, all samples are
        found = nnflow.run(
            LocalExpansion(moments=10, steps=steps, transient=0), nnflow.Ensemble.grid(doubling, states=[[1.0]])
        )
        assert (found.escaped.item() >= 0) is value
        assert bool(found.value.isnull().all()) is value


def test_it_takes_a_recording() -> None:
    x = series("logistic", 3000, r=4.0)
    found = nnflow.run(LocalExpansion(steps=3000, transient=0, moments=100, radius=1e-3), nnflow.Recording(x))
    np.testing.assert_array_equal(found.rate, expansion_rates(x, moments=100, radius=1e-3).rate)


def test_the_picture_has_a_dot_for_every_kept_seed() -> None:
    from matplotlib.figure import Figure

    settings = LocalExpansion(steps=5000, moments=200)
    found = nnflow.run(settings, nnflow.Ensemble.grid(nnflow.maps["logistic"](r=4.0), inits=3))
    axes = Figure().add_subplot()
    settings.draw(found, axes)
    assert len(axes.lines[0].get_xdata()) == int(found.kept.sum()) > 0
    assert axes.get_ylabel() == "local expansion rate (nats per iteration)"


def test_a_thousand_seeds_on_a_long_series_take_less_than_two_seconds() -> None:
    x = series("logistic", 100_000, r=4.0)
    start = time.perf_counter()
    expansion_rates(x)
    assert time.perf_counter() - start < 2


def test_it_satisfies_the_contract() -> None:
    check_analysis(LocalExpansion)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"moments": 0}, "moments = 0: give 1 or more"),
        ({"theiler": 0}, "theiler = 0: give 1 or more"),
        ({"embedding": 0}, "embedding = 0: give 1 or more"),
        ({"delay": 0}, "delay = 0: give 1 or more"),
        ({"shortest": 2}, "shortest = 2: give 3 or more"),
        ({"screen": 2}, "screen = 2: give 3 or more"),
        ({"longest": 9}, "longest = 9: give 10 or more"),
        ({"shortest": 30}, "longest = 24: give 30 or more"),
        ({"radius": 0.0}, "radius = 0.0: give a positive number"),
        ({"tolerance": math.nan}, "tolerance = nan: give a finite number"),
        ({"significance": 0.0}, "significance = 0.0"),
        ({"significance": 1.5}, "significance = 1.5"),
        ({"transient": -1}, "transient = -1: give 0 or more"),
        ({"seed": -1}, "seed = -1: give 0 or more"),
        ({"steps": 1023}, "steps = 1023: give 1024 or more"),
        ({"steps": 1023, "embedding": 3, "delay": 30}, "steps = 1023: give 1090 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalExpansion(**settings)
