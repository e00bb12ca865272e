"""Ensembles: a scan is a grid of members; draws belong to the init index; verbs continue exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.ensemble import Ensemble
from nnflow.progress import heard_by
from nnflow.recording import Recording


@pytest.fixture
def henon() -> nnflow.Map:
    map: nnflow.Map = nnflow.maps["henon"]()
    return map


def test_a_grid_has_one_member_a_point_and_init(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, inits=3, seed=1, a=[1.0, 1.2], b=[0.1, 0.2, 0.3])
    assert len(scan) == 18
    assert [(axis.name, axis.kind) for axis in scan.axes] == [("a", "parameter"), ("b", "parameter"), ("init", "init")]
    assert scan.shape == (2, 3, 3)
    assert scan.parameters[0].tolist() == [1.0, 0.1]
    assert scan.parameters[-1].tolist() == [1.2, 0.3]
    cube = scan.states.reshape(2, 3, 3, 2)
    assert (cube == cube[:1, :1]).all()  # the same states at every point


def test_states_of_ones_own_and_single_numbers_make_no_axis(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, states=[[0.1, 0.2]], a=[1.0, 1.2], b=0.25)
    assert [axis.name for axis in scan.axes] == ["a"]
    assert (scan.parameters[:, 1] == 0.25).all()
    assert Ensemble.grid(henon, states=[[0.1, 0.2], [0.3, 0.4]]).shape == (2,)


def test_coordinates_can_be_scanned_for_a_basin(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, x=np.linspace(-1, 1, 5), y=[0.0, 0.5])
    assert scan.shape == (5, 2)
    assert scan.states[3].tolist() == [-0.5, 0.5]
    assert [axis.kind for axis in scan.axes] == ["coordinate", "coordinate"]


def test_a_descending_scan_is_fine(henon: nnflow.Map) -> None:
    assert Ensemble.grid(henon, a=[1.4, 1.0]).parameters[:, 0].tolist() == [1.4, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"c": [1.0]}, "unknown axis for henon 'c'. Known: a, b, x, y"),
        ({"a": []}, "axis a: no values"),
        ({"a": [[1.0]]}, "axis a: give a one-dimensional array"),
        ({"a": [1.0, np.nan]}, "axis a: value nan is not finite"),
        ({"states": [[0.1]]}, r"states of shape \(1, 1\): henon needs \(n, 2\)"),
        ({"states": [0.1, 0.1]}, "states of shape"),
        ({"states": np.empty((0, 2))}, "states of shape"),
        ({"states": [[0.1, np.nan]]}, "row 0 is not finite"),
        ({"states": [[0.1, 0.1]], "inits": 2}, "give states or inits, not both"),
        ({"inits": 0}, "inits = 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_what_does_not_fit_is_refused(henon: nnflow.Map, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ensemble.grid(henon, **settings)


def test_a_factory_is_no_map() -> None:
    with pytest.raises(TypeError, match="is not a map: make one first"):
        Ensemble.grid(nnflow.maps["henon"])


def test_verbs_continue_where_they_stopped(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, inits=3)
    whole, _ = scan.orbit(30)
    first, middle = scan.orbit(10)
    second, end = middle.orbit(20)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    assert (middle.t, end.t) == (10, 30)
    np.testing.assert_array_equal(scan.advance(30).states, end.states)
    np.testing.assert_array_equal(scan.states, Ensemble.grid(henon, inits=3).states)


def test_a_long_orbit_is_cut_into_blocks_that_change_nothing(henon: nnflow.Map) -> None:
    ticks: list[int] = []
    scan = Ensemble.grid(henon, inits=2)
    with heard_by(ticks.append):
        records, end = scan.orbit(1000, every=10)
    assert sum(ticks) == 2000
    assert len(ticks) > 1
    np.testing.assert_array_equal(records[:, 1], scan.advance(10).states)
    np.testing.assert_array_equal(end.states, henon.advance(scan.state, scan.parameters, 0, 1000).states)


def test_the_pace_of_one_frame_is_not_that_of_a_larger_one() -> None:
    """A call with 60 vectors, as long as one with a single vector could be, ticked and heard of Ctrl-C no more."""
    ring = Ensemble.grid(nnflow.maps["logistic_ring"](size=8))
    ring.with_frame(1).tangent_orbit(10)
    ring.map.paces["tangent_orbit", 1] = 1e12
    ticks: list[int] = []
    with heard_by(ticks.append):
        ring.with_frame(8).tangent_orbit(40)
    assert len(ticks) > 1
    assert ("tangent_orbit", 8) in ring.map.paces
    ring.orbit(3, observe="x1")
    ring.separation_orbit(ring.perturbed(1e-6, 4), 3)
    assert {("orbit",), ("separation_orbit", 4)} <= ring.map.paces.keys()


def test_escapes_count_from_the_start_transient_included() -> None:
    scan = Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[3.7, 9.0])
    step = scan.advance(50).escaped[1]
    assert step > 3
    after = scan.advance(3).advance(47)
    assert list(after.escaped) == [-1, step]
    assert list(after.advance(5).escaped) == [-1, step]


@pytest.mark.parametrize(
    ("steps", "every", "message"),
    [(10, 3, "steps = 10, every = 3"), (0, 1, "steps = 0"), (-5, 1, "steps = -5"), (10, 0, "every = 0")],
)
def test_steps_are_a_positive_multiple_of_every(henon: nnflow.Map, steps: int, every: int, message: str) -> None:
    scan = Ensemble.grid(henon).with_frame(1)
    for verb in (scan.orbit, scan.tangent_orbit):
        with pytest.raises(ValueError, match=message):
            verb(steps, every)
    with pytest.raises(ValueError, match="steps = -1"):
        scan.advance(-1)


def test_frames_are_orthonormal_and_belong_to_the_init(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, inits=3, seed=4, a=[1.0, 1.2])
    frame = scan.with_frame(2).frame
    np.testing.assert_allclose(frame @ frame.transpose(0, 2, 1), np.tile(np.eye(2), (6, 1, 1)), atol=1e-14)
    np.testing.assert_array_equal(frame[:3], frame[3:])
    assert not np.array_equal(frame[0], frame[1])
    np.testing.assert_array_equal(scan.take([4]).with_frame(2).frame[0], frame[4])
    assert not np.array_equal(scan.with_frame(2, seed=5).frame, frame)


def test_frames_are_haar_random() -> None:
    """The mean of every component's square is 1/dim, its sign is even."""
    first = Ensemble.grid(nnflow.maps["logistic_ring"](size=4), inits=4000).with_frame(2).frame[:, 0]
    np.testing.assert_allclose((first**2).mean(axis=0), 0.25, atol=0.02)
    np.testing.assert_allclose(first.mean(axis=0), 0.0, atol=0.03)


@pytest.mark.parametrize("k", [0, 3, -1])
def test_k_beyond_the_dimension(henon: nnflow.Map, k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}: henon has dim 2"):
        Ensemble.grid(henon).with_frame(k)


def test_a_tangent_orbit_needs_a_frame(henon: nnflow.Map) -> None:
    with pytest.raises(ValueError, match="carries no frame"):
        Ensemble.grid(henon).tangent_orbit(3)
    with pytest.raises(ValueError, match="unknown record 'frame'. Did you mean 'frames'"):
        Ensemble.grid(henon).with_frame(1).tangent_orbit(3, keep=("frame",))


def test_neighbours_must_fit(henon: nnflow.Map) -> None:
    with pytest.raises(ValueError, match=r"neighbors have shape \(1, 2\)"):
        Ensemble.grid(henon).separation_orbit(np.zeros((1, 2)), 5)


def test_a_mask_lies_along_the_axes_in_their_order(henon: nnflow.Map) -> None:
    """A transposed one, and any of the same size, chose other members."""
    scan = Ensemble.grid(henon, inits=3, a=[1.0, 1.2, 1.3, 1.4])
    mask = np.zeros((4, 3), bool)
    mask[2] = True
    assert scan.take(mask).parameters[:, 0].tolist() == scan.take(mask.ravel()).parameters[:, 0].tolist() == [1.3] * 3
    for wrong in (mask.T, mask.reshape(6, 2), mask[None]):
        with pytest.raises(nnflow.Refusal, match=r"the members have the shape \(4, 3\)"):
            scan.take(wrong)


def test_separation_in_blocks_equals_separation_at_once(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, inits=2)
    neighbours = scan.states[:, None] + 1e-8 * scan.draw("perturbation", (3, 2))
    distances, after = scan.separation_orbit(neighbours, 40, 2, "l2")
    expected, end = henon.separation_orbit(scan.state, neighbours, scan.parameters, 0, 40, 2, "l2")
    np.testing.assert_array_equal(distances, expected)
    np.testing.assert_array_equal(after.neighbors, end.frame)
    np.testing.assert_array_equal(after.take([1]).displacements, after.displacements[[1]])


def test_draws_are_uniform_or_normal_and_named_by_purpose(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, inits=500)
    uniform = scan.draw("perturbation", (4,), "uniform")
    assert (np.abs(uniform) < 1).all()
    assert np.abs(uniform).max() > 0.99
    assert scan.draw("perturbation", (4,)).std() == pytest.approx(1.0, abs=0.05)
    assert not np.array_equal(scan.draw("one", (1,)), scan.draw("other", (1,)))


def test_selecting_splitting_and_taking(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, inits=2, a=[1.0, 1.1, 1.2])
    chosen = scan.select("a", 1)
    assert [axis.name for axis in chosen.axes] == ["init"]
    assert (chosen.parameters[:, 0] == 1.1).all()
    parts = scan.split(2)
    assert sorted(np.concatenate([members for members, _ in parts]).tolist()) == list(range(6))
    followed = scan.split(1, whole=("a",))
    assert [members.tolist() for members, _ in followed] == [[0, 2, 4], [1, 3, 5]]
    assert followed[1][1].parameters[:, 0].tolist() == [1.0, 1.1, 1.2]
    with pytest.raises(ValueError, match="unknown axis of the ensemble 'r'"):
        scan.select("r", 0)


def test_other_states_start_afresh(henon: nnflow.Map) -> None:
    scan = Ensemble.grid(henon, states=[[5.0, 5.0]]).advance(50)
    assert scan.escaped[0] > 0
    again = scan.with_states(np.array([[0.1, 0.1]]))
    assert again.escaped[0] == -1
    assert again.t == 50
    assert again.with_states(again.state, t=0).t == 0


# -- recordings ----------------------------------------------------------------------------------------------------


def test_a_recording_offers_orbit_only() -> None:
    recording = Recording(np.arange(10.0), ["x"])
    assert (len(recording), recording.samples, recording.axes) == (1, 10, ())
    records, after = recording.advance(2).orbit(6, 2)
    assert records[0, :, 0].tolist() == [2.0, 4.0, 6.0]
    assert after.samples == 2
    with pytest.raises(TypeError, match="a recording has no map"):
        nnflow.run("lyapunov_spectrum", recording)


def test_several_series_and_channels() -> None:
    cube = np.random.default_rng(0).random((3, 50, 2))
    recording = Recording(cube, ("u", "v"))
    assert recording.shape == (3,)
    records, _ = recording.orbit(50, observe="v")
    np.testing.assert_array_equal(records[:, :, 0], cube[:, :, 1])
    dataset = nnflow.run("orbit_diagram", recording, observable="v", transient=10)
    assert dataset.value.dims == ("series", "sample")
    np.testing.assert_array_equal(dataset.value[1], cube[1, 10:, 1])
    assert dataset.attrs["map"] == "recording"


def test_a_gap_in_a_recording_is_an_escape() -> None:
    values = np.ones((2, 20, 1))
    values[1, 7] = np.nan
    dataset = nnflow.run("orbit_diagram", Recording(values))
    assert dataset.escaped.values.tolist() == [-1, 7]


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        (np.zeros((4, 2)), ("x",), r"values of shape \(4, 2\) with names"),
        (np.zeros(0), ("x",), "values of shape"),
        (np.zeros((2, 2, 2, 2)), ("x", "y"), "values of shape"),
    ],
)
def test_recordings_that_do_not_fit(values: Any, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recording(values, names)


def test_a_recording_that_is_too_short_and_an_unknown_channel() -> None:
    recording = Recording(np.arange(10.0))
    with pytest.raises(ValueError, match="steps = 11: the recording has 10 samples left"):
        recording.advance(11)
    with pytest.raises(ValueError, match="unknown channel of the recording 'y'"):
        recording.orbit(5, observe="y")


def test_a_masked_index_is_no_member() -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=3)
    for mask in (np.ma.array([0, 1, 2], mask=[0, 1, 0]), np.ma.array([True, True, False], mask=[1, 0, 0])):
        with pytest.raises(nnflow.Refusal, match="some are masked"):
            scan.take(mask)


def test_initial_states_that_axes_write_over_are_refused() -> None:
    """Three members of one state looked like three draws."""
    henon = nnflow.maps["henon"]()
    with pytest.raises(nnflow.Refusal, match="3 initial states, and axes that give all coordinates"):
        Ensemble.grid(henon, inits=3, x=[0.1, 0.2], y=0.3)
    assert len(Ensemble.grid(henon, inits=3, x=[0.1, 0.2])) == 6
    assert len(Ensemble.grid(henon, x=[0.1, 0.2], y=0.3)) == 2
