"""What the built-in analyses share when they draw: colors, and a variable over the axis that was scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")  # Okabe & Ito (2008)
MOST = 12  # curves beyond this number get no legend


def scanned(data: xr.DataArray, own: str | tuple[str, ...] = ()) -> str | None:
    """The axis to draw over: the first dim that is neither the analysis's own nor the initial states."""
    skip = {"init", *((own,) if isinstance(own, str) else own)}
    return next((str(dim) for dim in data.dims if dim not in skip), None)


def over_axis(data: xr.DataArray, axes: Axes, own: str = "", label: str = "{}") -> None:
    """One curve per value of `own`, over the scanned axis: the median, shaded between the quartiles of all other dims.

    Args:
        data: The variable.
        axes: Matplotlib axes. Where nothing was scanned: over `own`, else over the initial states, else a single point.
        own: A dim of the analysis's own, "" for none.
        label: Of a curve, formatted with its value.
    """
    axis = scanned(data, own) or next((dim for dim in (own, "init") if dim in data.dims), None)
    rows = data if axis else data.expand_dims("member")
    x = data[axis].values if axis else np.arange(1)
    curves = data[own].values if own in data.dims and own != axis else [None]
    alone = axis in (None, own, "init")  # no scan: separate things, no curve
    style: dict[str, Any] = {"marker": "." if alone or len(x) < 40 else None, "linestyle": "" if alone else "-"}
    for i, value in enumerate(curves):
        part = rows if value is None else rows.sel({own: value})
        values = part.transpose(axis or "member", ...).values.reshape(len(x), -1)
        low, middle, high = _quartiles(values)
        name = label if value is None else label.format(value)
        axes.plot(x, middle, color=COLOURS[i % len(COLOURS)], linewidth=1, label=name, **style)
        if alone:
            axes.vlines(x, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.4)
        elif values.shape[1] > 1:
            axes.fill_between(x, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.25, linewidth=0)
    if 1 < len(curves) <= MOST:
        axes.legend(frameon=False, fontsize="small")
    axes.set_xlabel({None: "one member", "init": "initial state"}.get(axis, str(axis)))
    if alone and len(x) < 10:
        axes.set_xticks(x)


def band(axes: Axes, x: Any, rows: np.typing.NDArray[np.float64], colour: int = 0, **style: Any) -> None:
    """One curve over x: the median of the rows ``(member, x)`` that are finite throughout, shaded between quartiles."""
    known = rows[np.isfinite(rows).all(axis=1)]
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75], axis=0) if len(known) else rows[[0, 0, 0]]
    shade = COLOURS[colour % len(COLOURS)]
    axes.plot(x, middle, color=shade, **{"linewidth": 1, "marker": "." if len(middle) < 60 else None, **style})
    if len(known) > 1 and style.get("linestyle") == "":
        axes.vlines(x, low, high, color=shade, alpha=0.4)
    elif len(known) > 1:
        axes.fill_between(x, low, high, color=shade, alpha=0.25, linewidth=0)


def _quartiles(values: np.typing.NDArray[np.float64]) -> tuple[np.typing.NDArray[np.float64], ...]:
    """Quartiles of each row; NaN where all are NaN, or where infinities leave none in between."""
    out = np.full((3, len(values)), np.nan)
    for i, row in enumerate(values):
        known = row[np.isfinite(row)]
        if known.size:
            out[:, i] = np.quantile(known, [0.25, 0.5, 0.75])
    return out[0], out[1], out[2]
