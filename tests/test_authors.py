"""What authors of analyses are offered is there, and is loaded when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from nnflow import authors


@pytest.mark.parametrize(("module", "names"), authors.OFFERED.items())
def test_each_name_is_that_of_its_module(module: str, names: tuple[str, ...]) -> None:
    for name in names:
        assert getattr(authors, name) is getattr(import_module(module), name)
        assert name in dir(authors)


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        authors.Other  # noqa: B018


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, nnflow.authors; print(*sorted({'numpy', 'numba', 'scipy', 'torch'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
