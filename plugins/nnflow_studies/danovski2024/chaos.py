"""E3: learning rate 1. The study's exponent, how biased it is, how long the chaos lasts, where it comes from."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

import nnflow
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

SIZES = tuple(float(f"1e-{k}") for k in range(14, 0, -1))
PUBLISHED = (.334, .328, .321, .313, .311, .309, .285, .274, .248, .226, .175, .118, .075)  # fmt: skip
POOLED = (.329, .322, .317, .309, .305, .297, .284, .272, .254, .221, .176, .117, .073)  # fmt: skip
DEVIATION = (.130, .128, .118, .117, .119, .115, .102, .097, .092, .078, .058, .040, .020)  # fmt: skip
TOLERANCE = (.03,) * 6 + (.015,) * 4 + (.01,) * 3  # fmt: skip
COUNTED = ((455, 474), (444, 464), (445, 458), (439, 456), (442, 458), (435, 454), (431, 444), (407, 426), (415, 431),
           (385, 397), (319, 322), (178, 213), (42, 52), (0, 1))  # fmt: skip
LASTING = 0.02  # nats per step: above, a stretch counts as chaotic
STRETCH = 250  # steps

KNOWN: dict[str, tuple[str, dict[str, Any], float, str]] = {
    "logistic, r = 4": ("logistic", {"r": 4.0}, float(np.log(2)), "ln 2, exact"),
    "Hénon": ("henon", {}, 0.41922, "0.41922 (Sprott)"),
    "softmax, κ = 10": ("softmax", {"kappa": 10.0}, 0.236, "0.236 (recomputed)"),
}
ESTIMATORS = ("window fit", "guarded window fit", "two orbits", "tangent map")


# ------------------------------------------------------------------------------------------------------------- datasets


def window_fits(scale: Scale) -> xr.Dataset:
    """The study's estimator for all sizes of the perturbation, with an interval of the mean over initial states."""
    found = run("network_lyapunov", iris(scale, scale(500, 60), eta=1.0), perturbation=SIZES, where=KERNEL_NAMES)
    values = found.exponent.where(found.counted).transpose("init", "size").values
    low, high = resampled_means(values, 1000, scale.seed)
    return found.assign(mean_low=("size", low), mean_high=("size", high))


def resampled_means(values: Array, resamples: int, seed: int) -> tuple[Array, Array]:
    """The central 95 % of the means of resampled rows ``(row, column)``; NaN entries do not count."""
    rng, means = np.random.default_rng(seed), []
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    for _ in range(resamples):
        rows = rng.integers(len(values), size=len(values))
        count = known[rows].sum(axis=0)
        means.append(np.where(count > 0, filled[rows].sum(axis=0) / np.maximum(count, 1), np.nan))
    found = np.array(means)
    whole = np.isfinite(found).all(axis=0)
    low, high = np.quantile(np.where(whole, found, 0.0), [0.025, 0.975], axis=0)
    return np.where(whole, low, np.nan), np.where(whole, high, np.nan)


def guarded_fits(scale: Scale) -> xr.Dataset:
    """The same at one size, away from saturation and flat windows, with bootstrap intervals and the map of windows."""
    return run(
        "network_lyapunov", iris(scale, scale(500, 60), eta=1.0), perturbation=1e-8, where=KERNEL_NAMES,
        saturation=0.1, least_growth=2.0, bootstrap=scale(100, 20), window_map=True,
    )  # fmt: skip


def distances(scale: Scale) -> xr.Dataset:
    """d(t) itself, layer by layer, for some of the states."""
    return run("separation", iris(scale, 20, eta=1.0), perturbation=1e-8, where=KERNEL_NAMES, steps=400, layers=True)


def tangent(scale: Scale) -> xr.Dataset:
    """The finite-time exponent of the tangent map over the same 200 steps."""
    return run("finite_time_lyapunov", iris(scale, scale(500, 60), eta=1.0), window=200, steps=200)


def two_orbits(scale: Scale) -> xr.Dataset:
    """Benettin's two-orbit method over the same 200 steps."""
    window: dict[str, Any] = {"steps": 200, "transient": 0, "where": KERNEL_NAMES}
    return run("two_orbit_lyapunov", iris(scale, scale(500, 60), eta=1.0), **window)


def lasting(scale: Scale) -> xr.Dataset:
    """The exponents of successive stretches up to step 5000."""
    ensemble = iris(scale, scale(500, 60), eta=1.0)
    return run("finite_time_lyapunov", ensemble, window=STRETCH, steps=20 * STRETCH)


def clipped(scale: Scale) -> xr.Dataset:
    """Exponents on the same orbits with one kind of curvature clipped from the tangent map."""
    return run("clipped_lyapunov", iris(scale, scale(50, 6), eta=1.0), steps=200)


def losses(scale: Scale) -> xr.Dataset:
    """The loss over the first 2000 steps."""
    return run("series", iris(scale, scale(20, 3), eta=1.0), observe=WATCHED, steps=2000)


def known_maps(scale: Scale) -> xr.Dataset:
    """All estimators on maps whose exponent is known: ``exponent (map, estimator, init)``, 200 steps each."""
    found = [_estimates(*KNOWN[name][:2], scale) for name in KNOWN]
    return xr.Dataset(
        {"exponent": (("map", "estimator", "init"), np.array(found)), "known": ("map", [KNOWN[n][2] for n in KNOWN])},
        {"map": list(KNOWN), "estimator": list(ESTIMATORS)},
        {"map": ", ".join(KNOWN), "analysis": "network_lyapunov, two_orbit_lyapunov, finite_time_lyapunov",
         "settings": '{"perturbation": 1e-12, "steps": 200, "transient": 200}', "seed": scale.seed},
    )  # fmt: skip


def _estimates(name: str, parameters: dict[str, float], scale: Scale) -> list[Array]:
    """The four estimates of each initial state, all on the attractor."""
    map = nnflow.maps[name](**parameters)
    ensemble = nnflow.Ensemble.grid(map, inits=scale(500, 60), seed=scale.seed)
    fit = {"perturbation": 1e-12, "transient": 200, "where": "*"}
    guard = {"saturation": 0.1, "least_growth": 2.0}
    window: dict[str, Any] = {"steps": 200, "transient": 200}
    parts = (
        run("network_lyapunov", ensemble, **fit),
        run("network_lyapunov", ensemble, **fit, **guard),
        run("two_orbit_lyapunov", ensemble, **window),
        run("finite_time_lyapunov", ensemble, window=200, **window),
    )
    return [part.exponent.values.reshape(ensemble.shape[0]) for part in parts]


# ----------------------------------------------------------------------------------------------------------- comparison


def compare(data: Data, scale: Scale) -> list[Row]:
    """Every number the study gives, and what it does not say."""
    return [*_table(data["fits"], scale), *_duration(data), *_origin(data, scale), *_bias(data, scale)]


def _table(fits: xr.Dataset, scale: Scale) -> list[Row]:
    rows, states = [], fits.sizes["init"]
    for i, size in enumerate(SIZES):
        counted = fits.counted.values[:, i]
        name, many = f"{size:.0e}".replace("e-0", "e-"), int(counted.sum())
        if i < len(POOLED):
            values = fits.exponent.values[counted, i]
            mean = float(values.mean()) if values.size else float("nan")
            slack = 2 * float(values.std()) / max(1, many) ** 0.5 if scale.quick and values.size else 0.0
            text = f"{PUBLISHED[i]:.3f} [fig], {POOLED[i]:.3f} [re]"
            rows.append(near(f"λ_nMLE, ε = {name}", POOLED[i], TOLERANCE[i], mean, "re", slack=slack, text=text))
        low, high = COUNTED[i]
        rows.append(
            between(
                f"counted of {states}, ε = {name}",
                max(0, low - 25) * states / 500,
                (high + 25) * states / 500,
                many,
                "re",
                slack=0.1 * states if scale.quick else 0.0,
                text=f"{low}–{high} of 500",
            )
        )
    return rows


def _duration(data: Data) -> list[Row]:
    late = data["lasting"].exponent.isel(index=0)
    third, end = late.isel(time=slice(2, 4)).mean("time").median(), (late.isel(time=-1) > LASTING).mean()
    return [
        between("median exponent, steps 500 – 1000", -2e-3, 2e-2, float(third), "re", text="near 0: transient"),
        between("median exponent, steps 1000 – 1250", -2e-4, 2e-4, float(late.isel(time=4).median()), "re"),
        between("share of runs with exponent > 0.02 at step 5000", 0.04, 0.21, float(end), "re", text="9–16 %"),
    ]


def _origin(data: Data, scale: Scale) -> list[Row]:
    part = data["clipped"]
    stability = (1 - part.smallest) / 2
    mean = {str(name): float(part.exponent.sel(clipped=name).mean()) for name in part.clipped.values}
    slack = 0.03 if scale.quick else 0.0
    negative = float((part.largest > -part.smallest).mean())
    return [
        between("exponent, all curvature", 0.18, 0.24, mean["none"], "re", text=".19–.22", slack=slack),
        between(
            "exponent, negative curvature clipped", 0.01, 0.04, mean["negative"], "re", text=".02–.03", slack=slack
        ),
        between(
            "exponent, curvature beyond 2/η clipped", 0.07, 0.10, mean["beyond"], "re", text=".08–.09", slack=slack
        ),
        near("median of ηS, first 200 steps", 1.7, 0.2, 2 * float(stability.median()), "re", slack=10 * slack),
        near("share of steps with ηS > 2", 0.37, 0.05, float((stability > 1).mean()), "re", slack=4 * slack),
        near("share of steps led by negative curvature", 0.73, 0.05, negative, "re", slack=4 * slack),
    ]


def _bias(data: Data, scale: Scale) -> list[Row]:
    whole, both = data["tangent"].exponent.values.ravel(), data["two_orbits"].exponent.values.ravel()
    slack = 0.03 if scale.quick else 0.0
    rows = [
        between("exponent of the tangent map, same 200 steps", 0.18, 0.23, float(whole.mean()), "re", text=".19–.22",
                slack=slack),
        near("standard deviation of it between states", 0.08, 0.02, float(whole.std()), "re", slack=slack),
        near("two orbits beside the tangent map", float(whole.mean()), 0.02, float(both.mean()), "ours", slack=slack),
    ]  # fmt: skip
    known = data["known"]
    for name in KNOWN:
        exact, text = KNOWN[name][2:]
        found = float(known.exponent.sel(map=name, estimator="tangent map").mean())
        rows.append(near(f"{name}: tangent map, 200 steps", exact, 0.01 + slack, found, "exact", text=text))
    return rows


# ------------------------------------------------------------------------------------------------------------- pictures


def draw(data: Data, scale: Scale) -> list[Picture]:
    """Distances, the exponent over ε, the distribution beside what is true, how long chaos lasts, where it is from."""
    return [_distances(data), _over_sizes(data), _distribution(data), _estimators(data), _lasting(data), _origins(data)]


def _distances(data: Data) -> Picture:
    fig, (left, right) = figure(1, 2, 10.0, 3.8)
    part, loss = data["distances"], data["losses"].value.sel(channel="loss")
    for i, curve in enumerate(part.distance.mean("perturbation").values):
        left.plot(part.time, curve, color=GREY, linewidth=0.6, label="one state" if i == 0 else None)
    for i, layer in enumerate(part.layer.values):
        curve = part.layer_distance.sel(layer=layer).mean("perturbation").median("init")
        left.plot(part.time, curve, color=COLOURS[i], linewidth=1.2, label=f"{layer}, median")
    left.set(yscale="log", xlabel="step", ylabel="distance (L1)")
    left.legend(frameon=False, fontsize="small")
    for curve in loss.values[:3]:
        right.plot(loss.time, curve, linewidth=0.6)
    right.set(yscale="log", xlabel="step", ylabel="loss (nats)")
    caption = (
        "Left: mean distance of five perturbed copies (ε = 1e-8) from each of 20 states, and within each layer. "
        "Right: the loss of three runs; it is spiky at first and smooth later."
    )
    return Picture("distances", "Neighbours separate exponentially, then saturate", caption, fig)


def _over_sizes(data: Data) -> Picture:
    fits = data["fits"]
    fig, (top, below) = figure(2, 1, 6.4, 5.6, sharex=True, height_ratios=(2, 1))
    values = fits.exponent.where(fits.counted)
    mean, deviation = values.mean("init").values, values.std("init").values
    count = fits.counted.sum("init").values
    few = count < 5
    mean, deviation = np.where(few, np.nan, mean), np.where(few, np.nan, deviation)
    top.fill_between(SIZES, mean - deviation, mean + deviation, color=COLOURS[0], alpha=0.15, linewidth=0)
    errors = np.abs(np.array([mean - fits.mean_low.values, fits.mean_high.values - mean]))
    top.errorbar(SIZES, mean, errors, color=COLOURS[0], marker=".", capsize=2, label="ours (shade: std; bar: 95 %)")
    top.plot(SIZES[:13], PUBLISHED, "s", color=COLOURS[1], markersize=4, fillstyle="none", label="published")
    top.plot(SIZES[:13], POOLED, "x", color="k", markersize=4, label="recomputed, three splits")
    truth = float(data["tangent"].exponent.mean())
    top.axhline(truth, color=COLOURS[2], linewidth=1, label="tangent map, same 200 steps")
    top.set(ylabel="λ (nats per step)", ylim=(0, None))
    top.legend(frameon=False, fontsize="small")
    states = fits.sizes["init"]
    below.plot(SIZES, count / states, ".-", color=COLOURS[0])
    below.fill_between(
        SIZES, [c[0] / 500 for c in COUNTED], [c[1] / 500 for c in COUNTED], color="k", alpha=0.2, linewidth=0
    )
    below.set(xscale="log", xlabel="size ε of the perturbation", ylabel="share counted", ylim=(0, 1))
    caption = (
        f"The study's exponent over {states} initial states, and the share of them that its filters let through. The "
        "estimate falls with ε because the distance saturates sooner; it lies above the exponent of the tangent map."
    )
    return Picture("exponent", "The study's exponent over the size of the perturbation", caption, fig)


def _distribution(data: Data) -> Picture:
    fig, axes = figure(1, 1, 6.4, 3.6)
    fits = data["fits"].sel(size=1e-8)
    shown = {
        "window fit of the study, counted": fits.exponent.values[fits.counted.values],
        "window fit with guards": data["guarded"].exponent.values,
        "tangent map": data["tangent"].exponent.values.ravel(),
        "two orbits": data["two_orbits"].exponent.values,
    }
    bins = np.linspace(-0.1, 0.7, 41)
    for i, (label, values) in enumerate(shown.items()):
        axes.hist(values[np.isfinite(values)], bins, histtype="step", color=COLOURS[i], label=label, density=True)
    axes.set(xlabel="exponent over the first 200 steps (nats per step)", ylabel="density of initial states")
    axes.legend(frameon=False, fontsize="small")
    caption = (
        "Four estimates on the same orbits, ε = 1e-8. Choosing the best of 315 windows favours the steepest stretch."
    )
    return Picture("distribution", "The window fit is biased upwards", caption, fig)


def _estimators(data: Data) -> Picture:
    known = data["known"]
    fig, panels = figure(1, len(KNOWN), 10.0, 3.4)
    for name, axes in zip(KNOWN, panels, strict=True):
        values = [known.exponent.sel(map=name, estimator=e).values for e in ESTIMATORS]
        values = [v[np.isfinite(v)] for v in values]
        axes.boxplot(values, whis=(5, 95), showfliers=False, medianprops={"color": COLOURS[1]})
        axes.axhline(KNOWN[name][2], color=COLOURS[2], linewidth=1, label=f"known: {KNOWN[name][3]}")
        axes.set_xticklabels([e.replace(" ", "\n", 1) for e in ESTIMATORS], fontsize="small")
        axes.set_xlabel(name)
        axes.legend(frameon=False, fontsize="small", loc="lower left")
    panels[0].set_ylabel("exponent (nats per step)")
    bias = [
        f"{float(known.exponent.sel(map=name, estimator='window fit').mean()) / KNOWN[name][2] - 1:+.0%} ({name})"
        for name in KNOWN
    ]
    caption = (
        "Perturbations of 1e-12, 200 steps after a transient of 200; boxes: quartiles over initial states, whiskers: 5 "
        f"to 95 %. The mean of the study's window fit is off by {', '.join(bias)}. Where the growth rate varies along "
        "the orbit, the straightest of many windows is a steep one; guards against saturation do not cure that."
    )
    return Picture("estimators", "Four estimators where the answer is known", caption, fig)


def _lasting(data: Data) -> Picture:
    fig, (left, right) = figure(1, 2, 10.0, 3.6)
    part = data["lasting"].exponent.isel(index=0)
    middle = part.time.values + STRETCH / 2
    low, half, high = quantiles_over(part.transpose("init", "time").values)
    left.plot(middle, half, color=COLOURS[0], marker=".")
    left.fill_between(middle, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    left.axhline(0, color=GREY, linewidth=0.8)
    left.set(xlabel="step", ylabel=f"exponent over {STRETCH} steps (nats per step)")
    right.plot(middle, (part > LASTING).mean("init"), ".-", color=COLOURS[0])
    right.set(xlabel="step", ylabel=f"share of runs with exponent > {LASTING}", ylim=(0, 1))
    caption = (
        "Exponents of the tangent map over successive stretches: median, and quartiles over "
        f"{part.sizes['init']} states. Most runs are chaotic at first only; a few stay so, or turn chaotic again."
    )
    return Picture("lasting", "The chaos is transient in most runs", caption, fig)


def _origins(data: Data) -> Picture:
    fig, (left, right) = figure(1, 2, 10.0, 3.6)
    part = data["clipped"]
    values = part.exponent.transpose("init", "clipped").values
    labels = ["all curvature", "negative\nclipped", "beyond 2/η\nclipped"]
    left.boxplot(values, tick_labels=labels, whis=(5, 95), showfliers=False, medianprops={"color": COLOURS[1]})
    left.axhline(0, color=GREY, linewidth=0.8)
    left.set_ylabel("exponent over 200 steps (nats per step)")
    flips, climbs = -part.smallest.values.ravel(), part.largest.values.ravel()
    right.plot(flips, climbs, ".", markersize=1.5, color=COLOURS[0], alpha=0.4, rasterized=True)
    ends = [0.5, float(max(flips.max(), climbs.max()))]
    right.plot(ends, ends, color=GREY, linewidth=0.8)
    right.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    right.set(
        xlabel="stretch by the flip, ηS − 1",
        ylabel="stretch by negative curvature, 1 − ηh_min",
        xlim=(-1, 6),
        ylim=(1, 5),
    )
    caption = (
        "Left: the growth rate along the same orbits, without negative curvature and without curvature beyond 2/η. "
        "Right: the largest stretch of each kind at every step; above the line, negative curvature leads."
    )
    return Picture("origin", "Negative curvature, more than the edge of stability", caption, fig)


E3 = Experiment(
    "E3",
    "Learning rate 1: the network's maximum Lyapunov exponent",
    "Fourteen sizes of perturbation, five perturbed copies of each initial state, 200 steps; a straight line on the "
    "logarithm of the mean distance over each of 315 windows, the one of largest R² counts. Beside it: the tangent "
    "map, Benettin's two orbits, how long the chaos lasts, and which curvature it comes from.",
    {
        "fits": window_fits,
        "guarded": guarded_fits,
        "distances": distances,
        "tangent": tangent,
        "two_orbits": two_orbits,
        "lasting": lasting,
        "clipped": clipped,
        "losses": losses,
        "known": known_maps,
    },
    compare,
    draw,
)  # fmt: skip
