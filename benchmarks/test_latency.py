"""How long a new process takes to be useful, beside one that only imports numpy; compiled loops are in the cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnflow import load

PYTHON = [sys.executable, "-c"]
NNFLOW = [sys.executable, "-m", "nnflow"]


def finish(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("work", "command", "target"),
    [
        ("`import nnflow`", [*PYTHON, "import nnflow"], 0.15),
        ("`nnflow list`", [*NNFLOW, "list"], 0.5),
    ],
)
def test_start(duel: Any, work: str, command: list[str], target: float) -> None:
    duel(
        work,
        lambda: finish(command),
        "`import numpy`",
        lambda: finish([*PYTHON, "import numpy"]),
        rounds=9,
        target=target,
        kind="start",
    )


def test_first_answer(duel: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    command = [*NNFLOW, "run", "lyapunov_spectrum", "--map", "henon", "-o", str(out)]
    finish(command)  # fills the cache, should it be empty
    assert load(out)["exponent"].values == pytest.approx([0.419, -1.623], abs=0.02)
    duel(
        "`nnflow run lyapunov_spectrum --map henon -o out.nc`",
        lambda: finish(command),
        "`import numpy`",
        lambda: finish([*PYTHON, "import numpy"]),
        rounds=7,
        target=1.5,
        kind="start",
    )
