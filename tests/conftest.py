"""Fixtures: an environment with a stranger's distribution installed for real, and the command line in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import fresh
import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")
torch.set_num_threads(1)  # of what tests compare with: workers side by side have a core each (nnflow sets its own)

HERE = Path(__file__).parent
Command = Callable[..., subprocess.CompletedProcess[str]]
QUICK, SLOW = 10.0, 60.0  # seconds that a test may take, and one that is marked slow, on a quiet processor


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note a test's budget where the process that reports will see it."""
    item.user_properties.append(("budget", SLOW if item.get_closest_marker("slow") else QUICK))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """End the server of new processes after the last test, before coverage is put together."""
    try:
        return (yield)
    finally:
        fresh.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that took longer than their budget. It is no failure: a processor may be busy, a cache empty."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    over = {r.nodeid: r.duration for r in reports if r.duration > dict(r.user_properties).get("budget", SLOW)}
    if over:
        terminalreporter.section(f"over budget: {QUICK:g} s, {SLOW:g} s where marked slow")
        for test, seconds in sorted(over.items(), key=lambda each: -each[1]):
            terminalreporter.write_line(f"{seconds:6.1f}s {test}")


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
        return fresh.command(*arguments, folder=tmp_path, MPLBACKEND="Agg", PYTHONPATH=os.pathsep.join(map(str, path)))

    return call
