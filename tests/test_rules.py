"""A rule on tensors is a function of x, p and t, for all members at once: what is none is refused, in one line."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nnflow


def counting(change: Callable[[int], float]) -> Any:
    calls = itertools.count()
    return lambda x, p, t: change(next(calls)) * x * (1 - x)


COUNTS: dict[str, Any] = {
    "each call": lambda: counting(lambda n: 3.0 + 0.5 / (1 + n)),
    "every other": lambda: counting(lambda n: 3.0 + 0.1 * (n % 2)),
    "after some": lambda: counting(lambda n: 3.9 if n < 20 else 3.5),
    "numpy's random numbers": lambda: lambda x, p, t: x + np.random.default_rng().random(),
    "python's random numbers": lambda: lambda x, p, t: x + random.random(),
}
VERBS: dict[str, Callable[[nnflow.Ensemble], Any]] = {
    "advance": lambda e: e.advance(60),
    "orbit": lambda e: e.orbit(60),
    "tangent_orbit": lambda e: e.with_frame(1).tangent_orbit(60),
    "separation_orbit": lambda e: e.separation_orbit(e.states[:, None] + 1e-6, 60),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", COUNTS)
def test_a_rule_with_a_state_of_its_own_is_refused(name: str, verb: str) -> None:
    """A counter in a rule was iterated as if it were a map: two runs gave two results.

    The same kind: parity, a switch after some calls, random numbers that torch does not see; a schedule that counts.
    """
    start = nnflow.Ensemble.grid(nnflow.TensorMap(COUNTS[name](), dim=1), states=[[0.2]])
    with pytest.raises(nnflow.Refusal, match=r"the rule of .* asked again: let it depend on x, p and t alone") as error:
        VERBS[verb](start)
    assert "\n" not in str(error.value)


def test_a_schedule_is_asked_in_both_orders() -> None:
    """One that counts was caught only if it gave two numbers at once."""

    def falling() -> Any:
        seen: list[int] = []

        def schedule(t: int) -> float:
            if t not in seen[-1:]:
                seen.append(t)
            return 1.0 / len(seen)

        return schedule

    with pytest.raises(nnflow.Refusal, match="give a function of t alone"):
        nnflow.gradient_map(lambda w: (w * w).sum(), 1, schedule=falling())


def test_a_rule_may_write_into_its_x() -> None:
    """The tangent of such a rule moved x itself: the next step began elsewhere."""
    states = np.array([[0.2], [0.3]])
    map = nnflow.TensorMap(lambda x, p, t: x.mul_(1 - x).mul_(3.9), dim=1)
    plain = nnflow.TensorMap(lambda x, p, t: x * (1 - x) * 3.9, dim=1)
    for verb in VERBS.values():
        verb(nnflow.Ensemble.grid(map, states=states))
    one, other = (nnflow.run("lyapunov_spectrum", m, steps=50, transient=0).exponent.item() for m in (map, plain))
    assert one == other
    assert states.tolist() == [[0.2], [0.3]]
    map.step(states, np.empty((2, 0)), 0)
    assert states.tolist() == [[0.2], [0.3]]


def filled(x: Tensor, p: Any, t: int) -> Tensor:
    out = torch.zeros(1, dtype=torch.float64)
    out[0] = 1 - x[0]
    return out


NUMBERS = "torch.where for if, torch.stack for"
UNBATCHED: dict[str, tuple[Any, str]] = {
    "float": (lambda x, p, t: x * float(x), NUMBERS),
    "item": (lambda x, p, t: x * x.item(), NUMBERS),
    "tolist": (lambda x, p, t: x * x.tolist()[0], NUMBERS),
    "numpy": (lambda x, p, t: torch.as_tensor(x.numpy()), NUMBERS),
    "a numpy function": (lambda x, p, t: torch.as_tensor(np.sin(x)), NUMBERS),
    "a list": (lambda x, p, t: torch.tensor([x[0]]), NUMBERS),
    "if": (lambda x, p, t: x if x[0] < 0.5 else 1 - x, NUMBERS),
    "a parameter": (lambda x, p, t: x * float(p.a), NUMBERS),
    "in place": (filled, "torch.zeros_like"),
    "data": (lambda x, p, t: x * (1 - x.data), "under vmap"),
    "rand": (lambda x, p, t: x + torch.rand(1), "draws random numbers"),
    "randn_like": (lambda x, p, t: x + torch.randn_like(x), "draws random numbers"),
    "dropout": (lambda x, p, t: torch.nn.functional.dropout(x), "draws random numbers"),
    "shapes": (lambda x, p, t: x @ torch.ones(2, 2, dtype=torch.float64), "shapes cannot be"),
    "arguments": (lambda x, p: x, "positional arguments"),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_a_rule_that_cannot_be_batched_is_told_what_to_write(name: str) -> None:
    """vmap's own words, of a rule that was not named. In observables, too."""
    function, message = UNBATCHED[name]
    p = {"a": 0.5}
    with pytest.raises(nnflow.Refusal, match=rf"the rule of 'odd' fails at t = 0: .*{message}") as error:
        nnflow.Ensemble.grid(nnflow.TensorMap(function, dim=1, name="odd", parameters=p)).advance(2)
    assert "\n" not in str(error.value)
    watched = nnflow.TensorMap(lambda x, p, t: x, dim=1, name="odd", parameters=p, observables={"seen": function})
    with pytest.raises(nnflow.Refusal, match=rf"the observable of 'odd' fails at t = 0: .*{message}"):
        nnflow.Ensemble.grid(watched).orbit(2, observe="seen")


LOSSES: dict[str, tuple[Any, str]] = {
    "item": (lambda w: (w * w).sum() * w[0].item(), NUMBERS),
    "if": (lambda w: (w * w).sum() if w[0] < 0.5 else w.sum(), NUMBERS),
}


def test_a_loss_that_draws_is_refused() -> None:
    with pytest.raises(nnflow.Refusal, match="when it is asked again: .* draw no random numbers"):
        nnflow.gradient_map(lambda w: (w * torch.rand(2)).sum(), 2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_cannot_be_batched_is_told_what_to_write(name: str) -> None:
    loss, message = LOSSES[name]
    with pytest.raises(nnflow.Refusal, match=rf"the loss of 'bowl' fails at t = 0: .*{message}") as error:
        nnflow.gradient_map(loss, 2, name="bowl")
    assert "\n" not in str(error.value)


CALLS = {"now": 0, "last": 0}


def changed() -> bool:
    """Whether it was called often enough by now to be another one."""
    CALLS["now"] += 1
    return CALLS["now"] > CALLS["last"]


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (2 if changed() else 1)  # type: ignore[no-any-return]


def counted() -> Any:
    return nnflow.training_map(Counting(), torch.nn.functional.cross_entropy, np.eye(2), np.array([0, 2]))


@pytest.mark.parametrize("kind", ["module", "loss", "schedule"])
def test_a_loss_or_a_schedule_that_counts_is_refused(kind: str) -> None:
    """Modules, losses and schedules that change after some calls, too; what counts without effect is a map."""
    CALLS.update(now=0, last=10**9)
    makers: dict[str, Callable[[], Any]] = {
        "module": counted,
        "loss": lambda: nnflow.gradient_map(lambda w: (w * w).sum() * (2 if changed() else 1), 2, backend="tensor"),
        "schedule": lambda: nnflow.gradient_map(
            lambda w: (w * w).sum(), 2, schedule=lambda t: 1 - 0.5 * changed(), backend="tensor"
        ),
    }
    map = makers[kind]()
    CALLS["last"] = CALLS["now"] + 12
    with pytest.raises(
        nnflow.Refusal, match="asked again: let it depend on x, p and t|CALLS.* has changed since the map was"
    ):
        nnflow.run("lyapunov_spectrum", map, k=1, steps=150, transient=0)
    CALLS["last"] = 10**9
    fine = nnflow.run("lyapunov_spectrum", counted(), k=1, steps=20, transient=0)
    assert np.isfinite(fine.exponent.item())


def test_powers_of_the_step_index_that_wrap_are_refused() -> None:
    """Whole numbers of machine code end at 2**63: half of 2**t was NaN after 64 steps, and t**7 another number."""

    def halving(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[0] = x[0] / 2 + p[0] / 2**t

    def seventh(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[0] = 0.5 + 0.4 * np.cos(2 * np.pi * (t**7 % 1000) / 1000)

    def right(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[0] = x[0] / 2 + p[0] / 2.0 ** float(t)

    def tabled(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[0] = x[0] * TABLE[t]

    for rule in (halving, seventh):
        with pytest.raises(nnflow.Refusal, match="whole numbers are not float64, write them as 2.0 or float"):
            nnflow.Ensemble.grid(nnflow.CompiledMap(rule, parameters={"a": 1.0})).advance(1)
    for rule in (right, tabled):
        nnflow.Ensemble.grid(nnflow.CompiledMap(rule, parameters={"a": 1.0})).advance(8)


TABLE = np.linspace(0.1, 0.9, 8)
