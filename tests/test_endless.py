"""Work that no clock could finish is refused before it starts, with the time it would take, in one place.

What could go wrong in this way, and is tried: a slip of some zeros, or infinity, in the steps or the transient of every
analysis; in the verbs of an ensemble, with a large `every`; many members of few steps; an iterate of too many steps; an
analysis of one's own that loops by itself. What a clock can finish is not refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.room import FASTEST, MONTH, refuse_endless
from nnflow.workers import cores

TOO_MANY = 9 * 10**18  # steps: a century and more on a machine of a core, and some years on one of a hundred


@pytest.fixture
def one() -> nnflow.Ensemble:
    return nnflow.Ensemble.grid(nnflow.maps["henon"]())


@pytest.mark.parametrize("setting", ["steps", "transient"])
@pytest.mark.parametrize("name", nnflow.analyses.names())
def test_every_analysis_refuses_it(name: str, setting: str, one: nnflow.Ensemble) -> None:
    if setting not in [field.name for field in fields(nnflow.analyses[name])]:
        pytest.skip(f"{name} has no {setting}")
    with pytest.raises(nnflow.Refusal, match="would take .* days or more|of memory are free"):
        nnflow.run(name, one, **{setting: TOO_MANY})
    with pytest.raises(ValueError, match="inf|nan"):
        nnflow.run(name, one, **{setting: math.inf})


@pytest.mark.parametrize(
    "verb",
    [
        lambda e: e.advance(TOO_MANY),
        lambda e: e.orbit(TOO_MANY, every=TOO_MANY // 2),
        lambda e: e.with_frame(2).tangent_orbit(TOO_MANY, every=TOO_MANY),
        lambda e: e.separation_orbit(e.perturbed(1e-6), TOO_MANY, every=TOO_MANY),
        lambda e: nnflow.iterate(e.map, TOO_MANY),
    ],
)
def test_every_verb_refuses_it(verb: Callable[[nnflow.Ensemble], Any], one: nnflow.Ensemble) -> None:
    with pytest.raises(nnflow.Refusal, match="days or more: give fewer steps or members"):
        verb(one)


def test_members_count_as_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnflow.room.MONTH", 1e-6 * FASTEST)
    with pytest.raises(nnflow.Refusal, match="5e\\+03 steps of members"):
        nnflow.Ensemble.grid(nnflow.maps["henon"](), a=np.linspace(1, 1.4, 500)).advance(10)


def test_an_analysis_that_loops_by_itself_is_refused_before_it_starts(one: nnflow.Ensemble) -> None:
    @dataclass(frozen=True)
    class Loops(nnflow.Analysis):
        steps: float = 1e30

        def __call__(self, ensemble: Any) -> Any:
            raise AssertionError("it started")

    for steps in (1e300, 1e30):
        with pytest.raises(nnflow.Refusal, match="days or more"):
            nnflow.run(Loops(steps), one)
    for steps in (math.inf, math.nan):
        with pytest.raises(nnflow.Refusal, match="give a finite number"):
            nnflow.run(Loops(steps), one)


def test_the_border_is_a_month_at_the_fastest() -> None:
    most = MONTH / FASTEST * cores()
    refuse_endless(0.999 * most)
    with pytest.raises(nnflow.Refusal, match="30 days or more"):
        refuse_endless(1.001 * most)
