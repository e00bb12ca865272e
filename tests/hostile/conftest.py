"""A seed that is printed: NNFLOW_HOSTILE_SEED=… repeats a run, each test by itself."""

from __future__ import annotations

import os
import random
import time

import pytest

SEED = os.environ.setdefault("NNFLOW_HOSTILE_SEED", str(time.time_ns() % 10**9))


def pytest_report_header() -> str:
    return f"NNFLOW_HOSTILE_SEED={SEED}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test; the seed stands beside a failure."""
    print(f"NNFLOW_HOSTILE_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")
