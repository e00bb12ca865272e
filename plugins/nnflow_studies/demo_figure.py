"""The demo's figure: three maps side by side on common rows, and together on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

import nnflow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nnflow_studies.demo import Case

KIND_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#BBBBBB", "#000000")
ENDING_COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#CC79A7", "#000000")  # Okabe & Ito (2008)
SYMBOLS = {"logistic": "r", "henon": "a", "iris": "learning rate η"}
TITLES = {"logistic": "Logistic map", "henon": "Hénon map (b = 0.3)", "iris": "Iris network 4-10-3, full batch"}


def save(results: dict[str, xr.Dataset], cases: Sequence[Case], path: Path) -> None:
    """Draw the figure and write it, whole or not at all."""
    import matplotlib.pyplot as plt

    figure, picture = draw(results, cases), BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    plt.close(figure)
    nnflow.write(path, picture.getvalue())


def draw(results: dict[str, xr.Dataset], cases: Sequence[Case]) -> Figure:
    """The whole figure."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13.0, 12.5), layout="constrained")
    grid = figure.add_gridspec(5, 3, height_ratios=(2.3, 1.0, 1.1, 1.1, 1.5))
    columns = [figure.add_subplot(grid[0, i]) for i in range(3)]
    for column, case in enumerate(cases):
        data, top = results[case.name], columns[column]
        below = [figure.add_subplot(grid[row, column], sharex=top) for row in (1, 2, 3)]
        _diagram(top, data, case)
        _shares(below[0], data, case.parameter, "kind", KIND_COLOURS)
        _curve(below[1], data, case.parameter, "exponent")
        _curve(below[2], data, case.parameter, "K")
        _label(top, below, case, column)
        for axes in (top, *below):
            _doubling_line(axes, data, case)
            if axes is not below[0]:
                _drift_band(axes, data, case.parameter)
    _common_axis(figure.add_subplot(grid[4, :2]), results, cases)
    last = figure.add_subplot(grid[4, 2], sharex=columns[2])
    _shares(last, results["iris"], "eta", "ending", ENDING_COLOURS)
    last.set_xlabel(SYMBOLS["iris"])
    last.set_title("What the network has learnt: accuracy, and hidden units stuck on", fontsize="medium", pad=30)
    figure.suptitle(_caption(results), fontsize="medium")
    return figure


def _caption(results: dict[str, xr.Dataset]) -> str:
    inits = results["iris"].sizes.get("init", 1)
    steps = {name: data.attrs["settle"] for name, data in results.items()}
    return (
        f"One step of gradient descent is a map: {inits} initial states each, the same at every parameter value; "
        f"recorded after {steps['logistic']:,} steps (maps) and {steps['iris']:,} steps (network)"
    )


def _label(top: Axes, below: list[Axes], case: Case, column: int) -> None:
    top.set_title(TITLES[case.name])
    top.set_xlim(case.low, case.high)
    below[0].set_ylim(0, 1)
    below[2].set_ylim(-0.25, 1.1)
    below[2].set_xlabel(SYMBOLS[case.name])
    top.set_ylabel("training loss (nats)" if case.name == "iris" else f"state {case.observable}")
    if column == 0:
        below[0].set_ylabel("share of\ninitial states")
        below[1].set_ylabel("finite-time λ₁\n(nats / iteration)")
        below[2].set_ylabel("0–1 test K")
    for axes in (top, *below[:2]):
        axes.tick_params(labelbottom=False)


def _diagram(axes: Axes, data: xr.Dataset, case: Case) -> None:
    """Every sample a dot, colored by what its initial state ends in."""
    flag, colours = ("ending", ENDING_COLOURS) if case.name == "iris" else ("kind", KIND_COLOURS)
    value = data.value.transpose(case.parameter, ..., "sample").values
    x = np.broadcast_to(data[case.parameter].values.reshape(-1, *[1] * (value.ndim - 1)), value.shape)
    ending = data[flag].transpose(case.parameter, ...).values
    for index, name in enumerate(data[flag].attrs["flag_meanings"].split("; ")):
        chosen = ending == index
        if chosen.any():
            axes.plot(x[chosen].ravel(), value[chosen].ravel(), ".", color=colours[index], markersize=0.8,
                      markeredgewidth=0, rasterized=True)  # fmt: skip
            axes.plot([], [], "o", color=colours[index], markersize=4, label=name)
    axes.legend(
        framealpha=0.85,
        edgecolor="none",
        fontsize="x-small",
        loc="lower right" if case.name == "iris" else "lower left",
    )
    if case.name == "iris":
        axes.set_yscale("log")
        axes.set_ylim(axes.get_ylim()[0], 6 * float(np.nanmax(value)))
        _chance_mark(axes, data)


def _chance_mark(axes: Axes, data: xr.Dataset) -> None:
    """From where on at least half of the initial states end with the accuracy of a constant answer."""
    chance = (data.ending >= 1) & (data.ending <= 3)
    share = chance.mean("init") if "init" in chance.dims else chance.astype(float)
    below = np.flatnonzero(share.values < 0.5)
    start = 0 if not below.size else below[-1] + 1
    if start >= data.sizes["eta"]:
        return
    eta = float(data.eta[start])
    axes.annotate("", (eta, 0.985), (data.eta.values[-1], 0.985), xycoords=("data", "axes fraction"),
                  arrowprops={"arrowstyle": "|-|,widthA=0.3,widthB=0.3", "color": "0.3"})  # fmt: skip
    axes.text((eta + float(data.eta[-1])) / 2, 0.97, f"accuracy of chance (from η ≈ {eta:.1f})", ha="center", va="top",
              transform=axes.get_xaxis_transform(), fontsize="small", color="0.3")  # fmt: skip


def _shares(axes: Axes, data: xr.Dataset, parameter: str, flag: str, colours: Sequence[str]) -> None:
    """Share of the initial states in each class, stacked."""
    values = data[flag].transpose(parameter, ...).values.reshape(data.sizes[parameter], -1)
    names = data[flag].attrs["flag_meanings"].split("; ")
    shares = np.array([(values == index).mean(axis=1) for index in range(len(names))])
    present = [i for i in range(len(names)) if shares[i].any()]
    axes.stackplot(data[parameter].values, shares[present], step="mid", linewidth=0,
                   colors=[colours[i] for i in present], labels=[names[i] for i in present])  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of initial states" if flag == "ending" else "")
    if "mean_accuracy" in data:  # elsewhere the diagram above has the same colours and a legend
        axes.legend(fontsize="x-small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _curve(axes: Axes, data: xr.Dataset, parameter: str, name: str) -> None:
    """The median over the initial states, shaded between its quartiles."""
    low, middle, high = quartiles(data[name], parameter)
    x = data[parameter].values
    axes.fill_between(x, low, high, color="#0072B2", alpha=0.3, linewidth=0)
    axes.plot(x, middle, color="#0072B2", linewidth=0.9)
    axes.axhline(0.0, color="0.5", linewidth=0.7)
    if name == "exponent":
        axes.set_ylim(max(-1.2, float(np.nanmin(low)) - 0.05), 1.1 * float(np.nanmax(high)) + 0.05)


def quartiles(data: xr.DataArray, parameter: str) -> npt.NDArray[np.float64]:
    """The three quartiles over everything but the parameter, ``(3, parameter)``; −inf counts as low."""
    values = data.transpose(parameter, ...).values.reshape(data.sizes[parameter], -1)
    lowered = np.where(np.isneginf(values), -1e300, values)
    out = np.full((3, len(values)), np.nan)
    known = ~np.isnan(lowered).all(axis=1)
    out[:, known] = np.nanquantile(lowered[known], [0.25, 0.5, 0.75], axis=1)
    return out


def _doubling_line(axes: Axes, data: xr.Dataset, case: Case) -> None:
    if not np.isnan(data.attrs["first_doubling"]):
        axes.axvline(data.attrs["first_doubling"], color="0.35", linewidth=0.8, linestyle=":")


def _drift_band(axes: Axes, data: xr.Dataset, parameter: str) -> None:
    """Gray where half of the initial states or more are still on their way: no attractor is shown there."""
    drifting = data["kind"] == 4
    share = drifting.mean("init") if "init" in drifting.dims else drifting.astype(float)
    x, inside = data[parameter].values, share.values >= 0.5
    if inside.any():
        heights = axes.get_xaxis_transform()
        axes.fill_between(x, 0, 1, where=inside, step="mid", transform=heights, color="0.9", zorder=-1, linewidth=0)
        if axes.get_subplotspec().get_topmost_subplotspec().rowspan.start == 0:  # type: ignore[union-attr]
            axes.text(float(np.median(x[inside])), 0.97, "drifting:\nno attractor", transform=heights,
                      fontsize="x-small", color="0.3", ha="center", va="top")  # fmt: skip


def _common_axis(axes: Axes, results: dict[str, xr.Dataset], cases: Sequence[Case]) -> None:
    """All three exponents over the parameter divided by its value at the first period doubling."""
    colours: Any = dict(zip((case.name for case in cases), ("#0072B2", "#009E73", "#D55E00"), strict=True))
    for case in cases:
        data = results[case.name]
        if np.isnan(data.attrs["first_doubling"]):
            axes.plot([], [], color=colours[case.name], label=f"{TITLES[case.name]}: no period doubling found")
            continue
        x = data[case.parameter].values / data.attrs["first_doubling"]
        low, middle, high = quartiles(data.exponent, case.parameter)
        axes.fill_between(x, low, high, color=colours[case.name], alpha=0.2, linewidth=0)
        label = f"{TITLES[case.name]}: {SYMBOLS[case.name]} / {data.attrs['first_doubling']:.4g}"
        axes.plot(x, middle, color=colours[case.name], linewidth=0.9, label=label)
    axes.axhline(0.0, color="0.5", linewidth=0.7)
    axes.axvline(1.0, color="0.35", linewidth=0.8, linestyle=":")
    axes.set_ylim(-1.2, 0.75)
    axes.set_xlim(0.0, 4.0)
    axes.set_xlabel("parameter / its value at the first period doubling")
    axes.set_ylabel("finite-time exponent λ₁\n(nats per iteration)")
    axes.set_title("The three maps on one axis", fontsize="medium")
    axes.legend(frameon=False, fontsize="small", loc="lower right")
