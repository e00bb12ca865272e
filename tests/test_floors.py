"""The import floors: imports go down only, and a plugin names no backend. Held by reading the source."""

from __future__ import annotations

import ast
from pathlib import Path

import nnflow_plugins
import nnflow_studies
import pytest

import nnflow

ROOT = Path(nnflow.__file__).parent
PLUGINS = Path(nnflow_plugins.__file__).parent
STUDIES = Path(nnflow_studies.__file__).parent

FLOORS = {
    "names": 0, "process": 0, "workers": 0, "room": 0, "settings": 0, "map": 0, "registry": 0, "ensemble": 1,
    "curvature": 1, "iterated": 1, "analysis": 1, "compiled": 1, "straight": 0, "unassigned": 0,
    "arithmetic": 0, "blas": 0, "frozen": 0, "guard": 0, "machine": 0, "differences": 1, "tensor": 1,
    "rehearsal": 2, "runner": 2, "exchange": 2, "systems": 2, "plotting": 3, "testing": 3, "summary": 3, "__main__": 4,
    "writing": 0, "values": 0, "indices": 0, "recorded": 2, "results": 2,
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it except under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part(module: str) -> str | None:
    """ "nnflow.systems.data" → "systems"."""
    names = module.split(".")
    return names[1] if names[0] == "nnflow" and len(names) > 1 and names[1] in FLOORS else None


CORE = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_imports_go_down_only(path: Path) -> None:
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    for module in imports(path):
        below = part(module)
        if below is not None and below != own:
            assert FLOORS[below] <= FLOORS[own], f"{own} imports {module}"
            assert {own, below} != {"compiled", "tensor"}, f"{own} imports {module}"
        assert not module.startswith(("nnflow_plugins", "nnflow_studies")), f"{own} imports {module}"


@pytest.mark.parametrize("name", ["map", "ensemble", "registry", "analysis"])
def test_the_ground_floors_know_no_backend(name: str) -> None:
    assert not {m.split(".")[0] for m in imports(ROOT / f"{name}.py")} & {"numba", "torch", "xarray", "matplotlib"}


@pytest.mark.parametrize("path", sorted(PLUGINS.rglob("*.py")), ids=lambda path: path.stem)
def test_a_plugin_names_no_backend(path: Path) -> None:
    found = imports(path)
    assert not {m.split(".")[0] for m in found} & {"torch", "xarray"}
    assert not {part(m) for m in found} & {"compiled", "tensor", "runner", "loops", "plotting", "__main__"}


@pytest.mark.parametrize("path", sorted(STUDIES.rglob("*.py")), ids=lambda path: path.stem)
def test_a_study_uses_public_names_only(path: Path) -> None:
    assert not [module for module in imports(path) if module.startswith("nnflow.") and part(module)]


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_use_no_private_name(path: Path) -> None:
    assert not [m for m in imports(path) if m.startswith("nnflow") and any(p.startswith("_") for p in m.split("."))]


def test_every_module_has_a_floor() -> None:
    assert {path.relative_to(ROOT).with_suffix("").parts[0] for path in CORE} == set(FLOORS)


def test_no_module_bears_the_name_of_a_public_object() -> None:
    assert not {path.stem for path in ROOT.iterdir()} & set(nnflow.__all__)
