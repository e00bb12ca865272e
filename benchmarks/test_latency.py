"""How long a new process takes to be useful, as a multiple of one that only imports numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from timing import timed

from nnflow import load

PYTHON = [sys.executable, "-c"]
NNFLOW = [sys.executable, "-m", "nnflow"]


def finish(command: list[str], cache: Path | None = None) -> str:
    settings = {} if cache is None else {"NNFLOW_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **settings})
    assert done.returncode == 0, done.stderr
    return done.stdout


def import_numpy() -> float:
    return timed(lambda: finish([*PYTHON, "import numpy"]))


@pytest.mark.parametrize(
    ("work", "command", "target"),
    [
        ("`import nnflow`", [*PYTHON, "import nnflow"], 1.0),
        ("`nnflow list`", [*NNFLOW, "list"], 3.0),
    ],
)
def test_start(duel: Any, work: str, command: list[str], target: float) -> None:
    duel(work, lambda: finish(command), "`import numpy`", import_numpy, rounds=9, target=target, kind="start")


RUNS = {  # command, and the largest multiples of `import numpy`: warm, and with an empty cache
    "spectrum of the Hénon map": ("lyapunov_spectrum --map henon", 21.0, 60.0),
    "orbit diagram of the logistic map": ("orbit_diagram --map logistic --scan r=2.5:4:400", 25.0, 60.0),
    "largest exponent of Iris": ("lyapunov_spectrum --map iris --k 1 --steps 1000", 30.0, 180.0),
}
SHORTEST, *OTHERS = RUNS


@pytest.fixture(scope="module")
def filled() -> dict[str, Path]:
    """For each work the last cache that it filled: what starts from nothing leaves one to what starts warm."""
    return {}


@pytest.mark.parametrize("cache", ["empty", "warm"])
@pytest.mark.parametrize("work", [SHORTEST, *(pytest.param(name, marks=pytest.mark.whole) for name in OTHERS)])
def test_first_answer(duel: Any, tmp_path: Path, filled: dict[str, Path], work: str, cache: str) -> None:
    """From the start of Python to a file on disk; the compiled loops in the cache, or not yet."""
    settings, warm, cold = RUNS[work]
    out, caches = tmp_path / "out.nc", (tmp_path / f"cache{i}" for i in range(100))

    def answer(anew: bool) -> None:
        if anew:
            filled[work] = next(caches)
        finish([*NNFLOW, "run", *settings.split(), "-o", str(out)], filled[work])

    if cache == "warm" and work not in filled:
        answer(anew=True)
    duel(
        f"{work}, {cache} cache",
        lambda: answer(anew=cache == "empty"),
        "`import numpy`",
        import_numpy,
        rounds=5 if cache == "warm" else 3,
        target=warm if cache == "warm" else cold,
        kind="start",
    )
    assert len(load(out).data_vars) >= 1
