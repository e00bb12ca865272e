"""Where a run ended: `return_states`, and going on from there, to the bit, also from a file."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import nnflow
from nnflow.authors import Analysis, Ensemble, Result

RNG = np.random.default_rng(8)
X, LABELS = RNG.normal(size=(20, 4)), RNG.integers(0, 3, 20)
FOLLOWING: dict[str, dict[str, Any]] = {  # analysis -> settings
    "series": {"steps": 60},
    "orbit_diagram": {"steps": 40, "transient": 20},
    "displacement": {"steps": 40, "transient": 20},
    "laminar_lengths": {"steps": 60, "transient": 0},
    "plateaus": {"steps": 100, "transient": 20},
    "lyapunov_spectrum": {"steps": 40, "transient": 20},
    "finite_time_lyapunov": {"steps": 40, "transient": 20, "window": 20},
    "two_orbit_lyapunov": {"steps": 40, "transient": 20},
    "local_expansion": {"steps": 60, "transient": 0, "moments": 5, "embedding": 1},
    "zero_one_test": {"steps": 100, "transient": 20},
    "recurrence": {"steps": 40, "transient": 20, "rate": 0.1},
    "autocorrelation": {"steps": 40, "transient": 20, "lags": 3},
    "trajectory_autocorrelation": {"steps": 40, "transient": 20, "lags": 3},
    "separation": {"steps": 40, "transient": 20},
    "network_lyapunov": {"steps": 40, "transient": 20},
}


def adam(backend: str, **settings: Any) -> nnflow.Map:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return nnflow.training_map(net, cross_entropy, X, LABELS, "adam", backend=backend, batch=6, shuffle=3, **settings)


@pytest.mark.parametrize("name", FOLLOWING)
def test_each_analysis_that_follows_an_orbit_says_where_it_ends(name: str) -> None:
    scan = Ensemble.grid(nnflow.maps["henon"](), inits=2, a=[1.2, 1.4, 3.0])
    found = nnflow.run(name, scan, return_states=True, chunk=1, **FOLLOWING[name])
    expected = scan.advance(FOLLOWING[name]["steps"] + FOLLOWING[name].get("transient", 0))
    assert found.state.dims == ("a", "init", "component")
    assert found.component.values.tolist() == ["x", "y"]
    np.testing.assert_array_equal(found.state.values.reshape(-1, 2), expected.states)
    np.testing.assert_array_equal(found.escaped.values.ravel(), expected.escaped)
    assert (found.escaped[2] >= 0).all()
    assert "state" not in nnflow.run(name, scan, **FOLLOWING[name])


def same(one: Ensemble, other: Ensemble) -> None:
    np.testing.assert_array_equal(one.states, other.states)
    np.testing.assert_array_equal(one.escaped, other.escaped)
    np.testing.assert_array_equal(one.parameters, other.parameters)
    np.testing.assert_array_equal(one.init, other.init)
    assert (one.t, one.seed, one.history, one.shape) == (other.t, other.seed, other.history, other.shape)
    assert [axis[::2] for axis in one.axes] == [axis[::2] for axis in other.axes]


@pytest.mark.parametrize("backend", ["tensor", "compiled"])
def test_a_run_that_goes_on_from_a_file_is_one_long_run(backend: str, tmp_path: Path) -> None:
    """Weights, both moments, Adam's clock, the order of the data, an escaped member, and what is drawn next."""
    map = adam(backend)
    start = Ensemble.grid(map, inits=2, seed=5, eta=0.05, weight_decay=[0.0, 0.1, 1e200])
    chunk = None if backend == "tensor" else 1
    found = nnflow.run("series", start, steps=37, return_states=True, chunk=chunk)
    nnflow.save(found, tmp_path / "half.nc")
    half = Ensemble.from_result(adam(backend), nnflow.load(tmp_path / "half.nc"))
    same(half, start.advance(37))
    assert (half.escaped[-2:] >= 0).all()
    assert half.began == 0
    settings = {"steps": 20, "transient": 13, "k": 2}
    rest, whole = (nnflow.run("lyapunov_spectrum", at, **settings) for at in (half, start.advance(37)))
    assert rest.identical(whole)
    again = nnflow.run("series", half, steps=23, return_states=True)
    same(Ensemble.from_result(map, again), start.advance(60))


def test_members_that_no_axis_tells_are_the_same_ones() -> None:
    scan = Ensemble.grid(nnflow.maps["henon"](), inits=3, seed=4, a=[1.2, 1.4], b=[0.2, 0.3])
    for part in (
        scan.take([7, 2, 4]),
        scan.select("init", 2),
        scan.select("a", 1),
        Ensemble.grid(scan.map, x=[0.1, 0.2]),
    ):
        found = nnflow.run("series", part, steps=10, return_states=True)
        same(Ensemble.from_result(scan.map, found), part.advance(10))
    same(
        Ensemble.from_result(scan.map, nnflow.run("series", scan, steps=10, return_states=True).isel(a=1)),
        scan.advance(10).select("a", 1),
    )


def test_float32_and_processes_change_nothing() -> None:
    map = adam("tensor", dtype=torch.float32)
    start = Ensemble.grid(map, inits=2)
    found = nnflow.run("series", start, steps=9, return_states=True)
    same(Ensemble.from_result(map, found).advance(5), start.advance(14))
    henon = Ensemble.grid(nnflow.maps["henon"](), inits=3)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = nnflow.run("series", henon, steps=9, return_states=True, executor=pool, chunk=1)
    same(Ensemble.from_result(henon.map, found), henon.advance(9))


@pytest.mark.parametrize("name", ["sharpness", "hessian_spectrum", "knock_out", "clipped_lyapunov"])
def test_what_looks_at_the_loss_tells_the_state(name: str) -> None:
    map = nnflow.training_map(nn.Linear(4, 3), cross_entropy, X, LABELS, backend="tensor", eta=0.5)
    steps = {"sharpness": 10, "clipped_lyapunov": 4}.get(name, 0)
    settings = {"steps": steps} if steps else {}
    found = nnflow.run(name, map, transient=3, return_states=True, **settings)
    same(Ensemble.from_result(map, found), Ensemble.grid(map).advance(3 + steps))


class Silent(Analysis):
    """Says that it ends, and does not say where."""

    ends: ClassVar[bool] = True

    def __call__(self, ensemble: Ensemble) -> Result:
        return {"escaped": ("member", ensemble.escaped)}


def test_what_ends_nowhere_is_refused_before_it_works() -> None:
    scan = Ensemble.grid(nnflow.maps["logistic"](), r=[3.5, 3.6])
    with pytest.raises(nnflow.Refusal, match="return_states: orbit_diagram follows no orbit of each member"):
        nnflow.run("orbit_diagram", scan, follow="r", steps=10**9, return_states=True)
    with pytest.raises(nnflow.Refusal, match="return_states: a recording has no map"):
        nnflow.run("series", nnflow.Recording([1.0, 2.0, 3.0]), return_states=True)
    with pytest.raises(TypeError, match="Silent says that it ends, and returned no ensemble `after`"):
        nnflow.run(Silent(), scan, return_states=True)


def test_a_parameter_named_like_a_variable_is_none() -> None:
    """K of the 0-1 test, for one, was taken for the parameter of this name."""

    def rule(x: np.ndarray, p: np.ndarray, t: int, out: np.ndarray) -> None:
        out[0] = p[0] * x[0] * (1.0 - x[0])

    for name, analysis in (("K", "zero_one_test"), ("period", "orbit_diagram"), ("value", "series")):
        map = nnflow.CompiledMap(rule, parameters={name: 3.9}, box=([0.1], [0.9]))
        start = Ensemble.grid(map, inits=2)
        found = nnflow.run(analysis, start, steps=100, transient=0, return_states=True)
        same(Ensemble.from_result(map, found).advance(5), start.advance(105))


def test_a_result_of_another_map_is_refused() -> None:
    henon = nnflow.maps["henon"]()
    found = nnflow.run("series", henon, steps=5, return_states=True)
    with pytest.raises(nnflow.Refusal, match="the result is of henon .*, this map is lozi"):
        Ensemble.from_result(nnflow.maps["lozi"](), found)
    with pytest.raises(nnflow.Refusal, match=r"holds no states: run it with return_states=True"):
        Ensemble.from_result(henon, nnflow.run("series", henon, steps=5))
