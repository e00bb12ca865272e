"""Processes to be treated badly: a stranger's distribution in a folder, a command that says when it lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

LATEST = 120.0  # seconds after which a process of a test is killed, whatever it does


def stranger(folder: Path, source: str, **entries: str) -> Path:
    """Install a distribution whose one module is `source`; ``maps="bad:function"`` declares a map named `bad`."""
    (folder / "hostile_stranger.py").write_text(source)
    info = folder / "hostile_stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-stranger\nVersion: 1.0\n")
    text = [f"[nnflow.{group}]\n{entry.replace(':', ' = hostile_stranger:')}\n" for group, entry in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(text))
    return folder


@contextmanager
def started(*arguments: object, folder: Path, path: Path | None = None, **environment: str) -> Iterator[Process]:
    """`python …` in a folder, with `path` before the others that Python looks in; killed at the end of the block."""
    process = Process(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path or ""), "MPLBACKEND": "Agg", **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    watch = Timer(LATEST, process.kill)
    watch.start()
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()
        watch.cancel()


class Process(subprocess.Popen[str]):
    """A process whose first line on stdout tells that it has come to where it is to be treated badly."""

    def lives(self) -> None:
        """Wait for the sign of life."""
        assert self.stdout is not None
        assert self.stdout.readline() == "alive\n", self.communicate()

    def ends(self, number: signal.Signals | None = None) -> tuple[int, str, float]:
        """Send a signal and wait: the exit status, stderr, and the seconds it took."""
        began = time.monotonic()
        if number is not None:
            self.send_signal(number)
        _, errors = self.communicate()
        return self.returncode, errors, time.monotonic() - began
