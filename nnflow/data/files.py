"""Data from the user's own files: images as MNIST and CIFAR-10 come, tables as CSV or npz; nothing is downloaded.

What is truncated, misses a column or holds what is no number is refused with the file and the place.
"""

from __future__ import annotations

import csv
import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.data.split import Split, split_rows
from nnflow.names import Refusal, unknown
from nnflow.recorded import parted, uncommented

Bytes = npt.NDArray[np.uint8]
PIXELS = ("unit", "raw")
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
MISSING = ("", "NA", "NaN", "nan", "null")
NAMES = ("inputs", "targets", "test_inputs", "test_targets")
RECORD = 1 + 3 * 32 * 32  # bytes of a CIFAR-10 image: label, then red, green, blue


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if it is a gzip. Raises Refusal if it is a broken one."""
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise Refusal(f"{path} is a truncated or broken gzip file: {error}") from error


def read_idx(path: str | Path) -> npt.NDArray[Any]:
    """An array in the IDX format of the MNIST files (big-endian), plain or gzipped.

    Args:
        path: The file.

    Returns:
        The array, in the shape and of the numbers that its header says.

    Raises:
        Refusal: (a ValueError) for another format, or if the file is not as long as its header says.
    """
    path = Path(path)
    data = _content(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES:
        raise Refusal(f"{path} is no IDX file: it begins with {data[:4].hex(' ') or 'nothing'}")
    kind, start = np.dtype(IDX_TYPES[data[2]]), 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start], ">u4").tolist()) if len(data) >= start else ()
    wanted = start + (kind.itemsize * int(np.prod(shape, dtype=np.int64)) if shape else 0)
    if len(data) != wanted:
        fault = "truncated" if len(data) < wanted else "too long"
        raise Refusal(f"{path} is {fault}: it has {len(data)} bytes, and its header says {wanted}")
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def mnist(folder: str | Path, pixels: str = "unit", flat: bool = True) -> Split:
    """MNIST or Fashion-MNIST from a folder that holds its four files, gzipped or not.

    Args:
        folder: Holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…` (also with a dot before idx).
        pixels: "unit" (0 to 1) or "raw" (0 to 255).
        flat: Rows of 784, else ``(n, 1, 28, 28)``.

    Returns:
        The split that the files are.

    Raises:
        FileNotFoundError: for a missing file.
        Refusal: (a ValueError) for one that does not fit.
    """
    folder, parts = Path(folder), list[Any]()
    for kind in ("train", "t10k"):
        path = _one_of(folder, f"{kind}-images-idx3-ubyte")
        images, labels = read_idx(path), read_idx(_one_of(folder, f"{kind}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise Refusal(f"{path}: images {images.shape} and labels {labels.shape} do not belong together")
        parts += [_pixels(images[:, None], pixels, flat), _labels(labels, 10, path)]
    return Split(*parts)


fashion_mnist = mnist


def _one_of(folder: Path, name: str) -> Path:
    names = [f"{stem}{end}" for stem in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(f"{folder} holds none of {', '.join(names)}")


def cifar10(folder: str | Path, pixels: str = "unit", flat: bool = False) -> Split:
    """CIFAR-10 from the folder of its binary version.

    Args:
        folder: Holds data_batch_1.bin … data_batch_5.bin and test_batch.bin.
        pixels: "unit" (0 to 1) or "raw" (0 to 255).
        flat: Rows of 3072, else ``(n, 3, 32, 32)``.

    Returns:
        The split that the files are.

    Raises:
        FileNotFoundError: for a missing file.
        Refusal: (a ValueError) for a truncated one or labels beyond 9.
    """
    folder = Path(folder)
    train = [_records(folder / f"data_batch_{i}.bin") for i in range(1, 6)]
    parts: list[Any] = []
    joined = tuple(np.concatenate(part) for part in zip(*train, strict=True))
    for images, labels in (joined, _records(folder / "test_batch.bin")):
        parts += [_pixels(images, pixels, flat), labels]
    return Split(*parts)


def _records(path: Path) -> tuple[Bytes, npt.NDArray[np.int64]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} does not hold {path.name}: give the folder of the binary version")
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(data) or len(data) % RECORD:
        raise Refusal(f"{path} is truncated: {len(data)} bytes are no whole number of records of {RECORD}")
    rows = data.reshape(-1, RECORD)
    return rows[:, 1:].reshape(-1, 3, 32, 32), _labels(rows[:, 0], 10, path)


def _pixels(images: npt.NDArray[Any], pixels: str, flat: bool) -> npt.NDArray[np.float64]:
    if pixels not in PIXELS:
        raise Refusal(f"pixels = {pixels!r}: give 'unit' for 0 to 1 or 'raw' for 0 to 255")
    values = images.astype(np.float64)
    if pixels == "unit":
        values /= 255.0
    return values.reshape(len(values), -1) if flat else values


def _labels(labels: npt.NDArray[Any], classes: int, path: Path) -> npt.NDArray[np.int64]:
    if labels.size and labels.max() >= classes:
        row = int(labels.argmax())
        raise Refusal(f"{path}: label {labels[row]} of row {row}, but there are only {classes} classes")
    return labels.astype(np.int64)


# -- tables ------------------------------------------------------------------------------------------------------


def table(
    path: str | Path, target: str | int = -1, test: float = 0.2, seed: int = 0, classes: bool | None = None
) -> Split:
    """A CSV file with one row a sample, split as `split_rows` does; every column but the target is a feature.

    A first line without a number is the header; lines before it that begin with # are comments.

    Args:
        path: The file.
        target: Name or index of the column of labels or values.
        test: The share of test rows.
        seed: Of the split.
        classes: Whether the targets are labels, numbered 0, 1, … in the sorted order of what the column holds, or
            values ``(n, 1)`` to be regressed (default: labels, if they are words or whole numbers).

    Returns:
        The split.

    Raises:
        Refusal: (a ValueError) for a column that does not exist, two of one name, a first one that only counts the rows
            (it would be learned), a table without features, rows of different lengths or parted by something else than
            commas, and cells that are missing or features that are no finite numbers, with the line.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(i, [cell.strip() for cell in row]) for i, row in enumerate(csv.reader(file), start=1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"{path} cannot be read as a table: {error}") from error
    if not lines:
        raise Refusal(f"{path} is empty")
    lines = uncommented(lines)
    for line, row in lines:
        if said := parted(",".join(row)):
            raise Refusal(f"{path}, line {line}: {said}")
    header = None if any(_is_number(cell) for cell in lines[0][1]) else [lines[0][1][0].lstrip("# "), *lines[0][1][1:]]
    rows = lines if header is None else lines[1:]
    width = len(lines[0][1])
    for line, row in rows:
        if len(row) != width:
            raise Refusal(f"{path}, line {line}: {len(row)} columns, but {width} in the first line")
    if width == 1:
        raise Refusal(f"{path} has one column only: give at least one feature beside the target")
    column = _column(target, header, width, path)
    if column != 0:
        _check_no_index([row[0] for _, row in rows], "" if header is None else header[0], path)
    features = [[_number(cell, line, i, path) for i, cell in enumerate(row) if i != column] for line, row in rows]
    inputs = np.array(features, dtype=np.float64).reshape(len(rows), width - 1)
    missing = [line for line, row in rows if row[column] in MISSING]
    if missing:
        raise Refusal(f"{path}, line {missing[0]}: the target is missing: leave the line out")
    return split_rows(inputs, _targets([row[column] for _, row in rows], classes, path), test, seed)


def _check_no_index(cells: list[str], name: str, path: Path) -> None:
    """Refuse a first column that counts the rows from 0 or 1 on: it tells a sorted table's classes."""
    if len(cells) > 2 and any(cells == [str(i + first) for i in range(len(cells))] for first in (0, 1)):
        raise Refusal(
            f"{path}: the first column {name!r} counts the rows: it is no feature, write the table without it"
        )


def _column(target: str | int, header: list[str] | None, width: int, path: Path) -> int:
    if isinstance(target, str):
        if header is None:
            raise Refusal(f"target = {target!r}: {path} has no header, so give the index of the column")
        if target not in header:
            raise Refusal(unknown(f"column of {path}", target, header))
        if header.count(target) > 1:
            raise Refusal(f"{path} has two columns {target!r}: give the index of one")
        return header.index(target)
    if not -width <= target < width:
        raise Refusal(f"target = {target}: {path} has {width} columns")
    return target % width


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python's own way to write 1_000


def _number(cell: str, line: int, column: int, path: Path) -> float:
    if not _is_number(cell) or not np.isfinite(float(cell)):
        what = repr(cell) if cell else "nothing"
        raise Refusal(f"{path}, line {line}, column {column}: {what} where a finite number is needed")
    return float(cell)


def _targets(cells: list[str], classes: bool | None, path: Path) -> npt.NDArray[Any]:
    """Classes by their place in sorted order, or values."""
    numbers = all(_is_number(cell) for cell in cells)
    values = np.array([float(cell) for cell in cells]) if numbers else np.array(cells)
    if classes is False and not numbers:
        raise Refusal(f"{path}: the target column holds words, so its values cannot be regressed")
    if numbers and not np.isfinite(values).all():
        raise Refusal(f"{path}: the target column holds values that are not finite: clean it")
    if classes or (classes is None and not (numbers and (values % 1 != 0).any())):
        return np.unique(values, return_inverse=True)[1].astype(np.int64)
    return values[:, None]


def _archive(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an npz file. Raises Refusal if it is damaged, or no npz file."""
    try:
        with zipfile.ZipFile(path) as whole:
            broken = whole.testzip()
        if broken is not None:
            raise Refusal(f"{broken} is damaged")
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged archive ends in many kinds of them
        raise Refusal(f"{path} is no whole npz file of numbers: {error}") from error


def arrays(path: str | Path, test: float = 0.2, seed: int = 0) -> Split:
    """An npz file with `inputs` and `targets` (or `x` and `y`), and perhaps `test_inputs` and `test_targets`.

    Args:
        path: The file.
        test: The share of test rows, where there are no test arrays: then rows are split as `split_rows` does.
        seed: Of the split.

    Returns:
        The split.

    Raises:
        Refusal: (a ValueError) for arrays that are missing, not of the same length, or not finite.
    """
    path = Path(path)
    held = _archive(path)
    found = {{"x": "inputs", "y": "targets"}.get(name, name): values for name, values in held.items()}
    if not {"inputs", "targets"} <= set(found) <= set(NAMES) or len(found) < len(held) or len(found) == 3:
        raise Refusal(
            f"{path} holds {', '.join(held) or 'nothing'}: name the arrays inputs and targets (or x and y), and "
            "test_inputs and test_targets if there are both"
        )
    for name, values in found.items():
        if values.dtype.kind not in "fiub" or not np.isfinite(values).all():
            raise Refusal(f"{path}: {name} of {values.dtype} holds what is no finite number")
    if "test_inputs" not in found:
        return split_rows(found["inputs"], found["targets"], test, seed)
    parts = [split_rows(found[f"{kind}inputs"], found[f"{kind}targets"], 0.0, seed) for kind in ("", "test_")]
    return Split(parts[0].inputs, parts[0].targets, parts[1].inputs, parts[1].targets)
