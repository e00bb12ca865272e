"""plot(): finds the analysis in a dataset's attributes and lets it draw."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import xarray as xr

from nnflow.analysis import Analysis
from nnflow.runner import analyses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# blue, orange, green, … of Okabe and Ito (2008): told apart by colour-blind readers too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


def plot(dataset: xr.Dataset, axes: Axes | None = None) -> Figure:
    """Draw a dataset that `run` made, the way its analysis draws; on given matplotlib axes, or in a new figure.

    Returns the matplotlib Figure. Raises ValueError if the dataset names no analysis or the analysis cannot draw.
    """
    import matplotlib.pyplot as plt

    method = analysis_of(dataset)
    if not hasattr(method, "draw"):
        raise ValueError(f"{dataset.attrs['analysis']} does not draw: plot its variables {list(dataset.data_vars)}")
    if axes is None:
        axes = plt.figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
        axes.set_title(f"{dataset.attrs['map']}: {dataset.attrs['analysis']}", fontsize="medium")
    method.draw(dataset, axes)
    figure: Any = axes.figure
    return figure  # type: ignore[no-any-return]


def analysis_of(dataset: xr.Dataset) -> Analysis:
    """The analysis, with its settings, that made a dataset. Raises ValueError if its attributes do not say."""
    if "analysis" not in dataset.attrs or "settings" not in dataset.attrs:
        raise ValueError("the dataset has no attributes 'analysis' and 'settings': give one that nnflow.run made")
    name = dataset.attrs["analysis"]
    if ":" in name:
        module, _, path = name.partition(":")
        kind = getattr(import_module(module), path)
    else:
        kind = analyses[name]
    method: Analysis = kind(**{key: _frozen(value) for key, value in json.loads(dataset.attrs["settings"]).items()})
    return method


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
