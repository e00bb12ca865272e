"""Duels: our side and a peer, measured in turn within one test, and the table of all of them at the end of the run.

A test takes the fixture `duel` and calls it once the two sides have been shown to compute the same thing. Every round
times the peer and then us, so that whatever else the machine is doing meets both. The ratio is the median over rounds.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TABLE = Path(__file__).with_name("table.md")
PACKAGES = ("nnflow", "numpy", "numba", "jax", "jaxlib", "pynamicalsys", "pyunicorn")
SPEED, START = "speed", "start"


@dataclass(frozen=True)
class Row:
    """One line of a table: seconds per round of both sides, in rounds that were run one after the other."""

    kind: str
    work: str
    peer: str
    ours: list[float]
    theirs: list[float]
    scale: float
    target: float | None
    limit: float | None = None

    @property
    def seconds(self) -> tuple[float, float]:
        """The medians, the peer's scaled up to our amount of work."""
        return float(np.median(self.ours)), float(np.median(self.theirs)) * self.scale

    @property
    def ratio(self) -> tuple[float, float, float]:
        """How many times faster we are (of a start: how many times the other's time we need), quartiles over rounds."""
        faster = np.array(self.theirs) * self.scale / np.array(self.ours)
        low, middle, high = np.quantile(faster if self.kind == SPEED else 1 / faster, [0.25, 0.5, 0.75])
        return float(low), float(middle), float(high)

    @property
    def verdict(self) -> str:
        """The target, and whether it was met."""
        if self.limit is not None:
            text = f"< {_seconds(self.limit)}"
            return text if self.seconds[0] < self.limit else f"{text} **above target**"
        if self.target is None:
            return "–"
        met = self.ratio[1] >= self.target if self.kind == SPEED else self.seconds[0] < self.target
        text = f"≥ {self.target:.2g}×" if self.kind == SPEED else f"< {self.target:g} s"
        return text if met else f"{text} **below target**" if self.kind == SPEED else f"{text} **above target**"

    def cells(self) -> list[str]:
        ours, theirs = map(_seconds, self.seconds)
        low, middle, high = map(_digits, self.ratio)
        return [self.work, ours, f"{self.peer}: {theirs}", f"{middle}×", f"{low}–{high}", self.verdict]


ROWS: list[Row] = []
SKIPPED: list[tuple[str, str]] = []


@pytest.fixture
def duel(benchmark: Any) -> Callable[..., None]:
    """Measure two sides in turn: `duel(work, ours, peer, theirs)` with the names of the work and of the peer.

    `rounds` of each are timed after one that warms up. `scale`: how many times theirs makes our amount of work, where
    a peer is too slow to do all of it. `target`: the least ratio; with kind=START, the most seconds for our side, as
    `limit` is for a round of any kind.
    """

    def measure(
        work: str,
        ours: Callable[[], Any],
        peer: str,
        theirs: Callable[[], Any],
        *,
        rounds: int = 7,
        scale: float = 1.0,
        target: float | None = None,
        limit: float | None = None,
        kind: str = SPEED,
    ) -> None:
        taken: list[float] = []

        def their_turn() -> None:
            began = time.perf_counter()
            theirs()
            taken.append(time.perf_counter() - began)

        benchmark.group = kind
        benchmark.pedantic(ours, setup=their_turn, rounds=rounds, warmup_rounds=1)
        if benchmark.stats is None:  # --benchmark-disable: the sides were compared, nothing was timed
            return
        row = Row(kind, work, peer, list(benchmark.stats.stats.data), taken[1:], scale, target, limit)
        benchmark.extra_info.update(peer=peer, peer_median=row.seconds[1], ratio=row.ratio[1])
        ROWS.append(row)

    return measure


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """JAX last: once loaded, it slows down whatever allocates memory in the same process."""
    items.sort(key=lambda item: "jax_training" in item.fixturenames)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep why a duel did not take place."""
    if report.skipped and isinstance(report.longrepr, tuple):
        SKIPPED.append((report.nodeid.rpartition("::")[2], report.longrepr[2].removeprefix("Skipped: ")))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the tables, and write them beside this file."""
    if not ROWS:
        return
    text = _report()
    TABLE.write_text(text, encoding="utf-8")
    terminalreporter.section("duels")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"written to {TABLE}")


def _report() -> str:
    parts = [_conditions()]
    speed = [row for row in ROWS if row.kind == SPEED]
    start = [row for row in ROWS if row.kind == START]
    if speed:
        parts.append(_table(["work", "ours", "peer", "ratio", "spread", "target"], speed))
    if start:
        parts.append(_table(["new process", "ours", "beside", "ratio", "spread", "target"], start))
    if SKIPPED:
        parts.append("\n".join(f"- not measured: `{name}`: {reason}" for name, reason in SKIPPED))
    return "\n\n".join(parts) + "\n"


def _conditions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    machine = f"{_processor()}, {os.cpu_count()} cores, {load} at the end"
    return f"{date.today():%Y-%m}; {machine}; Python {platform.python_version()}; {', '.join(found)}."


def _processor() -> str:
    """The name of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _table(head: list[str], rows: list[Row]) -> str:
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _seconds(t: float) -> str:
    """Three digits with a unit."""
    unit, size = next((u for u in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if t >= u[1]), ("ns", 1e-9))
    return f"{t / size:.3g} {unit}"


def _digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"
