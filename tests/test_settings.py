"""Settings: converted and validated by their annotations, in one place, before anything runs.

What else can go wrong in this way: a value that is nearly right (numpy scalars, arrays without dims, 1e4, "100") and is
refused, or breaks a comparison, or is lost only when attributes are written after hours; a value that is wrong and
passes (True for 1, 2.7 for 2, NaN, a masked number, a span of time for a count); a set, whose order means nothing, for
a tuple; sizes that fit into no memory; names that only the last step looks at; and all this for a stranger's analysis
and factory, for an instance that was made directly, and on the command line.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
from conftest import Command

import nnflow
from nnflow import data
from nnflow.ensemble import Ensemble
from nnflow.names import Refusal
from nnflow.recording import Recording
from nnflow.settings import convert, numbers
from nnflow.testing import check_analysis


@dataclass(frozen=True)
class Strange(nnflow.Analysis):
    """A stranger's analysis, whose checks know nothing of conversions."""

    steps: int = 20
    """How many steps."""
    factor: float = 1.0
    """A factor."""
    sizes: float | tuple[float, ...] = 1.0
    """One or several."""
    kind: Literal["mean", "max"] = "mean"
    """What is taken."""
    flag: bool = False
    """A switch."""
    called: list[int] = field(default_factory=list)
    """Steps of every orbit that was recorded."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps = {self.steps}: give 2 or more")

    def __call__(self, ensemble: Any) -> Any:
        records, after = ensemble.orbit(self.steps)
        return {"mean": ("member", self.factor * records[:, :, 0].mean(axis=1)), "escaped": ("member", after.escaped)}


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [30, 3e1, "30", " 3e1 ", np.int64(30), np.uint8(30), np.float32(30), np.array(30), np.longdouble(30)]
)
def test_what_means_a_whole_number_is_one(value: Any) -> None:
    method = Strange(steps=value, factor=value)
    assert (method.steps, type(method.steps)) == (30, int)
    assert (method.factor, type(method.factor)) == (30.0, float)
    attrs = nnflow.run("lyapunov_spectrum", nnflow.maps["henon"](), steps=value, transient=value).attrs
    assert json.loads(attrs["settings"])["steps"] == 30


@pytest.mark.parametrize(
    "value",
    [
        None, True, np.True_, 2.7, "2.7", math.nan, math.inf, -np.inf, "many", "", b"3", 3j, [3], (3,), {3}, {}, print,
        np.array([3]), np.ma.masked, np.timedelta64(3), np.datetime64("2020-01-01"), 2**63, 10**400, np.float16(3.5),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_means_no_whole_number_is_refused_in_one_line(value: Any) -> None:
    for make in (lambda: Strange(steps=value), lambda: nnflow.run("orbit_diagram", nnflow.Map(), steps=value)):
        with pytest.raises(Refusal, match=r"^steps = [^\n]*: give a whole number") as caught:
            make()
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("factor", "x", "a finite number"),
        ("factor", math.nan, "a finite number"),
        ("factor", 10**400, "a finite number"),
        ("factor", True, "a finite number"),
        ("sizes", [1, "x"], "a finite number or several, each a finite number"),
        ("sizes", {1.0, 2.0}, "a finite number or several"),
        ("kind", "least", "one of 'mean', 'max'"),
        ("flag", 2, "True or False"),
        ("flag", "perhaps", "True or False"),
    ],
)
def test_the_line_says_what_is_allowed(setting: str, value: Any, allowed: str) -> None:
    with pytest.raises(Refusal, match=f"^{setting} = .*: give {allowed}"):
        Strange(**{setting: value})


def test_lists_and_arrays_are_tuples_and_text_may_be_a_switch() -> None:
    assert Strange(sizes=np.array([1, 2])).sizes == (1.0, 2.0)
    assert Strange(sizes=["1e-3", np.float32(0.5)]).sizes == (1e-3, 0.5)
    assert Strange(sizes="2").sizes == 2.0
    assert Strange(flag="yes").flag is True
    assert Strange(flag=np.False_).flag is False


def test_a_generator_is_not_used_up_by_the_first_kind_of_a_union() -> None:
    either = tuple[int, ...] | tuple[float, ...]
    assert convert("s", iter([1.5, 2]), either) == (1.5, 2.0)
    assert convert("s", iter([1, 2]), None | either) == (1, 2)
    assert convert("s", [iter([1.5])], tuple[tuple[int, ...], ...] | tuple[tuple[float, ...], ...]) == ((1.5,),)
    with pytest.raises(Refusal, match="s = .*: give several, each a whole number or None"):
        convert("s", iter(["a"]), tuple[int, ...] | None)


def test_a_checks_own_error_is_a_refusal() -> None:
    with pytest.raises(Refusal, match="steps = 1: give 2 or more"):
        Strange(steps="1")


def test_attributes_are_made_before_the_work() -> None:
    """np.int64 was computed whole, then lost: JSON came last."""
    calls: list[int] = []

    @dataclass(frozen=True)
    class Unwritable(Strange):
        """Holds what has no JSON."""

        what: Any = print

        def __call__(self, ensemble: Any) -> Any:
            calls.append(1)
            return super().__call__(ensemble)

    with pytest.raises(Refusal, match="does not make settings that can be written as JSON"):
        nnflow.run(Unwritable(), nnflow.maps["logistic"]())
    assert not calls


def test_one_observable_where_one_makes_sense() -> None:
    henon = nnflow.maps["henon"]()
    for name in ("zero_one_test", "orbit_diagram", "autocorrelation", "plateaus", "laminar_lengths", "local_expansion"):
        with pytest.raises(Refusal, match=r"observable = \('x', 'y'\): give text or None"):
            nnflow.run(name, henon, observable=("x", "y"))


def test_several_observables_where_several_make_sense(nnflow_command: Command) -> None:
    """Of a 2-cycle seen by both coordinates every second pair recurs, and both are named."""
    henon = nnflow.maps["henon"](a=0.9)
    found = nnflow.run("recurrence", henon, observable=["x", "y"], steps=100, threshold=0.1)
    assert float(found.recurrence_rate) == pytest.approx(49 / 99)
    assert found.recurrence_rate.attrs["observable"] == "x, y"
    done = nnflow_command(
        "run", "recurrence", "--map", "henon", "--set", "a=0.9", "--observable", "x", "y", "--steps", "1e2"
    )
    assert done.returncode == 0, done.stderr


def test_one_name_may_stand_for_several() -> None:
    found = nnflow.run("series", nnflow.maps["iris"](), observe="loss", steps=5)
    assert found.channel.values.tolist() == ["loss"]
    assert found.value.shape == (1, 5)
    with pytest.raises(Refusal, match="observe = .* several, each text"):
        nnflow.run("series", nnflow.maps["henon"](), observe={"x", "y"})


# -- factories, ensembles, verbs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digits", {"hidden": 2.7}, "hidden = 2.7: give a whole number"),
        ("iris", {"shuffle": 1.5, "batch": 10}, "shuffle = 1.5: give a whole number or None"),
        ("iris", {"split": True}, "split = True: give a whole number"),
        ("iris", {"split": -1}, "split = -1"),
        ("iris", {"optimizer": 3}, "optimizer = 3: give text"),
        ("iris", {"batch": "all"}, "batch = 'all': give a whole number or None"),
        ("logistic_ring", {"size": math.nan}, "size = nan: give a whole number"),
        ("logistic_ring", {"size": 10**12}, "size .* numbers and work on them take"),
        ("digits", {"hidden": 10**9}, "weights .* numbers and work on them take"),
        ("henon", {"a": "x"}, "a = 'x': give a finite number"),
        ("henon", {"a": math.nan}, "a = nan: give a finite number"),
        ("henon", {"box": "unit"}, "box = 'unit': give"),
        ("henon", {"box": ([1j, 0], [1, 1])}, "box = .*: give numbers"),
        ("cubic_descent", {"box": True}, "box = True"),
        ("softmax", {"frequencies": [0.5, math.nan]}, "frequencies = .*: give two or more positive numbers"),
    ],
)
def test_a_registered_factory_takes_what_it_says(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        nnflow.maps[name](**settings)


def test_a_factory_converts_as_an_analysis_does() -> None:
    ring = nnflow.maps["logistic_ring"](size="5", r=np.float32(3.5))
    assert (ring.dim, ring.parameters["r"], ring.structure["size"]) == (5, 3.5, 5)
    assert nnflow.maps["iris"](batch=np.int64(10), shuffle=np.array(1)).structure["batch"] == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inits": 2.5}, "inits = 2.5: give a whole number"),
        ({"inits": True}, "inits = True"),
        ({"inits": 10**12}, "initial states: .* of memory are free"),
        ({"seed": 1.5}, "seed = 1.5: give a whole number"),
        ({"seed": 2**64}, "seed = .*too large"),
        ({"a": "x"}, "axis a = 'x': give numbers"),
        ({"a": [1.0, None]}, "axis a = .*: give numbers"),
        ({"a": [1 + 1j]}, "axis a = .*: give numbers, in rows of equal length \\(they are complex128\\)"),
        ({"a": [True]}, "they are bool"),
        ({"a": [True, 1.2]}, "bools among them"),
        ({"states": [[0.1, np.True_]]}, "bools among them"),
        ({"states": [np.array([True, False]), [0.1, 0.2]]}, "bools among them"),
        ({"states": [np.ma.array([0.1, 0.2], mask=[False, True])]}, "masked values"),
        ({"states": [[0.1, np.ma.masked]]}, "masked values"),
        ({"a": np.ma.array([1.0, 2.0], mask=[False, True])}, "masked values"),
        ({"a": {1.0, 1.2}}, "axis a = .*: give numbers"),
        ({"a": np.array(["2020-01-01"], dtype="M8[D]")}, "they are datetime64"),
        ({"states": [[0.1], [0.1, 0.2]]}, "states = .*: give numbers, in rows of equal length"),
        ({"states": [[1j, 0.0]]}, "they are complex128"),
        ({"a": np.zeros(10**6), "b": np.zeros(10**6), "x": np.zeros(10**6)}, "the grid: .* of memory are free"),
    ],
)
def test_a_grid_takes_numbers(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        Ensemble.grid(nnflow.maps["henon"](), **settings)


@pytest.mark.parametrize("steps", [2.5, "many", None, True, math.nan, [3], 2**70])
def test_verbs_take_whole_numbers(steps: Any) -> None:
    scan = Ensemble.grid(nnflow.maps["henon"]()).with_frame(1)
    verbs: list[Callable[[Any], Any]] = [scan.advance, scan.orbit, scan.tangent_orbit, Recording(np.arange(9.0)).orbit]
    for verb in verbs:
        with pytest.raises(Refusal, match="steps = .*: give a whole number"):
            verb(steps)
    assert scan.advance("1e1").t == 10
    assert scan.orbit(np.int64(4), np.float64(2))[0].shape == (1, 2, 2)


@pytest.mark.parametrize("n", [2.5, "x", None, True, 0])
def test_iterate_and_gradient_map_take_whole_numbers(n: Any) -> None:
    with pytest.raises(Refusal, match="n = "):
        nnflow.iterate(nnflow.maps["henon"](), n)
    with pytest.raises(Refusal, match="dim = "):
        nnflow.gradient_map(lambda w: (w * w).sum(), n)


# -- members ---------------------------------------------------------------------------------------------------------


def test_a_mask_takes_the_marked_members() -> None:
    """The mask was read as indices: rows 0 and 1, again and again."""
    scan = Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3], [0.4]], r=[3.7, 9.0])
    after = scan.advance(50)
    lost = after.take(after.escaped >= 0)
    assert (len(lost), lost.parameters.ravel().tolist()) == (2, [9.0, 9.0])
    assert len(after.take((after.escaped >= 0).reshape(after.shape).tolist())) == 2
    assert len(after.take(after.escaped > 10**6).advance(3)) == 0
    assert after.take([3, 0]).init.tolist() == [1, 0]
    assert Recording(np.zeros((3, 4, 1))).take([True, False, True]).cube.shape[0] == 2
    with pytest.raises(Refusal, match="no members"):
        nnflow.run("orbit_diagram", after.take([]))


@pytest.mark.parametrize(
    "members",
    [
        [-1],
        [4],
        [0.5],
        [1.0],
        ["0"],
        [None],
        [True],
        [True] * 5,
        [True, 2],
        np.zeros((2, 3), bool),
        None,
        "all",
        [1e30],
    ],
)
def test_what_names_no_members_is_refused(members: Any) -> None:
    scan = Ensemble.grid(nnflow.maps["henon"](), inits=4)
    with pytest.raises(Refusal, match=r"member"):
        scan.take(members)
    with pytest.raises(Refusal, match=r"member"):
        Recording(np.zeros((4, 4, 1))).take(members)


@pytest.mark.parametrize("i", [4, -5, 1.5, "x", None, True])
def test_select_takes_an_index_that_is_there(i: Any) -> None:
    with pytest.raises(Refusal, match=r"i.* = .*: (it has 4 values|give a whole number)"):
        Ensemble.grid(nnflow.maps["henon"](), inits=4).select("init", i)


@pytest.mark.parametrize(
    "states",
    [[0.1, 0.1], [[0.1]], [[0.1, 0.1, 0.1]], np.zeros((2, 2)), np.zeros((0, 2)), [["a", "b"]], [[1j, 0]], None],
)
def test_states_of_another_shape_are_refused(states: Any) -> None:
    """The kernels read memory out of bounds, or the process was aborted; so for frames, and what replace() changes."""
    scan = Ensemble.grid(nnflow.maps["henon"]())
    with pytest.raises(Refusal, match="states"):
        scan.with_states(states)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": np.zeros((1, 3))},
        {"parameters": np.zeros((1, 1))},
        {"parameters": np.zeros((2, 2))},
        {"escaped": np.zeros(2, int)},
        {"init": np.zeros(2, int)},
        {"frame": np.zeros((1, 1, 3))},
        {"frame": np.zeros((2, 1, 2))},
        {"frame": np.zeros(2)},
        {"t": 0.5},
        {"t": -1},
        {"axes": (nnflow.axes.Axis("a", np.zeros(3), "parameter"),)},
    ],
)
def test_an_ensemble_fits_together(changes: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        replace(Ensemble.grid(nnflow.maps["henon"]()), **changes)


# -- reserved, recordings, memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["executor", "chunk", "progress", "store", "until", "analysis", "ensemble"])
def test_fields_that_run_takes_itself_are_refused(name: str) -> None:
    kind: Any = dataclass(frozen=True)(
        type("Taken", (Strange,), {"__annotations__": {name: int}, name: 3, "__doc__": "Taken."})
    )
    with pytest.raises(AssertionError, match=f"{name} are arguments of run itself"):
        check_analysis(kind)
    with pytest.raises(Refusal, match=f"{name} are arguments of run itself"):
        nnflow.run(kind(), nnflow.maps["logistic"]())


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (list[float], "w = None: give several, each a finite number, or annotate it list[float] | None"),
        ("list[float]", "w = None: give several, each a finite number, or annotate it list[float] | None"),
        (int, "w = None: give a whole number, or annotate it int | None"),
    ],
)
def test_an_author_is_told_how_a_setting_may_be_none(annotation: Any, said: str) -> None:
    kind: Any = dataclass(frozen=True)(
        type("Own", (Strange,), {"__annotations__": {"w": annotation}, "w": None, "__doc__": "Own."})
    )
    with pytest.raises(AssertionError) as caught:
        check_analysis(kind)
    assert str(caught.value) == f"Own: {said}"
    with pytest.raises(Refusal) as refused:
        nnflow.run(kind(), nnflow.maps["logistic"]())
    assert "annotate" not in str(refused.value)


def test_settings_of_several_are_parted_by_blanks(capsys: pytest.CaptureFixture[str]) -> None:
    from nnflow.cli.options import parse

    @dataclass(frozen=True)
    class Orders:
        orders: tuple[int, ...] = ()

    assert parse(Orders, ["--orders", "3", "4", "5"], "own").orders == (3, 4, 5)
    for arguments in (["--orders", "3,4,5"], ["--orders=3,4,5"]):
        with pytest.raises(Exception, match="--orders 3,4,5: part several values by blanks, --orders 3 4 5"):
            parse(Orders, arguments, "own")


def test_a_setting_may_be_called_no_something() -> None:
    """The command line took --no-bins 7 for --bins, and dropped it."""
    from nnflow.cli.options import parse_run

    @dataclass(frozen=True)
    class Own(nnflow.Analysis):
        """Counts nothing."""

        no_bins: int = 3
        no_mean: bool = False
        trend: bool = True

    given = ["--map", "logistic", "--no-bins", "7", "--no-mean", "--no-trend"]
    assert parse_run("own", Own, given)[1] == {"no_bins": 7, "no_mean": True, "trend": False}


def test_fields_without_the_decorator_are_found() -> None:
    class Bare(Strange):
        """No dataclass of its own."""

        steps: int = 5

    with pytest.raises(AssertionError, match="decorate it"):
        check_analysis(Bare)


@pytest.mark.parametrize("samples", [3, 101, 1000])
def test_what_needs_a_map_refuses_a_recording_before_anything_runs(samples: int) -> None:
    recording = Recording(np.random.default_rng(0).random(samples))
    taking = {"orbit_diagram", "zero_one_test", "recurrence", "autocorrelation", "series", "plateaus"}
    taking |= {"laminar_lengths", "local_expansion", "trajectory_autocorrelation"}
    for name in set(nnflow.analyses) - taking:
        with pytest.raises(TypeError, match="a recording has no map") as caught:
            nnflow.run(name, recording)
        assert len(str(caught.value).splitlines()) == 1

    @dataclass(frozen=True)
    class Silent(nnflow.Analysis):
        """Says nothing about what it takes."""

        def __call__(self, ensemble):  # type: ignore[no-untyped-def]
            return ensemble.with_frame(1)

    with pytest.raises(TypeError, match="a recording has no map, so no with_frame"):
        nnflow.run(Silent(), recording)


def test_a_recording_is_cut_by_the_analysis_own_spacing() -> None:
    @dataclass(frozen=True)
    class Sparse(nnflow.Analysis):
        """Looks at every tenth sample unless told otherwise."""

        steps: int = 100
        every: int = 10

        def __call__(self, ensemble: Any) -> Any:
            records, after = ensemble.orbit(self.steps, self.every)
            return {"seen": (("member", "time"), records[:, :, 0]), "escaped": ("member", after.escaped)}

    nnflow.runner.analyses._loaded["sparse", "here:Sparse"] = Sparse
    known = {each.name: each for each in fields(Sparse)}
    assert nnflow.runner._window_of(Recording(np.arange(105.0)), known, {}) == {"steps": 100}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("orbit_diagram", {"steps": 10**13}),
        ("recurrence", {"steps": 10**13}),
        ("zero_one_test", {"frequencies": 10**12}),
        ("lyapunov_spectrum", {"k": 10**12}),
        ("separation", {"perturbations": 10**12}),
        ("separation", {"steps": 10**13}),
        ("network_lyapunov", {"bootstrap": 10**12}),
        ("network_lyapunov", {"last": 10**15, "longest": 10**15, "steps": 10**10, "stride": 1}),
        ("autocorrelation", {"shuffles": 10**12}),
        ("plateaus", {"most": 10**12}),
        ("laminar_lengths", {"bins": 10**12}),
        ("series", {"projections": 10**12}),
        ("series", {"steps": 10**13}),
        ("trajectory_autocorrelation", {"steps": 10**13}),
        ("local_expansion", {"steps": 10**13}),
    ],
)
def test_what_fits_into_no_memory_is_refused_before_the_work(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(Refusal):
        nnflow.run(
            name, nnflow.maps["henon"](), **{**({"transient": 10**9} if "k" not in settings else {}), **settings}
        )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("orbit_diagram", {"observable": "loss"}, "unknown observable of henon 'loss'"),
        ("series", {"observe": ("x", "loss")}, "unknown observable of henon 'loss'"),
        ("lyapunov_spectrum", {"k": 3}, "k = 3: henon has dim 2"),
        ("displacement", {"where": "w*"}, "'w\\*': matches no coordinate of henon"),
        ("separation", {"where": "w*"}, "'w\\*': matches no coordinate of henon"),
        ("orbit_diagram", {"follow": "b"}, "unknown axis of the ensemble 'b'"),
    ],
)
def test_names_are_looked_up_before_a_long_transient(name: str, settings: dict[str, Any], message: str) -> None:
    """A transient of 10⁹ steps takes a minute or more; the name was looked up after it."""
    scan = Ensemble.grid(nnflow.maps["henon"](), a=[1.3, 1.4])
    with pytest.raises(Refusal, match=message):
        nnflow.run(name, scan, **settings, transient=10**10)


def test_a_map_without_a_loss_is_refused_before_a_long_transient() -> None:
    for name in ("sharpness", "hessian_spectrum"):
        with pytest.raises(TypeError, match="henon has no loss"):
            nnflow.run(name, nnflow.maps["henon"](), transient=10**10)


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_reads_numbers_as_python_does(nnflow_command: Command) -> None:
    done = nnflow_command(
        "run", "orbit_diagram", "--map", "logistic", "--steps", "1e2", "--inits", "2e0", "--seed", "3.0"
    )
    assert done.returncode == 0, done.stderr
    for text in ("2.5", "nan", "many", "True", "1e400"):
        done = nnflow_command("run", "orbit_diagram", "--map", "logistic", "--steps", text)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert f"value = '{text}': give a whole number" in done.stderr


# -- many ------------------------------------------------------------------------------------------------------------

WRONG: list[Any] = [
    None, True, 2.7, -1, 0, -0.5, math.nan, math.inf, "many", "", "nan", b"3", 1j, [], [1, 2], (), ("x", "y"), {},
    {"a": 1}, {"x"}, object(), np.array([1, 2]), np.array([]), np.ma.masked, np.datetime64("2020-01-01"),
    np.timedelta64(3), 10**12, 10**15, 10**30, 1e300, 1e-300, "x", "$", "a/b", "weights", "*", print, int, range(3),
    np.float16(3.5), np.int8(-3),
]  # fmt: skip
SHORT = {"steps": 100, "transient": 4}
SHORTER: dict[str, dict[str, int]] = {
    "local_expansion": {"steps": 200, "moments": 20},
    "zero_one_test": {"steps": 200},
    "laminar_lengths": {"steps": 300},
    "plateaus": {"steps": 300},
    "finite_time_lyapunov": {"steps": 100, "window": 50},
    "clipped_lyapunov": {"steps": 5},
    "sharpness": {"steps": 20},
    "reduced_model": {"steps": 3},
    "recurrence": {"steps": 50},
    "two_orbit_lyapunov": {"steps": 50, "transient": 5},
}
LONG = ("steps", "transient", "every", "window")  # a long run is no wrong setting


def wrong_settings(name: str) -> list[tuple[str, Any]]:
    known = [f.name for f in fields(nnflow.analyses[name])]
    pairs = itertools.product(known, WRONG)
    return [(key, value) for key, value in pairs if not (key in LONG and type(value) is int and value > 10**9)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::nnflow.ResolutionWarning")  # sizes of 1e300 overflow
@pytest.mark.parametrize("name", nnflow.analyses.names())
def test_a_wrong_setting_of_an_analysis_is_one_line_or_a_result(name: str) -> None:
    """About 6000 settings: each gives a result that says what was used, or a Refusal; none hangs, none is ignored."""
    with_loss = {"sharpness": "cubic_descent", "hessian_spectrum": "cubic_descent", "reduced_model": "iris"}
    ensemble = Ensemble.grid(nnflow.maps[with_loss.get(name, "logistic")](), inits=2)
    known = {f.name for f in fields(nnflow.analyses[name])}
    short = {key: value for key, value in {**SHORT, **SHORTER.get(name, {})}.items() if key in known}
    nnflow.run(name, ensemble, **short)
    for key, value in wrong_settings(name):
        began = time.process_time()
        result, refused = attempt(partial(nnflow.run, name, ensemble, **{**short, key: value}))
        assert len(refused.splitlines()) <= 1, (key, value)
        assert len(refused) < 400, (key, value)
        if result is not None:
            used = json.loads(result.attrs["settings"])[key]
            assert isinstance(used, list) or used == convert(key, value, type(used)), (key, value)
        assert time.process_time() - began < 20, (key, value)


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, and what it was refused with."""
    try:
        return call(), ""
    except Refusal as refusal:
        return None, str(refusal)


@pytest.mark.slow
@pytest.mark.parametrize("name", nnflow.maps.names())
def test_a_wrong_setting_of_a_factory_is_one_line_or_a_map(name: str) -> None:
    factory = nnflow.maps[name]
    keywords = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    for key, value in itertools.product([*keywords, *factory().parameters], WRONG):
        made, refused = attempt(partial(factory, **{key: value}))
        assert isinstance(made, nnflow.Map) or len(refused.splitlines()) == 1, (key, value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.moons(samples=10.5), "samples = 10.5: give a whole number"),  # type: ignore[arg-type]
        (lambda: data.moons(noise=-1), "noise = -1.0: give 0 or more"),
        (lambda: data.chebyshev(degree=2.5), "degree = 2.5: give a whole number"),  # type: ignore[arg-type]
        (lambda: data.chebyshev(samples=True), "samples = True: give a whole number"),
        (lambda: data.teacher_student(hidden=0), "hidden = 0: give 1 or more"),
        (lambda: data.split_rows([[1j], [2]], [0, 1]), "inputs = .*: give numbers"),
    ],
)
def test_data_read_their_settings_as_analyses_do(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message):
        call()


def test_data_take_what_means_a_number() -> None:
    for samples in ("100", np.int64(100), 1e2):
        assert np.array_equal(data.moons(samples=samples).inputs, data.moons(samples=100).inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**60 + 1, 2**70 + 1, "9007199254740993", np.int64(2**53 + 1), np.uint64(2**63)])
def test_whole_numbers_that_lose_digits_are_refused(value: Any) -> None:
    for values in ([value], [value, 0.5], np.array([value], object), [[0.5], [value]], value):
        with pytest.raises(nnflow.Refusal, match="lose digits as float64"):
            numbers("v", values)
    assert numbers("v", [2**53, "1e30", 1e30]).tolist() == [2**53, 1e30, 1e30]


@pytest.mark.parametrize("name", [name for name in nnflow.analyses if hasattr(nnflow.analyses[name], "every")])
def test_steps_that_are_no_whole_records_are_refused_before_any_step(name: str) -> None:
    """By a verb at the end of the steps only, as a traceback, it was in `series`; after the transient in others."""
    kind = nnflow.analyses[name]
    with pytest.raises(nnflow.Refusal, match=r"^steps = 100001, every = 3: steps must be a multiple of every$"):
        kind(steps=100_001, every=3)
    kind(steps=100_002, every=3, **({"transient": 600} if hasattr(kind, "transient") else {}))


@pytest.mark.parametrize("asked", ["--steps 10 --distance l2", "--steps 2 --projections 1"])
def test_the_command_line_refuses_steps_that_are_no_whole_records_in_one_line(
    asked: str, nnflow_command: Command
) -> None:
    done = nnflow_command("run", "series", "--map", "logistic", "--every", "3", *asked.split())
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "steps must be a multiple of every" in done.stderr
