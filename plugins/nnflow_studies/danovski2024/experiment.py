"""What an experiment of the study is: parts that compute datasets, rows that compare numbers, pictures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

import nnflow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Data = Mapping[str, xr.Dataset]

KERNELS = 70  # entries of the weight matrices: what the study perturbs
KERNEL_NAMES = "W*"
WATCHED = ("loss", "l1", "accuracy", "stuck_on", "hidden_square")  # the same everywhere: compiled once
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")  # Okabe & Ito (2008)
GREY = "0.6"


class Scale(NamedTuple):
    """How large a run is, and the seed of everything drawn in it."""

    quick: bool
    seed: int

    def __call__(self, full: int, quick: int) -> int:
        """The number for a full or for a quick run."""
        return quick if self.quick else full


class Row(NamedTuple):
    """One published number beside ours. Sources: fig, read off a figure; re, recomputed; exact; text."""

    quantity: str
    published: str
    ours: str
    agrees: bool
    criterion: str
    source: str


class Picture(NamedTuple):
    """A figure with its words."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True, eq=False)
class Experiment:
    """`parts` make datasets, each by itself; `compare` and `draw` look at all of them, by name."""

    key: str
    title: str
    text: str
    parts: Mapping[str, Callable[[Scale], xr.Dataset]]
    compare: Callable[[Data, Scale], Sequence[Row]]
    draw: Callable[[Data, Scale], Sequence[Picture]]


def iris(scale: Scale, states: int, **axes: Any) -> nnflow.Ensemble:
    """Initial states of the study's network; the learning rates are an axis, or one of them."""
    return nnflow.Ensemble.grid(nnflow.maps["iris"](), inits=states, seed=scale.seed, **axes)


def run(analysis: str, ensemble: nnflow.Ensemble, **settings: Any) -> xr.Dataset:
    """Run an analysis with the ensemble's seed for the analysis too, if it draws something, and no bar of its own.

    Perturbations below the resolution are the study's; how many there are is in the datasets.

    Args:
        analysis: A registered name.
        ensemble: What it is applied to.
        **settings: Those of the analysis.

    Returns:
        The dataset of `nnflow.run`.
    """
    if "seed" in {field.name for field in fields(nnflow.analyses[analysis])}:
        settings["seed"] = ensemble.seed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nnflow.ResolutionWarning)
        return nnflow.run(analysis, ensemble, progress=False, **settings)


def near(
    quantity: str,
    published: float,
    tolerance: float,
    ours: float,
    source: str,
    *,
    digits: int = 3,
    slack: float = 0.0,
    text: str = "",
) -> Row:
    """Ours agrees if it is within the tolerance of the published number (`slack`: more, for a quick run)."""
    return between(
        quantity, published - tolerance, published + tolerance, ours, source,
        digits=digits, slack=slack, text=text or f"{published:.{digits}g}",
    )  # fmt: skip


def between(
    quantity: str,
    low: float,
    high: float,
    ours: float,
    source: str,
    *,
    digits: int = 3,
    slack: float = 0.0,
    text: str = "",
) -> Row:
    """Ours agrees if it lies in the published range (`slack`: wider by so much at either end, for a quick run)."""
    low, high = low - slack, high + slack
    shown = text or f"{low:.{digits}g} … {high:.{digits}g}"
    criterion = f"between {low:.{digits}g} and {high:.{digits}g}"
    return Row(quantity, shown, number(ours, f".{digits}g"), bool(low <= ours <= high), criterion, source)


def number(value: float, form: str) -> str:
    """A number for a table; a dash where there is none."""
    return "-" if np.isnan(value) else format(value, form)


def quantiles(values: Any, *levels: float) -> Array:
    """Quantiles of the finite values, NaN if there are none."""
    known = np.ravel(values)[np.isfinite(np.ravel(values))]
    return np.quantile(known, levels) if known.size else np.full(len(levels), np.nan)


def quantiles_over(values: Array) -> Array:
    """Lower quartile, median and upper quartile of each column, of what is finite in it: ``(3, column)``."""
    return np.array([quantiles(column, 0.25, 0.5, 0.75) for column in values.T]).T


def figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.0, **options: Any) -> Any:
    """A figure and its axes, an array of them if there are several."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)
