"""Chunks of members change no bit of a compiled map's result, with whatever settings an analysis is called.

What else could go wrong: a matrix product or a sum over all members at once takes another order when there are fewer;
one member alone is a vector, for which libraries have other routines; an array of one member has another layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnflow

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("series", {"projections": 3, "distance": "l2", "steps": 60, "every": 4}),
    ("series", {"projections": 1, "steps": 12, "transient": 5}),
    ("displacement", {"steps": 300, "where": "*"}),
    ("trajectory_autocorrelation", {"lags": 7, "steps": 90, "every": 3}),
    ("autocorrelation", {"lags": 5, "steps": 300, "transient": 10, "shuffles": 20}),
    ("separation", {"perturbation": (1e-8, 1e-4), "norm": "l2", "steps": 40, "every": 4, "layers": True}),
    ("separation", {"distribution": "normal", "norm": "max", "where": "*", "steps": 40}),
    ("network_lyapunov", {"steps": 60}),
    ("lyapunov_spectrum", {"k": 5, "steps": 60, "transient": 8, "every": 4, "history": True}),
    ("finite_time_lyapunov", {"k": 3, "steps": 60, "window": 20}),
    ("two_orbit_lyapunov", {"steps": 60, "transient": 9, "every": 3}),
    ("clipped_lyapunov", {"steps": 10, "transient": 3}),
    ("hessian_spectrum", {"transient": 5, "points": 30}),
    ("hessian_spectrum", {"dense": 10, "probes": 3, "order": 12, "points": 30}),
    ("sharpness", {"k": 3, "steps": 20, "every": 5}),
    ("knock_out", {"transient": 5}),
    ("reduced_model", {"steps": 40, "every": 2}),
    ("orbit_diagram", {"steps": 60, "transient": 30}),
    ("zero_one_test", {"steps": 500, "transient": 0, "frequencies": 20}),
    ("recurrence", {"embedding": 2, "delay": 2, "rate": 0.1, "steps": 200, "transient": 0, "matrix": True}),
    ("plateaus", {"steps": 400, "block": 10}),
    ("laminar_lengths", {"steps": 400, "transient": 0}),
    ("local_expansion", {"steps": 600, "moments": 50, "radius": 0.1, "embedding": 2}),
]  # fmt: skip


IRIS = nnflow.Ensemble.grid(nnflow.maps["iris"](), inits=3, seed=4, eta=[0.5, 5.0])
HENON = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=3, seed=4, a=np.linspace(1.2, 1.4, 7))
MEASURED = nnflow.Recording(np.random.default_rng(0).normal(size=(6, 700, 2)), ["x", "y"])
NETWORKS = {"sharpness", "hessian_spectrum", "knock_out", "reduced_model", "clipped_lyapunov"}
MAPS = {
    "displacement",
    "separation",
    "network_lyapunov",
    "lyapunov_spectrum",
    "finite_time_lyapunov",
    "two_orbit_lyapunov",
}
CASES: list[tuple[Any, str, dict[str, Any]]] = [
    *((IRIS, name, settings) for name, settings in SETTINGS),
    *((HENON, name, settings) for name, settings in SETTINGS if name not in NETWORKS),
    *((MEASURED, name, settings) for name, settings in SETTINGS if name not in NETWORKS | MAPS),
]
OFFERED = {IRIS: {}, HENON: {"layers": False, "k": 2}, MEASURED: {"projections": 0, "distance": None}}


@pytest.mark.parametrize(("ensemble", "name", "settings"), CASES, ids=[f"{case[1]}{i}" for i, case in enumerate(CASES)])
def test_no_bit_depends_on_the_chunk(ensemble: Any, name: str, settings: dict[str, Any]) -> None:
    fit = {key: OFFERED[ensemble].get(key, value) for key, value in settings.items()}
    whole, *others = (nnflow.run(name, ensemble, chunk=chunk, **fit) for chunk in (len(ensemble), 1, 2, 5))
    for found in others:
        for variable in whole.variables:
            np.testing.assert_array_equal(found[variable], whole[variable], str(variable))
