"""What nnflow uses of numba's and torch's insides exists, and stands in one file."""

from __future__ import annotations

import ast
import re
from importlib.metadata import requires
from pathlib import Path

import pytest

import nnflow
from nnflow import internals

ROOT = Path(nnflow.__file__).parent
OFFERED = ("numba.core.errors", "numba.core.cgutils", "numba.core.types")  # documented for extensions
INSIDE = re.compile(r"numba\.(core|np|cpython)\.|numba\.core$|torch(\.\w+)*\._\w+")


@pytest.mark.parametrize("name", internals.USED)
def test_each_is_there(name: str) -> None:
    assert getattr(internals, name) is not None


def test_what_vanished_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(internals.USED, "Gone", ("numba.core.ir", "a test"))
    with pytest.raises(ImportError, match=r"this version of numba has no numba.core.ir.Gone \(a test\)"):
        internals.Gone  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        internals.Other  # noqa: B018


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem)
def test_no_other_file_reaches_inside(path: Path) -> None:
    if path.name == "internals.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        for name in (f"{module}.{name}" if module else name for name in names):
            inside = INSIDE.match(name) and not name.startswith(OFFERED)
            assert not inside, f"{path.name} imports {name}: let it stand in internals.py"


PUBLIC = ("_asdict", "_make", "_replace", "_exit")  # of named tuples, and of os


def private_names(path: Path) -> set[str]:
    """Attributes that are used, and arguments that are given, under a name with one underscore before it."""
    tree = ast.parse(path.read_text())
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    given = {node.arg or "" for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    return {name for name in asked | given if name.startswith("_") and not name.startswith("__")}


def own_names(path: Path) -> set[str]:
    """What a file defines or assigns, also as a field of self."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if node.value.id == "self" else set()
    return found


def test_private_names_of_others_are_told() -> None:
    """Those used are those told, and each of them is."""
    files = [path for path in ROOT.rglob("*.py") if path.name != "internals.py"]
    own = set().union(*map(own_names, files))
    used = set().union(*map(private_names, files)) - own - {*PUBLIC, *internals.USED}
    assert used == set(internals.ATTRIBUTES)


def test_the_versions_that_have_them_are_bounded() -> None:
    needed = [line for line in requires("nnflow") or () if line.startswith(("numba", "torch")) and "extra" not in line]
    assert len(needed) == 2
    assert all("<" in line and ">=" in line for line in needed)
