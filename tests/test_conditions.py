"""Where the command line has to live: streams, locales, folders, limits and plugins that are not as they should be.

What could go wrong in this way, and is tried: stdout, stderr, stdin closed or full; text that an encoding lacks; no
home, no current folder, no place for temporary files; a terminal of one column; little memory, few files; a plugin that
ends Python, raises what is no Exception, runs out of memory or of stack, when imported or when called.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LATEST, stranger

import nnflow
from nnflow import room
from nnflow.__main__ import main

NNFLOW = f"{sys.executable} -m nnflow"
RUN = f"{NNFLOW} run lyapunov_spectrum --map logistic --steps 100"
HELP = f"{NNFLOW} run network_lyapunov --help"
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command in a folder."""
    given = {**os.environ, "PYTHONPATH": str(folder), "MPLBACKEND": "Agg", **environment}
    return subprocess.run(
        command, shell=True, executable="/bin/bash", cwd=folder, env=given, capture_output=True, text=True,
        timeout=LATEST, errors="replace",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (f"{RUN} >&-", "stdout is closed"),
        (f"{NNFLOW} list >&- <&-", "stdout is closed"),
        (f"{RUN} >/dev/full", "No space left on device"),
        (f"{NNFLOW} list >/dev/full", "No space left on device"),
        (f"{HELP} >/dev/full", "No space left on device"),
        (f"mkdir gone; cd gone; rmdir ../gone; {NNFLOW} list", "the current folder is gone"),
        (f"mkdir gone; cd gone; rmdir ../gone; {RUN} -o out.nc", "the current folder is gone"),
        (f"{RUN} --scan r=3:4:9000000000000", "TB, but"),
    ],
)
def test_what_cannot_be_is_one_line(command: str, line: str, tmp_path: Path) -> None:
    done = shell(command, tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("nnflow: ")
    assert line in said
    assert len(said) > len("nnflow: out of")
    assert list(tmp_path.iterdir()) == []


OTHERS = ("tqdm", "can't start new thread", "terminate called", "what():")  # what tqdm and C++ say by themselves


@pytest.mark.parametrize("kilobytes", [60_000, 100_000, 200_000, 400_000])
def test_too_little_memory_is_no_traceback(kilobytes: int, tmp_path: Path) -> None:
    """Who notices differs: Python, the loader, OpenBLAS (which ends the process itself, and says so), LLVM, numpy."""
    done = shell(f"ulimit -v {kilobytes}; {RUN}", tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith("nnflow: ") or not before, done.stderr
    assert all(any(word in line for word in OTHERS) for line in before), done.stderr


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        (f"{RUN} 2>&-", {}),
        (f"{RUN} <&-", {}),
        (f"{RUN} 2>/dev/full", {}),
        (f"{RUN} --plot out.png <&- 2>&-", {}),
        (f"env -u HOME {RUN}", {}),
        (f"ulimit -n 24; {RUN}", {}),
        (RUN, {"TMPDIR": "/nonexistent"}),
        (RUN, {"TMPDIR": "/proc"}),
        (f"{RUN} -o out.nc --plot out.png", {"TMPDIR": "/nonexistent", "HOME": "/nonexistent"}),
        (HELP, {"COLUMNS": "1"}),
        (HELP, {"COLUMNS": "0"}),
        (HELP, {"COLUMNS": "7"}),
        (RUN, {"COLUMNS": "1"}),
        (HELP, ASCII),
        (HELP, {"PYTHONIOENCODING": "ascii"}),
        (f"{NNFLOW} run recurrence --help", {"PYTHONIOENCODING": "latin-1"}),
        (f"{RUN} -o $'\\xff.nc'", {}),
    ],
)
def test_what_can_be_done_is_done(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    done = shell(command, tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout


def test_a_complaint_does_not_go_to_stdout_where_stderr_is_closed(tmp_path: Path) -> None:
    done = shell(f"{NNFLOW} run nope 2>&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


# -- plugins ---------------------------------------------------------------------------------------------------------

BAD = {
    "sys.exit()": "SystemExit",
    "sys.exit(0)": "SystemExit",
    "raise SystemExit('bye')": "bye",
    "raise GeneratorExit": "GeneratorExit",
    "raise BaseException('mine')": "mine",
    "raise MemoryError": "emory",
    "raise KeyboardInterrupt": "interrupted",
    "deep()": "recursion",
    "import nothing_of_this_name": "nothing_of_this_name",
}
HEAD = """
import sys
from dataclasses import dataclass
import nnflow
def deep(): deep()
"""


def complaint(arguments: str, status: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    assert main(arguments.split()) == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["run bad --map cat", "run series --map worst", "check bad", "reproduce worse"])
@pytest.mark.parametrize("statement", BAD)
def test_a_plugin_that_ends_python_when_imported_is_one_line(
    statement: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(tmp_path, f"{HEAD}\n{statement}\n", analyses="bad:Bad", studies="worse:Bad", maps="worst:Bad")
    monkeypatch.syspath_prepend(tmp_path)
    if "Interrupt" in statement:
        assert "interrupted" in complaint(command, 130, capsys)
    else:
        line = complaint(command, 2, capsys)
        assert "of distribution hostile-stranger cannot be imported" in line
        assert BAD[statement] in line


@pytest.mark.parametrize("which", range(len(BAD)))
def test_a_plugin_that_ends_python_when_called_is_one_line(
    which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"""{HEAD}
def made(which=0):
    exec({list(BAD)}[which], globals())
@dataclass(frozen=True)
class Bad(nnflow.Analysis):
    which: int = 0
    def __call__(self, ensemble):
        made(self.which)
"""
    stranger(tmp_path, source, analyses="bad:Bad", maps="worst:made")
    monkeypatch.syspath_prepend(tmp_path)
    statement, said = list(BAD.items())[which]
    for command in (f"run bad --map cat --which {which}", f"run series --map worst --set which={which}"):
        assert said in complaint(command, 130 if "Interrupt" in statement else 2, capsys)


@pytest.mark.parametrize("error", [SystemExit, SystemExit(0), GeneratorExit, BaseException])
def test_a_registry_turns_every_end_into_its_error(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(entry: object) -> None:
        raise error

    registry = nnflow.Registry("nnflow.maps", "map")
    monkeypatch.setattr(type(registry._entry("henon")), "load", load)  # of the standard library, or of its backport
    with pytest.raises(nnflow.PluginError, match="of distribution nnflow cannot be imported"):
        registry["henon"]


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What processes hold is taken; what files are cached in is given back."""
    free = room.available()
    monkeypatch.setattr(room, "GROUP", tmp_path)
    (tmp_path / "memory.stat").write_text("anon 600\nfile 300\n")
    for limit, known in (("1000", 400), ("max", free)):
        (tmp_path / "memory.max").write_text(limit)
        assert room.available() == pytest.approx(known, rel=0.5)


def test_numba_switched_off_is_one_line(tmp_path: Path) -> None:
    done = shell(f"{NNFLOW} run lyapunov_spectrum --map henon", tmp_path, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 2
    assert "NUMBA_DISABLE_JIT is set" in done.stderr
    assert len(done.stderr.splitlines()) == 1
