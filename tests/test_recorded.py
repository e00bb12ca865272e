"""Recorded series: what is masked is missing, what is no number is refused, which column is analysed is said.

What else could go wrong when numbers come from outside: masks, also in lists; None, NaN, pandas.NA; complex numbers,
dates, texts, objects, whole numbers that float64 cannot hold; in a file: a first row that may be a header or not,
trailing commas, an index, a time, comments, quotes, blank lines, rows of unequal length, other separators, a byte order
mark, columns of one name, text beside numbers, pickled objects, a file that is cut off.
"""

from __future__ import annotations

import json
import pickle
import random
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nnflow_plugins.orbits.plateaus import segment
from nnflow_plugins.recurrence import measures_of_matrix, recurrence_measures
from nnflow_plugins.tools.periods import detect_period
from nnflow_plugins.zero_one_test import zero_one

import nnflow
from nnflow.__main__ import main
from nnflow.recorded import read_series

MASKED = np.ma.MaskedArray


# ---------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (MASKED([1.0, 9e9, 3.0], [0, 1, 0]), [1.0, np.nan, 3.0]),
        (MASKED([1, 999, 3], [0, 1, 0]), [1.0, np.nan, 3.0]),
        (MASKED([1.0, 2.0], False), [1.0, 2.0]),
        (MASKED([1, 2**60], [0, 1]), [1.0, np.nan]),
        ([1.0, np.ma.masked], [1.0, np.nan]),
        (pd.Series([1.0, None]), [1.0, np.nan]),
        (pd.Series([1, None], dtype="Int64"), [1.0, np.nan]),
        (np.array([True, False]), [1.0, 0.0]),
        (np.float16([0.5]), [0.5]),
        (range(3), [0.0, 1.0, 2.0]),
    ],
)
def test_what_is_masked_is_missing(values: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(nnflow.Recording(values).cube[0, :, 0], expected)


def test_masks_of_several_series_are_kept() -> None:
    rows = [MASKED([[1.0], [2.0]], [[0], [1]]), MASKED([[3.0], [4.0]], [[1], [0]])]
    np.testing.assert_array_equal(nnflow.Recording(rows).cube[:, :, 0], [[1, np.nan], [np.nan, 4]])


def test_masks_are_kept_however_deep_they_lie() -> None:
    rows = MASKED([[[1.0], [9e9]], [[3.0], [4.0]]], [[[0], [1]], [[0], [0]]])
    for values in ([list(series) for series in rows], [deque(series) for series in rows], tuple(map(tuple, rows))):
        np.testing.assert_array_equal(nnflow.Recording(values).cube[:, :, 0], [[1, np.nan], [3, 4]])
    np.testing.assert_array_equal(nnflow.Recording([list(rows[0])]).cube[0, :, 0], [1, np.nan])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(nnflow.Refusal):
        nnflow.Recording(endless)


def test_a_masked_sample_is_counted_as_lost_and_not_analysed() -> None:
    x = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.1]]).orbit(500)[0][0, :, 0]
    mask = np.arange(500) == 200
    found = nnflow.run("zero_one_test", nnflow.Recording(MASKED(np.where(mask, 1e6, x), mask)))
    assert np.isnan(float(found.K))
    assert float(nnflow.run("zero_one_test", nnflow.Recording(x)).K) > 0.9


@pytest.mark.parametrize(
    "values",
    [
        np.array([1 + 2j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([3], "m8[s]"),
        ["1.0", "2.0"],
        np.array([b"1"]),
        [1.0, None],
        np.array([1.0, pd.NA], object),
        np.array([1.0, 2.0], object),
        [1, 2**53 + 1],
        [[1.0], [1.0, 2.0]],
        {"a": 1},
        np.zeros(2, "f4,f4"),
        pd.Series(["a"]),
        pd.Series(pd.to_datetime(["2020-01-01"])),
        "loss",
    ],
)
def test_what_is_no_series_of_numbers_is_refused(values: Any) -> None:
    with pytest.raises(nnflow.Refusal):
        nnflow.Recording(values)


def test_functions_of_arrays_see_masks_too() -> None:
    mask = np.arange(400) % 50 == 7
    x = np.random.default_rng(0).normal(size=400)
    series = MASKED(np.where(mask, 1e9, x), mask)
    missing = np.where(mask, np.nan, x)
    assert np.isnan(zero_one(series)) == np.isnan(zero_one(missing))
    found, expected = (recurrence_measures(values, threshold=0.5) for values in (series, missing))
    np.testing.assert_equal(found, expected)
    np.testing.assert_array_equal(detect_period(series[None]), detect_period(missing[None]))
    for function in (zero_one, lambda x: recurrence_measures(x, threshold=0.5), segment, lambda x: detect_period([x])):
        with pytest.raises(ValueError, match=r"dtype (complex|datetime)"):
            function(np.ones(400) * 1j)  # type: ignore[operator]
        with pytest.raises(ValueError, match=r"dtype (complex|datetime)"):
            function(np.ones(400).astype("M8[s]"))  # type: ignore[operator]
    with pytest.raises(ValueError, match="masked entry"):
        measures_of_matrix(MASKED(np.eye(4), np.eye(4)))


@pytest.mark.parametrize(
    "fields",
    [
        {"t": -2},
        {"t": 5},
        {"t": 1.5},
        {"t": True},
        {"t": None},
        {"lost": [1, 2]},
        {"lost": 3},
        {"lost": [0.5]},
        {"lost": ["a"]},
        {"names": ("x", "y")},
    ],
    ids=str,
)
def test_the_fields_of_a_recording_are_checked(fields: dict[str, Any]) -> None:
    """t = -2 was numpy's "attempt to get argmax of an empty sequence", three calls later."""
    with pytest.raises(nnflow.Refusal):
        nnflow.Recording([1.0, 2.0, 3.0, 4.0], **fields)


@pytest.mark.parametrize("name", ["zero_one_test", "recurrence", "orbit_diagram", "autocorrelation", "plateaus"])
def test_every_is_checked_against_the_recordings_own_length(name: str) -> None:
    """It was refused for a default of `steps` that a recording does not use."""
    found = nnflow.run(
        name, nnflow.Recording(np.sin(np.arange(1203.0))), **({} if name == "plateaus" else {"every": 3})
    )
    assert json.loads(found.attrs["settings"])["steps"] in (1203, 1202)
    with pytest.raises(nnflow.Refusal, match="transient = 1203: the recording has 1203 samples"):
        nnflow.run(name, nnflow.Recording(np.sin(np.arange(1203.0))), transient=1203)


def test_a_recording_may_start_anywhere() -> None:
    assert nnflow.Recording([1.0, 2.0, 3.0], t=np.int64(1)).orbit(2)[0].ravel().tolist() == [2.0, 3.0]
    assert nnflow.Recording([1.0, 2.0, 3.0], t=3).samples == 0
    assert nnflow.Recording([1.0, 2.0], lost=[1]).escaped.tolist() == [1]  # type: ignore[arg-type]


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(float).max, reason="no number is longer than float64 here")
@pytest.mark.parametrize("text", ["1e400", "-1e400", "1e-400"])
def test_what_float64_cannot_hold_is_refused(text: str, tmp_path: Path) -> None:
    """It was infinite, with no more than a warning of numpy's; in a file, without one."""
    long = np.array([text, "2"], dtype=np.longdouble)
    for values in (long, MASKED(long, [0, 0])):
        with pytest.raises(nnflow.Refusal, match="float64 cannot hold"):
            nnflow.Recording(values)
    np.save(tmp_path / "a.npy", long)
    (tmp_path / "a.csv").write_text(f"x\n2\n{text}\n")
    for name, message in (("a.npy", "float64 cannot hold"), ("a.csv", f"'{text}' in column x is beyond float64")):
        with pytest.raises(nnflow.Refusal, match=message):
            read_series(tmp_path / name)
    (tmp_path / "a.csv").write_text(f"x\n1\n0.{'0' * 400}1\n")
    with pytest.raises(nnflow.Refusal, match="is beyond float64"):
        read_series(tmp_path / "a.csv")
    kept = np.array(["0", "inf", "nan", "0.1"], dtype=np.longdouble)
    np.testing.assert_array_equal(nnflow.Recording(kept).cube[0, :, 0], [0.0, np.inf, np.nan, 0.1])
    np.testing.assert_array_equal(nnflow.Recording(MASKED(long, [1, 0])).cube[0, :, 0], [np.nan, 2.0])


# ---------------------------------------------------------------------------------------------------- CSV


def read(tmp_path: Path, text: str, *wanted: str) -> Any:
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    return read_series(tmp_path / "a.csv", wanted, alone=True)


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("0.5,\n0.6,\n0.7,\n", "x0", [0.5, 0.6, 0.7]),
        ("0.5\n0.6\n", "x", [0.5, 0.6]),
        ("0.5\r\n0.6\r\n\r\n", "x", [0.5, 0.6]),
        ("\ufeffloss\n0.5\n", "loss", [0.5]),
        ("loss,square\n0.5,0.25\n0.6,0.36\n", "loss", [0.5, 0.6]),
        ('"loss","square"\n"0.5","0.25"\n', "loss", [0.5]),
        ("a, b,\n0.5, 1,\n", "a", [0.5]),
        ("# loss,square\n0.5,0.25\n", "loss", [0.5]),
        ("# made by me\n# loss\n0.5\n", "loss", [0.5]),
        ("# made by me\nloss\n0.5\n", "loss", [0.5]),
        ("# by me, in May\n# and June\n\nloss,square\n0.5,1\n", "loss", [0.5]),
        ("# run,seed\nloss,square\n0.5,1\n", "loss", [0.5]),
        ("# run 3\n0.5,9\n0.4,7\n0.45,8\n", "x0", [0.5, 0.4, 0.45]),
        ("nan\n0.5\n", "x", [np.nan, 0.5]),
        ("x\n0.5\nNA\n\nnull\n".replace("\n\n", "\n"), "x", [0.5, np.nan, np.nan]),
        ("loss,val\n0.5,\n0.6,0.9\n", "loss", [0.5, 0.6]),
        ("a,b\n1,2\n\n3,4\n", "a", [1, 3]),
        ("x\n0.1234567890123456789\n1e-310\ninf\n", "x", [0.1234567890123456789, 1e-310, np.inf]),
    ],
)
def test_tables_are_read_as_pandas_reads_them(tmp_path: Path, text: str, name: str, values: list[float]) -> None:
    series = read(tmp_path, text)
    assert series.recording.names == (name,)
    np.testing.assert_array_equal(series.recording.cube[0, :, 0], values)
    assert str(series).startswith(f"{name} is analysed, {len(values)} samples")


@pytest.mark.parametrize(
    ("text", "times", "name"),
    [
        ("time,loss\n0,.5\n1,.6\n2,.1\n", ["time"], "loss"),
        ("Time,loss\n0,.5\n0.1,.6\n7,.1\n", ["Time"], "loss"),
        (",loss\n0,.5\n1,.6\n2,.1\n", ["Unnamed: 0"], "loss"),
        ("step,train,val\n1,.5,.6\n10,.4,.5\n", ["step"], "train"),
        ("Wall time,Step,Value\n1.5,1,.5\n1.7,2,.4\n2.1,3,.1\n", ["Wall time", "Step"], "Value"),
        ("date,loss\n2020-01-01,.5\n2020-01-02,.6\n", ["date"], "loss"),
        ("0,.5\n1,.6\n2,.1\n", ["x0"], "x1"),
        ("0.0,.5\n0.1,.6\n0.2,.1\n0.3,.4\n", ["x0"], "x1"),
        ("t,x\n3,1\n2,5\n4,1\n", [], "t"),  # it does not rise: a measured t
        ("loss,square\n.1,.01\n.2,.04\n.4,.16\n", [], "loss"),
    ],
)
def test_an_index_is_not_analysed_and_that_is_said(tmp_path: Path, text: str, times: list[str], name: str) -> None:
    series = read(tmp_path, text)
    assert list(series.times) == times
    assert series.recording.names == (name,)
    assert all(word in str(series) for word in [*times, f"{name} is analysed"])


def test_what_pandas_has_written_comes_back(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=50)
    for frame in (pd.DataFrame(x), pd.DataFrame({"loss": x}), pd.Series(x), pd.Series(x, name="loss")):
        frame.to_csv(tmp_path / "a.csv")
        series = read_series(tmp_path / "a.csv", alone=True)
        np.testing.assert_array_equal(series.recording.cube[0, :, 0], x)
    pd.DataFrame({"loss": x}).to_csv(tmp_path / "a.csv", index=False)
    np.testing.assert_array_equal(read_series(tmp_path / "a.csv").recording.cube[0, :, 0], x)


def test_what_is_asked_for_is_analysed(tmp_path: Path) -> None:
    text = "time,loss,phase,val\n0,.5,up,1\n1,.6,down,2\n2,.1,up,3\n"
    assert read(tmp_path, text, "time").recording.cube.ravel().tolist() == [0, 1, 2]
    assert read(tmp_path, text, "val", "loss").recording.cube[0].tolist() == [[1, 0.5], [2, 0.6], [3, 0.1]]
    assert "left out: phase, val" in str(read(tmp_path, text))
    with pytest.raises(nnflow.Refusal, match="'up' in column phase is no number"):
        read(tmp_path, text, "phase")
    with pytest.raises(nnflow.Refusal, match="unknown column 'los'. Did you mean 'loss'"):
        read(tmp_path, text, "los")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a\0b\n1\n2\n", "NUL"),
        ("\n \n", "is empty"),
        ("a,b\n", "a header and no samples"),
        ("0.5,abc\n0.6,1\n", "the first row has numbers and 'abc'"),
        ("2020-01-01,.5\n2020-01-02,.4\n", "the first row has numbers and '2020-01-01'"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells"),
        ("a,b\n1,2,\n", "line 2 has 3 cells"),
        ("1\n\n2\n", "line 2 is blank"),
        ("a,a\n1,2\n", "two columns are named 'a'"),
        ("a;b\n1;2\n", "'1;2' in column a;b is no number"),
        ("a;b\n1;2\n", "semicolons seem to part the cells here: give commas"),
        ("a;b\n0,5;1\n", "numbers: semicolons .*give commas .line 2 has 2 cells"),
        ("0,5;1\n0,6;2\n", "numbers: semicolons .*the first row has numbers and '5;1'"),
        ("a,note\n1,u\n?,v; w\n2,x\n3,y; z\n", "numbers: '.' in column a is no number"),
        ("a\tb\n1\t2\n", "tabs seem to part the cells"),
        ("a b\n1  2\n", "spaces seem to part the cells"),
        ("1 2\n3 4\n", "spaces seem to part the cells"),
        ("time,loss\ns,nats\n0,.5\n1,.6\n2,.1\n", "'s' in column time .*line 2.: a row of units has no place below"),
        ("loss,n\nnats,\n.5,0\n.6,1\n.1,2\n", "'nats' in column loss .*line 2.: a row of units has no place below"),
        ("x,y\n1,2\n?,3\n5,4\n6,9\n", "'.' in column x is no number .line 3.: leave missing samples empty, or write"),
        ("a\n0,5\n", "line 2 has 2 cells"),
        ("a\n1\nhello\n", "'hello' in column a is no number"),
        ("a\n1_0\n", "'1_0' in column a is no number"),
        ("a\n0x10\n", "'0x10'"),
        ("a\nTrue\n", "'True'"),
        ("a\n1+2j\n", "1.2j"),
        ('"a\n1\n', "unexpected end of data"),
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "a.csv") in str(caught.value)


@pytest.mark.parametrize("text", ["2020,2021\n.5,.6\n.4,.9\n", "2020\n.5\n", "0.5,\n0.6,\n"])
def test_a_file_without_a_header_is_said(tmp_path: Path, text: str) -> None:
    assert "no header: the first row is a sample" in str(read(tmp_path, text))
    assert "no header" not in str(read(tmp_path, "a\n1\n"))


@pytest.mark.parametrize("name", ["a.npz", "own.nc", "a.txt", "a.dat", "folder/a"])
def test_what_files_are_read_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "recurrence", "--map", name]) == 2
    error = capsys.readouterr().err
    assert f"unknown map '{name}'" in error
    assert "Recorded series are read from .csv, .tsv and .npy files" in error
    assert len(error) < 200


@pytest.mark.parametrize("text", ["time\tloss\n0\t.5\n1\t.6\n2\t.1\n", '# by me\n"time"\tloss\n0\t.5\n1\t.6\n2\t.1\n'])
def test_tabs_part_the_cells_of_a_tsv(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tsv").write_text(text)
    series = read_series(tmp_path / "a.tsv")
    assert (series.times, series.recording.names) == (("time",), ("loss",))
    assert series.recording.cube.ravel().tolist() == [0.5, 0.6, 0.1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "numbers: commas seem to part the cells here: give tabs"),
        ("a\tb\n1\n", "line 2 has 1 cells, the first row 2: tabs part the cells"),
        ("a\tb\n0,5\t1\n", "numbers: '0,5' in column a is no number"),
    ],
)
def test_what_is_no_tsv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(nnflow.Refusal, match=message):
        read_series(tmp_path / "a.tsv")


def test_the_command_line_says_which_column_it_analyses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    x = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.1]]).orbit(1000)[0][0, :, 0]
    table = pd.DataFrame({"time": np.arange(1000), "loss": x, "flat": 1.0})
    table.to_csv("log.CSV", index=False)
    assert main(["run", "zero_one_test", "--map", "log.CSV", "-o", "out.nc"]) == 0
    assert (
        "log.CSV: loss is analysed, 1000 samples; taken as the index: time; left out: flat" in capsys.readouterr().out
    )
    found = nnflow.load("out.nc")
    assert float(found.K) > 0.9
    assert '"observable": "loss"' in found.attrs["settings"]
    assert main(["run", "zero_one_test", "--map", "log.CSV", "--observable", ""]) == 2
    assert main(["run", "zero_one_test", "--map", "log.CSV", "--observable", "time", "-o", "out.nc"]) == 0
    assert float(nnflow.load("out.nc").K) < 0.9


# ---------------------------------------------------------------------------------------------------- arrays in files


def test_an_index_in_an_array_is_found_too(tmp_path: Path) -> None:
    x, t = np.random.default_rng(0).normal(size=(3, 50)), np.arange(50) * 0.1
    for values, index, name, shape in (
        (x[0], [], "x", (1, 50, 1)),
        (x.T, [], "x0", (1, 50, 1)),
        (np.stack([t, x[0]], axis=1), ["x0"], "x1", (1, 50, 1)),
        (np.stack([np.broadcast_to(t, x.shape), x], axis=-1), ["x0"], "x1", (3, 50, 1)),
        (x[0].astype(np.float32), [], "x", (1, 50, 1)),
    ):
        np.save(tmp_path / "a.npy", values)
        series = read_series(tmp_path / "a.npy", alone=True)
        assert (list(series.times), series.recording.names) == (index, (name,))
        assert series.recording.cube.shape == shape
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(5, 40)))
    assert len(str(read_series(tmp_path / "a.npy"))) < 100


def test_no_array_file_is_unpickled_or_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.linspace(0, 1, 20))
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            content[draw.randrange(160)] = draw.randrange(256)
        path.write_bytes(content[: draw.choice([None, draw.randrange(288)])])
        with suppress(nnflow.Refusal, MemoryError):
            read_series(path)

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    np.save(path, np.array([Evil()], object), allow_pickle=True)
    with pytest.raises(nnflow.Refusal, match="allow_pickle"):
        read_series(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(nnflow.Refusal):
        read_series(path)
    np.savez(tmp_path / "a.npz", np.ones(3))
    path.write_bytes((tmp_path / "a.npz").read_bytes())
    with pytest.raises(nnflow.Refusal):
        read_series(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "values", [np.ones(3) * 1j, np.array(["a"]), np.ones((2, 2, 2, 2)), np.ones((0, 2)), np.array(1.0)]
)
def test_an_array_of_something_else_is_refused(tmp_path: Path, values: Any) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(nnflow.Refusal):
        read_series(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["t,x\n1,2\n2,a\n", "step\n1\n2\n3\n"])
def test_the_option_that_is_named_is_the_analysis_own(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(nnflow.Refusal) as refused:
        read_series(tmp_path / "a.csv", alone=True, option="--observe")
    assert "--observe" in str(refused.value)
    assert "--observable" not in str(refused.value)


def test_a_recording_keeps_its_own_values() -> None:
    values = np.arange(4.0)
    views = [values, values[:, None], values[None, :, None], np.broadcast_to(values[None, :, None], (2, 4, 1))]
    recordings = [nnflow.Recording(view) for view in views]
    values[0] = 99.0
    assert all(recording.orbit(4)[0].max() == 3.0 for recording in recordings)
    assert recordings[0].advance(1).cube is recordings[0].cube


SPLIT = ["0,83\n0,61\n0,07\n", "-0,83\n1,61\n", "0,125\n-0,006\n1,5\n", "11,580371\n3,004250\n", "1,2,03\n4,5,60\n"]


@pytest.mark.parametrize("text", SPLIT)
def test_what_may_be_a_decimal_comma_is_refused(tmp_path: Path, text: str) -> None:
    """The whole numbers before the commas were analyzed; a whole number begins with no 0."""
    with pytest.raises(nnflow.Refusal, match="may be one number with a decimal comma"):
        read(tmp_path, text)


def test_other_columns_of_whole_numbers_are_not(tmp_path: Path) -> None:
    for text in ("0,1\n3,0\n2,5\n", "0.5,01\n0.7,02\n", "1,-05\n2,3\n"):
        assert read(tmp_path, text, "x1").recording.names == ("x1",)
