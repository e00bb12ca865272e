"""Peers, each in a process of its own and, where it must be, in an environment of its own (see `peers/serve.py`)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnflow.data import iris_split

PEERS = Path(__file__).with_name("peers")


class MissingPeer(Exception):
    """The peer, or something that it needs, is not installed."""


class Peer:
    """A file of `peers/`, loaded by a new process: `peer(function, **arguments)` returns what the function does there.

    Raises MissingPeer if the file cannot be imported, RuntimeError with the peer's traceback if a call fails.
    """

    def __init__(self, name: str, python: str, folder: Path) -> None:
        data = folder / "iris.npz"
        if not data.exists():
            split = iris_split(0)
            np.savez(data, inputs=split.inputs, labels=split.targets)
        settings = {"BENCHMARK_IRIS": str(data), "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        self.log = (folder / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            [python, str(PEERS / "serve.py"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **settings},
        )
        kind, value = self._hear()
        if kind == "missing":
            self.stop()
            raise MissingPeer(value)

    def __call__(self, function: str, **arguments: Any) -> Any:
        """The result of one call."""
        return self._ask(function, arguments, 0)

    def seconds(self, function: str, count: int = 1, **arguments: Any) -> float:
        """How long one call takes there: the median of `count`."""
        return float(self._ask(function, arguments, count))

    def stop(self) -> None:
        """Let the process end."""
        self.process.communicate(timeout=60)
        self.log.close()

    def _ask(self, *request: Any) -> Any:
        assert self.process.stdin is not None
        pickle.dump(request, self.process.stdin)
        self.process.stdin.flush()
        kind, value = self._hear()
        if kind == "failed":
            raise RuntimeError(value)
        return value

    def _hear(self) -> tuple[str, Any]:
        assert self.process.stdout is not None
        try:
            kind, value = pickle.load(self.process.stdout)
        except EOFError:
            raise RuntimeError(f"the peer ended by itself; what it said is in {self.log.name}") from None
        return kind, value


def python_of(name: str, options: list[str]) -> str:
    """Which Python runs a peer: the one of its option `NAME=PYTHON`, or else this one."""
    pairs = dict(option.partition("=")[::2] for option in options)
    for peer, python in pairs.items():
        if not (PEERS / f"{peer}.py").exists() or not Path(python).exists():
            raise pytest.UsageError(f"--peer-python {peer}={python}: give a file of benchmarks/peers and a Python")
    return pairs.get(name, sys.executable)
