"""Labelled inputs: what a label says is followed where it is clear, in any order, and refused where it contradicts."""

from __future__ import annotations

from datetime import date, time
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import nnflow
from nnflow import Ensemble, Recording
from nnflow.labels import labelled

HENON = nnflow.maps["henon"]()
STATES = np.array([[0.1, 0.2], [0.3, 0.4]])


def swapped(states: np.ndarray = STATES) -> pd.DataFrame:
    return pd.DataFrame({"y": states[:, 1], "x": states[:, 0]})


def refused(call: Any, match: str) -> None:
    with pytest.raises(nnflow.Refusal, match=match) as error:
        call()
    assert "\n" not in str(error.value)


SAID: dict[str, Any] = {  # all of them say the states above
    "frame": swapped(),
    "frame, transposed": swapped().T,
    "frame of ranks": pd.DataFrame(STATES),
    "series": [swapped().iloc[0], swapped().iloc[1]],
    "dims": xr.DataArray(STATES[:, ::-1], dims=("init", "channel"), coords={"channel": ["y", "x"]}),
    "dims, transposed": xr.DataArray(STATES.T, dims=("component", "init"), coords={"component": ["x", "y"]}),
    "named dims": xr.DataArray(STATES.T, dims=("component", "init")),
    "other dims": xr.DataArray(STATES, dims=("init", "what")),
    "no dims": xr.DataArray(STATES),
    "numbers": STATES,
}


@pytest.mark.parametrize("kind", SAID)
def test_states_go_by_their_labels(kind: str) -> None:
    """Columns y, x were read as x, y."""
    states = SAID[kind]
    np.testing.assert_array_equal(Ensemble.grid(HENON, states=states).states, STATES)
    start = Ensemble.grid(HENON, inits=2)
    np.testing.assert_array_equal(start.with_states(states).states, STATES)
    f, expected = nnflow.numpy_mapping(HENON), nnflow.numpy_mapping(HENON)(STATES)
    np.testing.assert_array_equal(f(states), expected)
    neighbors = np.stack([STATES, STATES], axis=1)
    if not isinstance(states, list):
        wide = xr.concat([xr.DataArray(states)] * 2, "copy") if isinstance(states, xr.DataArray) else None
        if wide is not None and kind.startswith("dims"):
            told = wide.transpose("init", "copy", ...)
            np.testing.assert_array_equal(start.with_neighbors(told).neighbors, neighbors)
            np.testing.assert_array_equal(start.with_vectors(told).frames, neighbors)
            d, _ = start.with_states(STATES).separation_orbit(told, 1)
            np.testing.assert_allclose(d, 0, atol=0)
            np.testing.assert_array_equal(start.difference(told, neighbors), 0 * neighbors)


def test_what_a_run_gives_goes_into_the_next() -> None:
    """`channel` is labelled y, x."""
    found = nnflow.run("series", Ensemble.grid(HENON, inits=3), observe=("y", "x"), steps=3)
    at = found.value.isel(time=-1)
    expected = at.sel(channel=["x", "y"]).values
    np.testing.assert_array_equal(Ensemble.grid(HENON, states=at).states, expected)
    for one in (at.isel(init=1), at.isel(init=1).to_series()):
        np.testing.assert_array_equal(nnflow.numpy_mapping(HENON)(one), nnflow.numpy_mapping(HENON)(expected[1]))


@pytest.mark.parametrize(
    "states",
    [
        pd.DataFrame(STATES, columns=["u", "v"]),
        pd.DataFrame(STATES, columns=["x", "x"]),
        pd.DataFrame(STATES, columns=[1, 0]),
        xr.DataArray(STATES, dims=("init", "channel"), coords={"channel": ["x", "loss"]}),
        xr.DataArray(STATES, dims=("init", "r"), coords={"r": [3.5, 3.9]}),
        [pd.Series({"x": 1.0, "z": 2.0})],
    ],
)
def test_other_labels_are_refused(states: Any) -> None:
    match = r"labelled .*, and are to be \['x', 'y'\]: give these, in any order"
    refused(lambda: Ensemble.grid(HENON, states=states), match)
    refused(lambda: Ensemble.grid(HENON, inits=2).with_states(states), match)
    refused(lambda: nnflow.numpy_mapping(HENON)(states), match)


def test_members_go_by_the_names_of_the_axes() -> None:
    """On a square scan a mask of dims (init, r) chose other members."""
    start = Ensemble.grid(nnflow.maps["logistic"](), r=[3.5, 3.9], inits=2)
    value = nnflow.run("series", start, steps=2).value.isel(time=1, channel=0)
    mask = xr.DataArray([0.4, 0.9], dims="init") < value
    assert mask.dims == ("init", "r")
    wanted = np.flatnonzero((np.array([0.4, 0.9]) < value.values).ravel())
    assert 0 < len(wanted) < 4
    for told in (mask, mask.T, mask.to_pandas(), mask.to_pandas().T, mask.T.values, mask.T.values.ravel()):
        np.testing.assert_array_equal(start.take(told).axes[0].values, wanted)
    flat = xr.DataArray(mask.T.values.ravel(), dims="member")
    np.testing.assert_array_equal(start.take(flat).axes[0].values, wanted)
    refused(lambda: start.take(mask.rename(r="q")), r"dims \['init', 'q'\]: the axes of the members are r, init")
    refused(lambda: start.take(mask.isel(r=0)), r"dims \['init'\]: the axes")
    refused(lambda: start.take(mask.assign_coords(r=[3.5, 3.8])), r"labelled \[3.5, 3.8\] along r, whose values are")
    refused(lambda: start.take(mask.isel(r=[1, 0])), "labelled .* along r")
    refused(lambda: start.take(mask.T.stack(both=("r", "init"))), r"dims \['both'\]")
    line = Ensemble.grid(nnflow.maps["logistic"](), r=[3.5, 3.9, 3.7])
    series = pd.Series([True, False, True])
    assert line.take(series).axes[0].values.tolist() == [0, 2]
    assert line.take(series.set_axis([3.5, 3.9, 3.7])).axes[0].values.tolist() == [0, 2]
    refused(lambda: line.take(series.sort_index(ascending=False)), "labelled .* along r")
    assert line.take(xr.DataArray([2, 0], dims="any")).axes[0].values.tolist() == [2, 0]


def test_states_of_members_go_by_the_names_of_the_axes() -> None:
    start = Ensemble.grid(HENON, a=[1.2, 1.4], inits=2)
    found = nnflow.run("series", start, steps=3, return_states=True).state
    wanted = start.advance(3).states
    for told in (found, found.transpose("component", "init", "a"), found.sel(component=["y", "x"])):
        np.testing.assert_array_equal(start.with_states(told).states, wanted)
    np.testing.assert_array_equal(start.with_states(swapped(wanted)).states, wanted)
    refused(lambda: start.with_states(found.rename(a="q")), r"states have the dims \['q', 'init'\]")
    refused(lambda: start.with_states(found.assign_coords(a=[1.2, 1.5])), "labelled .* along a")
    refused(lambda: start.with_states(swapped(wanted).set_axis([3, 1, 0, 2])), "states have the labels")
    one = Ensemble.grid(HENON)
    np.testing.assert_array_equal(one.with_states(swapped().iloc[[1]]).states, STATES[[1]])
    np.testing.assert_array_equal(one.with_states(swapped().iloc[1]).states, STATES[[1]])
    refused(lambda: start.with_states(swapped().iloc[1]), r"states of shape \(2,\)")


def test_parameters_go_by_their_labels() -> None:
    """A Series of names was taken for an array."""
    f, u = nnflow.numpy_mapping(HENON), [0.5, 0.1]
    b_only = f(u, {"b": 0.2})
    for told in (pd.Series({"b": 0.2, "a": 1.1}), xr.DataArray([0.2, 1.1], dims="p", coords={"p": ["b", "a"]})):
        np.testing.assert_array_equal(f(u, told), f(u, [1.1, 0.2]))
    np.testing.assert_array_equal(f(u, pd.Series({"b": 0.2})), b_only)
    np.testing.assert_array_equal(f(u, pd.Series([1.1, 0.2])), f(u, [1.1, 0.2]))
    refused(lambda: f(u, pd.Series({"c": 0.2})), "unknown parameter of henon 'c'")
    refused(lambda: f(u, {"a": 1.3}, a=1.2), "a: given in parameters and by name")
    bowl = nnflow.gradient_map(lambda w: (w * w).sum(), 2, backend="tensor", eta=0.25)
    w = pd.Series(dict(zip(bowl.coordinates[::-1], [1.0, 2.0], strict=True)))
    found = nnflow.torch_mapping(bowl)(w, pd.Series({"eta": 0.5}))
    torch.testing.assert_close(found, torch.zeros(2, dtype=found.dtype))
    assert nnflow.torch_mapping(bowl)(w).tolist() == [1.0, 0.5]
    scan = Ensemble.grid(HENON, a=[1.2, 1.4])
    frame = pd.DataFrame({"b": [0.3, 0.3], "a": [1.2, 1.4]})
    again = Ensemble(HENON, scan.state, frame, 0, scan.escaped, scan.axes, scan.init)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.parameters, scan.parameters)


@pytest.mark.parametrize("t", [1.5, -1, "a", True])
def test_a_step_index_is_a_whole_number(t: Any) -> None:
    """1.5 was 1."""
    bowl = nnflow.gradient_map(lambda w: (w * w).sum(), 2, backend="tensor", eta=0.25)
    for call in (nnflow.numpy_mapping(HENON), nnflow.torch_mapping(bowl)):
        refused(lambda call=call: call([0.5, 0.1], t=t), "t = ")


def test_a_map_is_made_by_labels() -> None:
    def rule(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[:] = x

    low, high = pd.Series({"y": 2.0, "x": 1.0}), pd.Series({"y": 20.0, "x": 10.0})
    one = nnflow.CompiledMap(rule, dim=2, coordinates=("x", "y"), box=(low, high), start=low)
    assert one.box == ((1.0, 2.0), (10.0, 20.0))
    assert one.start.tolist() == [1.0, 2.0]
    drawn = nnflow.CompiledMap(rule, dim=2, coordinates=("x", "y"), initial=lambda n, seed: swapped(STATES[[0] * n]))
    np.testing.assert_array_equal(drawn.initial_states(3, 0), STATES[[0] * 3])
    refused(lambda: nnflow.CompiledMap(rule, dim=2, coordinates=("u", "v"), box=(low, high)), "sides of the box are")


def test_an_axis_that_is_no_longer_true_numbers_members() -> None:
    """x = .1, .2, .3 stood beside the values .5, .6, .7."""
    start = Ensemble.grid(nnflow.maps["logistic"](), r=[3.5, 3.9], x=[0.1, 0.2, 0.3])
    other = start.with_states(start.states + 0.4)
    assert [(axis.name, axis.kind) for axis in other.axes] == [("r", "parameter"), ("member", "member")]
    found = nnflow.run("series", other, steps=1, return_states=True)
    assert found.member.values.tolist() == [0, 1, 2]
    assert "x" not in found.coords
    assert [axis.kind for axis in Ensemble.from_result(start.map, found).axes] == ["parameter", "member"]
    same = start.advance(3).with_states(start.states)
    assert [axis.name for axis in same.axes] == ["r", "x"]
    plane = Ensemble.grid(HENON, x=[0.1, 0.2], y=[0.3, 0.4, 0.5])
    assert [axis.name for axis in plane.with_states(plane.states + np.array([1, 0])).axes] == ["member", "y"]
    assert [axis.name for axis in plane.with_states(plane.states + 1).axes] == ["member", "member2"]
    one = plane.states.copy()
    one[3, 1] = np.nan
    assert [axis.name for axis in plane.with_states(one).axes] == ["x", "member"]


def test_an_axis_in_float32_stays_true() -> None:
    bowl = nnflow.gradient_map(lambda w: (w * w).sum(), 1, backend="tensor", eta=0.25, dtype=torch.float32)
    start = Ensemble.grid(bowl, **{bowl.coordinates[0]: [0.1, 0.3]})
    for states in (start.states, start.state, [[0.1], [0.3]]):
        assert [axis.kind for axis in start.with_states(states).axes] == ["coordinate"]
    assert [axis.kind for axis in start.with_states(start.state + 1).axes] == ["member"]


# ------------------------------------------------------------------------------------------------------- recordings

A = np.array([0.0, 3.0, 1.0, 4.0, 2.0])
B = A**2
FRAME = pd.DataFrame({"a": A, "b": B})
ARRAY = xr.DataArray([A, B], dims=("channel", "time"), coords={"channel": ["a", "b"]})
RECORDED: dict[str, Any] = {
    "frame": FRAME,
    "frame, other order": FRAME[["b", "a"]],
    "frame, transposed": FRAME.T,
    "dims": ARRAY,
    "dims, in order": ARRAY.T,
    "other dims": ARRAY.rename(channel="station"),
    "only the channel named": ARRAY.rename(time="when"),
}


@pytest.mark.parametrize("kind", RECORDED)
@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_channels_go_by_their_labels(kind: str, names: tuple[str, ...]) -> None:
    """Column a was called b; (channel, time) was read as (time, channel)."""
    one = Recording(RECORDED[kind], names)
    assert one.names == names
    np.testing.assert_array_equal(one.orbit(5, observe="a")[0].ravel(), A)
    np.testing.assert_array_equal(one.orbit(5, observe="b")[0].ravel(), B)


def test_names_are_those_of_the_labels() -> None:
    for values, names in (
        (FRAME[["b", "a"]], ("b", "a")), (ARRAY, ("a", "b")), (ARRAY.rename(channel="station"), ("a", "b")),
        (FRAME[["a"]], ("a",)), (A, ("x",)), (FRAME["a"], ("x",)), (pd.DataFrame(A), ("x",)),
        (pd.DataFrame(A, index=list("vwxyz")), ("x",)),
    ):  # fmt: skip
        one = Recording(values)
        assert one.names == names
        assert one.samples == 5
        np.testing.assert_array_equal(one.orbit(5, observe=names[-1])[0].ravel(), B if names[-1] == "b" else A)
    scan = Ensemble.grid(HENON, a=[1.0, 1.1, 1.2])
    value = nnflow.run("series", scan, observe=("y", "x"), steps=5).value
    for told in (value, value.transpose("time", "channel", "a"), value.transpose("channel", ...)):
        one = Recording(told)
        assert (len(one), one.samples, one.names) == (3, 5, ("y", "x"))
        np.testing.assert_array_equal(one.orbit(5, observe="x")[0][..., 0], value.sel(channel="x").values)


def test_channels_of_other_names_are_refused() -> None:
    for values in (FRAME, ARRAY, ARRAY.T):
        refused(
            lambda values=values: Recording(values, ("a", "c")), r"labelled \['a', 'b'\], and are to be \['a', 'c'\]"
        )
    refused(lambda: Recording(xr.DataArray([A, B], dims=("s", "time")), ("a", "b")), "call the dim of the channels")
    refused(lambda: Recording(xr.DataArray([A, B], dims=("s", "time"))), "call the dim of the channels")
    np.testing.assert_array_equal(Recording(np.stack([A, B], 1), ("a", "b")).cube[0], np.stack([A, B], 1))
    unnamed = xr.DataArray(np.stack([A, B], 1), dims=("when", "what"))
    np.testing.assert_array_equal(Recording(unnamed, ("a", "b")).cube[0], np.stack([A, B], 1))


def test_a_recording_is_its_own() -> None:
    """A read-only array that owns its numbers was not copied: its owner may change it."""
    values = np.arange(4.0)[None, :, None].copy()
    values.flags.writeable = False
    one = Recording(values)
    values.flags.writeable = True
    values[:] = 7.0
    assert one.cube.ravel().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert one.advance(1).cube is one.cube
    assert not one.cube.flags.writeable


class Columns:
    """What a frame of polars offers."""

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns

    def to_numpy(self) -> np.ndarray:
        return STATES

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return STATES


def test_frames_of_other_makers() -> None:
    found = Ensemble.grid(HENON, states=Columns(["y", "x"]))
    np.testing.assert_array_equal(found.states, STATES[:, ::-1])
    assert labelled(Columns(["column_0", "column_1"])).labels == (None, None)  # type: ignore[union-attr]
    assert labelled(xr.Dataset({"x": 1.0})) is None
    assert labelled(torch.ones(2)) is None


# -------------------------------------------------------------------------------------------------- samples of data

RNG = np.random.default_rng(2)
TABLE = pd.DataFrame(RNG.normal(size=(12, 3)), columns=["a", "b", "c"])
CLASSES = pd.Series(RNG.integers(0, 2, 12))


def trained(inputs: Any, targets: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    loss = torch.nn.functional.cross_entropy
    return nnflow.training_map(torch.nn.Linear(3, 2), loss, inputs, targets, **more)


def test_test_data_have_the_columns_of_the_inputs() -> None:
    """Columns c, a, b of a test table were read as a, b, c."""
    other = TABLE[["c", "a", "b"]]
    names = ("test_loss", "probe[3,1]")
    seen = [
        Ensemble.grid(trained(TABLE, CLASSES, test=(test, CLASSES), probe=test)).orbit(1, observe=names)[0]
        for test in (TABLE, other, TABLE.values)
    ]
    np.testing.assert_array_equal(seen[1:], [seen[0]] * 2)
    renamed = TABLE.rename(columns={"a": "z"})
    refused(lambda: trained(TABLE, CLASSES, test=(renamed, CLASSES)), r"test inputs are labelled \['z', 'b', 'c'\]")
    refused(lambda: trained(TABLE, CLASSES, probe=renamed), r"probe are labelled \['z', 'b', 'c'\]")
    by_keyword = trained({"input": TABLE}, CLASSES, probe={"input": other})
    np.testing.assert_array_equal(Ensemble.grid(by_keyword).orbit(1, observe="probe[3,1]")[0], seen[0][:, :, 1:])


def test_rows_of_other_samples_are_refused() -> None:
    """Inputs that were shuffled, and targets that were shuffled otherwise."""
    shuffled, otherwise = TABLE.sample(frac=1, random_state=0), CLASSES.sample(frac=1, random_state=1)
    match = "the rows of (test )?inputs and targets are labelled"
    refused(lambda: trained(shuffled, otherwise), match)
    refused(lambda: trained(TABLE, CLASSES, test=(shuffled, otherwise)), match)
    refused(lambda: nnflow.data.split_rows(shuffled, otherwise), match)
    refused(lambda: trained(shuffled, otherwise.reset_index(drop=True)), match)  # rows that count are rows, too
    for targets in (CLASSES[shuffled.index], otherwise.values):
        trained(shuffled, targets)
        nnflow.data.split_rows(shuffled, targets)


def test_a_state_is_put_into_a_module_by_its_labels() -> None:
    map = trained(TABLE, CLASSES)
    state = Ensemble.grid(map).advance(3).states[0]
    told = pd.Series(state, index=map.coordinates).iloc[::-1]
    module = map.load_state(torch.nn.Linear(3, 2), told)
    np.testing.assert_array_equal(map.state_of(module), state)


def test_a_first_column_that_tells_the_time_is_not_analyzed() -> None:
    """As `pd.read_csv` gives it; K of the step count was −0.04, "regular", and of the loss beside it 0.995."""
    loss = np.random.default_rng(0).normal(size=50)
    counts: dict[str, Any] = {
        "step": np.arange(50), "epoch": np.arange(50)[::-1], "time": np.cumsum(0.5 + loss**2),
        "Unnamed: 0": np.arange(50), "n": 3 * np.arange(50) + 7,
    }  # fmt: skip
    for name, column in counts.items():
        frame = pd.DataFrame({name: column, "loss": loss})
        refused(lambda frame=frame: Recording(frame), f"column {name} tells the time .*set_index")
        assert Recording(frame, (name, "loss")).names == (name, "loss")
        assert Recording(frame[["loss"]]).names == ("loss",)
        assert Recording(frame[[name]]).names == (name,)  # alone, it was measured
    assert Recording(pd.DataFrame({"x": loss, "step": np.arange(50)})).names == ("x", "step")
    with pytest.warns(UserWarning, match="column voltage may tell the time .* is taken as measured"):
        assert Recording(pd.DataFrame({"voltage": 0.5 * np.arange(50), "y": loss})).names == ("voltage", "y")


def test_times_that_are_not_equally_spaced_are_told() -> None:
    """What else: dates, months of unlike lengths, which are equally spaced, their last days, and a hole."""
    days = pd.date_range("2020-01-01", periods=12, freq="D")
    hole = days[:11].append(days[11:] + pd.Timedelta(days=3))
    uneven: list[Any] = [[0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12], np.arange(12.0) ** 2, hole]
    for index in uneven:
        with pytest.warns(UserWarning, match="not equally spaced: .* the samples are taken as equally spaced"):
            assert Recording(pd.Series(np.arange(12.0), index=index)).samples == 12
    with pytest.warns(UserWarning, match="time is not equally spaced"):
        Recording(xr.DataArray(np.zeros((3, 1)), dims=("time", "channel"), coords={"time": [0, 1, 5]}))
    at_night = pd.date_range("2020-03-25", periods=12, freq="D", tz="Europe/Berlin")  # an hour less on the 29th
    even: list[Any] = [
        at_night, 0.1 * np.arange(12), days, pd.date_range("2020-01-01", periods=12, freq="MS"),
        pd.date_range("2020-01-31", periods=12, freq="ME"), pd.date_range("2020-01-01", periods=12, freq="YS"),
    ]  # fmt: skip
    for index in even:
        assert Recording(pd.Series(np.arange(float(len(index))), index=index)).samples == len(index)


TIMES: dict[str, Any] = {
    "periods": pd.period_range("2020-01", periods=6, freq="M"),
    "differences": pd.timedelta_range("0s", periods=6, freq="10s"),
    "days": [date(2020, 1, 1 + i) for i in range(6)],
    "ends of months": [date(2020, 1 + i, (31, 29, 31, 30, 31, 30)[i]) for i in range(6)],
    "times of day": [time(i) for i in range(6)],
    "intervals": pd.interval_range(0, 6),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_of_any_kind(name: str) -> None:
    """What nobody can place is not asked whether it is equally spaced."""
    assert Recording(pd.Series(np.arange(6.0), index=TIMES[name])).samples == 6
    assert Recording(pd.DataFrame({"a": [*A.tolist(), 7.0]}, index=TIMES[name])).samples == 6


def test_time_differences_and_days_that_are_not_equally_spaced_are_told() -> None:
    for index in (pd.to_timedelta([0, 1, 2, 9], unit="s"), [date(2020, 1, day) for day in (1, 2, 3, 9)]):
        with pytest.warns(UserWarning, match="not equally spaced"):
            Recording(pd.Series(np.arange(4.0), index=index))
    Recording(xr.DataArray(np.zeros(4), dims="time", coords={"time": np.arange(4) * np.timedelta64(1, "s")}))


def test_dates_of_xarray_are_dates() -> None:
    """They were counts of nanoseconds: months are equally spaced, and two days and a week are not."""
    months = np.arange("2020-01", "2021-01", dtype="datetime64[M]").astype("datetime64[ns]")
    fine = np.datetime64("2020-01-01", "ns") + np.arange(12)
    for times in (months, fine, fine - fine[0]):
        assert Recording(xr.DataArray(np.arange(12.0), dims="time", coords={"time": times})).samples == 12
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-09"], dtype="datetime64[ns]")
    with pytest.warns(UserWarning, match="not equally spaced: 2020-01-01 00:00:00, then"):
        Recording(xr.DataArray(np.arange(3.0), dims="time", coords={"time": days}))
    with pytest.raises(nnflow.Refusal, match="rise and fall"):
        Recording(xr.DataArray(np.arange(3.0), dims="time", coords={"time": days[[0, 2, 1]]}))
