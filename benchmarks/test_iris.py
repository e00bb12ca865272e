"""The Iris network under gradient descent, all in float64: ensembles, single trajectories, Lyapunov exponents."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from timing import in_threads

from nnflow import Ensemble, maps

MEMBERS, STEPS = 512, 200
TAME, CHAOTIC = 0.1, 5.0  # at the tame learning rate rounding errors do not grow


def trained(ensemble: Ensemble, pool: ThreadPoolExecutor, steps: int) -> np.ndarray:
    """The states after all steps."""
    return np.concatenate([after.states for after in in_threads(ensemble, pool, lambda part: part.advance(steps))])


@pytest.mark.parametrize(
    ("peer_name", "title", "part", "target"),
    [
        ("jax_training", "JAX jit(vmap(scan))", 1, 3.0),
        ("torch_by_hand", "torch.func.vmap by hand", 10, 8.0),
    ],
)
def test_ensemble(
    duel: Any, peer: Any, pool: ThreadPoolExecutor, quick: bool, peer_name: str, title: str, part: int, target: float
) -> None:
    theirs, steps = peer(peer_name), STEPS // 4 if quick else STEPS
    tame = Ensemble.grid(maps["iris"](), inits=MEMBERS, eta=TAME)
    expected = theirs("train", states=tame.states, eta=TAME, steps=steps)
    assert expected.dtype == np.float64
    assert np.abs(expected - tame.states).max() > 0.1, "the weights moved"
    np.testing.assert_allclose(trained(tame, pool, steps), expected, rtol=1e-9, atol=1e-9)

    ensemble = Ensemble.grid(maps["iris"](), inits=MEMBERS, eta=1.0)
    arguments = {"states": ensemble.states, "eta": 1.0, "steps": steps // part}
    duel(
        f"Iris GD, {MEMBERS} members × {steps} steps",
        lambda: trained(ensemble, pool, steps),
        title if part == 1 else f"{title} ({steps // part} steps, × {part})",
        lambda: theirs.seconds("train", **arguments),
        scale=part,
        target=target,
    )


@pytest.mark.whole
def test_one_trajectory(duel: Any, peer: Any) -> None:
    """Both keep the loss of every epoch; Keras keeps the weights too, the only way to the next measurement."""
    theirs, steps = peer("keras_fit"), 100
    ensemble = Ensemble.grid(maps["iris"](), inits=1, eta=TAME)

    def ours(count: int) -> np.ndarray:
        records, after = ensemble.orbit(count, observe="loss")
        return np.concatenate([records.ravel(), after.states.ravel()])

    expected = theirs("train", state=ensemble.states[0], eta=TAME, steps=steps)
    np.testing.assert_allclose(ours(steps), expected, rtol=1e-7, atol=1e-7)
    duel(
        "Iris GD, one trajectory of 10⁴ steps with its loss",
        lambda: ours(10_000),
        f"Keras fit with a callback ({steps} steps, × {10_000 // steps})",
        lambda: theirs.seconds("train", state=ensemble.states[0], eta=TAME, steps=steps),
        rounds=5,
        scale=10_000 / steps,
        target=300.0,
    )


def spectrum(ensemble: Ensemble, k: int, steps: int) -> np.ndarray:
    """Mean log-stretches from the first step on: all exponents that a run of this length can tell."""
    records, _ = ensemble.with_frame(k).tangent_orbit(steps)
    return records.log_stretches.mean(axis=1)


JIT = pytest.param("exponents_jit", " under a jit of one's own", marks=pytest.mark.whole)


@pytest.mark.parametrize(("function", "title"), [("exponents", ""), JIT])
@pytest.mark.parametrize(("k", "steps", "target"), [(1, 2000, 15.0), (83, 200, 3.0)])
def test_exponents(duel: Any, peer: Any, k: int, steps: int, target: float, function: str, title: str) -> None:
    """One orbit. The sum of all exponents needs no common frame; of one vector, the tail of a run forgets its start."""
    theirs = peer("lyapax_spectrum")
    ensemble = Ensemble.grid(maps["iris"](), inits=1, eta=CHAOTIC)
    few = {1: 50_000, 83: 5}[k]
    expected = theirs("exponents", state=ensemble.states[0], steps=few, k=k)
    if k == 83:
        np.testing.assert_allclose(spectrum(ensemble, k, few).sum(), expected.sum(), rtol=1e-9)
    else:
        np.testing.assert_allclose(spectrum(ensemble, k, few)[0], expected, rtol=0.1)
    duel(
        f"Iris, {'largest exponent' if k == 1 else f'all {k} exponents'} at η = 5, {steps} steps",
        lambda: spectrum(ensemble, k, steps),
        f"lyapax lyapunov_spectrum{title}",
        lambda: theirs.seconds(function, state=ensemble.states[0], steps=steps, k=k),
        rounds=5,
        target=None if title else target,
    )


def test_all_exponents_of_an_ensemble(duel: Any, peer: Any, pool: ThreadPoolExecutor) -> None:
    members, steps = 8, 25
    theirs = peer("torch_by_hand")
    ensemble = Ensemble.grid(maps["iris"](), inits=members, eta=CHAOTIC).with_frame(83)
    verb: Callable[[Ensemble], np.ndarray] = lambda part: part.tangent_orbit(steps)[0].log_stretches  # noqa: E731
    arguments = {"states": ensemble.states, "frames": ensemble.frame, "eta": CHAOTIC}
    found = np.concatenate(in_threads(ensemble, pool, verb))
    np.testing.assert_allclose(found[:, :2], theirs("log_stretches", **arguments, steps=2), rtol=0, atol=1e-7)
    duel(
        f"Iris, all 83 exponents, {members} members × {steps} steps",
        lambda: in_threads(ensemble, pool, verb),
        "torch.func jvp over grad, by hand (5 steps, × 5)",
        lambda: theirs.seconds("log_stretches", **arguments, steps=5),
        scale=steps / 5,
        target=15.4,  # what 200 µs a step of one member were, where the peer took 3.08 ms
    )
