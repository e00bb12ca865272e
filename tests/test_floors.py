"""Floors and folders: imports go down only, a plugin names no backend, and an analysis stands in its question's folder.

Held by reading the sources; imports inside functions count as well.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nnflow_plugins
import nnflow_studies
import pytest

import nnflow

ROOT = Path(nnflow.__file__).parent
PLUGINS = Path(nnflow_plugins.__file__).parent
STUDIES = Path(nnflow_studies.__file__).parent
REPOSITORY = Path(__file__).parents[1]

FLOORS = {
    "nnflow": {
        "names": 0, "typing": 0, "process": 0, "workers": 0, "internals": 0, "arithmetic": 0, "progress": 0,
        "reads": 0,
        "locks": 1, "blas": 2, "records": 1, "vectors": 1,
        "indices": 1, "differences": 1, "values": 1, "room": 1, "writing": 1, "registry": 1, "unassigned": 1,
        "readonly": 1, "labels": 2,
        "settings": 2, "frozen": 2, "methods": 2,
        "straight": 3, "machine": 3,
        "map": 3, "schedules": 3,
        "axes": 3, "ended": 3, "ensemble": 4, "curvature": 4, "guard": 4,
        "recording": 5, "iterated": 5, "compiled": 5, "tensor": 5,
        "analysis": 6, "recorded": 6, "exchange": 6,
        "rehearsal": 7, "authors": 7, "data": 7, "results": 7,
        "runner": 8, "systems": 8,
        "plotting": 9, "summary": 9, "testing": 9,
        "__init__": 10,
        "cli": 11,
        "__main__": 12,
    },
    "nnflow.cli": {"__init__": 0, "errors": 0, "options": 1, "inputs": 2, "outputs": 2, "installed": 2, "commands": 3},
    "nnflow.compiled": {
        "memory": 0, "ways": 0, "frames": 1, "loops": 2, "lanes": 3, "observing": 3, "kernels": 4, "trial": 4, "map": 5,
        "__init__": 6,
    },
    "nnflow.data": {"split": 0, "order": 0, "tables": 1, "problems": 1, "files": 1, "__init__": 2},
    "nnflow.tensor": {
        "modes": 0, "outside": 0, "graph": 0, "escapes": 0, "frames": 0, "trace": 1, "inductor": 2, "members": 3,
        "map": 4, "__init__": 5,
    },
    "nnflow.systems": {
        "__init__": 0, "failures": 0, "moments": 0, "classic": 0, "softmax": 0, "tapes": 0, "written": 0,
        "optimisers": 1, "perceptron": 1,
        "derivatives": 2, "gradient": 3, "wells": 3, "training": 3,
    },
    "nnflow.systems.tapes": {"__init__": 0, "loops": 1, "writer": 2, "elementwise": 3, "reductions": 4, "graph": 5},
    "nnflow.systems.optimisers": {
        "__init__": 0, "groups": 0, "table": 1, "stability": 2, "torch_rule": 2, "memory": 3, "compiled": 2,
        "tensor": 2,
    },
    "nnflow.systems.perceptron": {
        "__init__": 0, "rows": 1, "passes": 2, "batches": 3, "costs": 4, "gradients": 5, "observables": 5, "network": 6,
    },
    "nnflow.systems.training": {
        "__init__": 0, "inputs": 1, "answers": 1, "loaded": 1, "averages": 1, "dropout": 2, "losses": 3,
        "modules": 1, "state": 2, "graph": 3, "reset": 3, "task": 4, "first_step": 4, "checks": 5, "witness": 5,
        "recognise": 6, "compiled": 3, "named": 4, "tensor": 6, "peer": 6, "choose": 7,
    },
}  # fmt: skip
"""By folder: a file may import those on lower floors of it only, so that there is no circle."""


def imports(path: Path) -> set[str]:
    """What a file imports, anywhere in it except under `if TYPE_CHECKING`: modules, or module.name."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module: str, folder: str = "nnflow") -> str | None:
    """What of a folder a module belongs to: "nnflow.data" → "systems"; a public name → "__init__"."""
    if module == folder:
        return "__init__"
    if not module.startswith(f"{folder}."):
        return None
    name = module.removeprefix(f"{folder}.").partition(".")[0]
    return name if name in FLOORS[folder] else "__init__"


def name_of(path: Path) -> str:
    """ "compiled/map" of a file in `nnflow`, "growth/separation" of one in `nnflow_plugins`."""
    home = next(home for home in (ROOT, PLUGINS, STUDIES) if home in path.parents)
    return path.relative_to(home).with_suffix("").as_posix()


def sources(home: Path) -> Any:
    """One case a file of a folder."""
    return pytest.mark.parametrize("path", sorted(home.rglob("*.py")), ids=name_of)


# ------------------------------------------------------------------------------------------------------------- floors


def test_the_floors_in_the_docs_are_these() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (REPOSITORY / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert {name: int(floor) for floor, names in rows for name in re.findall(r"`(\w+)`", names)} == FLOORS["nnflow"]


def climbs(path: Path) -> Iterator[tuple[str, str]]:
    """(file, what it imports) for all imports of a file of `nnflow` that do not go down."""
    inside = path.relative_to(ROOT.parent).with_suffix("").parts
    for depth in range(1, len(inside)):
        folder, own = ".".join(inside[:depth]), inside[depth]
        for below in {part(module, folder) for module in imports(path)} - {None, own}:
            if FLOORS[folder][str(below)] >= FLOORS[folder][own]:
                yield "/".join(inside[1:]), "/".join((*inside[1:depth], str(below)))


@sources(ROOT)
def test_imports_go_down_only(path: Path) -> None:
    assert not set(climbs(path))


@sources(ROOT)
def test_nnflow_imports_no_plugin(path: Path) -> None:
    assert not [m for m in imports(path) if m.startswith(("nnflow_plugins", "nnflow_studies"))]


def test_every_module_has_a_floor() -> None:
    files = [path.relative_to(ROOT.parent).with_suffix("").parts for path in ROOT.rglob("*.py")]
    for folder, floors in FLOORS.items():
        above = tuple(folder.split("."))
        assert {parts[len(above)] for parts in files if parts[: len(above)] == above} == set(floors)
    assert {".".join(parts[:-1]) for parts in files} == set(FLOORS)


@pytest.mark.parametrize("name", ["map", "ensemble", "registry", "analysis"])
def test_the_ground_floors_know_no_backend(name: str) -> None:
    assert not {m.split(".")[0] for m in imports(ROOT / f"{name}.py")} & {"numba", "torch", "xarray", "matplotlib"}


@sources(PLUGINS)
def test_a_plugin_names_no_backend(path: Path) -> None:
    found = imports(path)
    assert not {m.split(".")[0] for m in found} & {"torch", "xarray"}
    assert {part(m) for m in found} <= {None, "authors"}, "let nnflow.authors offer it"


@sources(STUDIES)
def test_a_study_uses_public_names_only(path: Path) -> None:
    assert not {part(module) for module in imports(path)} - {None, "__init__"}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_use_no_private_name(path: Path) -> None:
    assert not [m for m in imports(path) if m.startswith("nnflow") and any(p.startswith("_") for p in m.split("."))]


def test_benchmarks_can_be_collected() -> None:
    """What one imports is there: nothing else runs them but a person who wants their tables."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    options = ["-o", "addopts=--import-mode=importlib", str(REPOSITORY / "benchmarks")]
    ran = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_no_module_bears_the_name_of_a_public_object() -> None:
    assert not {path.stem for path in ROOT.iterdir()} & set(nnflow.__all__)


# ------------------------------------------------------------------------------------------------------------ folders

OURS = {name: value for name, value in nnflow.analyses.targets() if value.startswith("nnflow_plugins.")}
QUESTIONS = {path.parent.name for path in PLUGINS.glob("*/__init__.py")} - {"tools"}


def analyses_in(path: Path) -> list[str]:
    """The public classes of a file that derive from Analysis, or from one of our analyses."""
    kinds = {"Analysis", *(value.partition(":")[2] for value in OURS.values())}
    return [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        if not node.name.startswith("_") and {ast.unparse(base).rpartition(".")[2] for base in node.bases} & kinds
    ]


@sources(PLUGINS)
def test_a_file_of_a_question_holds_one_analysis_under_its_name(path: Path) -> None:
    folder, found = path.parent.name, analyses_in(path)
    if folder in QUESTIONS and path.name != "__init__.py":
        assert [f"nnflow_plugins.{folder}.{path.stem}:{name}" for name in found] == [OURS.get(path.stem)]
    else:
        assert not found


@sources(PLUGINS)
def test_a_question_imports_tools_and_no_other_question(path: Path) -> None:
    """What stands beside the folders is a public address: it hands on names of one file, and nothing imports it."""
    folder = path.parent.name
    found = {m.split(".")[1] for m in imports(path) if m.startswith("nnflow_plugins.")}
    assert found <= ({"tools", folder} if path.parent != PLUGINS else {"signals"})


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("[!_]*.py")), ids=name_of)
def test_a_public_address_only_hands_on(path: Path) -> None:
    _, source, names = ast.parse(path.read_text()).body
    assert isinstance(source, ast.ImportFrom)
    assert isinstance(names, ast.Assign)
    assert source.module == f"nnflow_plugins.signals.{path.stem}"
    assert ast.literal_eval(names.value) == [alias.name for alias in source.names]


@pytest.mark.parametrize("name", OURS)
def test_every_analysis_has_a_file_of_tests_in_the_same_folder(name: str) -> None:
    folder = OURS[name].split(".")[1]
    assert folder in QUESTIONS
    assert (REPOSITORY / "tests" / folder / f"test_{name}.py").exists()
