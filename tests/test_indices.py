"""An index is no measured series, though it has holes; where it may be either, nobody guesses.

What else could go wrong with the columns beside a series: rows that were lost, put in twice or swapped, an index that
falls, that was resumed, that is empty somewhere, equal stamps, one epoch for many rows, names in other writings, with
units or underscores, no names at all, a measured count of whole numbers, a schedule in equal steps, whole numbers that
float64 cannot hold, nothing but an index.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nnflow
from nnflow.__main__ import main
from nnflow.recorded import read_series

LOSS = np.random.default_rng(0).random(1000)
COUNT = np.arange(1000)


def read(tmp_path: Path, *wanted: str, **columns: Any) -> Any:
    table = pd.DataFrame({name.replace("__", " "): column for name, column in columns.items()})
    table.to_csv(tmp_path / "a.csv", index=False)
    return read_series(tmp_path / "a.csv", wanted, alone=True)


def spoilt(at: int, value: float) -> Any:
    return np.where(at == COUNT, value, COUNT)


@pytest.mark.parametrize(
    ("name", "index", "said"),
    [
        ("n", np.delete(np.arange(1001), 500), "499, then 501 at sample 500"),
        ("whatever", np.delete(np.arange(1001), 500), "499, then 501 at sample 500"),
        ("n", spoilt(500, 499), "499, then 499 at sample 500"),
        ("k", spoilt(500, np.inf), "k is infinite at sample 500"),
        ("step", spoilt(500, np.nan), "empty at sample 500"),
        ("epoch", COUNT // 10, "0, then 1 at sample 10"),
        ("global_step", np.concatenate([np.arange(600), np.arange(500, 900)]), "599, then 500 at sample 600"),
        ("i", spoilt(500, 502), "499, then 502 at sample 500"),
        ("Wall time", 1.7e9 + 0.5 * spoilt(500, 499), "at sample 500"),
        ("time [s]", 0.1 * np.delete(np.arange(1001), 500), "at sample 500"),
        ("Unnamed: 0", np.delete(np.arange(1001), 500), "499, then 501"),
        ("count", 7 * COUNT, ""),
        ("Time", 1.7e9 + 0.001 * COUNT, ""),
    ],
    ids=range(13),
)
def test_an_index_is_known_whatever_happened_to_it(tmp_path: Path, name: str, index: Any, said: str) -> None:
    series = read(tmp_path, **{name: index, "loss": LOSS})
    assert series.times == (name,)
    np.testing.assert_array_equal(series.recording.cube[0, :, 0], LOSS)
    assert len(series.remarks) == bool(said)
    assert said in str(series)


def test_an_index_without_a_name_is_known_too(tmp_path: Path) -> None:
    for index in (np.delete(np.arange(1001), 500), spoilt(500, 499), -COUNT, 0.1 * COUNT):
        np.save(tmp_path / "a.npy", np.stack([index, LOSS], axis=1))
        assert read_series(tmp_path / "a.npy", alone=True).times == ("x0",)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("lr", np.linspace(0.1, 0.2, 1000)),
        ("lr", np.linspace(0.2, 0.1, 1000)),
        ("batch", COUNT % 5),
        ("whatever", spoilt(500, 400)),
        ("time", LOSS),
        ("temperature", 300 - COUNT),
        ("seed", COUNT // 400),
    ],
    ids=range(7),
)
def test_what_may_be_an_index_is_asked_for(tmp_path: Path, name: str, column: Any) -> None:
    columns = {name: column, "loss": LOSS}
    with pytest.raises(nnflow.Refusal, match=f"column {name} may be an index or measured.*--observable"):
        read(tmp_path, **columns)
    assert read(tmp_path, "loss", **columns).recording.cube[0, 0, 0] == LOSS[0]
    assert read(tmp_path, name, **columns).recording.names == (name,)


def test_what_falls_unevenly_without_a_name_is_asked_for(tmp_path: Path) -> None:
    """Counts of errors beside an accuracy: the accuracy was turned round."""
    np.save(tmp_path / "a.npy", np.array([[9.0, 0.1], [7.0, 0.3], [4.0, 0.2]]))
    with pytest.raises(nnflow.Refusal, match="column x0 may be an index or measured"):
        read_series(tmp_path / "a.npy", alone=True)


DAYS = [f"{day:%Y-%m-%d}" for day in pd.date_range("2020-01-01", periods=1000)]


@pytest.mark.parametrize(
    ("name", "index", "said"),
    [
        ("time", 0.5 * COUNT, ""),
        ("k", COUNT, ""),
        ("step", COUNT, ""),
        ("n", np.delete(np.arange(1001), 500), "499, then 501 at sample 500"),
        ("n", spoilt(500, np.nan), "empty at sample 500"),
        ("date", DAYS, ""),
        ("day of observation", [f"{day}T12:00:00Z" for day in DAYS], ""),
        ("ns", [1700000000000000001 + 10**9 * i for i in range(1000)], ""),
    ],
    ids=range(8),
)
def test_the_newest_first_is_turned_round_and_that_is_said(tmp_path: Path, name: str, index: Any, said: str) -> None:
    name = "time" if name == "ns" else name
    series = read(tmp_path, **{name: list(reversed(index)), "loss": LOSS[::-1]})
    np.testing.assert_array_equal(series.recording.cube[0, :, 0], LOSS)
    assert series.remarks[0] == f"{name} falls: the newest row was first, the rows are turned round"
    assert len(series.remarks) == 1 + bool(said)
    assert said in str(series)


def test_arrays_are_turned_round_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([-COUNT, LOSS], axis=1))
    np.testing.assert_array_equal(read_series(tmp_path / "a.npy", alone=True).recording.cube[0, :, 0], LOSS[::-1])
    both = [np.stack([way * COUNT, LOSS], axis=1) for way in (1, -1)]
    np.save(tmp_path / "a.npy", both)
    with pytest.raises(nnflow.Refusal, match="x0"):
        read_series(tmp_path / "a.npy", alone=True)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"time": -(COUNT // 2)}, "column time rises and falls, or stands still while it falls: sort the rows by it"),
        ({"step": -spoilt(500, 400)}, "column step rises and falls"),
        ({"date": [*DAYS[500:], *DAYS[:500]][::-1]}, "column date rises and falls"),
        ({"Unnamed: 0": COUNT, "time": -COUNT}, "column Unnamed: 0 rises and column time falls"),
    ],
    ids=range(4),
)
def test_times_in_no_order_are_refused(tmp_path: Path, columns: Any, said: str) -> None:
    with pytest.raises(nnflow.Refusal, match=said):
        read(tmp_path, **columns, loss=LOSS)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"loss": LOSS, "time": -COUNT}, "time, left out, does not rise"),
        ({"loss": LOSS, "date": DAYS[::-1]}, "date, left out, does not rise"),
        ({"loss": LOSS, "step": spoilt(500, 502)}, "step is not equally spaced: 499, then 502 at sample 500"),
        ({"time": LOSS, "loss": LOSS}, "time, left out, does not rise"),
        ({"time": ["10:00"] * 1000, "loss": LOSS}, "time is not checked for order and holes"),
        ({"loss": LOSS, "val": -COUNT}, ""),
        ({"loss": LOSS, "step": COUNT, "n": LOSS}, ""),
    ],
    ids=range(7),
)
def test_what_a_column_that_is_left_out_says_of_the_order_is_said(tmp_path: Path, columns: Any, said: str) -> None:
    series = read(tmp_path, "loss", **columns)
    np.testing.assert_array_equal(series.recording.cube[0, :, 0], LOSS)
    assert len(series.remarks) == bool(said)
    assert said in str(series)


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        (DAYS, ""),
        ([*DAYS[:500], "", *DAYS[501:]], "when is empty at sample 500"),
        ([*DAYS[:500], *DAYS[501:], "2030-01-01"], "2020-05-14, then 2020-05-16".replace("2020-05", "2021-05")),
        ([f"{day:%Y-%m-%d}" for day in pd.date_range("1940-01-01", periods=1000, freq="MS")], ""),
        ([f"{day:%Y-%m-%d}" for day in pd.date_range("1940-01-01", periods=1000, freq="ME")], ""),
        ([f"{day:%Y-%m}" for day in pd.date_range("1940-01-01", periods=1000, freq="MS")], ""),
        ([f"{day:%Y-%m-%d %H:%M:%S}" for day in pd.date_range("2020-01-01", periods=1000, freq="7s")], ""),
    ],
    ids=range(7),
)
def test_dates_are_checked_as_numbers_are(tmp_path: Path, dates: Any, said: str) -> None:
    series = read(tmp_path, when=dates, loss=LOSS)
    assert (series.times, len(series.remarks)) == (("when",), bool(said))
    assert said in str(series)


@pytest.mark.parametrize("name", ["run", "time", "date"])
@pytest.mark.parametrize("text", ["A", "10:00:00", "01/02/2020", "now", "2020-13-01"])
def test_text_that_is_no_date_is_no_index(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(
        nnflow.Refusal, match=f"'{text}' in column {name} is no number .line 2.: say which.*--observable.*2020-01-31"
    ):
        read(tmp_path, **{name: [text] * 1000, "loss": LOSS})
    assert read(tmp_path, "loss", **{name: [text] * 1000, "loss": LOSS}).recording.names == ("loss",)


@pytest.mark.parametrize("mark", ["?", "-", "--", ".", "missing", "1,5"])
@pytest.mark.parametrize("name", ["x", "time"])
def test_a_mark_that_is_no_number_makes_no_index(tmp_path: Path, name: str, mark: str) -> None:
    column = [*map(str, COUNT[:7]), mark, *map(str, COUNT[8:])]
    with pytest.raises(
        nnflow.Refusal, match=f"'{re.escape(mark)}' in column {name} is no number .line 9.: leave missing"
    ):
        read(tmp_path, **{name: column, "loss": LOSS})
    dates = [*DAYS[:7], mark, *DAYS[8:]]
    with pytest.raises(
        nnflow.Refusal, match=f"'{re.escape(mark)}' in column {name} is no date .line 9.: leave missing"
    ):
        read(tmp_path, **{name: dates, "loss": LOSS})


def test_times_without_a_name_are_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.stack([np.cumsum(LOSS), LOSS], axis=1))
    with pytest.raises(nnflow.Refusal, match="column x0 may be an index"):
        read_series(tmp_path / "a.npy", alone=True)


@pytest.mark.parametrize("name", ["time", "n", "step"])
def test_nothing_but_an_index_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(nnflow.Refusal, match=f"nothing but an index, {name}"):
        read(tmp_path, **{name: COUNT})
    assert read(tmp_path, name, **{name: COUNT}).recording.names == (name,)


@pytest.mark.parametrize(
    "column", [LOSS, np.round(9 * LOSS), np.ones(1000), np.exp(-LOSS.cumsum() / 99), np.cumsum(LOSS)], ids=range(5)
)
def test_what_was_measured_is_analysed(tmp_path: Path, column: Any) -> None:
    assert read(tmp_path, measured=column, loss=LOSS).recording.names == ("measured",)


def test_no_digits_are_lost(tmp_path: Path) -> None:
    for text in ("a\n1\n10000000000000001\n", "10000000000000001\n1\n", "a\n" + "9" * 400 + "\n"):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(nnflow.Refusal, match="loses digits"):
            read_series(tmp_path / "a.csv", alone=True)
    (tmp_path / "a.csv").write_text("time,a\n1700000000000000001,1\n1700000000000000002,10000000000000000\n")
    assert read_series(tmp_path / "a.csv", alone=True).recording.cube.ravel().tolist() == [1, 1e16]


def test_a_hole_is_said_and_stays_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"n": COUNT, "loss": LOSS}).drop(index=500).to_csv("a.csv", index=False)
    assert main(["run", "zero_one_test", "--map", "a.csv", "-o", "a.nc"]) == 0
    assert "warning: a.csv: n is not equally spaced: 499, then 501 at sample 500" in capsys.readouterr().err
    found = nnflow.load("a.nc")
    assert float(found.K) > 0.9
    assert "loss is analysed, 999 samples; taken as the index: n; n is not equally" in found.attrs["recording"]


@pytest.mark.parametrize(
    "text", ["time,v\n3,1\n2,2\n1,3\n", "date,step,v\n2020-01-03,3,1\n2020-01-02,2,2\n2020-01-01,1,3\n"]
)
def test_the_order_is_the_same_whatever_is_asked_for(tmp_path: Path, text: str) -> None:
    """v was 3, 2, 1 by itself, and 1, 2, 3 beside the time; and only the former was said."""
    (tmp_path / "a.csv").write_text(text)
    last = text.partition("\n")[0].split(",")[-2]
    for wanted in (("v",), (last, "v"), ("v", last), (last,)):
        series = read_series(tmp_path / "a.csv", wanted)
        for name in wanted:
            column = series.recording.cube[0, :, wanted.index(name)]
            assert column.tolist() == ([3, 2, 1] if name == "v" else [1, 2, 3])
        assert "falls: the newest row was first, the rows are turned round" in str(series)


def test_what_is_asked_for_behind_the_first_column_was_measured(tmp_path: Path) -> None:
    """It was taken for a second time, which falls where the date rises: refused, with no way out."""
    (tmp_path / "a.csv").write_text("date,steps,x\n2020-01-01,9,1\n2020-01-02,8,2\n2020-01-03,4,3\n")
    assert read_series(tmp_path / "a.csv", ("steps",)).recording.cube.ravel().tolist() == [9, 8, 4]


def test_what_else_an_index_says_is_said_though_it_is_asked_for(tmp_path: Path) -> None:
    series = read(tmp_path, "time", "loss", time=np.delete(np.arange(1001), 500), loss=LOSS)
    assert "time is not equally spaced: 499, then 501 at sample 500" in str(series)
    assert not series.times


@pytest.mark.parametrize("column", [np.maximum(0, 500 - COUNT), 500 - COUNT + 3 * (COUNT % 30 == 0)], ids=range(2))
def test_what_goes_down_may_be_measured_whatever_its_name(tmp_path: Path, column: Any) -> None:
    """What is asked for, and is no time or stands alone, stays in the order of the rows."""
    series = read(tmp_path, "n", n=column, loss=LOSS)
    np.testing.assert_array_equal(series.recording.cube[0, :, 0], column)
    np.testing.assert_array_equal(read(tmp_path, "n", n=-COUNT).recording.cube[0, :, 0], -COUNT)


@pytest.mark.parametrize("count", [1, -1])
@pytest.mark.parametrize("dates", [1, -1])
def test_a_nameless_count_tells_no_time_beside_dates(tmp_path: Path, count: int, dates: int) -> None:
    """As pandas writes a frame that has the newest first, or was sorted after it had been counted."""
    frame = pd.DataFrame({"date": DAYS[::dates], "x": LOSS[::dates]}, index=COUNT[::count])
    frame.to_csv(tmp_path / "a.csv")
    series = read_series(tmp_path / "a.csv", alone=True)
    np.testing.assert_array_equal(series.recording.cube[0, :, 0], LOSS)
    assert series.times == ("Unnamed: 0", "date")
    assert list(series.remarks) == ["date falls: the newest row was first, the rows are turned round"] * (dates < 0)


def test_a_falling_index_that_is_asked_for_is_said(tmp_path: Path) -> None:
    """Alone, x was turned with a remark; beside step it stayed, without one."""
    table = tmp_path / "log.csv"
    table.write_text("epoch,step,x\n" + "".join(f"1,{i},{0.1 * i}\n" for i in range(5, 0, -1)))
    said = ("step, asked for, falls: the samples are taken in the order of the rows",)
    assert read_series(table, ("step", "x")).remarks == said
    assert read_series(table, ("x",)).remarks[0].endswith("the rows are turned round")
