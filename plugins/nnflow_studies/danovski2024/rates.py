"""E5: other learning rates on Iris, and the follow-up's headline on handwritten digits: chaos and fast learning.

(P. Jiménez-González, M. C. Soriano, L. Lacasa, "Leveraging chaotic transients in the training of artificial neural
networks", arXiv:2506.08523.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

import nnflow
from nnflow_studies.danovski2024.chaos import LASTING
from nnflow_studies.danovski2024.experiment import (
    COLOURS,
    GREY,
    KERNEL_NAMES,
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
    quantiles_over,
    run,
)

ETAS = (2.0, 3.0, 10.0)
STEPS = 10_000
ONSET = tuple(np.geomspace(0.05, 3.0, 24).round(4).tolist())
DIGITS = (5e-4, 2e-3, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.5, 5.0, 10.0, 20.0)
QUICK_DIGITS = (0.1, 0.5, 1.0, 2.5, 5.0)
HORIZON = 200  # steps
EARLY = 20  # steps over which the growth rate is taken
TARGET = 0.85  # test accuracy
GROWTH = {0.1: (0.0, 0.01), 1.0: (0.006, 0.02), 2.5: (0.53, 0.1), 5.0: (0.59, 0.15)}  # published, tolerance
SPEED = {0.5: 48.0, 1.0: 22.0, 2.5: 29.5}


# ------------------------------------------------------------------------------------------------------------- datasets


def hopping(scale: Scale) -> xr.Dataset:
    """Loss, norm, accuracy and saturated units at other learning rates."""
    return run("series", iris(scale, scale(20, 5), eta=ETAS), observe=WATCHED, steps=STEPS, every=10)


def levels(scale: Scale) -> xr.Dataset:
    """Plateaus of the norm."""
    return run("plateaus", iris(scale, scale(20, 5), eta=ETAS), observable="l1", jump=2.0, steps=STEPS)


def onset(scale: Scale) -> xr.Dataset:
    """Exponents over successive stretches of 200 steps, over the learning rate."""
    ensemble = iris(scale, scale(100, 10), eta=ONSET if not scale.quick else ONSET[::3])
    return run("finite_time_lyapunov", ensemble, window=HORIZON, steps=5 * HORIZON)


def digits(scale: Scale) -> nnflow.Ensemble:
    """Initial states of the network on digits, the same ones at every learning rate."""
    etas = QUICK_DIGITS if scale.quick else DIGITS
    return nnflow.Ensemble.grid(nnflow.maps["digits"](), inits=scale(24, 3), seed=scale.seed, eta=etas)


def digits_growth(scale: Scale) -> xr.Dataset:
    """d(t) of perturbed copies, 201 steps as the follow-up has it (a quick run: what the growth rate needs)."""
    steps = scale(HORIZON, EARLY) + 1
    return run("separation", digits(scale), perturbation=1e-8, perturbations=1, where=KERNEL_NAMES, steps=steps)


def digits_tangent(scale: Scale) -> xr.Dataset:
    """Exponents of the tangent map over the same steps."""
    steps = scale(HORIZON, 40)
    return run("finite_time_lyapunov", digits(scale), window=steps // 2, steps=steps)


def digits_learning(scale: Scale) -> xr.Dataset:
    """Test accuracy at every step."""
    return run("series", digits(scale), observe=("test_accuracy",), steps=scale(HORIZON, 100) + 1)


# ----------------------------------------------------------------------------------------------------------- comparison


def growth(data: xr.Dataset) -> xr.DataArray:
    """ln(d(20)/d(0))/20 of every run."""
    d = data.distance.mean("perturbation")
    grown: xr.DataArray = np.log(d.sel(time=EARLY) / d.sel(time=0)) / EARLY
    return grown


def training_time(data: xr.Dataset) -> xr.DataArray:
    """The first step at which a run reaches the target accuracy; NaN if it does not."""
    reached = data.value.isel(channel=0, drop=True) >= TARGET
    first: xr.DataArray = reached.argmax("time").where(reached.any("time"))
    return first


def share(values: xr.DataArray, dim: str = "init") -> tuple[Array, Array, Array]:
    """Share of true values along `dim`, and its 95 % interval (C. J. Clopper, E. S. Pearson, Biometrika 26, 404)."""
    count, total = values.sum(dim).values, values.sizes[dim]
    found = [stats.binomtest(int(k), total).proportion_ci(0.95) for k in count.ravel()]
    low, high = np.array([(ci.low, ci.high) for ci in found]).T.reshape(2, *count.shape)
    return count / total, low, high


def compare(data: Data, scale: Scale) -> list[Row]:
    """Plateau-hopping, chance accuracy, and the numbers on digits."""
    return [*_hopping(data), *_digits(data, scale)]


def _hopping(data: Data) -> list[Row]:
    plateaus, ends = data["levels"], data["hopping"].value.isel(time=-1)
    shares = [
        between(f"share of runs whose norm jumps, η = {eta:g}", 0.5, 1.0,
                float((plateaus.jumps.sel(eta=eta) > 0).mean()), "fig", text="plateau-hopping")
        for eta in ETAS
    ]  # fmt: skip
    chance = (ends.sel(channel="accuracy") < 0.36).sel(eta=[3.0, 10.0]).mean()
    return [*shares, between("share of runs at chance accuracy, η = 3 and 10", 0.8, 1.0, float(chance), "re",
                             text="nearly all")]  # fmt: skip


def _digits(data: Data, scale: Scale) -> list[Row]:
    rate, time = growth(data["digits_growth"]).median("init"), training_time(data["digits_learning"])
    half, reached = time.median("init", skipna=True), time.notnull().mean("init")
    slack = 0.1 if scale.quick else 0.0
    rows = [
        near(f"digits: ln(d(20)/d(0))/20, η = {eta:g}", value, tolerance, float(rate.sel(eta=eta)), "re", slack=slack)
        for eta, (value, tolerance) in GROWTH.items()
    ]
    rows += [
        near(f"digits: steps to 85 % test accuracy, η = {eta:g}", value, 0.3 * value, float(half.sel(eta=eta)), "re",
             slack=0.2 * value * scale.quick)
        for eta, value in SPEED.items()
    ]  # fmt: skip
    rows += [
        between(f"digits: share of runs that reach it, η = {eta:g}", 0, 0.25, float(reached.sel(eta=eta)), "re",
                text="never")
        for eta in (0.1, 5.0)
    ]  # fmt: skip
    fastest = float(half.where(reached > 0.5).idxmin())
    text = "where λ turns positive"
    return [*rows, between(f"digits: growth rate where learning is fastest, η = {fastest:g}", 0.0, 0.15,
                           float(rate.sel(eta=fastest)), "text", text=text)]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- pictures


def draw(data: Data, scale: Scale) -> list[Picture]:
    """Plateaus at other rates, the onset as a distribution, chaos and learning on digits."""
    return [_plateaus(data), _onset(data), _learning(data)]


def _plateaus(data: Data) -> Picture:
    fig, panels = figure(2, 3, 10.0, 5.0, sharex=True, sharey="row")
    part = data["hopping"]
    for eta, column in zip(ETAS, panels.T, strict=True):
        for axes, name in zip(column, ("loss", "l1"), strict=True):
            for i, curve in enumerate(part.value.sel(eta=eta, channel=name).values[:4]):
                axes.plot(part.time, curve, color=COLOURS[i], linewidth=0.5)
        column[0].set(yscale="log", title=f"η = {eta:g}")
        column[1].set_xlabel("step")
    panels[0, 0].set_ylabel("loss (nats)")
    panels[1, 0].set_ylabel("‖W‖₁")
    caption = (
        "Loss and norm of four runs at each rate (every tenth step). The norm sits on plateaus and jumps between "
        "them. At η = 3 and 10 nearly all runs end saturated, with the same answer to every input: chance accuracy."
    )
    return Picture("plateaus", "Plateau-hopping at other learning rates", caption, fig)


def _onset(data: Data) -> Picture:
    fig, axes = figure(1, 1, 6.4, 3.8)
    part = data["onset"].exponent.isel(index=0) > LASTING
    for i, window in enumerate((0, part.sizes["time"] - 1)):
        middle, low, high = share(part.isel(time=window))
        begin = int(part.time[window])
        axes.plot(part.eta, middle, ".-", color=COLOURS[i], label=f"steps {begin} – {begin + HORIZON}")
        axes.fill_between(part.eta, low, high, color=COLOURS[i], alpha=0.2, linewidth=0)
    axes.set(xscale="log", xlabel="learning rate η", ylabel=f"P(λ > {LASTING})", ylim=(0, 1.02))
    axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 3], ["0.05", "0.1", "0.2", "0.5", "1", "2", "3"])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize="small", loc="center left")
    caption = (
        f"Iris: share of {part.sizes['init']} initial states whose tangent map grows faster than {LASTING} nats per "
        "step, with 95 % intervals. The onset is no single learning rate: it depends on the initial state and on "
        "the horizon."
    )
    return Picture("onset", "The onset of chaos is a distribution", caption, fig)


def _learning(data: Data) -> Picture:
    fig, (top, middle, below) = figure(3, 1, 6.4, 7.2, sharex=True)
    rate, tangent = growth(data["digits_growth"]), data["digits_tangent"].exponent.isel(index=0, time=0)
    accuracy, time = data["digits_learning"].value.isel(channel=0), training_time(data["digits_learning"])
    for values, label, i in ((rate, f"ln(d({EARLY})/d(0))/{EARLY}", 0), (tangent, "tangent map, first half", 1)):
        _band(top, values, i, label)
    top.axhline(0, color=GREY, linewidth=0.8)
    top.set_ylabel("exponent (nats per step)")
    top.legend(frameon=False, fontsize="small", loc="upper left")
    chaotic, low, high = share(rate > LASTING)
    twin = top.twinx()
    twin.plot(rate.eta, chaotic, color=COLOURS[2], linewidth=1, linestyle="--")
    twin.fill_between(rate.eta, low, high, color=COLOURS[2], alpha=0.12, linewidth=0)
    twin.set_ylabel(f"P(λ > {LASTING}), dashed", color=COLOURS[2])
    twin.set_ylim(0, 1.02)
    _band(middle, time.where(time.notnull().mean("init") > 0.5), 0, "")
    middle.set(yscale="log", ylabel=f"steps to {TARGET:.0%} test accuracy")
    middle.set_yticks([20, 50, 100], ["20", "50", "100"])
    middle.minorticks_off()
    _band(below, accuracy.isel(time=-1), 0, "")
    below.axhline(0.1, color=GREY, linewidth=0.8)
    last = int(accuracy.time[-1])
    below.set(xscale="log", xlabel="learning rate η", ylabel=f"test accuracy at step {last}", ylim=(0, 1))
    caption = (
        f"Handwritten digits, 64-64-10 tanh, {rate.sizes['init']} initial states; median and quartiles. Learning is "
        "fastest where the growth rate leaves 0, and fails where it is large: there the hidden units saturate. "
        "Where fewer than half of the runs reach the target there is no training time."
    )
    return Picture("learning", "Chaos and the speed of learning", caption, fig)


def _band(axes: Any, values: xr.DataArray, colour: int, label: str) -> None:
    """Median and quartiles over initial states, over the learning rate."""
    low, half, high = quantiles_over(values.transpose("init", "eta").values)
    axes.plot(values.eta, half, ".-", color=COLOURS[colour], label=label)
    axes.fill_between(values.eta, low, high, color=COLOURS[colour], alpha=0.25, linewidth=0)


E5 = Experiment(
    "E5",
    "Other learning rates, and the follow-up",
    "Iris at η = 2, 3 and 10; the share of initial states that start chaotic, over η; and a larger network on "
    "handwritten digits, a stand-in for the follow-up's MNIST: its exponent, training time and final accuracy in "
    "one figure.",
    {
        "hopping": hopping,
        "levels": levels,
        "onset": onset,
        "digits_growth": digits_growth,
        "digits_tangent": digits_tangent,
        "digits_learning": digits_learning,
    },
    compare,
    draw,
)
