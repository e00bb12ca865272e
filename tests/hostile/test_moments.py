"""Signals at random moments of real work: imports, compilation, kernels, linear algebra, pictures, studies."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import Process, started

import nnflow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the work is done in the process itself"),
]

SOON = 20.0  # seconds; the program takes one, a busy processor more
LONGEST = 5.0  # seconds until the signal comes
WORK = [
    "run plateaus --map logistic --steps 1000000 --inits 8 -o out.nc",
    "run autocorrelation --map logistic --inits 64 --shuffles 20000 -o out.nc",
    "run local_expansion --map logistic --steps 1000000 --seeds 100000 -o out.nc",
    "run recurrence --map logistic --steps 300000 -o out.nc",
    "run hessian_spectrum --map digits --dense 100000 -o out.nc",
    "run lyapunov_spectrum --map iris --k 83 --steps 100000 -o out.nc",
    "run orbit_diagram --map logistic --scan r=3:4:2000 --steps 2000 -o out.nc --plot out.png",
    "run displacement --map henon --steps 100000000000 -o out.nc",
    "demo --out .",
    "reproduce danovski2024 --out .",
]


def hears(process: Process) -> None:
    """Wait until the process has its child: before, Python has not come to where signals are waited for."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not children.read_text():
        time.sleep(0.005)


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("work", WORK)
def test_a_signal_at_a_random_moment(work: str, cache: str, rng: random.Random, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    environment = {"NNFLOW_CACHE_DIR": str(tmp_path / "cache")} if cache == "cold" else {}
    number = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    delay = rng.uniform(0.0, LONGEST)
    print(f"{number.name} after {delay:.3f} s")
    with started("-m", "nnflow", *work.split(), folder=here, **environment) as process:
        hears(process)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            status, errors, seconds = process.ends(number)
            how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
            assert (status, errors) in [(128 + number, f"nnflow: {how}; no half-written file is left\n"), (0, "")]
            assert seconds < SOON
    whole(here)


def test_kill_at_a_random_moment_leaves_whole_files_and_the_next_run_works(rng: random.Random, tmp_path: Path) -> None:
    work = ["run", "orbit_diagram", "--map", "logistic", "--scan", "r=3:4:500", "--steps", "2000", "-o", "out.nc"]
    environment = {"NNFLOW_CACHE_DIR": str(tmp_path / "cache")}
    here = tmp_path / "here"
    here.mkdir()
    for _ in range(5):
        with started("-m", "nnflow", *work, folder=here, **environment) as process:
            hears(process)
            try:
                process.wait(rng.uniform(0.0, LONGEST))
            except subprocess.TimeoutExpired:
                process.ends(signal.SIGKILL)
    with started("-m", "nnflow", *work, folder=here, **environment) as process:
        assert process.ends()[:2] == (0, "")
    whole(here)
    assert nnflow.load(here / "out.nc").sizes["r"] == 500


def whole(folder: Path) -> None:
    """Nothing hidden is left, and what is there can be read."""
    for path in folder.iterdir():
        assert not path.name.startswith("."), path
        if path.suffix == ".nc":
            nnflow.load(path)


LIBRARY = """
import nnflow, nnflow.runner
try:
    print("alive", flush=True)
    while True:  # so that it does not end by itself just when the signal comes
        nnflow.run("plateaus", nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=8), steps=1000000)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("trial", range(6))
def test_run_is_interrupted_at_a_random_moment(trial: int, rng: random.Random, tmp_path: Path) -> None:
    with started("-c", LIBRARY, folder=tmp_path) as process:
        process.lives()
        try:
            process.wait(rng.uniform(0.0, 3.0))
        except subprocess.TimeoutExpired:
            status, errors, seconds = process.ends(signal.SIGINT)
            assert status == 0, errors
            assert seconds < SOON


def test_two_processes_at_once_write_the_same(tmp_path: Path) -> None:
    """Into one cold cache, and to one file."""
    work = ["run", "lyapunov_spectrum", "--map", "henon", "--inits", "3", "--steps", "50", "-o", "out.nc"]
    environment = {"NNFLOW_CACHE_DIR": str(tmp_path / "cache")}
    here = tmp_path / "here"
    here.mkdir()
    with (
        started("-m", "nnflow", *work, folder=here, **environment) as one,
        started("-m", "nnflow", *work, folder=here, **environment) as other,
    ):
        assert one.ends()[:2] == (0, "")
        assert other.ends()[:2] == (0, "")
    both = nnflow.load(here / "out.nc")
    with started("-m", "nnflow", *work, folder=here, **environment) as third:
        assert third.ends()[:2] == (0, "")
    assert nnflow.load(here / "out.nc").equals(both)
    whole(here)
