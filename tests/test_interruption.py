"""Ctrl-C, SIGTERM and crashes: the command line ends soon, with its status and one line; `run` raises at once.

What could go wrong in this way, and is tried: the signal comes while Python is imported, in code that keeps Python's
lock (a LAPACK call of scipy, a picture of millions of points), in code that swallows KeyboardInterrupt, in a worker's
kernel, just before the main thread waits, during a save; it comes twice; it is SIGTERM or SIGHUP; it is ignored from
the start (nohup, a background job);
native code crashes or is killed for its memory; the waiting parent itself is killed; the interpreter waits for threads.
"""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

import pytest
from processes import Process, started, stranger

SOON = 20.0  # seconds: one is what the program takes, and a test's processor may be busy; the work goes on for 600
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the work is done in the process itself")

SHORT = """
import sys
from nnflow import process
process.MAIN, process.GRACE = "hostile_stranger:main", float(sys.argv[1])
sys.exit(process.command())
"""
MAINS = {
    "in Python": "import time\ndef main(): say(); time.sleep(600)",
    "imports": "import time\nsay(); time.sleep(600)",
    "keeps the lock": "def main(): say(); sum(range(10**13))",
    "swallows": """
import time
def main():
    say()
    while True:
        try: time.sleep(600)
        except BaseException: print("not me", file=sys.stderr)
""",
    "raises another": """
import time
def main():
    say()
    try: time.sleep(600)
    except BaseException: raise ValueError("not this")
""",
    "in a thread": """
import threading, time
def main():
    threading.Thread(target=time.sleep, args=(600,)).start()
    say()
    time.sleep(600)
""",
}
SAY = "import sys\ndef say(): print('alive', flush=True)\n"


def short(folder: Path, source: str, grace: float = 1.0) -> AbstractContextManager[Process]:
    return started("-c", SHORT, grace, folder=folder, path=stranger(folder, SAY + source))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("where", MAINS)
def test_a_signal_ends_the_command_soon_with_one_line(where: str, number: signal.Signals, tmp_path: Path) -> None:
    with short(tmp_path, MAINS[where]) as process:
        process.lives()
        status, errors, seconds = process.ends(number)
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (status, errors) == (128 + number, f"nnflow: {how}; no half-written file is left\n")
    assert seconds < SOON


@pytest.mark.parametrize("where", ["keeps the lock", "swallows"])
def test_the_second_signal_ends_it_at_once(where: str, tmp_path: Path) -> None:
    with short(tmp_path, MAINS[where], grace=500.0) as process:
        process.lives()
        began = monotonic()
        while process.poll() is None and monotonic() - began < SOON:
            process.send_signal(signal.SIGINT)
            threading.Event().wait(0.2)  # a second one within 0.1 s counts as the first
        assert process.ends()[:2] == (130, "nnflow: interrupted; no half-written file is left\n")


def test_two_signals_at_once_are_one_and_leave_time_to_clean_up(tmp_path: Path) -> None:
    """timeout(1) sends SIGTERM to the process, and again to its group."""
    source = """
import time
def main():
    try:
        say()
        while True: time.sleep(0.1)  # a signal that comes just before a wait is heard after it
    finally: open("cleaned", "w").close()
"""
    with short(tmp_path, source, grace=500.0) as process:
        process.lives()
        process.send_signal(signal.SIGTERM)
        assert process.ends(signal.SIGTERM)[0] == 143
    assert (tmp_path / "cleaned").exists()


def test_a_signal_that_was_ignored_from_the_start_stays_so(tmp_path: Path) -> None:
    """As `nohup nnflow …` and `nnflow … &` in a script want it."""
    source = """
import os, signal
def main():
    os.kill(os.getppid(), signal.SIGINT)
    return 7 * (signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
"""
    path = stranger(tmp_path, source)
    with started("-c", "import signal; signal.signal(2, signal.SIG_IGN)" + SHORT, 1, folder=tmp_path, path=path) as p:
        assert p.ends()[:2] == (7, "")


@pytest.mark.parametrize(
    ("source", "status", "line"),
    [
        ("import ctypes\ndef main(): ctypes.string_at(0)", 139, "crashed in native code (SIGSEGV)"),
        ("import os\ndef main(): os.abort()", 134, "crashed in native code (SIGABRT)"),
        ("import os\ndef main(): os.kill(os.getpid(), 9)", 137, "killed, most likely for lack of memory (SIGKILL)"),
    ],
)
def test_a_crash_says_so(source: str, status: int, line: str, tmp_path: Path) -> None:
    with short(tmp_path, source) as process:
        assert process.ends()[:2] == (status, f"nnflow: {line}; no half-written file is left\n")


def test_the_work_dies_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    with short(tmp_path, "import time\ndef main(): say(); time.sleep(600)") as process:
        process.lives()
        process.send_signal(signal.SIGKILL)
        assert process.ends()[2] < SOON  # which it does when nobody holds its streams any more


@pytest.mark.parametrize("status", [0, 1, 2])
def test_what_ends_by_itself_keeps_its_status(status: int, tmp_path: Path) -> None:
    with short(tmp_path, f"def main(): return {status}") as process:
        assert process.ends()[:2] == (status, "")


# -- the whole program -----------------------------------------------------------------------------------------------

ANALYSES = """
import ctypes, os, time
from dataclasses import dataclass
import nnflow
from nnflow.progress import _listener, heard_by

def compiled():
    say()
    return nnflow.maps["henon"]()

@dataclass(frozen=True)
class Long(nnflow.Analysis):
    def __call__(self, ensemble):
        said = []
        def listener(steps):
            said or said.append(say())
            before(steps)
        before = _listener.get()
        with heard_by(listener):
            ensemble.advance(10**14)

@dataclass(frozen=True)
class Kernel(nnflow.Analysis):
    def __call__(self, ensemble):
        say()
        ctypes.CDLL(None).sleep(600)

@dataclass(frozen=True)
class Saved(nnflow.Analysis):
    def __call__(self, ensemble):
        def replace(*arguments, **options):
            say()
            time.sleep(600)
        os.replace = replace
        return {"escaped": ("member", ensemble.escaped)}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("entries", "arguments"),
    [
        ({"analyses": "bad:Kernel"}, ("bad", "--map", "logistic")),
        ({"analyses": "bad:Saved"}, ("bad", "--map", "logistic")),
        ({"analyses": "bad:Long"}, ("bad", "--map", "henon")),
        ({"maps": "bad:compiled"}, ("lyapunov_spectrum", "--map", "bad", "--steps", "100000000000")),
    ],
    ids=["in a kernel", "in a save", "in a long run", "compiling"],
)
def test_a_signal_in_a_run_leaves_no_file(
    entries: dict[str, str], arguments: tuple[str, ...], number: signal.Signals, tmp_path: Path
) -> None:
    here, cache = tmp_path / "here", tmp_path / "cache"
    here.mkdir()
    path = stranger(tmp_path, SAY + ANALYSES, **entries)
    command = ("-m", "nnflow", "run", *arguments, "-o", "out.nc")
    with started(*command, folder=here, path=path, NNFLOW_CACHE_DIR=str(cache)) as process:
        process.lives()
        status, errors, seconds = process.ends(number)
    how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (status, errors) == (128 + number, f"nnflow: {how}; no half-written file is left\n")
    assert seconds < SOON
    assert list(here.iterdir()) == []


LIBRARY = """
import nnflow
from hostile_stranger import Kernel, say
try:
    nnflow.run(Kernel(), nnflow.maps["logistic"]())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_run_raises_at_once_and_the_interpreter_can_end(tmp_path: Path) -> None:
    """A worker that is deep in a kernel is left to it, by `run` and by the interpreter."""
    path = stranger(tmp_path, SAY + ANALYSES)
    with started("-c", LIBRARY, folder=tmp_path, path=path) as process:
        process.lives()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "interrupted\n"
        status, errors, seconds = process.ends()
    assert (status, errors) == (0, "")
    assert seconds < SOON


def test_an_error_in_one_chunk_does_not_wait_for_the_kernel_of_another(tmp_path: Path) -> None:
    program = """
from dataclasses import dataclass
from threading import Event
import ctypes, nnflow
there = Event()
@dataclass(frozen=True)
class Mixed(nnflow.Analysis):
    def __call__(self, ensemble):
        ensemble.orbit(1)
        if ensemble.init[0]:
            there.set(); ctypes.CDLL(None).sleep(600)
        there.wait(2); raise RuntimeError("broken")
import nnflow.runner; nnflow.runner.cores = lambda: 2
try: nnflow.run(Mixed(), nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2), chunk=1)
except RuntimeError as error: print(error)
"""
    with started("-c", program, folder=tmp_path) as process:
        status, errors, _ = process.ends()
    assert (status, errors) == (0, "")
