"""Duels: our side and a peer, measured in turn, and the tables of all that a run found, at its end.

A test takes the fixture `duel` and calls it once the two sides have been shown to compute the same thing. Every round
times the peer and then us, so that whatever else the machine is doing meets both. The ratio is the median over rounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from children import MissingPeer, Peer, python_of
from tables import SPEED, Report, Row
from timing import timed

FOUND = Report()
RESULTS = Path(__file__).with_name("results")
RESULTS.mkdir(exist_ok=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="under two minutes: a third of the rounds, small sizes, without what is slow to start",
    )
    parser.addoption(
        "--peer-python", action="append", default=[], metavar="NAME=PYTHON", help="run a file of peers/ on this Python"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out of a short run what is marked so."""
    if config.getoption("quick"):
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(pytest.mark.skip(reason="left out of --quick"))


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether this is a short run."""
    return bool(request.config.getoption("quick"))


@pytest.fixture(scope="session")
def found() -> Report:
    """Where a test writes its results down."""
    return FOUND


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs share no members out: they work in the thread that calls them."""
    monkeypatch.setattr("nnflow.workers.cores", lambda: 1)


@pytest.fixture(scope="session")
def pool() -> Iterator[ThreadPoolExecutor]:
    """A thread for every core."""
    with ThreadPoolExecutor(os.cpu_count()) as made:
        yield made


@pytest.fixture(scope="session")
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Peer]]:
    """Start the process of a peer, by name, for the rest of the run; skip what needs one that is not installed."""
    folder, started = tmp_path_factory.mktemp("peers"), dict[str, Peer]()

    def start(name: str) -> Peer:
        if name not in started:
            try:
                started[name] = Peer(name, python_of(name, request.config.getoption("peer_python")), folder)
            except MissingPeer as error:
                pytest.skip(str(error))
        return started[name]

    yield start
    for each in started.values():
        each.process.terminate()  # all of them, before one is waited for
    for each in started.values():
        each.stop()


@pytest.fixture
def duel(benchmark: Any, quick: bool) -> Callable[..., Row | None]:
    """Measure two sides in turn: `duel(work, ours, peer, theirs)` with the names of the work and of the peer.

    `theirs` returns the seconds it took, as the peer's own process measured them. `rounds` of each are timed, after a
    call that warms up; in a round, what is short is repeated for a tenth of a second, so that caches are warm for both.
    `scale`: how many times theirs makes our amount of work, where a peer is too slow to do all of it. `target`: the
    least ratio; with kind=START, the largest multiple of the other's time. Missing it fails the test.
    """

    def measure(
        work: str,
        ours: Callable[[], Any],
        peer: str,
        theirs: Callable[[], float],
        *,
        rounds: int = 7,
        scale: float = 1.0,
        target: float | None = None,
        kind: str = SPEED,
    ) -> Row | None:
        taken: list[float] = []
        calls = (enough(timed(ours)), enough(theirs())) if kind == SPEED else (1, 1)  # a start warms nothing up
        benchmark.group = kind
        benchmark.pedantic(
            lambda: [ours() for _ in range(calls[0])],
            setup=lambda: taken.append(sum(theirs() for _ in range(calls[1])) / calls[1]),
            rounds=-(-rounds // 3) if quick else rounds,
        )
        if benchmark.stats is None:  # --benchmark-disable: the sides were compared, nothing was timed
            return None
        row = Row(kind, work, peer, [round / calls[0] for round in benchmark.stats.stats.data], taken, scale, target)
        benchmark.extra_info.update(peer=peer, peer_median=row.seconds[1], ratio=row.ratio[1])
        FOUND.duels.append(row)
        assert row.met, f"{work}: {row.ratio[1]:.3g}× of {peer}, and the target is {row.verdict}"
        return row

    return measure


def enough(seconds: float) -> int:
    """How many calls last a tenth of a second."""
    return max(1, min(20, round(0.1 / seconds)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep why something was not measured."""
    if report.skipped and isinstance(report.longrepr, tuple):
        FOUND.skipped.append((report.nodeid.rpartition("::")[2], report.longrepr[2].removeprefix("Skipped: ")))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables, and keep them in `results`."""
    if not (FOUND.duels or FOUND.tables):
        return
    terminalreporter.section("found")
    terminalreporter.write_line(str(FOUND))
    path = RESULTS / ("quick.md" if config.getoption("quick") else "table.md")
    path.write_text(str(FOUND), encoding="utf-8")
    terminalreporter.write_line(f"written to {path}")
