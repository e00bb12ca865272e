"""The command line, in processes of its own: what it prints, writes, refuses, and how it ends."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import Command

import nnflow
from nnflow.__main__ import main

FAST = ("--steps", "200", "--transient", "20")


def test_list_shows_everything_and_who_brought_it(nnflow_command: Command, stranger: Path) -> None:
    done = nnflow_command("list", path=[stranger])
    assert done.returncode == 0
    assert done.stderr == ""
    for name in (*nnflow.maps.names(), *nnflow.analyses.names(), "demo", "doubling  ", "spread", "(nnflow-example)"):
        assert name in done.stdout


def test_list_groups_our_analyses_by_question_and_a_strangers_by_distribution(
    nnflow_command: Command, stranger: Path
) -> None:
    parts = [part.splitlines() for part in nnflow_command("list", path=[stranger]).stdout.split("\n\n")]
    names = {title: [line.split()[0] for line in lines] for title, *lines in parts}
    assert list(names) == [
        "maps",
        "analyses: how fast do neighbors part?",
        "analyses: what does a series tell?",
        "analyses: what does an orbit do?",
        "analyses: what does the loss look like?",
        "analyses: of nnflow-example",
        "studies",
    ]
    assert names["analyses: what does the loss look like?"] == [
        "hessian_spectrum",
        "knock_out",
        "reduced_model",
        "sharpness",
    ]
    assert parts[5][1:] == [
        "  broken",  # cannot be imported, and is not
        "  spread                      The range of an observable along the orbit.",
    ]
    assert all(len(line.split()) > 3 for part in parts[1:5] for line in part[1:])


def test_list_without_plugins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("maps", "analyses", "studies"):
        monkeypatch.setattr(nnflow, kind, nnflow.Registry("nnflow.nothing"))
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split("\n\n") == [
        "maps\n  none installed",
        "analyses\n  none installed",
        "studies\n  none installed\n",
    ]


def test_help_shows_the_settings_of_an_analysis_with_docs_and_defaults(nnflow_command: Command) -> None:
    shown = " ".join(nnflow_command("run", "lyapunov_spectrum", "--help").stdout.split())
    for word in ("--transient", "Steps dropped first, by the state and by the frame.", "(default: 1000)", "--history"):
        assert word in shown
    for word in ("--map", "--set", "--scan", "--inits", "--seed", "--output", "--plot"):
        assert word in shown
    assert shown.count("--seed") == 1


def test_a_strangers_settings_show_up_too(nnflow_command: Command, stranger: Path) -> None:
    done = nnflow_command("run", "spread", "--help", path=[stranger])
    for word in ("Which coordinate.", "--scale", "A factor on the result.", "(default: 1.0)"):
        assert word in " ".join(done.stdout.split())
    ran = nnflow_command("run", "spread", "--map", "doubling", "--set", "c=1.8", "--scale", "2", path=[stranger])
    assert ran.returncode == 0, ran.stderr
    assert "spread" in ran.stdout
    assert nnflow_command("reproduce", "hello", "--name", "you", path=[stranger]).stdout == "hello you\n"
    listed = nnflow_command("reproduce", "--list", path=[stranger])
    assert listed.returncode == 0
    for name, text in (
        ("hello", "Say hello."),
        ("danovski2024", "Rerun the experiments"),
        ("demo", "Scan the logistic map"),
    ):
        assert re.search(rf"^  {name} +{text}", listed.stdout, re.MULTILINE)


def test_a_broken_plugin_breaks_itself_only(nnflow_command: Command, stranger: Path) -> None:
    assert nnflow_command("--help", path=[stranger]).returncode == 0
    assert nnflow_command("run", "recurrence", "--help", path=[stranger]).returncode == 0
    done = nnflow_command("run", "broken", "--map", "henon", path=[stranger])
    assert done.returncode == 2
    assert "of distribution nnflow-example cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_writes_what_python_would_compute(nnflow_command: Command, tmp_path: Path) -> None:
    done = nnflow_command(
        "run", "lyapunov_spectrum", "--map", "henon", "--set", "b=0.25", "--scan", "a=1.0:1.4:5", "--inits", "3",
        "--seed", "7", *FAST, "-o", "out.nc", "--plot", "out.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = nnflow.load(tmp_path / "out.nc")
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](b=0.25), inits=3, seed=7, a=np.linspace(1.0, 1.4, 5))
    assert found.identical(nnflow.run("lyapunov_spectrum", scan, steps=200, transient=20, seed=7))
    assert (tmp_path / "out.png").stat().st_size > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.nc", "out.png"]


def test_without_an_output_it_prints_a_table(nnflow_command: Command) -> None:
    done = nnflow_command("run", "orbit_diagram", "--map", "logistic", "--scan", "r=3.2,3.5,4.5", "--steps", "50")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "orbit_diagram of logistic, 3 members (3 r), 1 escaped"
    assert lines[1].split() == ["r", "value", "min", "value", "max", "period", "put_to_rest", "escaped", "members"]
    assert lines[3].split()[0] == "3.5"
    assert lines[3].split()[3] == "4"
    assert lines[4].split() == ["4.5", "-", "-", "0", "0", "1"]


def test_scans_of_several_axes_descending_and_coordinates(nnflow_command: Command, tmp_path: Path) -> None:
    done = nnflow_command(
        "run", "orbit_diagram", "--map", "henon", "--scan", "a=1.2:1.0:3", "--scan", "x=-0.1,0.1", *FAST,
        "--follow", "a", "-o", "out.nc",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = nnflow.load(tmp_path / "out.nc")
    assert found.value.dims == ("a", "x", "sample")
    assert found.a.values.tolist() == [1.2, 1.1, 1.0]


def test_structure_is_set_not_scanned(nnflow_command: Command) -> None:
    done = nnflow_command("run", "lyapunov_spectrum", "--map", "logistic_ring", "--set", "size=3", *FAST)
    assert done.returncode == 0, done.stderr
    assert "exponent[3]" in done.stdout
    refused = nnflow_command("run", "lyapunov_spectrum", "--map", "logistic_ring", "--scan", "size=3:5:3")
    assert refused.returncode == 2
    assert "size is structure: it is fixed when the map is made" in refused.stderr


def test_recorded_series_go_through_the_same_analyses(nnflow_command: Command, tmp_path: Path) -> None:
    x = nnflow.Ensemble.grid(nnflow.maps["logistic"](r=3.97), states=[[0.1]]).advance(1000).orbit(2000)[0][0]
    np.savetxt(tmp_path / "loss.csv", np.hstack([x, x**2]), delimiter=",", header="loss,square", comments="")
    np.save(tmp_path / "loss.npy", x)
    for file, extra in (("loss.csv", ["--observable", "square"]), ("loss.npy", [])):
        done = nnflow_command("run", "zero_one_test", "--map", file, *extra, "-o", "out.nc")
        assert done.returncode == 0, done.stderr
        assert float(nnflow.load(tmp_path / "out.nc").K) > 0.98


def test_plot_draws_a_written_result(nnflow_command: Command, tmp_path: Path) -> None:
    dataset = nnflow.run("orbit_diagram", nnflow.maps["logistic"](), steps=20)
    nnflow.save(dataset, tmp_path / "out.nc")
    assert nnflow_command("plot", "out.nc").returncode == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert nnflow_command("plot", "out.nc", "-o", "out.svg").returncode == 0
    assert "<svg" in (tmp_path / "out.svg").read_text()


def test_check_tests_a_map_or_an_analysis(nnflow_command: Command, stranger: Path) -> None:
    done = nnflow_command("check", "doubling", path=[stranger])
    assert done.returncode == 0, done.stderr
    assert "map doubling: 11 checks passed" in done.stdout
    assert "checks passed" in nnflow_command("check", "spread", path=[stranger]).stdout


MISUSE = [
    (["run", "lyapunof_spectrum", "--map", "henon"], "Did you mean 'lyapunov_spectrum'"),
    (["run", "lyapunov_spectrum", "--map", "henno"], "unknown map 'henno'. Did you mean 'henon'"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--set", "c=1"], "unknown parameter of henon 'c'"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--scan", "c=1:2:3"], "coordinate of henon 'c'"),
    (["run", "orbit_diagram", "--map", "henon", "--observable", "loss"], "unknown observable of henon 'loss'"),
    (["run", "separation", "--map", "henon", "--perturbation", "1e-8,1e-6"], "by blanks, --perturbation 1e-8 1e-6"),
    (["run", "separation", "--map", "henon", "--perturbation=1e-8,1e-6"], "by blanks, --perturbation 1e-8 1e-6"),
    (["run", "series", "--map", "henon", "--observe", "x,y"], "Several names are given one by one"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--k", "3"], "k = 3: henon has dim 2"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--steps", "0"], "steps = 0: give 1 or more"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--steps", "many"], "many"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--step", "3"], "--step"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--scan", "a=1:2:0"], "an empty scan"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--scan", "a=1:2"], "write a=START:STOP:COUNT"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--scan", "a=1,nan"], "axis a: value nan is not finite"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--set", "a=inf"], "give a finite number"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--set", "a"], "write NAME="),
    (["run", "lyapunov_spectrum", "--map", "henon", "--set", "a=1", "--scan", "a=1:2:3"], "in --set and in --scan"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--inits", "0"], "inits = 0"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--seed", "-1"], "seed = -1"),
    (["run", "lyapunov_spectrum", "--map", "henon", "-o", "no/such/out.nc"], "there is no folder no/such"),
    (["run", "lyapunov_spectrum", "--map", "henon", "-o", "out.txt"], "must end in .nc"),
    (["run", "lyapunov_spectrum", "--map", "henon", "--plot", "out.xyz"], "must end in"),
    (["run", "lyapunov_spectrum"], "--map"),
    (["run", "--map", "henon"], "name the analysis first"),
    (["run", "recurrence", "--map", "missing.csv"], "no such file"),
    (["run", "lyapunov_spectrum", "--map", "text.csv"], "cannot be read as a table of numbers"),
    (["run", "lyapunov_spectrum", "--map", "empty.csv"], "is empty"),
    (["plot", "missing.nc"], "no such file"),
    (["plot", "text.csv"], ""),
    (["check", "nothing"], "unknown map or analysis 'nothing'"),
    (["demo", "--values", "1"], "values = 1: give 4 or more"),
    (["demo", "--out", "text.csv"], "text.csv"),
    (["list", "all"], "takes no arguments"),
    (["dance"], "unknown command 'dance'"),
    (["danovski2024"], "danovski2024 is a study: nnflow reproduce danovski2024."),
    (["reproduce", "--quick"], "name the study first"),
    (["reproduce", "danovski"], "unknown study 'danovski'. Did you mean 'danovski2024'?"),
    (["reproduce", "danovski2024", "--only", "E7"], "E7"),
    (["reproduce", "danovski2024", "--seed", "-1"], "seed = -1"),
    (["reproduce", "danovski2024", "--out", "text.csv"], "text.csv"),
    ([], "usage: nnflow"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), MISUSE, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_misuse_is_one_clear_line_and_status_2(
    nnflow_command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "text.csv").write_text("a,b\n1,two\n")
    (tmp_path / "empty.csv").write_text("")
    done = nnflow_command(*arguments)
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not arguments or len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.csv", "text.csv"]


def test_a_folder_that_cannot_be_written_is_found_out_before_the_run(nnflow_command: Command, tmp_path: Path) -> None:
    (tmp_path / "out.nc").mkdir()
    began = time.monotonic()
    done = nnflow_command("run", "lyapunov_spectrum", "--map", "henon", "--steps", "1000000000", "-o", "out.nc")
    assert done.returncode == 2
    assert "is a folder" in done.stderr
    assert time.monotonic() - began < 60


def test_the_console_script_and_its_version(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "nnflow"
    done = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"nnflow {nnflow.__version__}\n"


def test_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m nnflow list | head -1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "maps\n"
    assert "Traceback" not in done.stderr


def test_the_result_of_a_scan_opens_in_plain_xarray(nnflow_command: Command, tmp_path: Path) -> None:
    nnflow_command("run", "lyapunov_spectrum", "--map", "logistic", "--scan", "r=3.5:4:3", *FAST, "-o", "out.nc")
    with xr.open_dataset(tmp_path / "out.nc") as dataset:
        assert dict(dataset.sizes) == {"r": 3, "index": 1}


def test_a_map_starts_where_it_does_in_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line drew a state for maps that have one of their own."""
    own = nnflow.maps["logistic"]().with_parameters(r=3.2)
    object.__setattr__(own, "start", np.array([0.25]))
    key = next(key for key in nnflow.maps._loaded if key[0] == "logistic")
    monkeypatch.setitem(nnflow.maps._loaded, key, lambda: own)
    assert main(["run", "series", "--map", "logistic", "--steps", "1"]) == 0
    assert "0.25" in capsys.readouterr().out
