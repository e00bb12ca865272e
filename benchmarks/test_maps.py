"""The classic maps beside pynamicalsys: the spectrum of the Hénon map, the orbit diagram of the logistic map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnflow import Ensemble, maps, run

STEPS, TRANSIENT = 1_000_000, 1000
GRID = np.linspace(2.5, 4.0, 2000)


@pytest.mark.whole
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("QR", 15.0),  # its default, and the one that works in any dimension
        ("ER", None),  # a formula for two dimensions only
    ],
)
def test_henon_spectrum(duel: Any, peer: Any, method: str, target: float | None) -> None:
    theirs = peer("pynamicalsys_maps")
    ensemble = Ensemble.grid(maps["henon"](), states=[[0.1, 0.1]])
    arguments = {"state": [0.1, 0.1], "steps": STEPS, "transient": TRANSIENT, "method": method}

    def ours() -> np.ndarray:
        return run("lyapunov_spectrum", ensemble, k=2, steps=STEPS, transient=TRANSIENT)["exponent"].values

    np.testing.assert_allclose(ours(), theirs("spectrum", **arguments), atol=1e-3)
    title = f"pynamicalsys lyapunov, {method}"
    duel("Hénon spectrum, 10⁶ steps", ours, title, lambda: theirs.seconds("spectrum", **arguments), target=target)


def test_logistic_orbit_diagram(duel: Any, peer: Any) -> None:
    theirs = peer("pynamicalsys_maps")
    ensemble = Ensemble.grid(maps["logistic"](), states=[[0.3]], r=GRID)
    arguments = {"state": [0.3], "grid": GRID, "steps": 1000, "transient": 1000}

    def ours() -> np.ndarray:
        return run("orbit_diagram", ensemble, steps=1000, transient=1000)["value"].values

    a, b = ours(), theirs("orbit_diagram", **arguments)
    assert a.shape == b.shape == (2000, 1000)
    window = (GRID > 3.2) & (GRID < 3.4)  # period 2: the same two values in turn, whichever comes first
    np.testing.assert_allclose(np.sort(a[window]), np.sort(b[window]), atol=1e-12)
    duel(
        "logistic orbit diagram, 2000 × (1000 + 1000)",
        ours,
        "pynamicalsys bifurcation_diagram",
        lambda: theirs.seconds("orbit_diagram", **arguments),
        target=25.0,
    )


@pytest.mark.whole
def test_largest_exponent(duel: Any, peer: Any) -> None:
    """What a map's equations give in one pass, nolds has to estimate from a series: ln 2 for the logistic map."""
    theirs, length = peer("nolds_exponent"), 2000
    ensemble = Ensemble.grid(maps["logistic"](), states=[[0.3]]).advance(1000)
    series = ensemble.orbit(length)[0][0, :, 0]

    def ours() -> float:
        return float(run("lyapunov_spectrum", ensemble, k=1, steps=length, transient=0)["exponent"].item())

    assert ours() == pytest.approx(np.log(2), abs=0.02)
    assert theirs("exponent", series=series) == pytest.approx(np.log(2), abs=0.05)
    duel(
        f"logistic map, largest exponent, {length} steps",
        ours,
        "nolds lyap_r, from the series",
        lambda: theirs.seconds("exponent", series=series),
        rounds=3,
    )
