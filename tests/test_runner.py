"""run(): settings, labels, attributes, files, progress, interruption."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow.progress import heard_by
from nnflow.results import load, save
from nnflow.runner import Cancelled


@dataclass(frozen=True)
class Mean(nnflow.Analysis):
    """The time mean of x."""

    steps: int = 20
    """How many steps."""

    def __call__(self, ensemble: Any) -> Any:
        records, after = ensemble.orbit(self.steps)
        return {"mean": ("member", records[:, :, 0].mean(axis=1), {"units": "1"}), "escaped": ("member", after.escaped)}


@pytest.fixture
def scan() -> nnflow.Ensemble:
    return nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2, seed=9, r=np.linspace(3.0, 3.9, 5))


def test_dims_are_the_scan_axes_then_init_then_the_analysis_own(scan: nnflow.Ensemble) -> None:
    dataset = nnflow.run("orbit_diagram", scan, steps=10, transient=5)
    assert dataset.value.dims == ("r", "init", "sample")
    assert dataset.escaped.dims == ("r", "init")
    assert dataset.r.values.tolist() == np.linspace(3.0, 3.9, 5).tolist()
    one = nnflow.run("orbit_diagram", nnflow.maps["logistic"](), steps=10)
    assert one.value.dims == ("sample",)


def test_every_member_lands_in_its_own_cell(scan: nnflow.Ensemble) -> None:
    dataset = nnflow.run(Mean(), scan, chunk=3)
    for i, r in enumerate(scan.axes[0].values):
        for j in range(2):
            alone = nnflow.Ensemble.grid(scan.map, states=[scan.map.initial_states(2, 9)[j]], r=float(r))
            assert float(dataset["mean"][i, j]) == float(nnflow.run(Mean(), alone)["mean"])


def test_the_attributes_tell_how_it_was_made(scan: nnflow.Ensemble) -> None:
    attrs = nnflow.run("lyapunov_spectrum", scan, steps=30, transient=0).attrs
    assert attrs["analysis"] == "lyapunov_spectrum"
    assert json.loads(attrs["settings"])["steps"] == 30
    assert json.loads(attrs["settings"])["every"] == 1
    assert (attrs["map"], attrs["seed"], attrs["tangent"]) == ("logistic", 9, "exact")
    assert json.loads(attrs["parameters"]) == {"r": 3.9999}
    assert set(json.loads(attrs["versions"])) == {"nnflow", "numpy", "numba", "torch", "scipy", "xarray"}
    assert "natural logarithms" in attrs["conventions"]
    assert "May" in attrs["source"]
    assert nnflow.run(Mean(), scan).attrs["analysis"].endswith("test_runner:Mean")


def rerun(dataset: Any) -> nnflow.Ensemble:
    """The members that a result tells of, made from what it tells alone."""
    attrs = dataset.attrs
    factory, told = nnflow.maps[attrs["map"]], (json.loads(attrs[key]) for key in ("structure", "parameters"))
    map = factory(**{key: value for part in told for key, value in part.items()})
    axes = {name: dataset[name].values for name in dataset.dims if name in map.parameters}
    return nnflow.Ensemble.grid(map, inits=dataset.sizes.get("init"), seed=attrs["seed"], **axes)


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("logistic", {"r": 3.2}),
        ("henon", {"b": 0.1, "a": [1.0, 1.2]}),
        ("logistic_ring", {"r": 3.7}),
        pytest.param("iris", {"eta": 5.0}, marks=pytest.mark.slow),
    ],
)
def test_a_result_tells_the_parameters_that_its_members_had(name: str, axes: dict[str, Any]) -> None:
    """A single value that makes no axis was told nowhere: the map's default stood in its place."""
    found = nnflow.run(Mean(), nnflow.Ensemble.grid(nnflow.maps[name](), inits=2, seed=7, **axes))
    again = nnflow.run(Mean(), rerun(found))
    np.testing.assert_array_equal(again["mean"], found["mean"])
    single = {key: value for key, value in axes.items() if np.ndim(value) == 0}
    assert single.items() <= json.loads(found.attrs["parameters"]).items()


def test_members_that_were_chosen_keep_their_parameters() -> None:
    grid = nnflow.Ensemble.grid(nnflow.maps["henon"](), a=[1.0, 1.4], b=[0.1, 0.3])
    chosen = nnflow.run(Mean(), grid.select("a", 0))
    assert json.loads(chosen.attrs["parameters"])["a"] == 1.0
    taken = nnflow.run(Mean(), grid.take([0, 1, 2]))
    assert json.loads(taken.attrs["parameters"]) == {}
    assert (taken["a"].dims, taken["a"].values.tolist(), taken["b"].values.tolist()) == (
        ("member",), [1.0, 1.0, 1.4], [0.1, 0.3, 0.1],
    )  # fmt: skip
    with pytest.raises(nnflow.Refusal, match="the axis b has other values than the members have"):
        dataclasses.replace(grid, axes=grid.axes[::-1])


def test_a_result_tells_where_its_states_come_from() -> None:
    grid = nnflow.Ensemble.grid(nnflow.maps["henon"](), inits=2, seed=7, x=0.1)
    told = [nnflow.run(Mean(), each).attrs for each in (grid, grid.advance(300), grid.select("init", 1))]
    assert [attrs["t"] for attrs in told] == [0, 300, 0]
    assert [attrs["initial_states"] for attrs in told] == [
        "drawn from the seed, x = 0.1", "drawn from the seed, x = 0.1, then 300 steps",
        "drawn from the seed, x = 0.1, init = 1",
    ]  # fmt: skip
    later = grid.with_states(grid.states, t=50).advance(3)
    assert nnflow.run(Mean(), later).attrs["initial_states"] == "given, then 3 steps"
    assert nnflow.run("series", nnflow.Recording(np.arange(9.0)).advance(2)).attrs["t"] == 2


def test_files_are_whole_or_not_there(scan: nnflow.Ensemble, tmp_path: Path) -> None:
    dataset = nnflow.run("lyapunov_spectrum", scan, steps=30, transient=0, history=True)
    save(dataset, tmp_path / "out.nc")
    assert load(tmp_path / "out.nc").identical(dataset)
    assert [path.name for path in tmp_path.iterdir()] == ["out.nc"]
    with pytest.raises(OSError, match="missing"):
        save(dataset, tmp_path / "missing" / "out.nc")
    dataset["bad"] = ((), np.array(object(), dtype=object))
    with pytest.raises(Exception, match="object"):
        save(dataset, tmp_path / "bad.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["out.nc"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: nnflow.run("lyapunov_spektrum", e), LookupError, "Did you mean 'lyapunov_spectrum'"),
        (
            lambda e: nnflow.run("lyapunov_spectrum", e, step=3),
            ValueError,
            "unknown setting of lyapunov_spectrum 'step'",
        ),
        (lambda e: nnflow.run("lyapunov_spectrum", e, steps=0), ValueError, "steps = 0: give 1 or more"),
        (lambda e: nnflow.run("lyapunov_spectrum", e, k=2), ValueError, "k = 2: logistic has dim 1"),
        (lambda e: nnflow.run("orbit_diagram", e, observable="loss"), ValueError, "unknown observable of logistic"),
        (lambda e: nnflow.run("orbit_diagram", e, steps=-4), ValueError, "steps = -4"),
        (lambda e: nnflow.run(Mean(), e, steps=3), ValueError, "put them into the Mean instance"),
        (lambda e: nnflow.run(Mean, e), TypeError, "give an analysis by name, or an instance"),
        (lambda e: nnflow.run("orbit_diagram", "logistic"), TypeError, "give an Ensemble, a Recording or a Map"),
        (lambda e: nnflow.run(Mean(), e, chunk=0), ValueError, "chunk = 0"),
    ],
)
def test_misuse_is_one_clear_error(scan: nnflow.Ensemble, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(scan)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"mean": ("member", np.zeros(2))}, "returned no 'escaped'"),
        ({"mean": ("member", np.zeros(3)), "escaped": ("member", np.zeros(2, int))}, "variable 'mean' has dims"),
        ({"mean": (("member", "t"), np.zeros(2)), "escaped": ("member", np.zeros(2, int))}, "variable 'mean' has dims"),
    ],
)
def test_an_analysis_that_returns_the_wrong_shape_is_told(result: Any, message: str) -> None:
    @dataclass(frozen=True)
    class Wrong(nnflow.Analysis):
        def __call__(self, ensemble: Any) -> Any:
            return result

    with pytest.raises(ValueError, match=message):
        nnflow.run(Wrong(), nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2), chunk=2)


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (np.zeros(2), r"variable 'mean' is array\(.*: return {name: \(dims, array\)} or .*first dim 'member'"),
        (("member",), "variable 'mean' is"),
        ((1, np.zeros(2)), "variable 'mean' is"),
        (("member", np.zeros(2), "units"), "variable 'mean' is"),
        ("member", "variable 'mean' is"),
        (None, "variable 'mean' is"),
        (("member", np.zeros(2) * 1j), "'mean' is of dtype complex128, .* the real and the imaginary part"),
        (("member", np.array([None, "a"])), "'mean' is of dtype object"),
        (("member", np.zeros(2, "M8[s]")), "'mean' is of dtype datetime64"),
        (("member", [[1], [1, 2]]), "'mean' is of rows of unequal length"),
    ],
)
@pytest.mark.parametrize("axes", [{}, {"r": [3.5, 3.6]}], ids=["alone", "scan"])
def test_what_is_no_variable_is_told_before_the_work(axes: Any, mean: Any, message: str) -> None:
    """Where there are axes, a rehearsal shows it; else the end of the run."""
    called = []

    @dataclass(frozen=True)
    class Wrong(Mean):
        def __call__(self, ensemble: Any) -> Any:
            found = super().__call__(ensemble)
            called.append(self.steps)
            return {**found, "mean": mean}

    with pytest.raises(TypeError, match=message):
        nnflow.run(Wrong(), nnflow.Ensemble.grid(nnflow.maps["logistic"](), **axes))
    assert called == ([1] if axes else [20])


def test_chunks_that_return_other_variables_are_told(scan: nnflow.Ensemble) -> None:
    @dataclass(frozen=True)
    class Moody(Mean):
        def __call__(self, ensemble: Any) -> Any:
            found = super().__call__(ensemble)
            return {**found, "more": found["mean"]} if ensemble.parameters[0, 0] > 3.5 else found

    with pytest.raises(ValueError, match=r"returned \['escaped', 'mean'.* for some members"):
        nnflow.run(Moody(), scan, chunk=2)


def test_a_shared_coordinate_is_kept_once(scan: nnflow.Ensemble) -> None:
    dataset = nnflow.run("lyapunov_spectrum", scan, steps=10, chunk=1)
    assert dataset.index.values.tolist() == [1]


def test_an_executor_of_ones_own_is_used_and_left_open(scan: nnflow.Ensemble) -> None:
    names = []

    @dataclass(frozen=True)
    class Where(Mean):
        def __call__(self, ensemble: Any) -> Any:
            names.append(threading.current_thread().name)
            return super().__call__(ensemble)

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        nnflow.run(Where(), scan, executor=pool)
        assert pool.submit(lambda: 1).result() == 1
    assert all(name.startswith("mine") for name in names)


def test_a_cluster_of_processes_changes_no_bit(scan: nnflow.Ensemble) -> None:
    from distributed import Client, LocalCluster

    expected = nnflow.run("lyapunov_spectrum", scan, steps=50, chunk=3)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        found = nnflow.run("lyapunov_spectrum", scan, steps=50, chunk=3, executor=client.get_executor())
    assert found.equals(expected)


def test_progress_goes_to_stderr_only_when_asked(scan: nnflow.Ensemble, capsys: pytest.CaptureFixture[str]) -> None:
    nnflow.run(Mean(), scan)
    assert capsys.readouterr().err == ""
    nnflow.run(Mean(200), scan, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100%" in shown.err
    assert "2.00k/2.00k" in shown.err


def test_an_error_in_one_chunk_stops_the_others_soon(scan: nnflow.Ensemble) -> None:
    @dataclass(frozen=True)
    class Fails(nnflow.Analysis):
        def __call__(self, ensemble: Any) -> Any:
            if ensemble.parameters[0, 0] == 3.0:
                raise RuntimeError("broken")
            return Mean(2_000_000_000)(ensemble)

    began = time.monotonic()
    with pytest.raises(RuntimeError, match="broken"):
        nnflow.run(Fails(), scan, chunk=1)
    assert time.monotonic() - began < 20


def test_a_cancelled_worker_stops_at_its_next_tick(scan: nnflow.Ensemble) -> None:
    def tick(steps: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled), heard_by(tick):
        scan.advance(1_000_000)
