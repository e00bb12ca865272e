"""Every snippet of README.md, run: Python in one process, commands one by one, files written, installed and checked."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command, install

import nnflow

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def named(block: str) -> str | None:
    """The file name in a block's first line, if that is what it holds."""
    found = re.match(r"# (\w+\.\w+)\n", block)
    return found.group(1) if found else None


def commands() -> list[str]:
    return [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line]


def test_the_python_snippets_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    blocks = [block for kind, block in BLOCKS if kind == "python" and not named(block)]
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block, "README.md", "exec"), space)
    assert (tmp_path / "logistic.png").stat().st_size > 10_000
    assert space["spectrum"].exponent.values == pytest.approx([0.419, -1.623], abs=0.02)  # type: ignore[attr-defined]


def test_the_page_on_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (README.parent / "docs" / "training.md").read_text()
    space: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/training.md", "exec"), space)


def test_there_are_exactly_two_set_up_commands_of_one_line() -> None:
    setup = [line for line in commands() if line.startswith("python3 -m venv")]
    assert len(setup) == 2
    assert setup[0].endswith("&& nnflow demo")
    assert setup[1].endswith("&& pytest -n auto")


def test_the_commands_and_the_plugin_of_ones_own(tmp_path: Path, nnflow_command: Command) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for _, block in BLOCKS:
        if name := named(block):
            (source / name).write_text(block)
    for line in commands():
        words = shlex.split(line)
        if line == "pip install .":
            install(source, site)
        elif words[0] == "nnflow":
            done = nnflow_command(*words[1:], path=[site])
            assert done.returncode == 0, f"{line}: {done.stderr}"
        else:
            assert line.startswith("python3 -m venv")
    assert (tmp_path / "again.pdf").exists()


def test_the_tables_say_what_the_docstrings_say() -> None:
    told = [sys.executable, str(README.parent / "docs" / "tables.py"), "--check"]
    done = subprocess.run(told, capture_output=True, text=True, check=False)
    assert not done.returncode, f"run docs/tables.py: {done.stdout}{done.stderr}"
    listed = set(re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE))
    assert listed == {*nnflow.maps.names(), *nnflow.analyses.names()}


def test_every_file_it_points_to_is_there() -> None:
    for name in ("docs/demo.png", "docs/collapse.png", "constraints.txt", "benchmarks/README.md", ".ci/run"):
        assert name in README.read_text()
        assert (README.parent / name).exists()
