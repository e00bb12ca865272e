"""What `nnflow run` prints: a result as a table to read at once."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nnflow.ensemble import Ensemble
from nnflow.recording import Recording

if TYPE_CHECKING:
    import xarray as xr

ROWS = 20  # of a scan
NARROW = 4  # a variable with at most so many entries a member gets a column each


def title(dataset: xr.Dataset, ensemble: Ensemble | Recording) -> str:
    """One line: the analysis, the map, how many members, how many escaped, or are missing of a recording."""
    shape = " x ".join(f"{len(axis.values)} {axis.name}" for axis in ensemble.axes)
    members = f"{len(ensemble)} member{'s' if len(ensemble) > 1 else ''}"
    escaped = int((dataset["escaped"] >= 0).sum())
    lost = _missing(dataset, ensemble) if isinstance(ensemble, Recording) else f"{escaped or 'none'} escaped"
    return f"{dataset.attrs['analysis']} of {dataset.attrs['map']}, {members}{f' ({shape})' if shape else ''}, {lost}"


def _missing(dataset: xr.Dataset, recording: Recording) -> str:
    """How many of the values that were analyzed are not finite, and which is the first; samples count from 0."""
    settings = json.loads(dataset.attrs["settings"])
    asked = settings.get("observable") or settings.get("observe") or dataset.attrs.get("observable")
    asked = asked or dataset.coords.get("channel", ())
    names = [name for name in recording.names if name in np.ravel(asked)] or recording.names
    every, start = settings.get("every", 1), recording.t + settings.get("transient", 0)
    stop = start + settings.get("steps", recording.samples)
    seen = recording.cube[:, start:stop:every, [recording.names.index(name) for name in names]]
    count, lost = int((~np.isfinite(seen)).sum()), np.argwhere(~np.isfinite(seen).all(axis=(0, 2)))
    if not count:
        return "no values missing"
    return f"{count} of {seen.size} values missing, the first at sample {start + every * int(lost[0, 0])}"


def summary(dataset: xr.Dataset, ensemble: Ensemble | Recording) -> str:
    """A table to read at once: one row a value of the first scanned axis, medians over everything else."""
    axes = [axis.name for axis in ensemble.axes]
    row = next((axis for axis in ensemble.axes if axis.kind != "init"), None)
    columns = _columns(dataset, axes, row.name if row else None)
    if isinstance(ensemble, Recording):
        columns["series with missing values"] = columns.pop("escaped members")
    lines = [title(dataset, ensemble)]
    others = [name for name in axes if row is None or name != row.name]
    if others:
        lines[0] += f"; medians over {', '.join(others)}"
    if row is None:
        width = max(map(len, columns))
        return "\n".join([*lines, *(f"  {name:<{width}}  {_cell(values[0])}" for name, values in columns.items())])
    chosen = np.unique(np.linspace(0, len(row.values) - 1, min(ROWS, len(row.values))).round().astype(int))
    if len(chosen) < len(row.values):
        lines[0] += f"; {len(chosen)} of {len(row.values)} values of {row.name} shown"
    table = {row.name: row.values, **columns}
    return "\n".join([*lines, *_table({name: [_cell(values[i]) for i in chosen] for name, values in table.items()})])


def _columns(dataset: xr.Dataset, axes: list[str], row: str | None) -> dict[str, Any]:
    """Name → one number a row: a small variable whole, a large one by its smallest and largest values."""
    columns: dict[str, Any] = {}
    numeric = {str(n): v for n, v in dataset.data_vars.items() if v.dtype.kind in "biuf" and set(axes) <= set(v.dims)}
    for name, variable in numeric.items():
        own = [dim for dim in variable.dims if dim not in axes]
        ordered = variable.transpose(*([row] if row else []), ..., *own).values.astype(float)
        cube = ordered.reshape(dataset.sizes[row] if row else 1, -1, math.prod(dataset.sizes[dim] for dim in own))
        if name == "escaped":
            columns["escaped members"] = (cube[:, :, 0] >= 0).sum(axis=1)
        elif cube.shape[2] > NARROW:
            columns[f"{name} min"] = _reduced(cube, min)
            columns[f"{name} max"] = _reduced(cube, max)
        else:
            for i in range(cube.shape[2]):
                columns[f"{name}[{i + 1}]" if own else name] = _reduced(cube[:, :, i : i + 1], _middle)
    return columns


def _reduced(cube: Any, reduce: Callable[[Any], float]) -> Any:
    """One number a row, of the values that are numbers; NaN if there are none."""
    known = [values[~np.isnan(values)] for values in cube.reshape(len(cube), -1)]
    return np.array([reduce(values) if values.size else np.nan for values in known])


def _middle(values: Any) -> float:
    """The lower median: always one of the values, so that a period stays a whole number."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def _cell(value: Any) -> str:
    return "-" if np.isnan(value) else f"{value:.6g}"


def _table(columns: dict[str, list[str]]) -> list[str]:
    """The columns that fit the terminal, right-aligned, and the names of those that do not."""
    room = shutil.get_terminal_size((100, 24)).columns
    shown: dict[str, list[str]] = {}
    left: list[str] = []
    for name, cells in columns.items():
        width = 2 + max(map(len, [name, *cells]))
        room -= width
        if room < 0 and shown:
            left.append(name)
        else:
            shown[name] = [cell.rjust(width) for cell in [name, *cells]]
    lines = ["".join(cells) for cells in zip(*shown.values(), strict=True)]
    return [*lines, f"  and {', '.join(left)}: -o FILE.nc keeps everything"] if left else lines
