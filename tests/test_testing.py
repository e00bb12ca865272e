"""Conformance checks can fail: each kind of wrong map and wrong analysis is found, and the reason is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

import nnflow
from nnflow.map import Map
from nnflow.testing import check_analysis, check_map
from nnflow.typing import Array


class Good(nnflow.Map):
    """A rotation by a golden angle."""

    def step(self, x: Any, p: Any, t: int) -> Any:
        return (x + 0.381966) % 1.0


def good(**settings: Any) -> Good:
    return Good(periods={"x0": 1.0}, **settings)


class ForgetsTime(Good):
    calls = 0

    def step(self, x: Any, p: Any, t: int) -> Any:
        type(self).calls += 1
        return super().step(x, p, t) + 1e-3 * type(self).calls


class LooksAtItsNeighbours(Good):
    def step(self, x: Any, p: Any, t: int) -> Any:
        return super().step(x, p, t) * 0.9 + 0.05 * np.nanmean(x)


class WrongTangent(Good):
    def tangent(self, x: Any, p: Any, t: int, v: Any) -> Any:
        return 1.1 * v


class Explodes(Good):
    def step(self, x: Any, p: Any, t: int) -> Any:
        return x * 1e200


class ForgetsEscapes(Good):
    def advance(self, x: Any, p: Any, t: int, steps: int) -> Any:
        return super().advance(np.nan_to_num(x), p, t, steps)


class RecordsLate(Good):
    def orbit(self, x: Any, p: Any, t: int, *rest: Any) -> Any:
        return super().orbit(self.step(x, p, t), p, t, *rest)


def test_a_good_map_passes() -> None:
    assert len(check_map(good(), good().name)) == 11
    with pytest.raises(AssertionError, match="results would call it .*: give the map name='sine'"):
        check_map(good(), "sine")


@pytest.mark.parametrize(
    ("map", "message"),
    [
        (ForgetsTime(), "gives another result each time"),
        (LooksAtItsNeighbours(periods={"x0": 1.0}), "beside others .* alone"),
        (WrongTangent(periods={"x0": 1.0}), "changes by .* differences of the step say"),
        (Explodes(), "most default initial states escape"),
        (ForgetsEscapes(periods={"x0": 1.0}), "a member that is not finite does not stay NaN"),
        (RecordsLate(periods={"x0": 1.0}), "the first record is not the initial state"),
        (good(initial=lambda n, seed: np.random.default_rng(seed).random((n, 1)) + n * 1e-3), "depends on how many"),
        (good(initial=lambda n, seed: np.full((n, 1), np.nan)), "draws is not finite everywhere"),
        (good(initial=lambda n, seed: np.zeros((n, 2))), "has shape"),
        (good(observables={"bad": lambda x, p, t: np.full(len(x), np.nan)}), "observable 'bad' is not finite"),
        ("henon", "is no nnflow.Map"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_wrong_map_is_found_out(map: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_map(map)


def test_a_compiled_rule_unlike_its_definition_is_found_out() -> None:
    henon: Any = nnflow.maps["henon"]()

    class Other(type(henon)):  # type: ignore[misc]
        def advance(self, x: Array, p: Array, t: int, steps: int) -> Any:
            return super().advance(x + 1e-9 * steps, p, t, steps)

    functions = henon.functions
    settings = {"dim": 2, "parameters": henon.parameters, "box": henon.box, "name": "henon"}
    with pytest.raises(AssertionError, match="one step by the verb and by the definition differ by"):
        check_map(Other(functions.rule, functions.tangent, **settings))


# -- analyses ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Last(nnflow.Analysis):
    """Where an orbit ends."""

    steps: int = 20

    def __call__(self, ensemble: Any) -> Any:
        after = ensemble.advance(self.steps)
        return {"last": (("member", "i"), self.values(after)), "escaped": ("member", after.escaped)}

    def values(self, after: Any) -> Any:
        return after.states


def test_a_good_analysis_passes() -> None:
    assert len(check_analysis(Last)) == 8


@dataclass(frozen=True)
class Random(Last):
    """Takes random numbers from nowhere."""

    def values(self, after: Any) -> Any:
        return after.states + np.random.default_rng().random()


@dataclass(frozen=True)
class Crowd(Last):
    """Compares members without saying that they are coupled."""

    def values(self, after: Any) -> Any:
        return after.states - after.states.mean()


@dataclass(frozen=True)
class Taken(Last):
    """Uses a name of the command line."""

    output: str = "x"


@dataclass(frozen=True)
class Unwritable(Last):
    """Has a setting that no file can hold."""

    function: Any = field(default=print)


@dataclass(frozen=True)
class Undocumented(Last):
    def values(self, after: Any) -> Any:
        return after.states


Undocumented.__doc__ = ""


@dataclass(frozen=True)
class Blank(Last):
    """Draws nothing."""

    def draw(self, dataset: Any, axes: Any) -> None:
        axes.set_title("nothing")


@dataclass(frozen=True)
class Fragile(Last):
    """Cannot bear an escape."""

    def values(self, after: Any) -> Any:
        if np.isnan(after.states).any():
            raise FloatingPointError("NaN")
        return after.states


@dataclass(frozen=True)
class Denies(Last):
    """Says that nobody escaped."""

    def __call__(self, ensemble: Any) -> Any:
        return {**super().__call__(ensemble), "escaped": ("member", np.full(len(ensemble), -1))}


@dataclass(frozen=True)
class Stays(Last):
    """Says that its members end where they began."""

    ends: ClassVar[bool] = True

    def __call__(self, ensemble: Any) -> Any:
        return {**super().__call__(ensemble), "after": ("member", ensemble.advance(1))}


class NoDataclass(nnflow.Analysis):
    """Not even frozen."""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Stays, "`after` is not where the members are at the end of all steps"),
        (Random, "two runs give two results"),
        (Crowd, "depends on the chunk it is in"),
        (Taken, "the settings output are the command line's own options"),
        (Unwritable, "does not make settings that can be written as JSON"),
        (Undocumented, "has no docstring"),
        (Blank, "draws nothing on the axes"),
        (Denies, "when the first of two members is lost"),
        (dict, "is no frozen dataclass"),
    ],
)
def test_a_wrong_analysis_is_found_out(kind: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_analysis(kind)


def test_an_analysis_that_cannot_bear_an_escape_is_found_out() -> None:
    with pytest.raises(FloatingPointError):
        check_analysis(Fragile)


@pytest.mark.parametrize("name", ["lyapunov_spectrum", "orbit_diagram", "zero_one_test", "recurrence"])
def test_the_built_in_analyses_conform(name: str) -> None:
    assert len(check_analysis(nnflow.analyses[name])) == 8


def test_an_analysis_is_checked_on_a_map_without_parameters() -> None:
    cat: Map = nnflow.maps["cat"]()
    assert len(check_analysis(nnflow.analyses["lyapunov_spectrum"], cat)) == 8
