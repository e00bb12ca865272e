"""Files written whole or not at all, and everything about a name found out before the work.

What else could go wrong when a file is written: the name is no text, holds a NUL, is too long, ends in a folder, a
device, a pipe, a loop of links; the folder is missing, read-only, full; the old file is read-only, has a mode of its
own, is a link, is being read; two threads or processes write at once; the process is killed half way, and another one
finds what it has left.
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nnflow.names import Refusal
from nnflow.writing import BLOCK, check_writable, write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_is_written_and_written_over(tmp_path: Path) -> None:
    write(tmp_path / "a", b"one", memoryview(bytes(BLOCK + 1)), b"")
    assert (tmp_path / "a").read_bytes() == b"one" + bytes(BLOCK + 1)
    write(str(tmp_path / "a"), b"three")
    assert (tmp_path / "a").read_bytes() == b"three"
    assert names(tmp_path) == ["a"]


def test_the_umask_is_respected_and_a_mode_of_its_own_is_kept(tmp_path: Path, umask: None) -> None:
    write(tmp_path / "new", b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    (tmp_path / "new").chmod(0o640)
    write(tmp_path / "new", b"y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/file")  # nothing there yet
    for content in (b"one", b"two"):
        write(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "there" / "file").read_bytes() == content
    (tmp_path / "lost").symlink_to("missing/file")
    with pytest.raises(OSError, match="no folder"):
        write(tmp_path / "lost", b"x")
    assert names(tmp_path / "there") == ["file"]


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full", "/dev/stdin"])
def test_devices_stay_devices(name: str) -> None:
    before = os.stat(name)
    if stat.S_ISREG(before.st_mode):
        pytest.skip("it leads to a file here")
    with pytest.raises(Refusal, match="device"):
        write(name, b"x")
    assert os.stat(name).st_mode == before.st_mode


def test_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refusal, match="a device, a pipe or a socket"):
        write(tmp_path / "pipe", b"x")
    with pytest.raises(Refusal, match="is a folder"):
        write(tmp_path, b"x")
    for name in ("", "new/", "/"):
        with pytest.raises(Refusal, match="is a folder"):
            write(name, b"x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a" * 256, "too long"),
        ("ä" * 128, "too long"),
        ("a/" * 3000 + "a", "too long"),
        ("a\0b", "null"),
        ("\udcff\ud800", "surrogates"),
        (None, "give the name of a file"),
        (3, "give the name of a file"),
        (b"bytes", "give the name of a file"),
        ("file/under", "Not a directory"),
        ("loop", "symbolic links"),
    ],
    ids=["long", "long in bytes", "long path", "NUL", "surrogate", "None", "int", "bytes", "under a file", "loop"],
)
def test_what_is_no_name_is_found_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Refusal, match=message):
        check_writable(name)
    assert names(tmp_path) == ["file", "loop"]


def test_the_longest_name_that_the_system_takes_is_written(tmp_path: Path) -> None:
    for length in (243, 244, 245, 254, 255):
        write(tmp_path / ("a" * length), b"x")
        assert (tmp_path / ("a" * length)).read_bytes() == b"x"


def test_endings_are_checked_in_any_case(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "a.NC", [".nc"]) == tmp_path / "a.NC"
    with pytest.raises(Refusal, match=r"the name must end in \.nc"):
        check_writable(tmp_path / "a.txt", [".nc"])


@pytest.mark.skipif(not os.geteuid(), reason="root may write everything")
def test_what_is_read_only_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(PermissionError, match="read-only"):
        write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    write(tiny_disk / "a", b"old")
    with pytest.raises(OSError, match="No space left") as caught:
        write(tiny_disk / "a", bytes(10**6))
    assert "Errno" in str(caught.value)
    assert str(tiny_disk / "a") in str(caught.value)
    assert (tiny_disk / "a").read_bytes() == b"old"
    assert names(tiny_disk) == ["a"]


def test_a_file_that_grows_too_large_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="cannot write"):
            write(tmp_path / "a", bytes(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert names(tmp_path) == []


def test_many_at_once_into_one_file(tmp_path: Path) -> None:
    contents = [bytes([i]) * 10_000 for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write(tmp_path / "a", content), contents))
    assert (tmp_path / "a").read_bytes() in contents
    assert names(tmp_path) == ["a"]


HALF_WAY = """
import os, signal, sys
from nnflow import writing
def end(*ignored):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, end)
os.replace = lambda *ignored: os.kill(os.getpid(), int(sys.argv[2]))
writing.write(sys.argv[1], b"half")
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for number, left in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)):
        command = [sys.executable, "-c", HALF_WAY, str(tmp_path / "a"), str(int(number))]
        assert subprocess.run(command, capture_output=True).returncode < 0
        assert len(names(tmp_path)) == left
    assert names(tmp_path)[0].startswith(".nnflow-")
    write(tmp_path / "b", b"x")
    assert names(tmp_path) == ["b"]


def test_what_a_living_process_or_another_machine_is_writing_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "a", b"x")
    from nnflow import writing

    others = [f"{writing._stem()}{os.getppid()}-0", ".nnflow-00000000-999999999-0", f"{writing._stem()}x-0", ".hidden"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    others.append(f"{writing._stem()}999999999-0")  # no process has this number, but it is a folder
    (tmp_path / others[-1]).mkdir()
    write(tmp_path / "a", b"y")
    assert names(tmp_path) == sorted([*others, "a"])
