"""Names: one namespace for each result, names that can be typed, drawn and written, and registries that are mappings.

What else can go wrong in this way: an axis that becomes a variable of the result, or is overwritten by a coordinate of
its own length, or clashes only with a dim that a setting asks for (history, matrix, a size); a stranger's variables; a
clash that is found after hours; a parameter named like an argument of `grid`, which would silently be taken for it; a
name with a slash or a dollar, on which the file or the picture breaks; two channels of one name.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnflow
from nnflow import rehearsal
from nnflow.ensemble import Ensemble
from nnflow.names import Refusal
from nnflow.recording import Recording
from nnflow.registry import PluginError, Registry


def scan(name: str, values: Any = (3.2, 3.9)) -> Ensemble:
    """The logistic map with a parameter of another name."""

    def rule(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = p[0] * x[0] * (1.0 - x[0])

    map = nnflow.CompiledMap(rule, parameters={name: 3.5}, name="named", coordinates=("x",))
    return Ensemble.grid(map, **{name: values})


def of(analysis: str, **settings: Any) -> Any:
    return nnflow.analyses[analysis](**settings)


@dataclass(frozen=True)
class Strange(nnflow.Analysis):
    """A stranger's, with a dim and a variable of its own."""

    steps: int = 10**9

    def __call__(self, ensemble: Any) -> Any:
        after = ensemble.advance(self.steps)
        return {"last": (("member", "component"), after.states), "escaped": ("member", after.escaped)}


@pytest.mark.parametrize(
    ("axis", "method"),
    [
        ("K", of("zero_one_test")),
        ("drift", of("zero_one_test")),
        ("escaped", of("zero_one_test")),
        ("index", of("lyapunov_spectrum")),
        ("exponent", of("lyapunov_spectrum")),
        ("kaplan_yorke", of("lyapunov_spectrum")),
        ("time", of("lyapunov_spectrum", history=True)),
        ("time", of("series", steps=2)),
        ("channel", of("series")),
        ("sample", of("orbit_diagram")),
        ("period", of("orbit_diagram")),
        ("i", of("recurrence", matrix=True)),
        ("size", of("separation", perturbation=(1e-3, 1e-4))),
        ("perturbation", of("separation")),
        ("window", of("network_lyapunov")),
        ("window_start", of("network_lyapunov", window_map=True)),
        ("seed_point", of("local_expansion")),
        ("segment", of("plateaus")),
        ("lag", of("autocorrelation")),
        ("length", of("laminar_lengths")),
        ("weight", of("displacement", steps=10**10)),
        ("clipped", of("clipped_lyapunov")),
        ("time", of("finite_time_lyapunov")),
        ("last", Strange()),
        ("component", Strange()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_axis_named_like_something_in_the_result_is_refused_before_the_run(axis: str, method: Any) -> None:
    """Strange and Displacement would take minutes and more."""
    with pytest.raises(Refusal, match=f"axis {axis}: .* returns a variable or dim of this name"):
        nnflow.run(method, scan(axis))


def test_a_name_that_does_not_clash_is_fine() -> None:
    assert nnflow.run("lyapunov_spectrum", scan("time"), steps=10).exponent.dims == ("time", "index")
    assert "K" in nnflow.run("zero_one_test", scan("index"), steps=200)
    single = nnflow.run("zero_one_test", scan("K", 3.9), steps=200)  # one value: no axis
    assert float(single.K) > 0.9


def test_an_axis_of_one_value_and_a_coordinate_clash_like_others() -> None:
    with pytest.raises(Refusal, match="axis K"):
        nnflow.run("zero_one_test", scan("K", [3.9]), steps=200)

    def still(x: Any, p: Any, t: int, out: Any) -> None:
        out[0] = x[0]

    map = nnflow.CompiledMap(still, coordinates=("sample",))
    with pytest.raises(Refusal, match="axis sample"):
        nnflow.run("orbit_diagram", Ensemble.grid(map, sample=[0.1, 0.2]))


def test_names_that_no_rehearsal_foresees_are_found_in_the_result() -> None:
    @dataclass(frozen=True)
    class Late(nnflow.Analysis):
        """Returns another variable in a long run."""

        steps: int = 100

        def __call__(self, ensemble: Any) -> Any:
            after = ensemble.advance(self.steps)
            return {
                "r" if self.steps > 50 else "s": ("member", after.states[:, 0]),
                "escaped": ("member", after.escaped),
            }

    with pytest.raises(Refusal, match="axis r"):
        nnflow.run(Late(), Ensemble.grid(nnflow.maps["logistic"](), r=[3.0, 3.5]))


def test_a_rehearsal_is_short_and_changes_nothing() -> None:
    began = time.process_time()
    with pytest.raises(Refusal, match="axis last"):
        nnflow.run(Strange(10**12), scan("last"))
    assert time.process_time() - began < 20  # compiling; the steps would take an hour
    before = scan("r")
    nnflow.run("orbit_diagram", before, steps=10)
    assert (before.t, before.states.tolist()) == (0, scan("r").states.tolist())


# -- which names a map may have ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["seed", "states", "inits", "map", "self", "cls", "member", "init", "series"])
def test_names_that_grid_takes_itself_are_refused(name: str) -> None:
    """A parameter named seed was never scanned: grid took its values for the seed of the initial states."""
    with pytest.raises(Refusal, match=f"'{name}': Ensemble.grid takes this name for itself"):
        nnflow.Map(parameters={name: 1.0})
    with pytest.raises(Refusal, match=f"'{name}': Ensemble.grid takes this name for itself"):
        nnflow.Map(coordinates=(name,))


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a-b", "1a", "a=b", "$x$", "a/b", "a\n", "lambda", "é ", None, 3, "a\0"]
)
def test_a_parameter_is_an_identifier(name: Any) -> None:
    with pytest.raises(Refusal, match=r"^parameter .*: give (a name|an identifier)"):
        nnflow.Map(parameters={name: 1.0})


@pytest.mark.parametrize("name", ["", " ", " x", "x ", "-x", "a=b", "$x$", "a/b", "a\n", "a\0", "\\x"])
def test_a_coordinate_or_observable_can_be_typed_drawn_and_written(name: str) -> None:
    with pytest.raises(Refusal, match=r"^coordinate .*: give a name"):
        nnflow.Map(coordinates=(name,))
    with pytest.raises(Refusal, match=r"^observable .*: give a name"):
        nnflow.Map(observables={name: lambda x, p, t: 0.0})
    with pytest.raises(Refusal, match=r"^map .*: give a name"):
        nnflow.Map(name=name)


def test_weights_have_names_that_can_be_scanned(tmp_path: Path) -> None:
    grid = Ensemble.grid(nnflow.maps["iris"](), **{"W1[0,0]": [0.0, 1.0]})
    dataset = nnflow.run("orbit_diagram", grid, steps=3, transient=0)
    nnflow.save(dataset, tmp_path / "out.nc")
    assert nnflow.load(tmp_path / "out.nc")["W1[0,0]"].values.tolist() == [0.0, 1.0]


def test_channels_of_a_recording_have_names_of_their_own() -> None:
    with pytest.raises(Refusal, match="each channel a name of its own"):
        Recording(np.zeros((4, 2)), ("x", "x"))
    with pytest.raises(Refusal, match="names = None"):
        Recording([1.0, 2.0], None)  # type: ignore[arg-type]


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_a_map_of_many_weights_is_shown_in_a_few_lines() -> None:
    """It was 2.4 MB; so with ensembles, recordings, and every message that shows a value."""
    big = nnflow.Map(dim=80_000, name="big")
    shown = [
        repr(big),
        repr(Ensemble.grid(big, inits=3)),
        repr(Recording(np.zeros((2, 500)), [f"c{i}" for i in range(500)])),
    ]
    assert all(len(text) < 500 for text in shown), [len(text) for text in shown]
    assert shown[0] == "<Map 'big' of dim 80000; coordinates x0, x1, x2, x3, x4, x5, …>"
    assert "3 members (3 init), none escaped, at t = 0" in shown[1]
    for call in (
        lambda: nnflow.run("orbit_diagram", [0.1] * 10**6),  # type: ignore[arg-type]
        lambda: nnflow.run("orbit_diagram", big, steps=[1] * 10**6),
        lambda: Ensemble.grid(big, inits=np.zeros(10**6)),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, Refusal)) as caught:
            call()
        assert len(str(caught.value)) < 400


# -- registries --------------------------------------------------------------------------------------------------------


def test_registries_are_mappings() -> None:
    """list(nnflow.maps) was "'int' object is not iterable"."""
    assert isinstance(nnflow.maps, Mapping)
    assert list(nnflow.maps) == nnflow.maps.names()
    assert len(nnflow.maps) == len(nnflow.maps.names()) == len(set(nnflow.maps))
    assert "henon" in nnflow.maps
    assert all(odd not in nnflow.maps for odd in ("henno", None, 3, ("henon",), []))
    assert nnflow.maps.get("henno") is None
    assert dict(nnflow.maps)["henon"] is nnflow.maps["henon"]
    assert [name for name, _ in nnflow.maps.items()] == nnflow.maps.names()
    assert hash(nnflow.maps) != hash(nnflow.analyses)
    assert nnflow.maps != nnflow.analyses
    for odd in (None, 3, [], np.array([1, 2]), ""):
        with pytest.raises(LookupError, match="unknown map .* Known: baker"):
            nnflow.maps[odd]  # type: ignore[index]
    assert list(Registry("nnflow.nothing")) == []


BROKEN = {
    "class Good: ...\n\nclass Bad:\n    x = 1\n    y = undefined\n": "line 5, in class Bad",
    "import dataclasses\n\n@dataclasses.dataclass\nclass Bad:\n    x: int = 1\n    y: int\n": "in class Bad",
    "class Outer:\n    class Inner:\n        z = 1 / 0\n": "line 3, in class Inner",
    "x = 1\nraise RuntimeError('no')\n": "line 2)",
    "def f():\n    return 1 / 0\n\nf()\n": "line 2)",
    "class Bad\n": "line 1)",
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_broken_class_of_a_plugin_module_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "several_plugins.py").write_text(source)
    info = tmp_path / "several-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: several\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[nnflow.analyses]\ngood = several_plugins:Good\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "several_plugins", raising=False)
    with pytest.raises(PluginError, match="plugin 'good' of distribution several cannot be imported") as caught:
        Registry("nnflow.analyses", "analysis")["good"]
    assert BROKEN[source] in str(caught.value)


def test_silence_lasts_until_the_last_rehearsal_ends() -> None:
    """Filters of warnings are the whole process's, and rehearsals run in several threads."""
    first, second = rehearsal._quiet(), rehearsal._quiet()
    with pytest.raises(UserWarning):  # noqa: PT012
        with first:
            second.__enter__()
            warnings.warn("unheard", stacklevel=1)
        warnings.warn("unheard", stacklevel=1)
        second.__exit__(None, None, None)
        warnings.warn("heard", stacklevel=1)
