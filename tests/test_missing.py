"""What of a recording is missing, and which channel was analysed, is said; holes that nobody looked at do not count.

What else could go wrong: a hole in the transient, after the window, in a channel that is not analysed, between the
samples of `every`; several holes, several series; infinite values; options that a recorded series would ignore.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nnflow
from nnflow.__main__ import main
from nnflow.summary import title

X = np.random.default_rng(0).random(1000)


def holes(*at: int, value: float = np.nan) -> Any:
    series = X.copy()
    series[list(at)] = value
    return series


@pytest.mark.parametrize(
    ("values", "settings", "said", "escaped"),
    [
        (holes(500), {}, "1 of 1000 values missing, the first at sample 500", 500),
        (holes(700, 500), {}, "2 of 1000 values missing, the first at sample 500", 500),
        (holes(500, value=np.inf), {}, "1 of 1000 values missing, the first at sample 500", 500),
        (holes(500), {"transient": 501}, "no values missing", -1),
        (holes(500), {"transient": 500}, "1 of 500 values missing, the first at sample 500", 500),
        (holes(500), {"steps": 500}, "no values missing", -1),
        (holes(501), {"every": 2}, "no values missing", -1),
        (holes(502), {"every": 2, "transient": 100}, "1 of 450 values missing, the first at sample 502", 502),
        (X, {}, "no values missing", -1),
    ],
)
def test_what_is_missing_of_what_was_analysed(values: Any, settings: dict[str, Any], said: str, escaped: int) -> None:
    recording = nnflow.Recording(values)
    for name in ("zero_one_test", "recurrence", "series"):
        found = nnflow.run(name, recording, **settings)
        assert title(found, recording).endswith(said)
        assert int(found.escaped) == escaped
    assert np.isnan(float(nnflow.run("zero_one_test", recording, **settings).K)) == (escaped >= 0)


def test_a_hole_in_another_channel_is_none_of_this_one() -> None:
    recording = nnflow.Recording(np.stack([X, holes(3)], axis=1), ("a", "b"))
    for name, said in ((None, "no values"), ("b", "1 of 1000 values")):
        assert said in title(nnflow.run("zero_one_test", recording, observable=name), recording)
    assert "no values" in title(nnflow.run("series", recording), recording)
    assert "1 of 2000 values" in title(nnflow.run("series", recording, observe=("a", "b")), recording)
    assert "1 of 2000 values" in title(nnflow.run("trajectory_autocorrelation", recording), recording)


def test_each_series_has_its_own_holes() -> None:
    recording = nnflow.Recording(np.stack([X, holes(7), holes(5, 6)])[:, :, None])
    found = nnflow.run("zero_one_test", recording, chunk=1)
    assert found.escaped.values.tolist() == [-1, 7, 5]
    assert "3 of 3000 values missing, the first at sample 5" in title(found, recording)
    assert recording.orbit(10)[1].take([2, 1]).escaped.tolist() == [5, 7]


def test_a_result_names_the_channel(tmp_path: Path) -> None:
    recording = nnflow.Recording(np.stack([X, X], axis=1), ("a", "b"))
    assert nnflow.run("zero_one_test", recording).attrs["observable"] == "a"
    assert nnflow.run("zero_one_test", recording, observable="b").attrs["observable"] == "b"
    both = nnflow.run("recurrence", recording, observable=("a", "b"))
    assert both.attrs["observable"] == "a, b"
    nnflow.save(both, tmp_path / "a.nc")
    assert nnflow.load(tmp_path / "a.nc").identical(both)
    method = nnflow.analyses["recurrence"]
    assert nnflow.run(method(transient=0, steps=500), recording).attrs["observable"] == "a"


def test_the_command_line_says_what_is_missing_and_refuses_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"n": np.arange(1000), "loss": holes(500)}).to_csv("a.csv", index=False)
    assert main(["run", "zero_one_test", "--map", "a.csv"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1000 values missing, the first at sample 500" in shown
    assert "escaped" not in shown
    assert main(["run", "zero_one_test", "--map", "a.csv", "--seed", "3"]) == 2
    assert "--seed 3: a.csv is a recorded series" in capsys.readouterr().err
    assert main(["run", "autocorrelation", "--map", "a.csv", "--seed", "3", "-o", "b.nc"]) == 0
    assert json.loads(nnflow.load("b.nc").attrs["settings"])["seed"] == 3
