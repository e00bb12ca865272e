"""New processes for little: one that has imported what takes long is forked, once for each code that is to run.

To import numba, scipy and xarray takes a second or two, and hundreds of tests ask what *another* process finds, prints
or keeps. Here a server imports them once for each worker of pytest, compiles nothing, and forks: a child has its own
environment, folder, path and streams, runs a code as `python -c` would, waits for its threads and calls what is to be
called at its end. What concerns the start of a process itself (its imports, its flags, its signals, numba's own
variables) takes `subprocess`. So does all of it where forks beside a system's own threads are not safe.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

LATEST = 900  # seconds after which a child is killed, whatever it does
FOLDER = Path(__file__).parent
LOADED = ("nnflow.__main__", "nnflow.compiled", "nnflow.runner", "nnflow.cli.commands")
COMMAND = "import sys; from nnflow.__main__ import main; sys.exit(main())"  # what `python -m nnflow` does


def python(
    code: str, *arguments: object, folder: Path | None = None, check: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a code as `python -P -B -c` would, in a new process.

    Args:
        code: What to run.
        *arguments: sys.argv behind its first.
        folder: Where to run it; None: here.
        check: Raise CalledProcessError if it fails.
        **environment: Variables beside, or in place of, those of this process; PYTHONPATH stands before what is there.

    Returns:
        Its exit status, stdout and stderr.
    """
    command = [sys.executable, "-P", "-B", "-c", code, *map(str, arguments)]
    given = {**os.environ, **environment}
    if sys.platform != "linux":
        return subprocess.run(
            command, cwd=folder, env=given, capture_output=True, text=True, timeout=LATEST, check=check
        )
    with tempfile.TemporaryDirectory() as streams:
        asked = {
            "code": code,
            "argv": ["-c", *map(str, arguments)],
            "folder": str(folder or Path.cwd()),
            "environment": given,
            "streams": [f"{streams}/out", f"{streams}/err"],
        }
        status = _server().asked(asked)
        out, err = (Path(name).read_text() for name in (f"{streams}/out", f"{streams}/err"))
    done = subprocess.CompletedProcess(command, status, out, err)
    if check:
        done.check_returncode()
    return done


def command(*arguments: object, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `nnflow …` in a new process, in a folder."""
    return python(COMMAND, *arguments, folder=folder, **environment)


# -- this side -------------------------------------------------------------------------------------------------------


class Server:
    """The process that forks; it ends when its stdin does, which is when this process ends."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-c", "import sys; sys.path.append(sys.argv[1]); import fresh; fresh.serve()",
             str(FOLDER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def asked(self, request: Mapping[str, object]) -> int:
        """The exit status of a child, negative for a signal."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the server of tests/fresh.py has ended with status {self.process.wait()}"
        return int(answer)


@cache
def _server() -> Server:
    return Server()


def close() -> None:
    """End the server, if there is one, and wait until it has written what measures its coverage."""
    if _server.cache_info().currsize:
        with _server().process as process:
            assert process.stdin is not None
            process.stdin.close()


# -- the other side --------------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a child for each line of stdin, and tell its exit status."""
    with warnings.catch_warnings(action="error"):
        for name in LOADED:
            importlib.import_module(name)
    from numba.core.registry import cpu_target

    cpu_target.target_context.refresh()  # numba's own tables
    cpu_target.typing_context.refresh()
    gc.freeze()  # a collection would write to what children share
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if not child:
            _become(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(code: str, argv: list[str], folder: str, environment: dict[str, str], streams: list[str]) -> NoReturn:
    """Make this child a process of its own, run the code, and end it."""
    signal.alarm(LATEST)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in enumerate([os.devnull, *streams]):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
    sys.path.remove(str(FOLDER))
    sys.path[:0] = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.argv[:] = argv
    importlib.invalidate_caches()
    space = vars(sys.modules["__main__"])
    space.clear()
    space["__name__"] = "__main__"
    status = _run(code, space)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)  # to throw away all modules, one by one, would take half a second


def _run(code: str, space: dict[str, Any]) -> int:
    """Run a code as a program; its exit status."""
    try:
        exec(compile(code, "<string>", "exec"), space)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
