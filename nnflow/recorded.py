"""A recorded series in a file, .csv or .npy, as pandas and numpy read it; nothing in it is unpickled.

Rows are times, columns are channels. What could be taken in two ways is refused, and what is chosen is said: whether
the first row is a header, which leading columns only count the rows or tell the time, which column is analysed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from nnflow.ensemble import Recording
from nnflow.indices import is_index, is_named, unevenness
from nnflow.map import Array
from nnflow.names import Refusal, unknown
from nnflow.values import real

SERIES = (".csv", ".npy")
Table: TypeAlias = dict[str, Array | str]  # a column of numbers, or the first of its cells that is none
WHOLE = re.compile(r"[+-]?[0-9]+")


class Series(NamedTuple):
    """What is analysed of a file, which columns were taken for the time or a count of the rows, and what is left.

    `uneven` says of each index where it is not equally spaced, and so whether the samples are.
    """

    recording: Recording
    times: tuple[str, ...]
    others: tuple[str, ...]
    uneven: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [f"{_listed(self.recording.names)} is analysed, {self.recording.samples} samples"]
        words += [f"taken as the index: {_listed(self.times)}"] if self.times else []
        words += [f"left out: {_listed(self.others)}"] if self.others else []
        return "; ".join([*words, *self.uneven])


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:12], *(["..."] if len(names) > 12 else [])])


def read_series(path: Path, wanted: Sequence[str] = (), alone: bool = False) -> Series:
    """The series of a file. `wanted`: columns asked for by name; `alone`: else the first only, not all of them.

    Raises Refusal for a file that is no table of numbers, can be read in two ways, or holds but an index; OSError if
    there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        table = _array(path) if path.suffix.lower() == ".npy" else _table(path)
        times = _times(table, wanted)
        names = [name for name in table if name not in times]
        for name in wanted:
            if name not in names:
                raise ValueError(unknown("column", name, names))
        chosen = list(wanted) or (names[:1] if alone else names)
        recording = Recording(np.stack([_checked(name, table[name]) for name in chosen], axis=-1), chosen)
    except (ValueError, EOFError, csv.Error) as error:
        raise Refusal(f"{path} cannot be read as a table of numbers: {error}") from error
    uneven = filter(None, (unevenness(name, table[name]) for name in times))
    return Series(recording, tuple(times), tuple(name for name in names if name not in chosen), tuple(uneven))


def _array(path: Path) -> Table:
    """The channels of an array ``(time,)``, ``(time, channel)`` or ``(series, time, channel)``."""
    with path.open("rb") as file:
        try:
            values = np.lib.format.read_array(file, allow_pickle=False)
        except MemoryError:
            raise
        except Exception as error:  # a damaged header ends in many kinds of them
            raise ValueError(f"it is no whole .npy array: {error}") from error
        if file.read(1):
            raise ValueError("it goes on after its array")
    if not 1 <= values.ndim <= 3 or not values.size:
        raise ValueError(f"its shape is {values.shape}: give (time,) or (time, channel)")
    numbers = real(values, "its values")
    channels = [numbers] if numbers.ndim == 1 else list(np.moveaxis(numbers, -1, 0))
    return dict(zip(_counted(len(channels)), channels, strict=True))


def _counted(count: int) -> list[str]:
    return ["x"] if count == 1 else [f"x{i}" for i in range(count)]


def _table(path: Path) -> Table:
    """The columns of a CSV file by name, without those that only commas at the ends of the rows make."""
    rows = _rows(path)
    header = _header(rows)
    columns = _columns(rows[1:] if header else rows)
    names = header or _counted(len(columns))
    table = dict(zip(names, columns, strict=True))
    nameless = [name for name, cell in zip(names, rows[0], strict=True) if not header or not cell]
    empty = [name for name in nameless if not isinstance(table[name], str) and np.isnan(table[name]).all()]
    return {name: column for name, column in table.items() if name not in empty} or table


def _checked(name: str, column: Array | str) -> Array:
    if isinstance(column, str):
        wrong = "loses digits as float64: scale or shift the column" if WHOLE.fullmatch(column) else "is no number"
        raise ValueError(f"{column!r} in column {name} {wrong}")
    return column


def _rows(path: Path) -> list[list[str]]:
    """The cells. Raises ValueError for an empty file, rows of unequal length, and a blank line that may be a sample."""
    text = path.read_text(encoding="utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NUL characters, and so is no text")
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    while lines and not any(lines[-1][1]):
        lines.pop()
    while len(lines) > 1 and lines[0][1][:1] and lines[0][1][0].startswith("#") and _comment(lines[0][1], lines[1][1]):
        lines.pop(0)
    rows = [(number, row) for number, row in lines if row]
    if not rows:
        raise ValueError("it is empty")
    width = len(rows[0][1])
    for number, row in rows:
        if len(row) != width:
            raise ValueError(f"line {number} has {len(row)} cells, the first row {width}: commas part the cells")
    blank = [number for number, row in lines if not row and number > rows[0][0]]
    if blank and width == 1:
        raise ValueError(f"line {blank[0]} is blank: write nan for a missing sample, or leave the line out")
    return [row for _, row in rows]


def _comment(row: list[str], following: list[str]) -> bool:
    """Whether a line that begins with # is no header: another one, or a row of another length, comes after it."""
    return len(row) != len(following) or following[0].startswith("#")


def _columns(rows: list[list[str]]) -> list[Array | str]:
    """The columns as numbers, to the last bit, what pandas takes for missing as NaN; or a cell that is none."""
    import pandas as pd

    if not rows:
        raise ValueError("it has a header and no samples")
    text = StringIO()
    csv.writer(text).writerows(rows)
    text.seek(0)
    table = pd.read_csv(text, header=None, dtype=str, skip_blank_lines=False)
    return [_numbers(table[i]) for i in table]


def _numbers(cells: Any) -> Array | str:
    values = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            try:
                values[i] = float(cell if "_" not in cell else "")
            except ValueError:
                return cell
            if WHOLE.fullmatch(cell) and (np.isinf(values[i]) or int(cell) != int(values[i])):
                return cell
    return values


def _header(rows: list[list[str]]) -> list[str]:
    """The names in the first row, or none if it is a row of numbers. Raises ValueError if it may be either."""
    first = _columns(rows[:1])
    texts = [column for column in first if isinstance(column, str) and not WHOLE.fullmatch(column)]
    numbers = [column for column, cell in zip(first, rows[0], strict=True) if cell and not isinstance(column, str)]
    if texts and numbers:
        raise ValueError(f"the first row has numbers and {texts[0]!r}: give a row of names, or numbers in every row")
    if not texts and not _pandas_columns(rows):
        return []
    names = [cell.lstrip("# ") if i == 0 else cell for i, cell in enumerate(rows[0])]
    names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two columns are named {twice[0]!r}")
    return names


def _pandas_columns(rows: list[list[str]]) -> bool:
    """Whether pandas has written its own counts as header and index: ",0,1" above rows that begin with 0, 1, ..."""
    counts = [str(i) for i in range(max(len(rows), len(rows[0])))]
    return (
        len(rows[0]) > 1
        and rows[0] == ["", *counts[: len(rows[0]) - 1]]
        and [row[0] for row in rows[1:]] == counts[: len(rows) - 1]
    )


def _times(table: Table, wanted: Sequence[str]) -> list[str]:
    """The leading columns that are no measured series: they tell the time, count the rows, or are text beside numbers.

    None of them is `wanted`. Raises ValueError if nothing is wanted and a column may be one, or nothing else is there.
    """
    found: list[str] = []
    last = list(table)[-1]
    for name, column in table.items():
        if name in wanted or (name == last and (isinstance(column, str) or not is_named(name))):
            return found
        if not isinstance(column, str):
            index = is_index(name, column, first=not found)
            if index is None and not wanted:
                raise ValueError(
                    f"column {name} may be an index or measured: say which column is to be analysed (--observable), "
                    "or leave the index out of the file"
                )
            if not index:
                return found
        found.append(name)
    if not wanted:
        raise ValueError(f"it holds nothing but an index, {_listed(found)}: give --observable {last} if measured")
    return found
