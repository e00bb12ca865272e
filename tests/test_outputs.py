"""Everything about an output is found out before the work, and nothing that is typed is ignored.

What else could go wrong with what is typed: an option without its value, or given twice; a name that is too long, ends
wrongly, is a folder, a device, the result itself; a picture format that needs a program that is not there; a name with
dollar signs, which matplotlib takes for a formula; a file that appears or vanishes meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import nnflow
from nnflow.__main__ import main

LONG = ["run", "lyapunov_spectrum", "--map", "henon", "--steps", "1000000000000"]  # days: only a refusal ends it


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    plt.close("all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a" * 253 + ".nc"], "too long"),
        (["--plot", "ä" * 126 + ".png"], "too long"),
        (["-o", ""], "folder"),
        (["-o", "out"], "must end in .nc"),
        (["-o", "folder.nc"], "is a folder"),
        (["-o", "/dev/full"], "device"),
        (["-o", "missing/out.nc"], "no folder missing"),
        (["-o", "link.nc"], "no folder"),
        (["-o", "file/out.nc"], "Not a directory"),
        (["--plot", "out.xyz"], "must end in"),
        (["--plot", "folder.png"], "is a folder"),
        (["-o", "a.nc", "-o", "b.nc"], "--output is given twice"),
        (["-o", "a.nc", "--output=b.nc"], "--output is given twice"),
        (["--k", "1", "--k", "2"], "--k is given twice"),
        (["--history", "--no-history"], "--history is given twice"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_it_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for name in ("folder.nc", "folder.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link.nc").symlink_to("missing/out.nc")
    before = sorted(tmp_path.iterdir())
    assert main([*LONG, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_format_that_needs_a_missing_program_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*LONG, "--plot", "out.pgf"]) == 2
    assert "out.pgf: matplotlib cannot write this format here" in capsys.readouterr().err
    nnflow.save(nnflow.run("orbit_diagram", nnflow.maps["henon"](), steps=5), "out.nc")
    assert main(["plot", "out.nc", "-o", "out.pgf"]) == 2
    assert not Path("out.pgf").exists()


def test_every_other_format_is_written() -> None:
    nnflow.save(nnflow.run("orbit_diagram", nnflow.maps["henon"](), steps=5), "out.nc")
    for ending in ("png", "PDF", "svg", "eps", "jpg", "tiff", "webp"):
        assert main(["plot", "out.nc", "-o", f"out.{ending}"]) == 0
        assert Path(f"out.{ending}").stat().st_size > 500


@pytest.mark.parametrize("name", ["x.csv", "x.PNG", "x.zarr", "x.npz", "x.json", "out.nc.gz", "x.pdf", "x.tsv"])
def test_a_result_is_not_called_what_it_is_not(name: str) -> None:
    with pytest.raises(nnflow.Refusal, match=r"results are netCDF files: name it \S+\.nc$") as refused:
        nnflow.save(nnflow.run("series", nnflow.maps["henon"](), steps=5), name)
    assert name in str(refused.value)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    "name", ["x", "x.nc", "x.nc4", "x.h5", "x.HDF5", "x.cdf", "x.netcdf", "r=3.5", ".hidden", "x.2"]
)
def test_a_result_has_any_other_name(name: str) -> None:
    found = nnflow.run("series", nnflow.maps["henon"](), steps=5)
    nnflow.save(found, name)
    assert nnflow.load(name).identical(found)


def test_a_picture_does_not_replace_its_own_result(capsys: pytest.CaptureFixture[str]) -> None:
    nnflow.save(nnflow.run("orbit_diagram", nnflow.maps["henon"](), steps=5), "out.nc")
    Path("out.nc").rename("out.png")
    before = Path("out.png").read_bytes()
    Path("link.png").symlink_to("out.png")
    for arguments in (["out.png"], ["out.png", "-o", "./out.png"], ["out.png", "-o", "link.png"]):
        assert main(["plot", *arguments]) == 2
        assert "holds the result itself" in capsys.readouterr().err
    assert Path("out.png").read_bytes() == before


@pytest.mark.parametrize("name", ["$", "a$b", "$x_$", "$\\frac$", "cost in $ and $$", "{$}", "$a$"])
def test_names_with_dollar_signs_are_drawn(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(200, 2))
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), a=[1.2, 1.3])
    recording = nnflow.Recording(values, ["plain", "other"])
    for dataset in (
        nnflow.run("orbit_diagram", ensemble, steps=50),
        nnflow.run("series", recording, observe=("other",)),
    ):
        renamed = dataset.assign_attrs(map=name)
        for variable in renamed.data_vars:
            renamed[variable].attrs["long_name"] = name
        figure = nnflow.plot(renamed.rename({"a": name}) if "a" in renamed else renamed)
        figure.canvas.draw()
        assert any(name in text.get_text() for text in figure.findobj(plt.Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "danovski2024", "--only"], "--only: give a value after it"),
        (["reproduce", "danovski2024", "--only", "--quick"], "--only: give a value after it"),
        (["reproduce", "danovski2024", "--only", "E1", "--only", "E2"], "--only is given twice"),
        (["reproduce", "danovski2024", "--only="], "--only"),
        (["run", "series", "--map", "henon", "--observe"], "--observe: give a value after it"),
        (["run", "series", "--map", "henon", "--scan"], "--scan: no NAME=... after it"),
        (["run", "series", "--map", "henon", "--set"], "--set: no NAME=... after it"),
        (["run", "series", "--map"], "--map"),
        (["demo", "--values", "5", "--values", "6"], "--values is given twice"),
        (["plot"], "The netCDF file"),
        (["plot", "out.nc", "-o"], "output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_without_its_value_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_options_that_add_up_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "run",
        "orbit_diagram",
        "--map",
        "henon",
        "--scan",
        "a=1.0,1.1",
        "--scan",
        "b=0.2,0.3",
        "--steps",
        "20",
    ]
    assert main(arguments) == 0
    assert "4 members (2 a x 2 b)" in capsys.readouterr().out


def test_a_picture_that_fails_after_all_leaves_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnflow_plugins.orbits.orbit_diagram import OrbitDiagram

    def draw(self: OrbitDiagram, dataset: object, axes: plt.Axes) -> None:
        axes.plot([0, 1], [-1.7e308, 1.7e308])

    monkeypatch.setattr(OrbitDiagram, "draw", draw)
    assert main(["run", "orbit_diagram", "--map", "henon", "--steps", "20", "--plot", "out.png"]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert "cannot draw this" in said.err
    assert "orbit_diagram of henon, 1 member" in said.out
    assert not list(Path().iterdir())


ODD = ["\x1b[31mred", "a\tb\rc", "\x9b31m", "$x_{$", "$\\frac$ and $\x07", "\\$x_{$", "x " * 1_500_000]


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_texts_of_a_file_are_drawn_harmlessly(text: str, recwarn: pytest.WarningsRecorder) -> None:
    """The terminal heard them in "Glyph 27 (...) missing"; and tick labels are made after `plot`, when a picture is."""
    scan = nnflow.run("series", nnflow.Ensemble.grid(nnflow.maps["henon"](), a=[1.2, 1.3]), steps=5, observe="x")
    forged = scan.assign_coords(a=[text, "$c$"], time=[text, "b", "$c$", "d", "e"]).assign_attrs(map=text)
    for dataset in (forged, forged.assign_coords(time=forged.time.astype(object)), scan.rename(a=text[:300])):
        for variable in dataset.data_vars:
            dataset[variable].attrs["long_name"] = text
        figure = nnflow.plot(dataset)
        for limit in (3, 5):
            figure.axes[0].set_xlim(-1, limit)
            figure.savefig(BytesIO())
        texts = [one.get_text() for one in figure.findobj(plt.Text)]  # type: ignore[attr-defined]
        assert not any(re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", one) or len(one) > 400 for one in texts)
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]
    assert forged.time.values[0] == text


def test_texts_of_a_file_do_not_reach_the_terminal_raw(capfd: pytest.CaptureFixture[str]) -> None:
    nnflow.save(xr.Dataset(attrs={"analysis": "a:\x1b[31m", "settings": "{}", "map": "x"}), "a.nc")
    Path("a.csv").write_text("loss,\x1b[31m\n0.5,1\n0.1,2\n0.3,1\n")
    assert main(["plot", "a.nc"]) == 2
    assert main(["run", "series", "--map", "a.csv", "--steps", "2"]) == 0
    assert main(["run", "series", "--map", "a.csv", "--steps", "2", "--observe", "\x1b[31m"]) == 0
    heard = capfd.readouterr()
    assert "\x1b" not in heard.out + heard.err
    assert heard.out.count("\\x1b[31m") > 1
    assert heard.err.count("\\x1b[31m") == 1
