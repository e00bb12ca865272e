"""Results in files: nothing in one is ever executed, what is damaged is refused, what is loaded is what was saved.

What else could go wrong when a file is read or drawn: it names a module, a class, a function, a plugin that is not
installed, settings that are not the analysis's or no JSON at all; attributes are numbers, lists, missing; a variable is
missing, empty or of another kind; a byte, many bytes or the end are others than were written; the checksum itself is
hit; the file is empty, text, a foreign netCDF, a folder, a pipe that never ends; units make numbers into dates.
"""

from __future__ import annotations

import json
import os
import pickle
import pkgutil
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
import pytest
import xarray as xr
from conftest import Command

import nnflow
from nnflow.__main__ import main
from nnflow.results import _waits


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), r=np.linspace(3.0, 4.0, 20))
    return nnflow.run("orbit_diagram", scan, steps=20)


@dataclass(frozen=True)
class Own(nnflow.Analysis):
    """An analysis that nobody registered."""

    steps: int = 5
    """How many steps."""

    def __call__(self, ensemble: Any) -> Any:
        records, after = ensemble.orbit(self.steps)
        return {"x": (("member", "time"), records[:, :, 0]), "escaped": ("member", after.escaped)}

    def draw(self, dataset: xr.Dataset, axes: Any) -> None:
        axes.plot(dataset["x"].values.ravel()[: self.steps])


# ---------------------------------------------------------------------------------------- nothing in a file is executed


@pytest.mark.parametrize(
    ("analysis", "settings"),
    [
        ("os:system", {"command": "touch ran"}),
        ("subprocess:Popen", {"args": ["touch", "ran"]}),
        ("builtins:exec", {"source": "open('ran', 'w')"}),
        ("evil:Analysis", {}),
        ("evil", {}),
        ("os.system", {"command": "touch ran"}),
        ("nnflow_plugins.orbits.orbit_diagram:OrbitDiagram", {}),
        ("", {}),
        (":", {}),
    ],
)
def test_no_name_in_a_file_is_imported_or_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], analysis: str, settings: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\nclass Analysis: pass\n")
    evil = xr.Dataset({"escaped": ((), -1)}, attrs={"analysis": analysis, "settings": json.dumps(settings), "map": "x"})
    nnflow.save(evil, tmp_path / "evil.nc")
    evil.to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    before = sorted(tmp_path.iterdir())
    for name in ("evil.nc", "foreign.nc"):
        assert main(["plot", name]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises((nnflow.Refusal, LookupError)):
        nnflow.plot(evil)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "attributes",
    [
        {"analysis": 3},
        {"analysis": [1.0, 2.0]},
        {"analysis": ["orbit_diagram", "series"]},
        {"settings": "no JSON"},
        {"settings": "[1]"},
        {"settings": "3"},
        {"settings": "[" * 100_000},
        {"settings": '{"command": "x"}'},
        {"settings": '{"steps": []}'},
        {"settings": '{"steps": -1}'},
        {"settings": '{"__class__": "x"}'},
        {"settings": 7},
    ],
    ids=str,
)
def test_attributes_that_make_no_sense_are_one_line(result: xr.Dataset, attributes: dict[str, Any]) -> None:
    with pytest.raises(nnflow.Refusal) as caught:
        nnflow.plot(result.assign_attrs(attributes))
    assert len(str(caught.value)) < 500


def test_what_an_analysis_cannot_draw_is_one_line(result: xr.Dataset) -> None:
    for wrong in (
        result.drop_vars("value"),
        result.isel(r=[]),
        result.assign(value=("r", ["a"] * 20)),
        xr.Dataset(attrs=result.attrs),
    ):
        with pytest.raises(nnflow.Refusal, match="orbit_diagram cannot draw this dataset"):
            nnflow.plot(wrong)
    assert not plt.get_fignums()


def test_an_analysis_of_ones_own_is_drawn_when_it_is_given() -> None:
    dataset = nnflow.run(Own(steps=7), nnflow.maps["logistic"]())
    for given, count in ((Own, 7), (Own(steps=3), 3)):
        (line,) = nnflow.plot(dataset, analysis=given).axes[0].lines
        assert len(line.get_xdata()) == count  # type: ignore[arg-type]
    with pytest.raises(nnflow.Refusal, match=r"Own, which is not registered.*analysis=\.\.\."):
        nnflow.plot(dataset)
    with pytest.raises(nnflow.Refusal, match="give a class derived from"):
        nnflow.plot(dataset, analysis="os:system")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- damaged files


def mutated(content: bytes, seed: int) -> bytes:
    """The content with a few bits, bytes, blocks or its end changed."""
    draw, changed = random.Random(seed), bytearray(content)
    kind = seed % 5
    if kind == 0:
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        for _ in range(draw.randrange(1, 20)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    elif kind == 2:
        del changed[draw.randrange(len(changed)) :]
    elif kind == 3:
        at = draw.randrange(len(changed))
        changed[at : at + draw.randrange(1, 512)] = bytes(draw.randrange(1, 512))
    else:
        at = draw.randrange(len(changed))
        changed[at:at] = draw.randbytes(draw.randrange(1, 64))
    return bytes(changed)


def test_damaged_files_are_refused_one_line_each(result: xr.Dataset, tmp_path: Path) -> None:
    nnflow.save(result, tmp_path / "whole.nc")
    whole, path = (tmp_path / "whole.nc").read_bytes(), tmp_path / "damaged.nc"
    for seed in range(500):
        damaged = mutated(whole, seed)
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(nnflow.Refusal) as caught:
            nnflow.load(path)
        assert str(path) in str(caught.value), seed
        assert "\n" not in str(caught.value)
    for content in (b"", b"x", whole[:100], whole + b"\n", whole * 2, b"CDF\1" + bytes(100), pickle.dumps({})):
        path.write_bytes(content)
        with pytest.raises(nnflow.Refusal, match="checksum"):
            nnflow.load(path)


def test_threads_may_load_side_by_side(result: xr.Dataset, tmp_path: Path) -> None:
    """The child that reads first does not wait for a lock that a thread of its parent held."""
    nnflow.save(result, tmp_path / "small.nc")
    nnflow.save(xr.Dataset({"a": ("x", np.zeros(300_000))}), tmp_path / "large.nc")
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(nnflow.load, [tmp_path / name for name in ("small.nc", "large.nc", "large.nc")] * 10))
    assert time.monotonic() - began < 15.0


@pytest.mark.parametrize("lock", ["xarray.backends.locks.HDF5_LOCK", "h5py._objects.phil"])
def test_a_file_is_loaded_while_another_thread_reads_one(lock: str, result: xr.Dataset, tmp_path: Path) -> None:
    nnflow.save(result, tmp_path / "a.nc")
    held, taken = pkgutil.resolve_name(lock), Event()

    def hold() -> None:
        with held:
            taken.set()
            time.sleep(0.3)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        taken.wait()
        began = time.monotonic()
        assert nnflow.load(tmp_path / "a.nc").identical(result)
    assert time.monotonic() - began < 1.5


def test_a_child_that_only_waits_is_not_waited_for() -> None:
    began = time.monotonic()
    if not (child := os.fork()):
        time.sleep(60.0)
        os._exit(0)
    assert _waits(child)
    assert time.monotonic() - began < 4.0


def reap(*_: Any) -> None:
    with suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, reap])
def test_a_file_is_loaded_where_children_leave_no_status(handler: Any, result: xr.Dataset, tmp_path: Path) -> None:
    """Daemons ignore SIGCHLD, and their children inherit it: the status of the child that reads first is lost."""
    nnflow.save(result, tmp_path / "a.nc")
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        assert nnflow.load(tmp_path / "a.nc").identical(result)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_file_is_loaded_where_little_work_is_allowed(
    result: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def limited(kind: int, limits: tuple[int, int]) -> None:
        if max(limits) > 5:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5, 5))
    monkeypatch.setattr(resource, "setrlimit", limited)
    nnflow.save(result, tmp_path / "a.nc")
    assert nnflow.load(tmp_path / "a.nc").identical(result)


@pytest.mark.parametrize("endless", [True, False])
def test_what_gets_no_processor_for_a_while_is_neither_read_nor_refused(
    endless: bool, result: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a child in an endless loop was taken for one that waits, and the parent went into the loop."""
    nnflow.save(result, tmp_path / "a.nc")
    parent, fork = os.getpid(), os.fork

    def starved() -> int:
        if child := fork():
            Thread(target=resume, args=(child,)).start()
        return child

    def resume(child: int) -> None:
        while psutil.Process(child).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(child, signal.SIGCONT)

    def turn(content: bytes, own: bool) -> None:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGSTOP)
        while endless:
            assert os.getpid() != parent, "the parent goes into the loop"

    monkeypatch.setattr(os, "fork", starved)
    monkeypatch.setattr("nnflow.results._check_whole", turn)
    monkeypatch.setattr("nnflow.results.SECONDS", 1)
    monkeypatch.setattr("nnflow.results.IDLE", 0.1)
    if not endless:
        assert nnflow.load(tmp_path / "a.nc").identical(result)
        return
    with pytest.raises(nnflow.Refusal, match="crashes, or does not come back"):
        nnflow.load(tmp_path / "a.nc")


def test_one_that_is_sealed_but_no_netcdf_is_refused(tmp_path: Path) -> None:
    from nnflow.results import _seal

    for content in (b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(500)):
        (tmp_path / "a.nc").write_bytes(content + _seal(content))
        with pytest.raises(nnflow.Refusal, match="no netCDF file"):
            nnflow.load(tmp_path / "a.nc")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nc")
    for name, error in (
        (tmp_path / "pipe.nc", nnflow.Refusal),
        (tmp_path, nnflow.Refusal),
        ("/dev/zero", nnflow.Refusal),
        (None, nnflow.Refusal),
        ("a\0b", nnflow.Refusal),
        (tmp_path / "missing.nc", FileNotFoundError),
    ):
        with pytest.raises(error):
            nnflow.load(name)  # type: ignore[arg-type]
        assert main(["plot", str(name)]) == 2


def test_plain_xarray_opens_what_is_saved(result: xr.Dataset, tmp_path: Path) -> None:
    nnflow.save(result, tmp_path / "out.nc")
    with xr.open_dataset(tmp_path / "out.nc") as dataset:
        assert dataset.load().identical(result)


# --------------------------------------------------------------------------------- what is loaded is what was saved


@pytest.mark.parametrize("units", ["days", "seconds", "days since 2000-01-01", "1"])
def test_units_of_time_stay_numbers(tmp_path: Path, units: str) -> None:
    dataset = xr.Dataset({"a": ("x", [1.5, np.nan, np.inf], {"units": units})})
    nnflow.save(dataset, tmp_path / "a.nc")
    assert nnflow.load(tmp_path / "a.nc").identical(dataset)


@pytest.mark.parametrize(
    "dataset",
    [
        xr.Dataset({"a": ("x", np.array(["2020-01-01"], "M8[ns]"))}),
        xr.Dataset({"a": ("x", np.array([b"x", 3], object))}),
        xr.Dataset({"a": ("x", [1.0], {"note": None})}),
        xr.Dataset({"a": ("x", [1 + 2j])}),
        xr.Dataset(coords={"x": [1j]}),
        xr.Dataset(attrs={"note": b"bytes"}),
        xr.Dataset(attrs={"note": {"a": 1}}),
        xr.Dataset(attrs={"note": 2**64}),
        xr.Dataset({"a": ("x", [1.0], {"scale_factor": 2.0})}),
        xr.Dataset({"a": ("x", [1.0], {"_FillValue": 1.0})}),
        {"a": 1},
    ],
    ids=lambda dataset: repr(dataset)[-40:].replace("\n", " "),
)
def test_what_would_come_back_as_something_else_is_refused(tmp_path: Path, dataset: Any) -> None:
    with pytest.raises(nnflow.Refusal):
        nnflow.save(dataset, tmp_path / "a.nc")
    assert not list(tmp_path.iterdir())


def test_what_fits_into_memory_is_saved_though_not_three_times(
    tmp_path: Path, result: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*asked: Any) -> None:
        raise nnflow.Refusal("no room")

    monkeypatch.setattr("nnflow.results.room", none)
    nnflow.save(result, tmp_path / "a.nc")
    with pytest.raises(nnflow.Refusal, match="no room"):
        nnflow.load(tmp_path / "a.nc")


def test_no_bytes_are_written_by_a_library_that_a_full_disk_breaks(
    nnflow_command: Command, tmp_path: Path, result: xr.Dataset
) -> None:
    nnflow.save(result.isel(r=slice(2)), tmp_path / "out.nc")
    before = (tmp_path / "out.nc").read_bytes()
    limit = len(before) + 100
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from nnflow.__main__ import main\n"
        "import nnflow.results\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {resource.RLIM_INFINITY}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["run", "series", "--map", "logistic", "--steps", "100000", "-o", "out.nc"]
    # what measures the coverage of processes writes a file at their end, and has no room for it either
    environment = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "out.nc").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.nc"]
