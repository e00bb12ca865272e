"""Studies keep their parts: what is damaged, foreign or of other settings is made anew, and that is said.

What else could go wrong with a part that is there: one bit is another, it is cut off, empty, a text, a folder, not
readable; it was copied from another part, or made with another seed, size or version; it disappears meanwhile. And in
the tables: a number that there is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from nnflow_studies import demo, demo_figure
from nnflow_studies.danovski2024 import study
from nnflow_studies.danovski2024.experiment import Data, Experiment, Row, Scale, between, near
from nnflow_studies.danovski2024.study import Danovski2024, table

import nnflow


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are made, of two experiments of two parts each."""
    made: list[str] = []

    def part(name: str) -> Callable[[Scale], xr.Dataset]:
        def make(scale: Scale) -> xr.Dataset:
            made.append(name)
            return nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](), progress=False, steps=100)

        return make

    def compare(data: Data, scale: Scale) -> list[Row]:
        return [near("sum", float(np.log(0.3)), 1e-6, float(data["a"].exponent.sum()), "exact")]

    def experiment(key: str) -> Experiment:
        parts = {name: part(f"{key}-{name}") for name in ("a", "b")}
        return Experiment(key, "Tiny", "Small.", parts, compare, lambda data, scale: [])

    monkeypatch.setattr(study, "EXPERIMENTS", (experiment("E1"), experiment("E2")))
    return made


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit": flipped,
    "cut off": lambda path: os.truncate(path, 1000),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no result"),
    "foreign": lambda path: nnflow.load(path).to_netcdf(path, engine="h5netcdf"),
    "another part": lambda path: path.write_bytes(path.with_name("E1-b.nc").read_bytes()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_part_is_made_anew_and_that_is_said(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    Danovski2024(out=tmp_path)()
    whole = nnflow.load(tmp_path / "E1-a.nc")
    assert calls == ["E1-a", "E1-b", "E2-a", "E2-b"]
    assert capsys.readouterr().err == ""
    damage(tmp_path / "E1-a.nc")
    Danovski2024(out=tmp_path)()
    assert calls[4:] == ["E1-a"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert str(tmp_path / "E1-a.nc") in said[0]
    assert said[0].endswith("it is made anew")
    assert nnflow.load(tmp_path / "E1-a.nc").equals(whole)
    Danovski2024(out=tmp_path)()
    assert len(calls) == 5


def test_the_page_leaves_out_a_damaged_part_that_is_not_asked_for(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Danovski2024(out=tmp_path)()
    flipped(tmp_path / "E1-b.nc")
    capsys.readouterr()
    Danovski2024(out=tmp_path, only=("E2",))()
    assert len(calls) == 4
    assert (
        "E1-b.nc is damaged: its checksum is not that of its content: the page leaves it out" in capsys.readouterr().err
    )
    assert 'id="E1"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_another_run_has_written_is_not_replaced_in_silence(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Danovski2024(out=tmp_path)()
    Danovski2024(out=tmp_path, seed=1, only=("E1",))()
    assert calls[4:] == ["E1-a", "E1-b"]
    assert capsys.readouterr().err.count("made with other settings or by another version: it is made anew") == 2


def test_a_name_that_cannot_be_written_is_found_before_the_work(tmp_path: Path, calls: list[str]) -> None:
    (tmp_path / "E2-b.nc").mkdir()
    with pytest.raises(nnflow.Refusal, match=r"E2-b\.nc is a folder"):
        Danovski2024(out=tmp_path)()
    assert calls == []
    (tmp_path / "demo.png").mkdir()
    with pytest.raises(nnflow.Refusal, match=r"demo\.png is a folder"):
        demo.Demo(out=tmp_path)()


# ---------------------------------------------------------------------------------------------------- numbers not there


def test_a_number_that_is_not_there_is_a_dash(calls: list[str]) -> None:
    rows = [near("a", 1, 0.1, float("nan"), "re"), between("b", 0, 1, float("nan"), "re")]
    assert [row.ours for row in rows] == ["-", "-"]
    assert not any(row.agrees for row in rows)
    assert "nan" not in table({study.EXPERIMENTS[0]: rows}, quick=False)


def test_the_demo_without_chaos_or_doubling_has_dashes_and_draws() -> None:
    still = nnflow.run(
        "orbit_diagram", nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2, r=[2.5, 2.6, 2.7, 2.8])
    )
    results = {}
    for case in demo.CASES:
        dataset = still.rename(r=case.parameter)
        shape = (*dataset.escaped.dims,), np.zeros(dataset.escaped.shape)
        dataset = dataset.assign(exponent=shape, K=shape, kind=shape, ending=shape)
        for name, meanings in (("kind", demo.KINDS), ("ending", demo.ENDINGS)):
            dataset[name].attrs["flag_meanings"] = "; ".join(meanings)
        results[case.name] = dataset.assign_attrs(first_doubling=float("nan"), settle=10)
    text = demo.table(results)
    assert "nan" not in text
    assert [line.split()[2] for line in text.splitlines()[1:4]] == ["-", "-", "-"]
    assert text.splitlines()[1].split()[-4] == "-"
    figure = demo_figure.draw(results, demo.CASES)
    words = [entry.get_text() for axes in figure.axes if axes.get_legend() for entry in axes.get_legend().get_texts()]  # type: ignore[union-attr]
    assert "Logistic map: no period doubling found" in words
    assert not any("nan" in word for word in words)
