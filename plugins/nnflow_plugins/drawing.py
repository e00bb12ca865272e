"""What the built-in analyses share when they draw: colours, and a variable over the axis that was scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    Without a scanned axis: a point per member over `own`, or over the initial states.
    """
    axis = scanned(data, own)
    x = data[axis].values if axis else np.arange(1)
    rows = data.expand_dims("_one") if not axis else data
    curves = rows[own].values if own in rows.dims else [None]
    for i, value in enumerate(curves):
        part = rows.sel({own: value}) if value is not None else rows
        values = part.transpose(axis or "_one", ...).values.reshape(len(x), -1)
        low, middle, high = _quartiles(values)
        style = {"marker": ".", "markersize": 3} if len(x) < 40 else {}
        axes.plot(x, middle, color=COLOURS[i % len(COLOURS)], linewidth=1, label=label.format(value), **style)  # type: ignore[arg-type]
        if values.shape[1] > 1:
            axes.fill_between(x, low, high, color=COLOURS[i % len(COLOURS)], alpha=0.25, linewidth=0)
    if 1 < len(curves) <= MOST:
        axes.legend(frameon=False, fontsize="small")
    axes.set_xlabel(axis or "")
    if axis is None:
        axes.set_xticks([])


def _quartiles(values: np.typing.NDArray[np.float64]) -> tuple[np.typing.NDArray[np.float64], ...]:
    """Quartiles of each row; NaN where all are NaN, or where infinities leave none in between."""
    out = np.full((3, len(values)), np.nan)
    for i, row in enumerate(values):
        known = row[np.isfinite(row)]
        if known.size:
            out[:, i] = np.quantile(known, [0.25, 0.5, 0.75])
    return out[0], out[1], out[2]
