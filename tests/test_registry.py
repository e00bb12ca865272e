"""Plugins by name: listing imports nothing, errors name the distribution, strangers come in by the same door."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, install

import nnflow
from nnflow.registry import PluginError, Registry, UnknownPlugin


@pytest.fixture
def installed(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(stranger))
    return stranger


def test_names_are_sorted_and_a_strangers_are_among_them(installed: Path) -> None:
    assert nnflow.analyses.names() == sorted(nnflow.analyses.names())
    assert {"broken", "spread", "lyapunov_spectrum"} <= set(nnflow.analyses.names())
    assert "doubling" in nnflow.maps.names()
    assert nnflow.studies.names() == ["danovski2024", "demo", "hello"]
    assert nnflow.analyses.distribution("spread") == "nnflow-example"
    assert nnflow.analyses.distribution("recurrence") == "nnflow"


def test_listing_imports_no_plugin(installed: Path) -> None:
    assert "nnflow_example" not in sys.modules or sys.modules["nnflow_example"] is None
    nnflow.analyses.names()
    assert "nnflow_example_broken" not in sys.modules


def test_what_a_plugin_is_about_is_read_and_not_imported(installed: Path) -> None:
    assert nnflow.analyses.about("separation") == (
        "Distances d(t) of perturbed copies from each member's orbit; no orbit is kept.",
        "How fast do neighbors part?",
    )
    assert nnflow.analyses.about("spread") == ("The range of an observable along the orbit.", "")
    assert nnflow.maps.about("doubling")[0] == "x' = c x mod 1."
    assert nnflow.analyses.about("broken") == ("", "")
    listing = "from nnflow.__main__ import main; main(['list'])"
    imported = modules_after(listing, PYTHONPATH=str(installed))
    assert not {m for m in imported if m.startswith(("nnflow_plugins", "nnflow_studies", "nnflow_example"))}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (None, "elsewhere:Thing"),
        ("class Thing:\n    x = ", "elsewhere:Thing"),
        ("from os import path as Thing", "elsewhere:Thing"),
        ("class Thing: ...", "elsewhere:Thing"),
        ("class Thing: ...", "elsewhere.within:Thing"),
        ("class Thing: ...", "no module at all"),
        ("", "sys:path"),
    ],
)
def test_what_cannot_be_read_is_about_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, value: str
) -> None:
    if source is not None:
        (tmp_path / "elsewhere.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("nnflow.nothing")
    monkeypatch.setattr(registry, "_entries", lambda: {"thing": [EntryPoint("thing", value, registry.group)]})
    assert registry.about("thing") == ("", "")


def test_a_strangers_analysis_runs_on_his_own_map_and_on_ours(installed: Path) -> None:
    assert float(nnflow.run("spread", nnflow.maps["doubling"](), steps=500).spread) == pytest.approx(1.0, abs=0.1)
    assert float(nnflow.run("spread", nnflow.maps["henon"](), coordinate=1, scale=2.0).spread) > 1.0


def test_a_plugin_is_loaded_once(installed: Path) -> None:
    assert nnflow.analyses["spread"] is nnflow.analyses["spread"]


def test_a_broken_plugin_is_an_error_only_when_it_is_asked_for(installed: Path) -> None:
    message = r"plugin 'broken' of distribution nnflow-example cannot be imported .*a_module_that_does_not_exist"
    with pytest.raises(PluginError, match=message) as caught:
        nnflow.analyses["broken"]
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert nnflow.analyses["recurrence"]


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownPlugin) as caught:
        nnflow.maps["henno"]
    assert str(caught.value).startswith("unknown map 'henno'. Did you mean 'henon'? Known: baker, cat, circle")
    assert isinstance(caught.value, KeyError)


def test_from_a_bare_checkout_the_error_says_to_install() -> None:
    empty = Registry("nnflow.nothing", "analysis")
    assert empty.names() == []
    with pytest.raises(UnknownPlugin, match="Install the package"):
        empty["lyapunov_spectrum"]


def rival(tmp_path: Path, value: str) -> Path:
    """A second distribution that claims the name of one of ours."""
    source = tmp_path / "rival"
    source.mkdir()
    (source / "rival.py").write_text("class Mine: ...\n")
    (source / "pyproject.toml").write_text(f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "rival"
version = "1"
[project.entry-points."nnflow.analyses"]
recurrence = "{value}"
[tool.hatch.build.targets.wheel]
include = ["rival.py"]
""")
    install(source, tmp_path / "site")
    return tmp_path / "site"


def test_two_plugins_of_one_name_are_refused_with_both_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nnflow_command: Command
) -> None:
    site = rival(tmp_path, "rival:Mine")
    monkeypatch.syspath_prepend(str(site))
    with pytest.raises(PluginError, match=r"'recurrence' in nnflow.analyses is claimed by nnflow \(.*\) and rival"):
        nnflow.analyses["recurrence"]
    assert nnflow.analyses["lyapunov_spectrum"]
    done = nnflow_command("run", "recurrence", "--map", "henon", path=[site])
    assert done.returncode == 2
    assert "claimed by" in done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be used" in nnflow_command("list", path=[site]).stdout


def test_the_same_plugin_seen_twice_is_no_clash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(rival(tmp_path, "nnflow_plugins.signals.recurrence:Recurrence")))
    assert nnflow.analyses["recurrence"].__name__ == "Recurrence"


def modules_after(code: str, **environment: Any) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


HEAVY = {"numba", "torch", "xarray", "matplotlib", "scipy", "sklearn", "tyro"}


@pytest.mark.parametrize(
    "code",
    [
        "import nnflow",
        "import nnflow; nnflow.maps.names(); nnflow.analyses.names()",
        "import nnflow; nnflow.Ensemble.grid(nnflow.Map())",
        "from nnflow.__main__ import main; main(['list'])",
        "from nnflow.__main__ import main; main(['--help'])",
    ],
)
def test_importing_and_listing_import_nothing_heavy(code: str) -> None:
    assert not HEAVY & modules_after(code)


def test_a_compiled_map_needs_no_torch_and_no_drawing() -> None:
    code = "import nnflow; nnflow.run('lyapunov_spectrum', nnflow.maps['henon'](), steps=10)"
    assert not {"torch", "matplotlib", "sklearn"} & modules_after(code)
    assert "torch" not in modules_after("import nnflow; nnflow.maps['iris']()")


def test_every_public_name_can_be_had() -> None:
    for name in nnflow.__all__:
        assert getattr(nnflow, name) is not None
    assert set(nnflow.__all__) <= set(dir(nnflow))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nnflow.nothing
