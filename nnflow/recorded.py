"""A recorded series in a file, .csv, .tsv or .npy, as pandas and numpy read it; nothing in it is unpickled.

Rows are times, columns are channels. What could be taken in two ways is refused, and what is chosen is said: whether
the first row is a header, which leading columns only count the rows or tell the time, which column is analyzed, and
whether the rows were turned round, for the newest was first.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from nnflow.indices import direction, is_index, is_named, unevenness
from nnflow.names import Refusal, unknown
from nnflow.recording import Recording
from nnflow.typing import Array
from nnflow.values import real

SERIES = (".csv", ".tsv", ".npy")
WHOLE = re.compile(r"[+-]?[0-9]+")
SOME = re.compile(r"[^eE]*[1-9]")  # what is written so is neither nothing nor infinite
Row: TypeAlias = tuple[int, list[str]]  # the number of the line, and its cells
OPTION = "\0"  # stands for the option that chooses the column; no text that is read as a table holds it
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "spaces"}


class Column(NamedTuple):
    """The numbers of a column, missing ones NaN.

    Attributes:
        numbers: ``(…, time)`` float64.
        wrong: Says of one of its cells that it is none; "" of none.
        stamps: The column as an index, if it can be one.
        cells: Of dates and of large whole numbers, the cells as written.
        dated: Whether they are dates.
    """

    numbers: Array
    wrong: str = ""
    stamps: Array | None = None
    cells: Sequence[str] = ()
    dated: bool = False

    def turned(self) -> Column:
        """The column with the last row first."""
        stamps = None if self.stamps is None else self.stamps[..., ::-1]
        return self._replace(numbers=self.numbers[..., ::-1], stamps=stamps, cells=self.cells[::-1])


class Table(NamedTuple):
    """The columns by name, and whether a header has named them; None where there can be none."""

    columns: dict[str, Column]
    headed: bool | None = None


class Series(NamedTuple):
    """What is analyzed of a file, which columns were taken for the time or a count of the rows, and what is left.

    Attributes:
        recording: What is analyzed.
        times: Columns that tell the time or count the rows.
        others: Columns that are left.
        headed: Whether the file has a row of names.
        remarks: They say of each index where it is not equally spaced, and so whether the samples are, and what else
            may put them in another order than that of time.
    """

    recording: Recording
    times: tuple[str, ...]
    others: tuple[str, ...]
    headed: bool | None = None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [f"{_listed(self.recording.names)} is analysed, {self.recording.samples} samples"]
        words += ["no header: the first row is a sample"] if self.headed is False else []
        words += [f"taken as the index: {_listed(self.times)}"] if self.times else []
        words += [f"left out: {_listed(self.others)}"] if self.others else []
        return "; ".join([*words, *self.remarks])


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:12], *(["..."] if len(names) > 12 else [])])


def read_series(path: Path, wanted: Sequence[str] = (), alone: bool = False, option: str = "--observable") -> Series:
    """The series of a file.

    Args:
        path: A .csv, .tsv or .npy file.
        wanted: Columns asked for by name.
        alone: Without names, take the first column that is no index, not all of them.
        option: By which columns are asked for, for messages.

    Returns:
        The recording, and what is to be said of it.

    Raises:
        Refusal: (a ValueError) for a file that is no table of numbers, can be read in two ways, or holds but an index;
            for a column that is not there.
        FileNotFoundError: (an OSError) if there is no file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        columns, headed = _array(path) if path.suffix.lower() == ".npy" else _table(path)
        index = _index(columns, wanted)
        times = [name for name in index if name not in wanted]
        names = [name for name in columns if name not in times]
        for name in wanted:
            if name not in names:
                raise Refusal(unknown("column", name, names))
        chosen = list(wanted) or (names[:1] if alone else names)
        telling = _telling({name: columns[name] for name in index}, wanted)
        if turned := _falls(telling):
            columns = {name: column.turned() for name, column in columns.items()}
        recording = Recording(np.stack([_checked(columns[name]) for name in chosen], axis=-1), chosen)
    except (ValueError, EOFError, csv.Error) as error:
        said, hint = str(error).replace(OPTION, option), _separator(path)
        raise Refusal(f"{path} cannot be read as a table of numbers: {f'{hint} ({said})' if hint else said}") from error
    remarks = [f"{_listed(list(telling))} falls: the newest row was first, the rows are turned round"] if turned else []
    asked = {name: columns[name].stamps for name in index if name in wanted and name not in telling}
    falling = [name for name, stamps in asked.items() if stamps is not None and direction(stamps) == -1]
    remarks += [f"{name}, asked for, falls: the samples are taken in the order of the rows" for name in falling]
    left = [name for name in columns if name in telling or name not in (*chosen, *index)]
    remarks += [words for name in left for words in _doubts(name, columns[name], name in telling)]
    return Series(recording, tuple(times), tuple(name for name in names if name not in chosen), headed, tuple(remarks))


def _telling(index: dict[str, Column], wanted: Sequence[str]) -> dict[str, Column]:
    """The columns of an index that tell in which order the samples came.

    Returns:
        Beside dates not a nameless count, which tells of the table only; nor what is wanted, which was measured, but
        for the first column, if it tells an order.
    """
    dated, measured = any(column.dated for column in index.values()), {*wanted} - {*list(index)[:1]}
    return {
        name: column
        for name, column in index.items()
        if not (dated and name.startswith("Unnamed") and not column.dated)
        and name not in measured
        and not (name in wanted and column.stamps is not None and direction(column.stamps) is None)
    }


def _falls(times: dict[str, Column]) -> bool:
    """Whether the newest row comes first. Raises Refusal if the columns that tell it do not agree."""
    ways = {name: direction(column.stamps) for name, column in times.items() if column.stamps is not None}
    for name, way in ways.items():
        if way is None:
            raise Refusal(f"column {name} rises and falls, or stands still while it falls: sort the rows by it")
    names = [next((name for name in ways if ways[name] == way), None) for way in (1, -1)]
    if None not in names:
        raise Refusal(f"column {names[0]} rises and column {names[1]} falls: leave out the one that is no time")
    return names[1] is not None


def _doubts(name: str, column: Column, taken: bool) -> Iterator[str]:
    """What an index, `taken` for one or left out, says against samples that are equally spaced and in order."""
    if not (taken or column.dated or is_named(name)):
        return
    if column.stamps is None:
        yield f"{name} is not checked for order and holes, for it is no column of numbers or dates"
    elif not taken and not column.dated and is_index(name, column.stamps, first=False) is False:
        return
    elif direction(column.stamps) not in (0, 1):
        yield f"{name}, left out, does not rise: the samples are taken in the order of the rows"
    elif uneven := unevenness(name, column.stamps, column.cells):
        yield f"{uneven}; the samples are taken as equally spaced"


def _mark(path: Path) -> str:
    """What parts the cells of a table."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def _separator(path: Path) -> str:
    """What to do if something else parts the cells of the last line, as of the first one; nothing else."""
    own = _mark(path)
    text = "" if path.suffix.lower() == ".npy" else path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and line[0] != "#"] or [""]
    others = "".join(mark for mark in SEPARATORS if mark in lines[0] and not (own == "\t" and own in lines[0]))
    return parted(lines[-1], own, others)


def parted(line: str, own: str = ",", others: str = ";\t ") -> str:
    """What to do if others than our own marks part the cells of a line; nothing else."""
    for mark, name in SEPARATORS.items():
        numbers = mark != " " or all(_number(part) is not None for part in line.split())
        if mark in others.replace(own, "") and mark in line and numbers:
            return f"{name} seem to part the cells here: give {SEPARATORS[own]}"
    return ""


def uncommented(lines: list[Row]) -> list[Row]:
    """The lines without the comments that stand before the table."""
    first = 0
    while first + 1 < len(lines) and lines[first][1][:1] and lines[first][1][0].startswith("#"):
        if not _comment(lines[first][1], lines[first + 1][1]):
            break
        first += 1
    return lines[first:]


def _array(path: Path) -> Table:
    """The channels of an array ``(time,)``, ``(time, channel)`` or ``(series, time, channel)``."""
    with path.open("rb") as file:
        try:
            values = np.lib.format.read_array(file, allow_pickle=False)
        except MemoryError:
            raise
        except Exception as error:  # a damaged header ends in many kinds of them
            raise Refusal(f"it is no whole .npy array: {error}") from error
        if file.read(1):
            raise Refusal("it goes on after its array")
    if not 1 <= values.ndim <= 3 or not values.size:
        raise Refusal(f"its shape is {values.shape}: give (time,) or (time, channel)")
    numbers = real(values, "its values")
    channels = [numbers] if numbers.ndim == 1 else list(np.moveaxis(numbers, -1, 0))
    columns = [Column(channel, stamps=channel) for channel in channels]
    return Table(dict(zip(_counted(len(columns)), columns, strict=True)))


def _counted(count: int) -> list[str]:
    return ["x"] if count == 1 else [f"x{i}" for i in range(count)]


def _table(path: Path) -> Table:
    """The columns of a CSV file by name, without those that only commas at the ends of the rows make."""
    rows = _rows(path)
    header = _header([cells for _, cells in rows])
    if header and not rows[1:]:
        raise Refusal("it has a header and no samples")
    samples = rows[1:] if header else rows
    known = _known([cells for _, cells in samples])
    names = header or _counted(len(known))
    lines = [line for line, _ in samples]
    columns = {name: _column(name, cells, lines, bool(header)) for name, cells in zip(names, known, strict=True)}
    nameless = [name for name, cell in zip(names, rows[0][1], strict=True) if not header or not cell]
    empty = [name for name in nameless if not columns[name].wrong and np.isnan(columns[name].numbers).all()]
    return Table({name: column for name, column in columns.items() if name not in empty} or columns, bool(header))


def _checked(column: Column) -> Array:
    if column.wrong:
        raise Refusal(column.wrong)
    return column.numbers


def _rows(path: Path) -> list[Row]:
    """The lines. Raises Refusal for an empty file, rows of unequal length, and a blank line that may be a sample."""
    text = path.read_text(encoding="utf-8-sig")
    if "\0" in text:
        raise Refusal("it holds NUL characters, and so is no text")
    reader = csv.reader(StringIO(text, newline=""), strict=True, delimiter=_mark(path))
    lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    while lines and not any(lines[-1][1]):
        lines.pop()
    lines = uncommented(lines)
    rows = [(number, row) for number, row in lines if row]
    if not rows:
        raise Refusal("it is empty")
    width, parts = len(rows[0][1]), SEPARATORS[_mark(path)]
    for number, row in rows:
        if len(row) != width:
            raise Refusal(f"line {number} has {len(row)} cells, the first row {width}: {parts} part the cells")
    blank = [number for number, row in lines if not row and number > rows[0][0]]
    if blank and width == 1:
        raise Refusal(f"line {blank[0]} is blank: write nan for a missing sample, or leave the line out")
    return rows


def _comment(row: list[str], following: list[str]) -> bool:
    """Whether a line that begins with # is no header: another one, a row of names or of another length comes after."""
    names = all(cell and _number(cell) is None and np.isnan(_dates([cell])).all() for cell in following)
    return len(row) != len(following) or following[0].startswith("#") or names


def _known(rows: list[list[str]]) -> list[list[str | None]]:
    """The cells of each column, None where pandas takes them for missing."""
    import pandas as pd

    text = StringIO()
    csv.writer(text).writerows(rows)
    text.seek(0)
    table = pd.read_csv(text, header=None, dtype=str, skip_blank_lines=False)
    return [[cell if isinstance(cell, str) else None for cell in table[i]] for i in table]


def _number(cell: str) -> float | None:
    """What a cell says, to the last bit; None if that is no number."""
    try:
        return float(cell if "_" not in cell else "")
    except ValueError:
        return None


def _dates(cells: Sequence[str | None]) -> Array:
    """ISO dates as seconds, or as months if all are the same day of one, or its last; NaN for what is no date."""
    import pandas as pd

    texts = pd.Series([cell if cell and cell[0].isdigit() else None for cell in cells], dtype=object)
    stamps = pd.to_datetime(texts, format="ISO8601", errors="coerce", utc=True)
    for days in (stamps, stamps + pd.Timedelta(days=1)):
        known = days.dropna()
        if known.dt.day.nunique() == 1 and (known == known.dt.normalize()).all():
            return np.asarray(12 * days.dt.year + days.dt.month, np.float64)
    return np.asarray((stamps - stamps.min()).dt.total_seconds(), np.float64)


def _column(name: str, cells: list[str | None], lines: list[int], headed: bool) -> Column:
    """A column of numbers, of dates, or of something else."""
    known = [i for i, cell in enumerate(cells) if cell is not None]
    found = {i: _number(str(cells[i])) for i in known}
    numbers = np.array([np.nan if (number := found.get(i)) is None else number for i in range(len(cells))])
    texts = [i for i in known if found[i] is None]
    if texts:
        return _text_column(name, cells, lines, texts, headed)._replace(numbers=numbers)
    wholes = {i: int(str(cells[i])) for i in known if WHOLE.fullmatch(str(cells[i]))}
    far = [
        i for i in np.flatnonzero((numbers == 0) | np.isinf(numbers)) if SOME.match(str(cells[i])) and i not in wholes
    ]
    if far:
        return Column(numbers, f"{cells[far[0]]!r} in column {name} is beyond float64: scale the column")
    lossy = [i for i, whole in wholes.items() if np.isinf(numbers[i]) or whole != int(numbers[i])]
    if not lossy:
        return Column(numbers, stamps=numbers)
    wrong = f"{cells[lossy[0]]!r} in column {name} loses digits as float64: scale or shift the column"
    since = {i: whole - wholes[lossy[0]] for i, whole in wholes.items()}
    fits = len(wholes) == len(known) and max(map(abs, since.values())) < 2**63
    stamps = np.array([since.get(i, np.nan) for i in range(len(cells))], np.float64) if fits else None
    return Column(numbers, wrong, stamps, [cell or "" for cell in cells])


def _text_column(name: str, cells: list[str | None], lines: list[int], texts: list[int], headed: bool) -> Column:
    """A column with `texts` in it, of dates or of something else; says of the cell that fits least what to do."""
    dates, known = _dates(cells), sum(cell is not None for cell in cells)
    strange = [i for i in texts if np.isnan(dates[i])]
    dated = len(texts) == known and not strange
    odd, kind, hint = texts, "number", f"say which column is to be analysed ({OPTION}); dates are read as 2020-01-31"
    if strange and 2 * len(strange) < len(texts):
        odd, kind = strange, "date"
    if dated:
        hint = "they are dates"
    elif 2 * len(odd) < known:
        units = headed and odd == [0]
        hint = "a row of units has no place below the header" if units else "leave missing samples empty, or write nan"
    wrong = f"{cells[odd[0]]!r} in column {name} is no {kind} (line {lines[odd[0]]}): {hint}"
    return Column(dates, wrong, dates if dated else None, [cell or "" for cell in cells], dated)


def _header(rows: list[list[str]]) -> list[str]:
    """The names in the first row, or none if it is a row of numbers. Raises Refusal if it may be either."""
    first = [cells[0] for cells in _known(rows[:1])]
    texts = [cell for cell in first if cell is not None and _number(cell) is None]
    numbers = [raw for raw, cell in zip(rows[0], first, strict=True) if raw and (cell is None or cell not in texts)]
    if texts and numbers:
        raise Refusal(f"the first row has numbers and {texts[0]!r}: give a row of names, or numbers in every row")
    if not texts and not _pandas_columns(rows):
        _refuse_decimal_commas(rows)
        return []
    names = [cell.lstrip("# ") if i == 0 else cell for i, cell in enumerate(rows[0])]
    names = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise Refusal(f"two columns are named {twice[0]!r}")
    return names


def _refuse_decimal_commas(rows: list[list[str]]) -> None:
    """Refuse whole numbers beside whole numbers of which some begin with 0: "0,063" is one number somewhere."""
    for left, right in pairwise(zip(*rows, strict=True)):
        odd = [f"{one},{other}" for one, other in zip(left, right, strict=True) if re.fullmatch("0[0-9]+", other)]
        below_one = {*left} <= {"0", "-0"} or "-0" in left  # and no column that says something
        if below_one:
            odd = odd or [f"{left[0]},{right[0]}"]
        if odd and all(map(WHOLE.fullmatch, left)) and all(map(str.isdigit, right)):
            raise Refusal(
                f"{odd[0]!r} may be one number with a decimal comma, or two: write numbers with a point, or a row of "
                "names above them"
            )


def _pandas_columns(rows: list[list[str]]) -> bool:
    """Whether pandas has written its own counts as header and index: ",0,1" above rows that begin with 0, 1, ..."""
    counts = [str(i) for i in range(max(len(rows), len(rows[0])))]
    return (
        len(rows[0]) > 1
        and rows[0] == ["", *counts[: len(rows[0]) - 1]]
        and [row[0] for row in rows[1:]] == counts[: len(rows) - 1]
    )


def _index(columns: dict[str, Column], wanted: Sequence[str]) -> list[str]:
    """The leading columns that are no measured series, but tell the time or count the rows, `wanted` ones among them.

    Returns:
        Their names; not the last column, if it is wanted.

    Raises:
        Refusal: (a ValueError) if nothing is wanted and a column may be one, or nothing else is there.
    """
    found: list[str] = []
    last = list(columns)[-1]
    for name, column in columns.items():
        measured = name == last and (name in wanted or column.wrong or not is_named(name))
        if column.stamps is None or measured:
            return found
        index = column.dated or is_index(name, column.stamps, first=not found)
        if index is None and not wanted:
            raise Refusal(
                f"column {name} may be an index or measured: say which column is to be analysed ({OPTION}), "
                "or leave the index out of the file"
            )
        if not index:
            return found
        found.append(name)
    if not wanted:
        raise Refusal(f"it holds nothing but an index, {_listed(found)}: give {OPTION} {last} if measured")
    return found
