"""The classic maps beside pynamicalsys: the spectrum of the Hénon map, the orbit diagram of the logistic map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnflow import Ensemble, maps, run

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's own

STEPS, TRANSIENT = 1_000_000, 1000
GRID = np.linspace(2.5, 4.0, 2000)


@pytest.fixture(scope="module")
def pynamicalsys() -> Any:
    return pytest.importorskip("pynamicalsys", reason="pynamicalsys is not installed")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("QR", 8.0),  # its default, and the one that works in any dimension
        ("ER", None),  # a formula for two dimensions only
    ],
)
def test_henon_spectrum(duel: Any, pynamicalsys: Any, method: str, target: float | None) -> None:
    system = pynamicalsys.DiscreteDynamicalSystem(model="henon map")
    ensemble = Ensemble.grid(maps["henon"](), states=[[0.1, 0.1]])

    def theirs() -> Any:
        total = STEPS + TRANSIENT
        return system.lyapunov([0.1, 0.1], total, parameters=[1.4, 0.3], method=method, transient_time=TRANSIENT)

    def ours() -> np.ndarray:
        return run("lyapunov_spectrum", ensemble, k=2, steps=STEPS, transient=TRANSIENT)["exponent"].values

    np.testing.assert_allclose(ours(), theirs(), atol=1e-3)
    duel("Hénon spectrum, 10⁶ steps", ours, f"pynamicalsys lyapunov, {method}", theirs, target=target)


def test_logistic_orbit_diagram(duel: Any, pynamicalsys: Any) -> None:
    system = pynamicalsys.DiscreteDynamicalSystem(model="logistic map")
    ensemble = Ensemble.grid(maps["logistic"](), states=[[0.3]], r=GRID)

    def theirs() -> np.ndarray:
        return system.bifurcation_diagram([0.3], 0, GRID, 2000, transient_time=1000)[1]

    def ours() -> np.ndarray:
        return run("orbit_diagram", ensemble, steps=1000, transient=1000)["value"].values

    a, b = ours(), theirs()
    assert a.shape == b.shape == (2000, 1000)
    window = (GRID > 3.2) & (GRID < 3.4)  # period 2: the same two values in turn, whichever comes first
    np.testing.assert_allclose(np.sort(a[window]), np.sort(b[window]), atol=1e-12)
    duel(
        "logistic orbit diagram, 2000 × (1000 + 1000)",
        ours,
        "pynamicalsys bifurcation_diagram",
        theirs,
        target=20.0,
    )
