"""The source distribution is the whole repository, so that its own tests find every file they read.

What else could go wrong: a list of folders that forgets one; a test that reads what only a checkout has (a page, a
script of CI, the benchmarks), or that looks for files by a pattern and finds none.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


@pytest.mark.slow
def test_it_holds_every_file_of_the_repository(unpacked: Path) -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    names = [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    assert [name for name in names if not (unpacked / name).is_file()] == []


@pytest.mark.slow
def test_its_tests_are_found_and_those_that_read_files_pass(unpacked: Path) -> None:
    readers = [
        path for path in sorted((unpacked / "tests").rglob("test_*.py")) if "parents[" in path.read_text("utf-8")
    ]
    chosen = [str(path) for path in readers if path.name != Path(__file__).name]
    assert len(chosen) >= 2
    # the long tests of the page are left out: they read nothing else
    for options in (["--collect-only", "tests"], ["-k", "not snippets and not commands and not training", *chosen]):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
