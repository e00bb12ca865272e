"""Files are written whole or not at all: under another name in the same folder first, then renamed.

Everything that nnflow writes (results, pictures, pages) goes through `write`. A link is followed, a device or a folder
is refused, the umask and the mode of a file that is replaced are kept. An exception, Ctrl-C among them, leaves nothing;
the other name carries the machine and the process, so that what a killed process has left is known, and removed by the
next one that writes into the folder.
"""

from __future__ import annotations

import os
import platform
import stat
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from psutil import pid_exists

from nnflow.names import Refusal

BLOCK = 2**24  # bytes written in one call, so that a signal is heard in between


def write(path: str | os.PathLike[str], *parts: bytes | memoryview) -> None:
    """Write the parts of a file one after the other, whole or not at all: an old file stays until the new is complete.

    Args:
        path: The file; a link is followed.
        *parts: Its content.

    Raises:
        Refusal: (a ValueError) for what cannot be a file's name.
        OSError: with the name, if the file cannot be written.
    """
    place = check_writable(path)
    _remove_stale(place.parent)
    scratch = place.with_name(f"{_stem()}{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with open(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666), "wb") as file:
            if place.exists():
                os.chmod(scratch, stat.S_IMODE(place.stat().st_mode))
            for part in parts:
                file.writelines(part[i : i + BLOCK] for i in range(0, len(part), BLOCK))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, place)
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", os.fspath(path)) from error
    finally:
        scratch.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> Path:
    """Find out before the work, not after it, that a file cannot be written.

    Args:
        path: The file.
        suffixes: The endings that its name may have, in small letters (default: any).

    Returns:
        Where it will be, links followed.

    Raises:
        Refusal: (a ValueError) for a name that is none or too long, a folder, a device or another ending.
        OSError: if the folder cannot be written.
        FileNotFoundError: (an OSError) if the folder is not there.
        PermissionError: (an OSError) if the file is read-only.
    """
    check_file(path)
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise Refusal(f"{os.fspath(path)}: the name must end in {', '.join(suffixes)}")
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        folder = place.parent if os.path.islink(path) else os.path.dirname(path)
        raise FileNotFoundError(f"cannot write {os.fspath(path)}: there is no folder {folder}")
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(f"cannot write {os.fspath(path)}: the file is read-only")
    try:
        tempfile.TemporaryFile(dir=place.parent).close()
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", os.fspath(path)) from error
    return place


def check_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file of this name; raises Refusal if it cannot be one's, or is a folder's or a device's."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise Refusal(f"{path!r}: give the name of a file, a text or a Path")
    if not os.path.basename(path):
        raise Refusal(f"{os.fspath(path)[:80]!r} is a folder: give the name of a file")
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:  # too long, a loop of links, a NUL, letters that the system cannot write
        raise Refusal(f"{str(path)[:80]!r} is no file's name: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(kind):
        raise Refusal(f"{os.fspath(path)} is a folder: give the name of a file")
    if not stat.S_ISREG(kind):
        raise Refusal(f"{os.fspath(path)} is a device, a pipe or a socket: give the name of a file")
    return True


def _stem() -> str:
    """How the names of unfinished files begin on this machine: other machines may share the folder."""
    return f".nnflow-{zlib.crc32(platform.node().encode()):08x}-"


def _remove_stale(folder: Path) -> None:
    """Remove the unfinished files of processes of this machine that are no more."""
    for scratch in folder.glob(f"{_stem()}*"):
        process = scratch.name.removeprefix(_stem()).partition("-")[0]
        if process.isascii() and process.isdigit() and not pid_exists(int(process)):  # type: ignore[no-untyped-call]
            with suppress(OSError):  # another user's, in a folder that all may write
                scratch.unlink()
