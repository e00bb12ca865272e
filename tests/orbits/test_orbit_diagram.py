"""Orbit diagrams: what is recorded, periods, following an attractor up and down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import PERIOD_DOUBLINGS, PERIOD_THREE

import nnflow


def diagram(map: Any, **settings: Any) -> Any:
    return nnflow.run("orbit_diagram", map, **settings)


def logistic(**axes: Any) -> nnflow.Ensemble:
    return nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], **axes)


def test_values_are_the_orbit_after_the_transient() -> None:
    found = diagram(logistic(r=[3.7]), steps=6, transient=4, every=2).value.values[0]
    x, orbit = 0.3, []
    for _ in range(10):
        orbit.append(x)
        x = 3.7 * x * (1 - x)
    assert found.tolist() == orbit[4:10:2]


def test_the_cascade_and_the_window() -> None:
    r = [2.9, 3.2, 3.5, 3.55, 3.9, PERIOD_THREE + 1e-3]
    dataset = diagram(logistic(r=r), transient=20_000)
    assert dataset.period.values.tolist() == [1, 2, 4, 8, 0, 3]


def test_period_doublings_are_where_they_belong() -> None:
    for doubling, before, after in zip(PERIOD_DOUBLINGS, (1, 2), (2, 4), strict=True):
        r = doubling + np.array([-0.01, 0.01])
        assert diagram(logistic(r=r), transient=20_000).period.values.tolist() == [before, after]


def test_period_two_points_solve_the_quadratic() -> None:
    """r²x² − r(r+1)x + r + 1 = 0 for the two points of period 2."""
    found = np.sort(diagram(logistic(r=[3.3]), steps=2, transient=5000).value.values[0])
    np.testing.assert_allclose(found, np.sort(np.roots([3.3**2, -3.3 * 4.3, 4.3])), atol=1e-12)


def test_following_shows_the_hysteresis_of_the_cubic_map() -> None:
    """u' = (1+η)u − u³ has two mirrored attractors up to η = 1.598: carried along, an orbit keeps its side.

    It is exactly on w = ±1 when that becomes unstable at η = 1, and stays there, which is said.
    """
    wells = nnflow.maps["double_well_descent"](optimizer="gd")
    up = np.linspace(0.2, 1.2, 30)
    for side in (1.0, -1.0):
        scan = nnflow.Ensemble.grid(wells, states=[[side * 0.9]], eta=up)
        with pytest.warns(nnflow.ResolutionWarning, match="unstable point"):
            followed = diagram(scan, observable="w", follow="eta", transient=200, steps=20)
        assert (np.sign(followed.value) == side).all()
        assert followed.put_to_rest.equals(followed.eta > 1.12)  # ln(2η − 1), 0.22 nats a step and more
        assert (followed.value[followed.put_to_rest.values] == side).all()


def test_each_grid_point_starts_where_the_last_one_ended() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2, a=[1.0, 1.1, 1.2])
    found = diagram(scan, follow="a", transient=7, steps=5).value
    state = nnflow.maps["henon"]().initial_states(2, 0)
    for i, a in enumerate([1.0, 1.1, 1.2]):
        at = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=state, a=a).advance(7)
        records, after = at.orbit(5, observe="x")
        np.testing.assert_array_equal(found[i], records[:, :, 0])
        state = after.states


def test_down_is_not_up_and_chunks_change_nothing() -> None:
    up = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=3, a=np.linspace(1.0, 1.3, 6))
    whole = diagram(up, follow="a", transient=50, steps=10)
    assert diagram(up, follow="a", transient=50, steps=10, chunk=1).equals(whole)
    down = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=3, a=np.linspace(1.3, 1.0, 6))
    assert not np.array_equal(diagram(down, follow="a", transient=50, steps=10).value[::-1], whole.value)


def test_an_escaped_member_starts_again_from_its_own_state() -> None:
    dataset = diagram(logistic(r=[3.2, 4.5, 3.2]), follow="r", transient=200, steps=6)
    assert dataset.escaped.values[0] == -1 == dataset.escaped.values[2]
    assert dataset.escaped.values[1] > 0
    assert np.isnan(dataset.value[1]).all()
    assert dataset.period.values.tolist() == [2, 0, 2]
    fresh = diagram(logistic(r=[3.2]), transient=200, steps=6)
    np.testing.assert_array_equal(dataset.value[2], fresh.value[0])


def test_the_default_observable_is_the_loss_of_a_training_map_and_else_the_first_coordinate() -> None:
    assert diagram(nnflow.maps["cubic_descent"](), steps=5).value.attrs["long_name"] == "loss"
    assert diagram(nnflow.maps["henon"](), steps=5).value.attrs["long_name"] == "x"
    assert diagram(nnflow.maps["henon"](), observable="y", steps=5).value.attrs["long_name"] == "y"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"follow": "b"}, "unknown axis of the ensemble 'b'. Known: r"),
        ({"observable": "y"}, "unknown observable of logistic 'y'. Known: x"),
        ({"tolerance": -1.0}, "tolerance = -1.0"),
        ({"steps": 7, "every": 2}, "steps must be a multiple of every"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagram(logistic(r=[3.0, 3.5]), **settings)
