"""E1 and E2: learning rate 0.01. Training without chaos, and a trained network that is perturbed."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from nnflow_studies.danovski2024.experiment import (
    COLOURS,
    GREY,
    KERNEL_NAMES,
    KERNELS,
    WATCHED,
    Array,
    Data,
    Experiment,
    Picture,
    Row,
    Scale,
    between,
    figure,
    iris,
    near,
    number,
    quantiles,
    run,
)

ETA = 0.01
STEPS = 5000
EVERY = 50
SIZES = tuple(float(f"1e-{k}") for k in range(15, 1, -1))
SIZE = 1e-8
TRAINED = 4000
RESOLVED = slice(0.9e-12, 1.1e-6)


# ------------------------------------------------------------------------------------------------------------- datasets


def sizes(scale: Scale) -> xr.Dataset:
    """d(t) of ten states for all sizes of the perturbation."""
    ensemble = iris(scale, scale(10, 3), eta=ETA)
    options: dict[str, Any] = {"perturbation": SIZES, "perturbations": scale(20, 3), "where": KERNEL_NAMES}
    return run("separation", ensemble, steps=STEPS + EVERY, every=EVERY, **options)


def states(scale: Scale) -> xr.Dataset:
    """d(t) of a hundred states at one size."""
    ensemble = iris(scale, scale(100, 24), eta=ETA)
    options: dict[str, Any] = {"perturbation": SIZE, "perturbations": scale(20, 4), "where": KERNEL_NAMES}
    return run("separation", ensemble, steps=STEPS + EVERY, every=EVERY, **options)


def series(scale: Scale) -> xr.Dataset:
    """Loss and norm of the same states."""
    return run("series", iris(scale, scale(100, 24), eta=ETA), observe=WATCHED, steps=STEPS + EVERY, every=EVERY)


def displacement(scale: Scale) -> xr.Dataset:
    """Net displacement and path length of every weight."""
    return run("displacement", iris(scale, scale(100, 24), eta=ETA), steps=STEPS)


def knock_out(scale: Scale) -> xr.Dataset:
    """The loss of the trained network without one weight of its first layer."""
    return run("knock_out", iris(scale, scale(100, 24), eta=ETA), transient=STEPS, where="W1*")


def long_run(scale: Scale) -> xr.Dataset:
    """d(t) up to step 50 000."""
    ensemble = iris(scale, scale(20, 3), eta=ETA)
    options: dict[str, Any] = {"perturbation": SIZE, "perturbations": scale(5, 2), "where": KERNEL_NAMES}
    return run("separation", ensemble, steps=10 * STEPS + 500, every=500, **options)


def long_loss(scale: Scale) -> xr.Dataset:
    """The loss on the way there."""
    return run("series", iris(scale, scale(20, 3), eta=ETA), observe=WATCHED, steps=10 * STEPS + 500, every=500)


def trained(scale: Scale) -> xr.Dataset:
    """A network perturbed at step 4000, and 1000 steps more."""
    ensemble = iris(scale, scale(100, 24), eta=ETA)
    options: dict[str, Any] = {"perturbation": (1e-10, 1e-8, 1e-6), "where": KERNEL_NAMES, "transient": TRAINED}
    return run("separation", ensemble, steps=1000 + EVERY, every=EVERY, **options)


def curvature(scale: Scale) -> xr.Dataset:
    """The Hessian spectrum of the reference states."""
    return run("hessian_spectrum", iris(scale, scale(100, 24), eta=ETA), transient=TRAINED)


# ----------------------------------------------------------------------------------------------------------- comparison


def ratio(data: xr.Dataset, size: float) -> Array:
    """d(T)/(εN) of each state, at the end."""
    chosen = data.sel(size=size, method="nearest") if "size" in data.dims else data
    return np.asarray(chosen.distance.mean("perturbation").isel(time=-1).values / (size * KERNELS))


def compare_training(data: Data, scale: Scale) -> list[Row]:
    """The numbers of E1."""
    return [*_losses(data, scale), *_growth(data, scale), *_movement(data, scale)]


def _losses(data: Data, scale: Scale) -> list[Row]:
    loss, norm = (data["series"].value.sel(channel=name) for name in ("loss", "l1"))
    long = data["long_loss"].value.sel(channel="loss").isel(time=-1)
    start, slack = norm.isel(time=0), 1.0 if scale.quick else 0.0
    falls = float((loss.diff("time") < 0).all("time").mean())
    return [
        between("loss at step 0, median", 1.5, 2.2, float(loss.isel(time=0).median()), "fig"),
        between("loss at step 5000, median", 0.2, 0.5, float(loss.isel(time=-1).median()), "fig"),
        between("share of runs whose loss falls monotonically", 0.99, 1.0, falls, "text", text="all"),
        near("loss at step 50 000, median", 0.03, 0.03, float(long.median()), "fig"),
        near("‖W‖₁ at step 0, mean", 55.9, 1.5, float(start.mean()), "exact", slack=slack, text="70 √(2/π) = 55.9"),
        near("‖W‖₁ at step 0, standard deviation", 5.0, 1.2, float(start.std()), "exact", slack=slack),
        between("‖W‖₁ at step 5000, median", 66, 78, float(norm.isel(time=-1).median()), "fig"),
    ]


def _growth(data: Data, scale: Scale) -> list[Row]:
    ends, part = ratio(data["states"], SIZE), data["states"]
    d = part.distance.mean("perturbation")
    rate = np.log(d.isel(time=-1) / d.sel(time=1000)) / (STEPS - 1000)
    clear = data["sizes"].sel(size=RESOLVED)
    curves = clear.distance.mean("perturbation") / clear["size"]
    spread = float((curves.max("size") / curves.min("size")).max()) - 1
    long = ratio(data["long_run"], SIZE)
    slack = 0.1 if scale.quick else 0.0
    return [
        near("d(T)/(εN), median", 0.71, 0.06, float(np.median(ends)), "re", slack=slack),
        near("d(T)/(εN), smallest", 0.45, 0.08, float(ends.min()), "re", slack=slack),
        near("share of states with d(T)/(εN) > 1.15", 0.18, 0.08, float((ends > 1.15).mean()), "re", slack=slack),
        between("growth rate of d, steps 1000 – 5000, median", -1e-4, 1e-4, float(rate.median()), "text", text="none"),
        between("largest such rate", -1e-3, 1e-3, float(rate.max()), "text", text="none"),
        between("spread of d(t)/ε over 1e-12 ≤ ε ≤ 1e-6", 0, 0.05, spread, "text", text="curves collapse"),
        between("d(50 000)/(εN), median", 0.3, 3.0, float(np.median(long)), "text", text="of order 1"),
    ]


def _movement(data: Data, scale: Scale) -> list[Row]:
    moved, ratios = data["displacement"], data["knock_out"].ratio
    inside = float(((moved.relative > 0.15) & (moved.relative < 0.75)).mean())
    net, path = moved["net"].values.ravel(), moved["path"].values.ravel()
    known = net > 0
    slope = np.polyfit(np.log(path[known]), np.log(net[known]), 1)[0]
    largest = quantiles(ratios.max("weight").values, 0.05, 0.95)
    text = " … ".join(number(value, ".2f") for value in largest)
    return [
        between("relative displacement, median", 0.17, 0.69, float(moved.relative.median()), "re"),
        between("share of states with 0.15 < displacement < 0.75", 0.95, 1, inside, "re", text="all"),
        near("path length / net displacement, median", 1, 0.1, float(np.median(path[known] / net[known])), "fig"),
        near("slope of ln net over ln path", 1, 0.1, float(slope), "fig"),
        near("knock-out: loss ratio, median", 1.0, 0.1, float(ratios.median()), "fig"),
        Row("knock-out: largest loss ratio, 5 – 95 %", "up to 3.9", text, bool(largest[0] <= 3.9 <= largest[1]),
            "3.9, of one network, lies between", "fig"),
    ]  # fmt: skip


def compare_trained(data: Data, scale: Scale) -> list[Row]:
    """The numbers of E2."""
    part = data["trained"].sel(size=SIZE)
    d = part.distance.mean("perturbation")
    change = ((d.isel(time=-1) - d.isel(time=0)) / (SIZE * KERNELS)).values
    inside = (change > -0.033) & (change <= 0)
    h = data["curvature"].eigenvalue
    still = (abs(ETA * h) < 1e-4).sum("index")
    return [
        near("(d(1000) − d(0))/(εN), median", -0.02, 0.015, float(np.median(change)), "fig"),
        between("share of states with it in −0.033 … 0", 0.6, 1.0, float(inside.mean()), "fig", text="all of ten"),
        between("Hessian eigenvalues with |ηh| < 1e-4, of 83", 50, 83, float(still.median()), "text", text="many"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- pictures


def draw_training(data: Data, scale: Scale) -> list[Picture]:
    """Losses and norms, distances, movement of the weights, knock-out."""
    return [_losses_and_norms(data), _distances(data), _weights(data)]


def _losses_and_norms(data: Data) -> Picture:
    fig, panels = figure(1, 2, 10.0, 3.4)
    part = data["series"]
    for axes, name, label in zip(panels, ("loss", "l1"), ("loss (nats)", "‖W‖₁"), strict=True):
        for curve in part.value.sel(channel=name).values[:20]:
            axes.plot(part.time, curve, color=COLOURS[0], linewidth=0.7, alpha=0.7)
        axes.set(xlabel="step", ylabel=label)
    caption = "Loss and L1 norm of the weights of 20 runs at η = 0.01. Both change monotonically."
    return Picture("training", "Training at η = 0.01", caption, fig)


def _distances(data: Data) -> Picture:
    fig, (left, middle, right) = figure(1, 3, 11.0, 3.6)
    part = data["sizes"]
    d = part.distance.mean("perturbation") / (part["size"] * KERNELS)
    for curve in d.sel(size=SIZE, method="nearest").values:
        left.plot(part.time, curve, color=COLOURS[0], linewidth=0.8)
    left.set(xlabel="step", ylabel="d(t) / (εN), ε = 1e-8", ylim=(0, None))
    apart = abs(d / d.sel(size=SIZE, method="nearest") - 1).max("time")
    for row in apart.transpose("init", "size").values:
        middle.plot(SIZES, np.where(row > 0, row, np.nan), ".", color=COLOURS[0], markersize=4, alpha=0.6)
    middle.set(xscale="log", yscale="log", xlabel="size ε of the perturbation", ylabel="largest deviation of d(t)/ε")
    ends = ratio(data["states"], SIZE)
    right.hist(np.clip(ends, None, 4), np.linspace(0, 4, 41), color=COLOURS[0])
    right.axvline(0.5, color=GREY, linewidth=1)
    right.text(0.46, 0.95, "d(0)", transform=right.get_xaxis_transform(), fontsize="small", va="top", ha="right")
    right.set(xlabel="d(5000) / (εN), larger ones at 4", ylabel="initial states")
    caption = (
        "Left: the mean distance of perturbed copies from each of ten runs (a quick run: three), over the size ε of "
        "the perturbation times the number N of perturbed weights. Middle: the largest relative deviation of the "
        "curves at other sizes from those at 1e-8: rounding enters below 1e-12, nonlinearity above 1e-6; sizes near "
        f"1e-15 can hardly be represented. Right: where it ends for {ends.size} initial states at ε = 1e-8."
    )
    return Picture("distances", "Distances neither grow exponentially nor vanish", caption, fig)


def _weights(data: Data) -> Picture:
    fig, (left, right) = figure(1, 2, 10.0, 3.8)
    moved, ratios = data["displacement"], data["knock_out"].ratio
    initial, net, path = (moved[name].values.ravel() for name in ("initial", "net", "path"))
    known = (initial > 0) & (net > 0)
    x, y = path[known] / initial[known], net[known] / initial[known]
    left.plot(x, y, ".", markersize=2, color=COLOURS[0], alpha=0.5, rasterized=True)
    ends = np.array([x.min(), x.max()])
    left.plot(ends, ends, color=GREY, linewidth=0.8)
    left.set(xscale="log", yscale="log", xlabel="path length / |w₀|", ylabel="net displacement / |w₀|")
    right.hist(ratios.values.ravel(), np.geomspace(0.5, 12, 60), color=COLOURS[0])
    right.set(xscale="log", yscale="log", xlabel="loss without the weight / loss", ylabel="first-layer weights")
    right.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    right.minorticks_off()
    caption = (
        "Left: net displacement of every weight over the length of its path; on the line a weight moves monotonically. "
        "Right: how much the loss of the trained network grows when one weight of the first layer is set to 0."
    )
    return Picture("weights", "How far the weights go, and how much each matters", caption, fig)


def draw_trained(data: Data, scale: Scale) -> list[Picture]:
    """Distances from the trained state, and its Hessian spectrum."""
    fig, (left, right) = figure(1, 2, 10.0, 3.6)
    part = data["trained"].sel(size=SIZE)
    d = (part.distance.mean("perturbation") / (SIZE * KERNELS)).values
    for curve in d[:30]:
        left.plot(part.time, curve - curve[0], color=COLOURS[0], linewidth=0.7, alpha=0.7)
    left.axhline(0, color=GREY, linewidth=0.8)
    left.set(xlabel="steps since the perturbation", ylabel="(d(t) − d(0)) / (εN)")
    h = ETA * data["curvature"].eigenvalue
    rank = np.arange(1, h.sizes["index"] + 1)
    for i, level in enumerate((0.05, 0.5, 0.95)):
        right.plot(rank, h.quantile(level, "init"), color=COLOURS[i], marker=".", markersize=3, linewidth=0.7,
                   label=f"{level:.0%} of the states")  # fmt: skip
    right.set_yscale("symlog", linthresh=1e-6)
    right.axhline(0, color=GREY, linewidth=0.8)
    right.set(xlabel="rank", ylabel="η × Hessian eigenvalue")
    right.legend(frameon=False, fontsize="small")
    caption = (
        "Left: 30 networks perturbed after 4000 steps (ε = 1e-8). Right: their curvatures times η. Most lie near 0, so "
        "most differences stay and a few decay: marginal stability."
    )
    return [Picture("trained", "A trained network neither forgets a perturbation nor lets it grow", caption, fig)]


E1 = Experiment(
    "E1",
    "Learning rate 0.01: training without chaos",
    "Networks and perturbed copies of them over 5000 steps of gradient descent, and some over 50 000. Quantiles over "
    "many initial states stand where the study gives the range of ten.",
    {
        "sizes": sizes,
        "states": states,
        "series": series,
        "displacement": displacement,
        "knock_out": knock_out,
        "long_run": long_run,
        "long_loss": long_loss,
    },
    compare_training,
    draw_training,
)
E2 = Experiment(
    "E2",
    "A trained network, perturbed",
    "The network is trained for 4000 steps at η = 0.01, perturbed there, and trained for 1000 steps more.",
    {"trained": trained, "curvature": curvature},
    compare_trained,
    draw_trained,
)
