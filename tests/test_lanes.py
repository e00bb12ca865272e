"""Members side by side equal the definition: escapes in the midst of a stretch, healed states, clocks, any spacing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.compiled import kernels
from nnflow.map import Map
from nnflow.straight import lasting, straight

MEMBERS = 300  # a whole group of lanes, and one that is not


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


def compare(map: Any, x: Any, p: Any, steps: int, every: int, observe: tuple[str, ...]) -> Any:
    """The verb and its definition, from t = 3 on; returns when the members escaped."""
    assert straight(map.functions.rule)
    quick, slow = (verb(map, x, p, 3, steps, every, observe) for verb in (type(map).orbit, Map.orbit))
    same(quick[0], slow[0])
    same(quick[1].states, slow[1].states)
    np.testing.assert_array_equal(quick[1].escaped, slow[1].escaped)
    end = map.advance(x, p, 3, steps)
    same(end.states, slow[1].states)
    np.testing.assert_array_equal(end.escaped, slow[1].escaped)
    return end.escaped


def energy(x: Any, p: Any, t: int) -> float:
    return float(x[0] + 0.5 * t * p[0])


def kicked(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = p[0] - x[0] * x[0] + p[1] * x[1]
    out[1] = x[0] + (1e200 if t == 77 and p[0] > 1.4 else 0.0)


@pytest.fixture(scope="module")
def kicks() -> tuple[Any, Any, Any]:
    """A Hénon map from states within and without its basin; for some members a kick at t = 77."""
    map = nnflow.CompiledMap(kicked, dim=2, parameters={"a": 1.4, "b": 0.3}, observables={"energy": energy})
    draw = np.random.default_rng(1)
    x = draw.uniform(-0.9, 0.9, (MEMBERS, 2)) * draw.choice([1.0, 3.0], (MEMBERS, 1), p=[0.8, 0.2])
    p = np.stack([draw.uniform(1.0, 1.41, MEMBERS), np.full(MEMBERS, 0.3)], axis=1)
    x[[5, 250]] = np.inf
    return map, x, p


@pytest.mark.parametrize(("steps", "every"), [(120, 1), (120, 3), (130, 65), (400, 200)])
@pytest.mark.parametrize("observe", [("x1",), ("x1", "x0"), ("energy", "x0")])
def test_escapes(kicks: Any, steps: int, every: int, observe: tuple[str, ...]) -> None:
    escaped = compare(*kicks, steps, every, observe)
    assert (escaped == 3).sum() == 2
    assert ((escaped > 3) & (escaped < 77)).any()
    assert (escaped > 77).any()
    assert (escaped < 0).sum() > MEMBERS / 3


@pytest.mark.parametrize(("steps", "every"), [(120, 1), (130, 65)])
def test_escapes_that_last(kicks: Any, steps: int, every: int) -> None:
    """The last states of a stretch tell of them, and the steps are found as well."""
    henon, (_, x, p) = nnflow.maps["henon"](), kicks
    assert lasting(henon.functions.rule, 2)
    escaped = compare(henon, x, p, steps, every, ("y",))
    assert len(set(escaped)) > 5


def healing(x: Any, p: Any, t: int, out: Any) -> None:
    """Infinity at one step would be 0 at the next: a look at the end alone does not find it."""
    out[0] = p[0] / x[0] if x[0] != p[1] else np.inf


def test_a_state_that_would_heal_has_escaped() -> None:
    map = nnflow.CompiledMap(healing, dim=1, parameters={"a": 2.0, "trap": 4.0})
    x = np.linspace(1.0, 8.0, 29)[:, None]  # two in turn, x and 2 / x
    p = np.tile([2.0, 4.0], (29, 1))
    escaped = compare(map, x, p, 40, 1, ("x0",))
    assert (escaped == 4).sum() == 1
    assert (escaped < 0).sum() == 28


def overflowing(x: Any, p: Any, t: int, out: Any) -> None:
    out[0] = x[0]
    out[1] = x[1]


def test_huge_states_are_no_escape() -> None:
    """Their sums and products overflow, which only makes the stretch be made again."""
    map = nnflow.CompiledMap(overflowing, dim=2)
    x = np.full((40, 2), 1e308)
    assert (compare(map, x, np.empty((40, 0)), 30, 3, ("x0", "x1")) < 0).all()


def test_all_members_escape() -> None:
    map = nnflow.maps["logistic"]()
    escaped = compare(map, np.full((40, 1), -0.5), np.full((40, 1), 4.0), 200, 20, ("x",))
    assert (escaped > 3).all()


@pytest.mark.parametrize("members", [1, 23, 24, 256, 257])
def test_groups_of_any_size(members: int) -> None:
    map = nnflow.maps["logistic"]()
    x = np.linspace(0.1, 0.9, members)[:, None]
    compare(map, x, np.full((members, 1), 3.7), 30, 1, ("x",))


def test_a_block_of_records_in_two_calls() -> None:
    """What an ensemble does with long calls: the second goes on in the records of the first."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]], a=np.linspace(1.0, 1.4, 30))
    ensemble.map.paces["orbit",] = 30 * 7 / 0.15  # seven steps a call
    records, after = ensemble.orbit(100)
    whole, end = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]], a=np.linspace(1.0, 1.4, 30)).orbit(
        100
    )
    np.testing.assert_array_equal(records, whole)
    np.testing.assert_array_equal(after.states, end.states)


@pytest.mark.parametrize("members", [24, 100, 400, 401, 500])
def test_a_scan_needs_one_machine_code(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal on one member, or a last chunk of a few, would have the loop compiled once more, for few of them."""
    asked = []
    made = kernels.orbit

    def orbit(step: Any, shape: Any, checked: bool, many: bool) -> Any:
        asked.append(many)
        return made(step, shape, checked, many)

    monkeypatch.setattr(kernels, "orbit", orbit)
    monkeypatch.setattr("nnflow.runner.cores", lambda: 2)
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), r=np.linspace(3.6, 4.0, members))
    nnflow.run("series", scan, steps=8)
    assert len(set(asked)) == 1
