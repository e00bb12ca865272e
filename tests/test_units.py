"""No analysis of a series depends on its unit; rounding is no signal; an angle has no jump where it wraps round.

What else could go wrong in these ways, and is tried here: squares that vanish or overflow, absolute floors, thresholds
and tolerances below rounding, noise that is left of what decayed to 0, single precision, constants, series of few
samples, one escaped member among good ones, levels far above the amplitude, and all series analyses, not some.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.growth.local_expansion import expansion_rates
from nnflow_plugins.orbits.displacement import Displacement
from nnflow_plugins.orbits.laminar_lengths import default_tolerance, laminar_lengths
from nnflow_plugins.orbits.plateaus import segment
from nnflow_plugins.recurrence import recurrence_matrix, recurrence_measures, threshold_of_rate
from nnflow_plugins.signals.autocorrelation import shuffled_band
from nnflow_plugins.tools.correlation import trajectory_correlation
from nnflow_plugins.tools.periods import detect_period
from nnflow_plugins.zero_one_test import drift, zero_one

import nnflow

TURN = 2 * math.pi


def logistic(samples: int, r: float = 3.9) -> Any:
    x, out = 0.3, np.empty(samples)
    for i in range(samples):
        out[i] = x = r * x * (1 - x)
    return out


# a little coarse, so that an exact shift keeps all digits
SERIES = np.round(logistic(400) * 2**20) / 2**20
STEPS = np.repeat([0.25, 1.5, 1.0, 3.0], 100) + SERIES / 1024


def all_of(x: Any, unit: float) -> list[Any]:
    """What every analysis of a series finds, lengths measured in the unit."""
    found = segment(x)
    euclidean, maximum = (
        recurrence_measures(x, rate=0.05, embedding=2, norm=norm) for norm in ("euclidean", "maximum")
    )
    given = recurrence_measures(x, threshold=0.1 * unit, embedding=3, norm="manhattan")
    rates = expansion_rates(x, radius=0.01 * unit, moments=20)
    return [
        *euclidean.values(),
        *maximum.values(),
        *given.values(),
        threshold_of_rate(x, 0.1, embedding=2) / unit,
        zero_one(x),
        drift(x),
        *trajectory_correlation(x, 5),
        *np.ravel(shuffled_band(x, 3, 20, 0.9, 0)),
        *laminar_lengths(x),
        default_tolerance(x) / unit,
        *found.start,
        *found.flat,
        *(found.level / unit),
        *(found.spread / unit),
        *rates.rate,
        *rates.neighbours,
        *detect_period(np.stack([x, np.tile(x[:4], 100)])),
    ]


@pytest.mark.parametrize("series", [SERIES, STEPS], ids=["chaos", "steps"])
@pytest.mark.parametrize("exponent", [-900, -664, -40, 40, 531, 1019])  # 1e-200 and 1e160 among them
def test_the_unit_does_not_matter(series: Any, exponent: int) -> None:
    """By a power of two, so that each number is the same but for its exponent, and so is each result."""
    plain = np.array(all_of(series, 1.0), dtype=float)
    scaled = np.array(all_of(np.ldexp(series, exponent), math.ldexp(1.0, exponent)), dtype=float)
    np.testing.assert_allclose(scaled, plain, rtol=1e-12, atol=1e-12)  # FFTs of rows of zeros and the like


@pytest.mark.parametrize("shift", [1.0, -64.0, 1024.0])
def test_the_zero_does_not_matter(shift: float) -> None:
    """Exact shifts; sums about a mean round at the size of the shift, 2^10 ε. Levels shift with the series."""
    plain, shifted = (np.array(all_of(x, 1.0), dtype=float) for x in (SERIES, SERIES + shift))
    kept = np.abs(shifted - plain) <= 1e-8 * (1 + np.abs(plain))
    levels = np.isclose(shifted - plain, shift, rtol=1e-8)  # of plateaus: these move along
    assert (kept | levels | (np.isnan(plain) & np.isnan(shifted))).all()
    assert levels.sum() == len(segment(SERIES).level)


# ----------------------------------------------------------------------------------------------------------- rounding


@pytest.mark.parametrize(("r", "period"), [(3.2, 2), (3.4, 2), (3.5, 4), (3.55, 8), (3.83, 3)])
def test_a_cycle_that_has_converged_to_rounding_recurs_after_its_period(r: float, period: int) -> None:
    """At r = 3.4 the rate was .25 and the mean recurrence time 4: the threshold told apart what differs by rounding."""
    found = nnflow.run("recurrence", nnflow.maps["logistic"](r=r))
    assert float(found.mean_recurrence_time) == pytest.approx(period, abs=1e-12)
    assert float(found.recurrence_rate) == pytest.approx(1 / period, abs=1e-3)
    assert float(found.determinism) == pytest.approx(1.0, abs=1e-5)
    assert "rounding" in found.threshold.attrs["note"]
    asked = nnflow.run("recurrence", nnflow.maps["logistic"](r=r), threshold=0.0)
    assert float(asked.mean_recurrence_time) == pytest.approx(period, abs=1e-12)
    assert 0 < float(asked.threshold) < 1e-11


def test_noise_that_is_left_of_a_decay_is_no_signal() -> None:
    """The loss of a converged fit is rounding, of any relative size: K was .998, the loss without a period."""
    noise = 1e-33 * np.random.default_rng(0).random(1000)
    loss = nnflow.Recording(np.concatenate([0.5 ** np.arange(100), noise]))
    window: dict[str, Any] = {"transient": 100, "steps": 1000}
    assert nnflow.run("zero_one_test", loss, **window).K == 0
    assert nnflow.run("orbit_diagram", loss, **window).period == 1
    assert nnflow.run("recurrence", loss, **window).recurrence_rate == 1
    assert nnflow.run("laminar_lengths", loss, **window).laminar_share == 1
    assert np.isnan(nnflow.run("autocorrelation", loss, **window).autocorrelation).all()
    assert nnflow.run("plateaus", loss, **window).segments == 1
    assert np.isnan(nnflow.run("local_expansion", loss, radius=1e-30, moments=50, **window).rate).all()


def test_rates_of_rounding_are_no_rates() -> None:
    found = nnflow.run("local_expansion", nnflow.maps["logistic"](r=3.4), steps=2000, moments=50)
    assert (found.neighbours > 0).all()
    assert np.isnan(found.rate).all()
    assert not found.kept.any()


def test_laminar_whatever_the_tolerance() -> None:
    found = nnflow.run("laminar_lengths", nnflow.maps["logistic"](r=3.4), period=2, tolerance=1e-20, steps=2000)
    assert found.laminar_share == 1


def test_single_precision_has_coarser_rounding() -> None:
    import torch

    map = nnflow.TensorMap(
        lambda x, p, t: p["r"] * x * (1 - x), dim=1, parameters={"r": 3.4}, dtype=torch.float32, box=([0.1], [0.9])
    )
    ensemble = nnflow.Ensemble.grid(map, states=[[0.3]])
    window: dict[str, Any] = {"transient": 200, "steps": 200}
    assert nnflow.run("orbit_diagram", ensemble, **window).period == 2
    assert float(nnflow.run("recurrence", ensemble, **window).mean_recurrence_time) == pytest.approx(2, abs=1e-9)


# ------------------------------------------------------------------------------------------------------------ periods


def test_chaos_of_a_small_amplitude_has_no_period() -> None:
    """1e-5 on a level of 10 was within the tolerance of the largest value: period 1."""
    for amplitude, level in ((1e-5, 10.0), (1e-9, 10.0), (1e-3, 1e6), (1e-200, 0.0)):
        assert detect_period((level + amplitude * SERIES)[None]).item() == 0
    assert detect_period((10 + 1e-14 * SERIES)[None]).item() == 1  # that is rounding
    small = 10 + 1e-5 * np.tile([0.1, 0.7, 0.4], 50)
    assert detect_period(small[None]).item() == 3


def test_what_decays_to_zero_is_a_fixed_point() -> None:
    found = nnflow.run("orbit_diagram", nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[0.5, 0.9]))
    assert found.period.values.tolist() == [1, 1]


@pytest.mark.parametrize("omega", [0.0, 1e-3])
def test_a_locked_angle_has_the_period_of_its_lock(omega: float) -> None:
    """At omega = 0 the fixed point lies where the angle wraps, and 0 and 1 − 1e-17 were two points of a 2-cycle."""
    found = nnflow.run("orbit_diagram", nnflow.maps["circle"](omega=omega, k=1.5))
    assert found.period.item() == 1
    half = nnflow.run("orbit_diagram", nnflow.maps["circle"](omega=0.5, k=0.95))
    assert half.period.item() == 2
    free = nnflow.run("orbit_diagram", nnflow.maps["circle"](k=0.5))
    assert free.period.item() == 0


def test_angles_by_hand() -> None:
    across = np.tile([0.001, 0.999, 0.003], 40)
    assert detect_period(across[None], turn=1.0).item() == 3
    assert detect_period((np.tile([0.0, 0.5], 60) + 1e-13 * SERIES[:120])[None] % 1, turn=1.0).item() == 2
    noise = (1e-16 * np.random.default_rng(0).normal(size=120)) % 1.0
    assert detect_period(noise[None], turn=1.0).item() == 1
    assert detect_period((SERIES[:120] / 100 - 0.005)[None] % 1, turn=1.0).item() == 0


@pytest.mark.parametrize("case", ["step", "lone sample", "lone sample in a cycle", "rare", "bursts"])
def test_a_million_samples_take_no_minutes(case: str) -> None:
    """With n²/6 comparisons each of these would take an hour."""
    n = 10**6
    x = np.tile([0.0, 1.0], n // 2) if case == "lone sample in a cycle" else np.zeros(n)
    x[{"step": slice(n // 2, n), "rare": slice(None, None, 100_000)}.get(case, slice(777_777, 777_778))] += 0.5
    if case == "bursts":
        x[np.random.default_rng(0).integers(n, size=50)] += 0.3
    assert detect_period(x[None]).item() == (100_000 if case == "rare" else 0)


# ------------------------------------------------------------------------------------------------------------- angles


def regular() -> nnflow.Ensemble:
    """Orbits of the standard map at k = 0.5, all of them regular."""
    return nnflow.Ensemble.grid(nnflow.maps["standard"](k=0.5), inits=10)


def test_a_regular_angle_is_not_taken_for_chaos() -> None:
    """K was up to .6 where the angle wraps. Also: the circle map at rest on the wrap, whose sine is rounding."""
    assert (np.abs(nnflow.run("zero_one_test", regular()).K) < 0.05).all()
    assert np.abs(nnflow.run("zero_one_test", nnflow.maps["circle"](k=0.9)).K) < 0.05
    assert nnflow.run("zero_one_test", nnflow.maps["circle"](omega=0.0, k=1.5)).K == 0
    chaos = nnflow.run("zero_one_test", nnflow.Ensemble.grid(nnflow.maps["cat"](), inits=4))
    assert (chaos.K > 0.95).all()
    assert "cosine and sine" in chaos.K.attrs["long_name"]


def test_where_an_angle_wraps_does_not_matter() -> None:
    """A rotation by a turn's fraction, seen by every analysis through the map's own periods."""

    def spin(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = (x[0] + 0.1 * math.sin(x[0] - p[0]) + 0.7) % (2 * math.pi)

    map = nnflow.CompiledMap(spin, dim=1, parameters={"phase": 0.0}, coordinates=("theta",), periods={"theta": TURN})
    phases = np.array([0.0, 1.0, 3.0, 6.0])
    scan = nnflow.Ensemble.grid(map, states=[[0.5]], phase=phases)
    scan = scan.with_states(((0.5 + phases) % TURN)[:, None])
    window: dict[str, Any] = {"transient": 0, "steps": 600}
    for name, variable, settings in [
        ("recurrence", "determinism", {"embedding": 2}),
        ("recurrence", "recurrence_rate", {"threshold": 0.2}),
        ("autocorrelation", "autocorrelation", {}),
        ("trajectory_autocorrelation", "autocorrelation", {}),
        ("laminar_lengths", "laminar_share", {"period": 9}),
        ("local_expansion", "neighbours", {"moments": 20, "radius": 0.05}),
        ("displacement", "net", {}),
        ("displacement", "path", {}),
        ("orbit_diagram", "period", {}),
    ]:
        given = window if name != "local_expansion" else {"transient": 0, "steps": 600, "seed": 1}
        found = nnflow.run(name, scan, **given, **settings)[variable].values
        np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), rtol=1e-6, err_msg=name)


def test_the_way_of_a_rotation_is_as_long_as_its_turns() -> None:
    map = nnflow.maps["circle"](omega=0.3, k=0.0)
    found = nnflow.run(Displacement(steps=100), map)
    assert found.net.item() == pytest.approx(30, abs=1e-9)
    assert found.path.item() == pytest.approx(30, abs=1e-9)
    start = nnflow.Ensemble.grid(map, states=[[0.95]])
    away = nnflow.run("series", start, distance="l2", steps=2).value.sel(channel="distance")
    np.testing.assert_allclose(away, [0.0, 0.3], atol=1e-12)  # 0.95, then 0.25: not 0.7 apart


def test_an_angle_at_rest_on_its_wrap_is_one_plateau() -> None:
    found = nnflow.run("plateaus", nnflow.maps["circle"](omega=0.0, k=1.5), transient=1000, steps=400)
    assert found.segments == 1
    assert found.plateau_share == 1


def test_recurrence_of_angles_by_hand() -> None:
    angles = [0.1, 0.9, 0.5]
    assert recurrence_matrix(angles, 0.25, turn=1.0).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert recurrence_matrix([-0.1, 5.1, 0.5], 0.25, turn=1.0).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    pairs = [[0.1, 0.0], [0.9, 0.9]]
    for norm, distance in {"maximum": 0.2, "euclidean": math.hypot(0.2, 0.1), "manhattan": 0.3}.items():
        assert recurrence_matrix(pairs, distance + 1e-9, norm=norm, turn=1.0).all()
        assert not recurrence_matrix(pairs, distance - 1e-9, norm=norm, turn=1.0)[0, 1]
    with pytest.raises(ValueError, match="turn = 0"):
        recurrence_measures(angles, 0.1, turn=0.0)


# --------------------------------------------------------------------------------------------- constants, short, lost


@pytest.mark.parametrize("value", [0.0, 1.0, -1e-200, 1e200])
def test_constants(value: float) -> None:
    constant = nnflow.Recording(np.full(600, value))
    assert nnflow.run("recurrence", constant).recurrence_rate == 1
    assert nnflow.run("zero_one_test", constant).K == 0
    assert nnflow.run("orbit_diagram", constant).period == 1
    assert nnflow.run("laminar_lengths", constant).laminar_share == 1
    assert nnflow.run("plateaus", constant).plateau_share == 1
    assert np.isnan(nnflow.run("autocorrelation", constant).autocorrelation).all()


def test_one_lost_member_does_not_disturb_the_others() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[3.4, 5.0, 3.9])
    for name in ("recurrence", "zero_one_test", "orbit_diagram", "laminar_lengths", "plateaus", "autocorrelation"):
        whole = nnflow.run(name, scan, steps=400)
        for i in (0, 2):
            alone = nnflow.run(name, scan.select("r", i), steps=400)
            for variable in alone.data_vars:
                np.testing.assert_array_equal(
                    whole[variable].isel(r=i, missing_dims="ignore"), alone[variable], err_msg=f"{name} {variable}"
                )
