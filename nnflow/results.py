"""Results as files: netCDF, with a checksum behind it, written whole and read whole.

The file is made in memory, so that no full disk can break the library that writes it, and its last line is the SHA-256
of all bytes before: what is damaged is refused before anything tries to understand it. Other programs read the file as
any netCDF file; HDF5 does not look behind its own end. Nothing that a file says is imported, called or unpickled, and
no other file is read in its name: the checksum shows what is damaged, not who wrote it.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
import warnings
from contextlib import suppress
from io import BytesIO
from mmap import mmap
from pathlib import Path
from typing import Any, NoReturn

import xarray as xr

from nnflow.names import Refusal, shown
from nnflow.room import room
from nnflow.writing import check_file, check_writable, write

SECONDS = 10  # of work that a small file takes at most …
SPEED = 10_000_000  # … and bytes a second of a large one
IDLE = 2.0  # seconds in which a child that is not waiting for something works for a twentieth of them
OTHERS = (
    ".avi", ".bz2", ".csv", ".eps", ".feather", ".gif", ".gz", ".html", ".jpeg", ".jpg", ".json", ".mat", ".md", ".mp4",
    ".npy", ".npz", ".parquet", ".pdf", ".pgf", ".pickle", ".pkl", ".png", ".ps", ".pt", ".pth", ".py", ".svg", ".tar",
    ".tif", ".tiff", ".toml", ".tsv", ".txt", ".webp", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zarr", ".zip",
)  # fmt: skip
MARK = b"\nnnflow-sha256 "


def save(dataset: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write a dataset to a netCDF file, whole or not at all.

    Args:
        dataset: What `run` returned, or any dataset of numbers and texts.
        path: The file; links are followed, the umask is respected.

    Raises:
        Refusal: (a ValueError) for a dataset that would not be the same after `load`, for a name that cannot be a
            file's, and for one that ends as another format's do.
        OSError: if the file cannot be written.
    """
    if not isinstance(dataset, xr.Dataset):
        raise Refusal(f"a {type(dataset).__name__}: give an xarray.Dataset, such as nnflow.run returns")
    check_writable(path)
    if (ending := Path(path).suffix.lower()) in OTHERS:
        name = os.fspath(path)
        raise Refusal(
            f"{name}: {ending} is another format, results are netCDF files: name it {name[: -len(ending)]}.nc"
        )
    content = _content(dataset)
    write(path, content, _seal(content))


def load(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a dataset that `save` wrote, whole, into memory.

    Args:
        path: The file.

    Returns:
        The same dataset.

    Raises:
        Refusal: (a ValueError) for a file that is damaged or was written by something else.
        FileNotFoundError: (an OSError) if there is none.
        MemoryError: if memory runs out.
    """
    if not check_file(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file")
    whole = Path(path).read_bytes()
    content, seal = whole[: -len(_seal(b""))], whole[-len(_seal(b"")) :]
    if not seal.startswith(MARK):
        raise Refusal(
            f"{os.fspath(path)} was not written by nnflow.save, or is cut off: it does not end with a checksum "
            "(what xarray.load_dataset opens and you trust, nnflow.save can write anew)"
        )
    if seal != _seal(content):
        raise Refusal(f"{os.fspath(path)} is damaged: its checksum is not that of its content")
    if not _readable(content):
        raise Refusal(f"{os.fspath(path)} cannot be read: the library that reads it crashes, or does not come back")
    try:
        return _dataset(content)
    except MemoryError:
        raise
    except Exception as error:
        raise Refusal(f"{os.fspath(path)} is no netCDF file: {' '.join(str(error).split())}") from error


def _readable(content: bytes) -> bool:
    """Let a child read the file first, with no more work than that can take.

    The checksum shows no intent: HDF5 may turn in circles for ever in a file that was made to that end, deaf to Ctrl-C.
    The locks of those who read HDF5 are held while it is forked, so that no other thread holds them for ever in it; a
    child that waits all the same (for another lock of that kind) says nothing.

    Returns:
        Whether the child ends, with a result or an error.
    """
    if not hasattr(os, "fork"):
        return True
    from h5py._objects import phil
    from xarray.backends.locks import HDF5_LOCK

    told = mmap(-1, 1)  # shared with the child: its exit status may be lost, where SIGCHLD is ignored or others wait
    with HDF5_LOCK, phil, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: none of them is needed there
        child = os.fork()
    if not child:
        _try(content, told)
    return _waits(child) or bool(told[0])


def _try(content: bytes, told: mmap) -> NoReturn:
    """Read a file, in a process of its own that ends here, and tell whether that has come to an end."""
    import resource

    try:
        seconds, most = SECONDS + len(content) // SPEED, resource.getrlimit(resource.RLIMIT_CPU)[1]
        seconds = seconds if most == resource.RLIM_INFINITY else min(seconds, most)
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        with suppress(Exception):
            _dataset(content)
        told[0] = 1
    finally:
        os._exit(0)


def _waits(child: int) -> bool:
    """Wait for a child's end.

    One that works has its end by the limit of its work, however long a busy machine takes to get there.

    Returns:
        Whether it only waits for something itself, and then it is killed.
    """
    look, worked, gone = time.monotonic() + IDLE, 0.0, False
    try:
        while not (gone := _gone(child)):
            time.sleep(0.002)
            if time.monotonic() > look:
                before, (worked, asleep), look = worked, _work(child), time.monotonic() + IDLE
                if asleep and worked - before < 0.05 * IDLE:
                    return True
        return False
    finally:
        if not gone:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            _gone(child, 0)


def _gone(child: int, options: int = os.WNOHANG) -> bool:
    """Whether a child has ended, or nothing is left of it: another has waited for it."""
    try:
        return bool(os.waitpid(child, options)[0])
    except ChildProcessError:
        return True


def _work(child: int) -> tuple[float, bool]:
    """The seconds that a processor has worked for a child, and whether it sleeps: one that has no processor does not.

    Returns:
        Both; a child that is just ending works.
    """
    import psutil

    try:
        process: Any = psutil.Process(child)  # type: ignore[no-untyped-call]
        times, asleep = process.cpu_times(), process.status() == psutil.STATUS_SLEEPING
    except psutil.Error:
        return 0.0, False
    return float(times.user + times.system), asleep


def _check_whole(content: bytes | memoryview, own: bool) -> None:
    """Refuse what holds anything but arrays of its own: HDF5 would fetch the others from wherever the file says.

    And what memory cannot hold, unless it is our `own`, which memory holds already: no work is lost for lack of room.

    Raises:
        Refusal: for links, and for what is no array, lies elsewhere or is too large.
        Exception: whatever h5py raises, for what cannot be read at all.
    """
    import h5py

    with h5py.File(BytesIO(content), "r") as file:
        dict(file.attrs)
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise Refusal(f"{shown(name)} is a link, which nnflow.save never writes: what it leads to is not read")
            if not isinstance(file[name], h5py.Dataset):
                raise Refusal(f"{shown(name)} is no array: nnflow.save writes nothing else")
            _check_array(name, file[name], own)


def _check_array(name: str, array: Any, own: bool) -> None:
    """Refuse an array that lies elsewhere, or that memory cannot hold."""
    if array.is_virtual or array.external:
        raise Refusal(f"the numbers of {shown(name)} lie in another file, which is not read")
    if not own:
        room(f"the numbers of {shown(name)}", *(array.shape or ()), -(-array.dtype.itemsize // 8))


def _seal(content: bytes | memoryview) -> bytes:
    """The last line of a file with this content."""
    return MARK + hashlib.sha256(content).hexdigest().encode() + b"\n"


def _content(dataset: xr.Dataset) -> memoryview:
    """The netCDF file of a dataset. Raises Refusal if it would not bring back the same."""
    for name, variable in dataset.variables.items():
        if variable.dtype.kind == "c":
            raise Refusal(f"{shown(name)} is {variable.dtype}: give real and imaginary part as two variables")
    try:
        content = dataset.to_netcdf(engine="h5netcdf")
        back = _dataset(content, own=True)
    except MemoryError:
        raise
    except Exception as error:
        raise Refusal(f"the dataset cannot be written as netCDF: {error}") from error
    if not back.identical(dataset):
        names = [str(n) for n in dataset.variables if n not in back or not back[n].identical(dataset[n])]
        raise Refusal(
            f"{', '.join(names) or 'the attributes'} would not be the same after reading: "
            "give numbers, texts, and attributes that are numbers or texts"
        )
    return content


def _dataset(content: bytes | memoryview, own: bool = False) -> xr.Dataset:
    """The dataset in a netCDF file. A variable with units = "days" stays the number that it is."""
    _check_whole(content, own)
    return xr.load_dataset(BytesIO(content), engine="h5netcdf", decode_times=False, decode_timedelta=False)
