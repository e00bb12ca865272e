"""Fixtures: an environment with a stranger's distribution installed for real, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fresh
import matplotlib as mpl
import pytest

mpl.use("Agg")

HERE = Path(__file__).parent
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example distribution, installed by pip."""
    folder = tmp_path_factory.mktemp("stranger")
    source = folder / "source"
    source.mkdir()
    for file in (HERE / "example_plugin").iterdir():
        if file.is_file():
            (source / file.name).write_text(file.read_text())
    install(source, folder / "site")
    return folder / "site"


def install(source: Path, target: Path) -> None:
    """pip install a distribution into a folder."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def nnflow_command(tmp_path: Path) -> Command:
    """Run `nnflow …` in a new process, in an empty folder; `path` is put before the others that Python looks in."""

    def call(*arguments: str | Path, path: Sequence[Path] = ()) -> subprocess.CompletedProcess[str]:
        return fresh.command(*arguments, folder=tmp_path, PYTHONPATH=os.pathsep.join(map(str, path)))

    return call
