"""What the benchmarks found, as tables: a duel is a row of one, and other files add tables of their own."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

PACKAGES = (
    "nnflow",
    "numpy",
    "numba",
    "torch",
    "jax",
    "lyapax",
    "keras",
    "tensorflow-cpu",
    "pynamicalsys",
    "pyunicorn",
    "PyRQA",
    "neurokit2",
    "nolds",
)
SPEED, START = "speed", "start"


@dataclass(frozen=True)
class Row:
    """One duel: seconds per round of both sides, in rounds that were run one after the other."""

    kind: str
    work: str
    peer: str
    ours: list[float]
    theirs: list[float]
    scale: float
    target: float | None

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
    def met(self) -> bool:
        """Whether the target was met."""
        middle = self.ratio[1]
        return self.target is None or (middle >= self.target if self.kind == SPEED else middle <= self.target)

    @property
    def verdict(self) -> str:
        """The target, and whether it was missed."""
        if self.target is None:
            return "–"
        sign = "≥" if self.kind == SPEED else "≤"
        return f"{sign} {digits(self.target)}×{'' if self.met else ' **missed**'}"

    def cells(self) -> list[str]:
        """As a line of the table."""
        ours, theirs = map(seconds, self.seconds)
        low, middle, high = map(digits, self.ratio)
        return [self.work, ours, f"{self.peer}: {theirs}", f"{middle}×", f"{low}–{high}", self.verdict]


@dataclass
class Report:
    """All that one run found, in the order in which it is printed."""

    duels: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)  # title -> rows, the first of them the heads

    def add(self, title: str, head: list[str], *rows: list[str]) -> None:
        """Add rows to the table of this title."""
        self.tables.setdefault(title, [head]).extend(rows)

    def __str__(self) -> str:
        """All of it in Markdown."""
        parts = [conditions()]
        for kind, head in ((SPEED, ["work", "ours", "peer"]), (START, ["new process", "ours", "beside"])):
            rows = [row.cells() for row in self.duels if row.kind == kind]
            if rows:
                parts.append(markdown([[*head, "ratio", "spread", "target"], *rows]))
        for title, rows in self.tables.items():
            parts += [f"{title}:", markdown(rows)]
        if self.skipped:
            parts.append("\n".join(f"- not measured: `{name}`: {reason}" for name, reason in self.skipped))
        return "\n\n".join(parts) + "\n"


def markdown(rows: list[list[str]]) -> str:
    """A table, its first row the heads."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def conditions() -> str:
    """When, on what, with which versions."""
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
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds(t: float) -> str:
    """Three digits with a unit."""
    unit, size = next((u for u in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)) if t >= u[1]), ("ns", 1e-9))
    return f"{t / size:.3g} {unit}"


def digits(ratio: float) -> str:
    """A ratio, to two or three digits."""
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}".replace(",", " ")
