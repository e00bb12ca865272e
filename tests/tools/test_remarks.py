"""Orbits that rounding puts to rest: each analysis of a series says so, and of no other orbit.

What else could go wrong in this way: a stable point taken for an unstable one, a neutral one, a start on the point, a
cycle that is back after as many steps as are looked at, an angle, a map not defined on one side of the point, an axis
that is followed, an attribute that depends on the chunk, steps that a varying series has to pay for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from nnflow_plugins.tools import remarks

import nnflow

ANALYSES: dict[str, dict[str, Any]] = {
    "zero_one_test": {},
    "recurrence": {},
    "autocorrelation": {},
    "trajectory_autocorrelation": {},
    "orbit_diagram": {},
    "plateaus": {"steps": 2000},
    "laminar_lengths": {"steps": 2000},
    "local_expansion": {"steps": 2000, "moments": 50},
    "displacement": {"steps": 2000},
    "series": {"steps": 2000},
    "separation": {"steps": 400},
    "network_lyapunov": {"steps": 400},
}
Grid = nnflow.Ensemble.grid
UNSTABLE = "orbits have come to rest on an unstable point, or .* \\(see put_to_rest\\)"


def doubling(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 2.0 * x[0] % 1.0


def saddle(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 0.5 * x[0]
    out[1] = 3.0 * x[1]


def shear(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0] + 4.0 * x[1]
    out[1] = x[1]
    out[2] = 0.5 * x[2]


def stable_border(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 0.5 * x[0] if x[0] >= 0.0 else math.nan


def unstable_border(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = 1.0 - abs(1.0 - 2.0 * x[0]) if x[0] >= 0.0 else math.nan


def unstable_border_below(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = abs(1.0 + 2.0 * x[0]) - 1.0 if x[0] <= 0.0 else math.nan


@pytest.mark.parametrize("name", ANALYSES)
def test_an_orbit_that_rounding_puts_to_rest_says_so(name: str) -> None:
    """K was 0, the period 1, the determinism 1, all without a word: the tent map at 2 falls on 0 after 53 steps."""
    tent = Grid(nnflow.maps["tent"](), mu=[1.9, 2.0, 2 - 1e-9])
    with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
        found = nnflow.run(name, tent, **ANALYSES[name])
    assert found.put_to_rest.values.tolist() == [False, True, False]
    assert "unstable point" in found.put_to_rest.attrs["note"]
    with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
        apart = nnflow.run(name, tent, chunk=1, **ANALYSES[name])
    assert apart.identical(found)


@pytest.mark.parametrize("name", ANALYSES)
def test_other_orbits_are_none_of_these(name: str) -> None:
    """Stable points, flips, cycles; at rest from the beginning; a recording has no such variable."""
    scan = Grid(nnflow.maps["logistic"](), states=[[0.3]], r=[0.5, 2.5, 3.0, 3.2, 3.5, 3.9, 5.0])
    assert not nnflow.run(name, scan, **ANALYSES[name]).put_to_rest.any()
    fixed = Grid(nnflow.maps["logistic"](r=4.0), states=[[0.0], [0.75]])
    assert not nnflow.run(name, fixed, **ANALYSES[name]).put_to_rest.any()
    assert not nnflow.run(name, nnflow.maps["circle"](omega=0.0, k=1.5), **ANALYSES[name]).put_to_rest
    if name in ("displacement", "separation", "network_lyapunov"):  # they need a map
        return
    short = {**ANALYSES[name], "transient": 0, "steps": 500}
    assert "put_to_rest" not in nnflow.run(name, nnflow.Recording(np.zeros(500)), **short)


def test_an_orbit_that_moves_at_its_end_costs_one_step() -> None:
    """In all its coordinates; what does not is followed for LOOK steps, and so is the beginning."""
    taken: list[int] = []

    def counted(ensemble: nnflow.Ensemble, steps: int) -> nnflow.Ensemble:
        taken.append(steps)
        return nnflow.Ensemble.advance(ensemble, steps)

    for map, steps in ((nnflow.maps["henon"](), [1]), (nnflow.maps["logistic"](r=2.5), [1] * remarks.LOOK + [1])):
        taken.clear()
        start = Grid(map)
        remarks._fallen(start, start.advance(1000), counted)
        assert taken == steps


@pytest.mark.parametrize(
    ("rule", "states", "put"),
    [
        (doubling, [[0.3]], True),  # an angle
        (saddle, [[1.0, 0.0]], True),  # by its start
        (saddle, [[0.0, 0.0]], False),
        (shear, [[1.0, 0.0, 1.0]], False),
        (stable_border, [[0.9]], False),
        (unstable_border, [[0.3]], True),
        (unstable_border_below, [[-0.3]], True),
    ],
)
@pytest.mark.filterwarnings("ignore::nnflow.ResolutionWarning")
def test_what_an_unstable_point_is(rule: Any, states: Any, put: bool) -> None:
    turn = {"x0": 1.0} if rule is doubling else {}
    map = nnflow.CompiledMap(
        rule, dim=len(states[0]), periods=turn, box=([0.1] * len(states[0]), [0.9] * len(states[0]))
    )
    assert bool(nnflow.run("zero_one_test", Grid(map, states=states), transient=0, steps=1000).put_to_rest) == put


def test_few_digits_of_growth_put_no_orbit_to_rest() -> None:
    """From 1/4 the tent map at 2 reaches 0 in two steps, exactly: in 20 steps rounding has no part."""
    tent = Grid(nnflow.maps["tent"](mu=2.0), states=[[0.25]])
    assert not nnflow.run("orbit_diagram", tent, transient=0, steps=20).put_to_rest


def test_an_attractor_that_is_followed_stays_at_rest() -> None:
    """What fell on 0 starts there at the next point, where the tent map is chaotic, too."""
    tent = Grid(nnflow.maps["tent"](), inits=2, mu=[1.8, 2.0, 1.9])
    with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
        found = nnflow.run("orbit_diagram", tent, follow="mu")
    assert found.put_to_rest.transpose("mu", ...).values.tolist() == [[False] * 2, [True] * 2, [True] * 2]


def test_a_cycle_is_not_at_rest() -> None:
    """It was, where its period divides the steps that are looked at."""
    scan = Grid(nnflow.maps["logistic"](), r=[2.5, 3.2, 3.5, 3.55])
    found = nnflow.run("lyapunov_spectrum", scan, transient=5000)
    assert found.at_rest.values.tolist() == [True, False, False, False]


def test_one_coordinate_put_to_rest_beside_one_that_moves_on() -> None:
    """The doubled angle falls on 0 after 55 steps, the other one turns for ever."""

    def skew(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = (2.0 * x[0]) % 1.0
        out[1] = (x[1] + 0.6180339887 + 0.1 * x[0]) % 1.0

    map = nnflow.CompiledMap(skew, dim=2, coordinates=("x", "y"))
    start = nnflow.Ensemble.grid(map, states=[[0.3, 0.2]])
    for name in ("x", "y"):  # x drives y, and no more
        with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
            assert nnflow.run("zero_one_test", start, observable=name)["put_to_rest"].all()


def driven(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = p[0] * min(x[0], 1.0 - x[0])
    out[1] = 3.7 * x[1] * (1.0 - x[1]) * (0.9 + 0.1 * x[0])


EXPONENTS: dict[str, dict[str, Any]] = {
    "lyapunov_spectrum": {"steps": 2000}, "finite_time_lyapunov": {"steps": 2000, "window": 500},
    "two_orbit_lyapunov": {"steps": 2000},
}  # fmt: skip


@pytest.mark.parametrize("name", [*EXPONENTS, "orbit_diagram", "zero_one_test"])
def test_a_driver_that_died_is_told(name: str) -> None:
    """The tent map at 2 dies after 53 steps; the logistic map behind it then had an exponent of −0.42, and no word."""
    map = nnflow.CompiledMap(driven, dim=2, parameters={"slope": 1.9}, box=([0.1, 0.1], [0.9, 0.9]))
    settings = EXPONENTS.get(name, {"observable": "x1"})
    with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
        found = nnflow.run(name, Grid(map, states=[[0.3, 0.4]], slope=[1.9, 2.0]), **settings)
    assert found.put_to_rest.values.tolist() == [False, True]
    if "at_rest" in found:
        assert not found.at_rest.any()


def test_one_site_of_a_ring_that_fell_on_zero_is_told() -> None:
    """At r = 4 without coupling, sites die one by one: the largest exponent was then ln 4, and nothing was said."""
    ring = nnflow.maps["logistic_ring"](size=3, r=4.0, coupling=0.0)
    with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
        found = nnflow.run("lyapunov_spectrum", Grid(ring, states=[[0.3, 0.4, 0.5]]), steps=2000, transient=0)
    assert found.put_to_rest
    assert not found.at_rest
    assert not nnflow.run("lyapunov_spectrum", Grid(ring, states=[[0.3, 0.4, 0.0]]), steps=2000).put_to_rest


def test_a_coordinate_that_is_small_for_long_is_not_told() -> None:
    """On and off: y is 1e-20 for hundreds of steps, moves by its own size all the time, and comes back."""

    def bursting(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = 3.99 * x[0] * (1.0 - x[0])
        out[1] = p[0] * x[0] * x[1] * math.exp(-x[1])

    map = nnflow.CompiledMap(bursting, dim=2, parameters={"a": 2.8}, box=([0.1, 0.1], [0.9, 0.9]))
    scan = Grid(map, inits=100, a=[2.8, 2.9])
    ends = scan.advance(3000).states[:, 1]
    assert ((ends > 0) & (ends < 1e-14)).any()
    for name in ("lyapunov_spectrum", "series"):
        assert not nnflow.run(name, scan, steps=2000).put_to_rest.any()


def test_a_coordinate_that_repeats_itself_is_not_told() -> None:
    """A symbol, and units that are off for a while: they were the same by chance, and chaos brought them on again."""

    def symbol(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = (2.9 * x[0] + 0.3 * x[1]) % 1.0
        out[1] = 1.0 if x[0] > 0.5 else 0.0

    weights = np.random.default_rng(130).normal(size=(12, 12)) * 1.2

    def units(x: Any, p: Any, t: int, out: Any) -> None:
        for i in range(12):
            out[i] = 1.0
            for j in range(12):
                out[i] += weights[i, j] * x[j]
            out[i] = max(0.0, min(out[i], 8.0))

    for rule, dim in ((symbol, 2), (units, 12)):
        map = nnflow.CompiledMap(rule, dim=dim, check=False)
        for name in ("lyapunov_spectrum", "series"):
            assert not nnflow.run(name, Grid(map, inits=100), steps=500, transient=500).put_to_rest.any()


def test_an_orbit_that_met_a_flat_point_on_the_way_is_told() -> None:
    """The tent map meets 1/2 exactly before it dies; torch's derivative of |x| is 0 there, and the growth −inf."""
    tent = nnflow.TensorMap(lambda x, p, t: 1 - 2 * (x - 0.5).abs())
    with pytest.warns(nnflow.ResolutionWarning, match=UNSTABLE):
        found = nnflow.run("lyapunov_spectrum", Grid(tent, inits=10), steps=200, transient=0)
    assert np.isneginf(found.exponent).any()
    assert found.put_to_rest.all()


def test_what_rests_on_a_stable_point_is_not_told() -> None:
    """Weights that no input reaches, units that died, memory: they stand still beside others that move."""

    def beside(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = 3.9 * x[0] * (1.0 - x[0])
        out[1] = 0.5 * x[1]
        out[2] = x[2]
        out[3] = min(1.0, 2.0 * x[3])

    map = nnflow.CompiledMap(beside, dim=4, box=([0.1] * 4, [0.9] * 4))
    for name, settings in {**ANALYSES, **EXPONENTS}.items():
        assert not nnflow.run(name, map, **settings).put_to_rest.any()
