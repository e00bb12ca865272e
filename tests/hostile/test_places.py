"""Full disks, folders that cannot be written, files with flipped, lost and added bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import started

import nnflow
from nnflow.__main__ import main

pytestmark = pytest.mark.slow
MUTATIONS = 300
RUN = ("-m", "nnflow", "run", "orbit_diagram", "--map", "logistic", "--scan", "r=3:4:500")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system of its own, with options such as "size=64k"; skips where mounting is not allowed."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr}")
        return folder

    if sys.platform != "linux":
        pytest.skip("mounts a tmpfs")
    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize("ending", [("-o", "out.nc"), ("--plot", "out.png")])
def test_a_full_disk_is_one_line_and_keeps_the_old_file(
    ending: tuple[str, str], mounted: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = mounted("size=64k")
    (folder / ending[1]).write_bytes(b"old")
    with started(*RUN, *ending, folder=folder) as process:
        status, errors, _ = process.ends()
    assert status == 2, errors
    assert len(errors.splitlines()) == 1
    assert "No space left" in errors
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(ending[1], b"old")]


@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_a_cache_that_cannot_be_written_is_done_without(options: str, mounted: Callable[[str], Path]) -> None:
    folder = mounted(options)
    arguments = ("-m", "nnflow", "run", "lyapunov_spectrum", "--map", "henon", "--steps", "100")
    with started(*arguments, folder=folder.parent, NNFLOW_CACHE_DIR=str(folder / "cache")) as process:
        status, errors, _ = process.ends()
    assert status == 0, errors
    assert len(errors.splitlines()) <= 1
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [("run", "series", "--map", "cat", "-o", "out.nc"), ("demo", "--out", "demo")])
def test_a_folder_that_cannot_be_written_is_found_out_first(
    arguments: tuple[str, ...], mounted: Callable[[str], Path]
) -> None:
    with started("-m", "nnflow", *arguments, folder=mounted("ro")) as process:
        status, errors, _ = process.ends()
    assert status == 2
    assert len(errors.splitlines()) == 1
    assert "Read-only file system" in errors


# -- damage ----------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, overwritten, cut out, doubled, cut off or put in."""
    start, length = rng.randrange(len(content)), rng.choice([1, 1, 2, 8, 100])
    before, part, after = content[:start], content[start : start + length], content[start + length :]
    return rng.choice(
        [
            before + bytes(b ^ 1 << rng.randrange(8) for b in part) + after,
            before + rng.randbytes(len(part)) + after,
            before + bytes(len(part)) + after,
            before + after,
            before + part + part + after,
            before,
            before + rng.randbytes(length) + part + after,
        ]
    )


def test_a_damaged_result_is_refused_or_the_same(rng: random.Random, tmp_path: Path) -> None:
    dataset = nnflow.run("orbit_diagram", nnflow.Ensemble.grid(nnflow.maps["logistic"](), r=[3.5, 3.9]), steps=20)
    path = tmp_path / "out.nc"
    nnflow.save(dataset, path)
    content = path.read_bytes()
    for i in range(MUTATIONS):
        path.write_bytes(damaged(content, rng))
        try:
            found = nnflow.load(path)
        except nnflow.Refusal:
            continue
        assert found.identical(dataset), f"mutation {i}"


@pytest.mark.parametrize("kind", [".csv", ".npy"])
def test_a_damaged_series_is_one_line_or_a_series(
    kind: str, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No checksum tells a changed digit, but whatever is read is numbers, and what is not says so."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(rng.randrange(2**32)).normal(size=(150, 2))
    path = Path(f"series{kind}")
    if kind == ".npy":
        np.save(path, values)
    else:
        path.write_text("\n".join(["a,b", *(f"{a:.6g},{b:.6g}" for a, b in values)]) + "\n")
    content = path.read_bytes()
    for i in range(MUTATIONS):
        path.write_bytes(damaged(content, rng))
        status = main(["run", "recurrence", "--map", str(path), "--observable", "a" if kind == ".csv" else "x0"])
        said = capsys.readouterr()
        assert status in (0, 2), f"mutation {i}"
        assert len(said.err.splitlines()) == (1 if status else 0) or "warning" in said.err, said.err
        assert bool(said.out) == (status == 0)


def test_random_bytes_under_every_name(rng: random.Random, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(60):
        for name in ("bytes.csv", "bytes.npy", "bytes.nc"):
            path = tmp_path / name
            path.write_bytes(rng.choice([b"", b"\x93NUMPY", b"\x89HDF\r\n\x1a\n", b"CDF\x01"]) + rng.randbytes(i * i))
            command = ["plot", str(path)] if name.endswith(".nc") else ["run", "recurrence", "--map", str(path)]
            assert main(command) in (0, 2)
            assert len(capsys.readouterr().err.splitlines()) <= 1
    assert sorted(os.listdir(tmp_path)) == ["bytes.csv", "bytes.nc", "bytes.npy"]
