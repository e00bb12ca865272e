"""pynamicalsys: the spectrum of the Hénon map, the orbit diagram of the logistic map."""

from __future__ import annotations

import numpy as np
from pynamicalsys import DiscreteDynamicalSystem


def spectrum(state: list[float], steps: int, transient: int, method: str) -> np.ndarray:
    system = DiscreteDynamicalSystem(model="henon map")
    settings = {"parameters": [1.4, 0.3], "method": method, "transient_time": transient}
    return np.asarray(system.lyapunov(state, steps + transient, **settings))


def orbit_diagram(state: list[float], grid: np.ndarray, steps: int, transient: int) -> np.ndarray:
    system = DiscreteDynamicalSystem(model="logistic map")
    return np.asarray(system.bifurcation_diagram(state, 0, grid, steps + transient, transient_time=transient)[1])
