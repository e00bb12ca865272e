"""E4: learning rate 5. Plateaus, bands and jumps; the softmax map that is behind them, and what does not fit it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from nnflow_plugins.training.reduced_model import softmax_step, task

import nnflow
from nnflow_studies.danovski2024.experiment import (
    COLOURS,
    GREY,
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
    run,
)

ETA = 5.0
STEPS = 10_000
SETTLED = 3000  # steps, after which the study takes its statistics
BAND = 10.0  # κ of the chaotic band
LEVEL = 2.0  # smallest step of ‖W‖₁ from one plateau to another
WIDE = {"box": ([-8.0] * 3, [8.0] * 3)}  # initial logits from which all coexisting attractors are reached
MATCHED = 1e-3  # logits: a run follows the softmax map if its residual stays below


@dataclass(frozen=True)
class Ending(nnflow.Analysis):
    """How members end: κ, stuck units, the range of the loss, and the same of the softmax map from the same logits."""

    settle: int
    """Steps first."""
    steps: int
    """Steps looked at."""
    samples: int = 60
    """Samples of the loss that are kept, the last ones."""

    def __call__(self, ensemble: nnflow.Ensemble) -> dict[str, Any]:
        """Compute the variables."""
        eta, p = task(ensemble)
        logits = [f"output[{c}]" for c in range(len(p))]
        names = [*logits, "hidden_square", "output_range", "stuck_on", "loss"]
        records, after = ensemble.advance(self.settle).orbit(self.steps, observe=names)
        z, (square, spread, stuck, loss) = records[..., : len(p)], np.moveaxis(records[..., len(p) :], -1, 0)
        kappa = eta[:, None] * (1 + square)
        residual = np.abs(z[:, 1:] - softmax_step(z[:, :-1], kappa[:, :-1], p)).max(axis=(1, 2))
        twin = _twin(z[:, 0], kappa[:, 0], p, self.steps)
        own, other = (np.stack([part.min(axis=1), part.max(axis=1)], axis=1) for part in (loss, twin))
        wide = 0.02 + 0.05 * (own[:, 1] - own[:, 0])
        agree = (residual < MATCHED) & (np.abs(own - other).max(axis=1) < wide)
        one: dict[str, Any] = {"kappa": kappa[:, -1], "residual": residual, "stuck_on": stuck[:, -1]}
        one |= {"output_range": spread[:, -1], "matched": agree}
        return {
            **{name: ("member", values) for name, values in one.items()},
            "band": (("member", "edge"), own, {"long_name": "smallest and largest loss", "units": "nats"}),
            "twin_band": (("member", "edge"), other, {"long_name": "the same of the softmax map", "units": "nats"}),
            "value": (("member", "sample"), loss[:, -self.samples :], {"long_name": "loss", "units": "nats"}),
            "escaped": ("member", after.escaped),
        }


def _twin(z: Array, kappa: Array, p: Array, steps: int) -> Array:
    """The loss along the softmax map: ``(member, steps)``."""
    seen = []
    for _ in range(steps):
        top = z.max(axis=1)
        seen.append(top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z @ p)
        z = softmax_step(z, kappa, p)
    return np.stack(seen, axis=1)


# ------------------------------------------------------------------------------------------------------------- datasets


def series(scale: Scale) -> xr.Dataset:
    """Loss, norm and stuck units at every step."""
    return run("series", iris(scale, scale(20, 8), eta=ETA), observe=WATCHED, steps=STEPS)


def plateaus(scale: Scale) -> xr.Dataset:
    """Plateaus of the norm."""
    return run("plateaus", iris(scale, scale(20, 8), eta=ETA), observable="l1", jump=LEVEL, steps=STEPS)


def laminar(scale: Scale) -> xr.Dataset:
    """Stretches on which the loss nearly repeats itself after three steps."""
    options: dict[str, Any] = {"observable": "loss", "period": 3, "tolerance": 0.02}
    return run("laminar_lengths", iris(scale, scale(20, 8), eta=ETA), steps=STEPS, transient=SETTLED, **options)


def transient(scale: Scale) -> xr.Dataset:
    """How many units are on, up to step 20 000."""
    return run("series", iris(scale, scale(100, 12), eta=ETA), observe=WATCHED, steps=scale(20_100, 6000), every=100)


def moving(scale: Scale) -> xr.Dataset:
    """Which weights still move at the end."""
    return run("displacement", iris(scale, scale(20, 8), eta=ETA), transient=STEPS - 1000, steps=1000)


def residual(scale: Scale) -> xr.Dataset:
    """The step-wise residual of the softmax map all along the way."""
    return run("reduced_model", iris(scale, scale(20, 8), eta=ETA), steps=STEPS, every=scale(20, 50))


def collapse(scale: Scale) -> xr.Dataset:
    """How runs at all learning rates end."""
    etas = np.linspace(2.0, 12.0, scale(41, 11))
    return run_instance(Ending(scale(STEPS, 4000), scale(2000, 500)), iris(scale, scale(20, 5), eta=etas))


def run_instance(analysis: nnflow.Analysis, ensemble: nnflow.Ensemble) -> xr.Dataset:
    """`nnflow.run` for an analysis that is no plugin."""
    return nnflow.run(analysis, ensemble, progress=False)


def _softmax(scale: Scale, inits: int, *, frequencies: Any = None, **axes: Any) -> nnflow.Ensemble:
    """The softmax map with the class frequencies of the training rows."""
    p = frequencies or nnflow.maps["iris"]().classes
    return nnflow.Ensemble.grid(nnflow.maps["softmax"](frequencies=p, **WIDE), inits=inits, seed=scale.seed, **axes)


def diagram(scale: Scale) -> xr.Dataset:
    """Orbit diagram of the softmax map over κ, from wide initial logits."""
    ensemble = _softmax(scale, scale(40, 20), kappa=np.linspace(2, 60, scale(400, 150)))
    return run("orbit_diagram", ensemble, observable="loss", steps=30, transient=3000)


def flip(scale: Scale) -> xr.Dataset:
    """The same around its first flip, very well settled (there, it settles slowly)."""
    ensemble = _softmax(scale, 2, kappa=np.linspace(5.85, 5.98, 66))
    return run("orbit_diagram", ensemble, observable="z0", steps=30, transient=100_000)


def attractors(scale: Scale) -> xr.Dataset:
    """What coexists at κ = 10."""
    return run("orbit_diagram", _softmax(scale, 400, kappa=BAND), observable="loss", steps=3000, transient=3000)


def uniform(scale: Scale) -> xr.Dataset:
    """The 3-cycle of constant loss with equal classes, at κ = 12: periods are seen on a logit."""
    ensemble = _softmax(scale, 200, frequencies=(1.0, 1.0, 1.0), kappa=12.0)
    found = run("orbit_diagram", ensemble, observable="z0", steps=30, transient=3000)
    loss = run("orbit_diagram", ensemble, observable="loss", steps=30, transient=3000)
    return found.assign(loss=loss.value)


def exponents(scale: Scale) -> xr.Dataset:
    """Both exponents of the chaotic band at κ = 10."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["softmax"](), inits=20, seed=scale.seed, kappa=BAND)
    return run("lyapunov_spectrum", ensemble, gauge=False, steps=scale(50_000, 10_000))


def autocorrelation(scale: Scale) -> xr.Dataset:
    """Of the loss of the network, from step 3000 on."""
    settings: dict[str, Any] = {"transient": SETTLED, "steps": STEPS - SETTLED, "shuffles": scale(1000, 100)}
    return run("autocorrelation", iris(scale, scale(20, 8), eta=ETA), observable="loss", **settings)


def autocorrelation_reduced(scale: Scale) -> xr.Dataset:
    """Of the loss of the softmax map at κ = 10."""
    ensemble = nnflow.Ensemble.grid(nnflow.maps["softmax"](), inits=20, seed=scale.seed, kappa=BAND)
    settings: dict[str, Any] = {"transient": SETTLED, "steps": scale(20_000, 7000), "shuffles": 20}
    return run("autocorrelation", ensemble, observable="loss", **settings)


def expansion(scale: Scale) -> xr.Dataset:
    """Local expansion rates of the loss of the softmax map, as the study has them: 7000 samples."""
    return _expansion(scale, embedding=1, theiler=1, radius=5e-5, steps=STEPS - SETTLED)


def expansion_embedded(scale: Scale) -> xr.Dataset:
    """The same in three dimensions, with a Theiler window, and no window shorter than 12 steps."""
    return _expansion(scale, embedding=3, theiler=50, radius=5e-3, shortest=12, steps=scale(100_000, 20_000))


def _expansion(scale: Scale, **options: Any) -> xr.Dataset:
    ensemble = nnflow.Ensemble.grid(nnflow.maps["softmax"](), inits=1, seed=scale.seed, kappa=BAND)
    return run("local_expansion", ensemble, transient=SETTLED, observable="loss", **options)


# ----------------------------------------------------------------------------------------------------------- comparison


def in_band(data: Data) -> Array:
    """Which of the study's runs are in the chaotic band from step 3000 on: one unit on, and a loss that moves."""
    part = data["residual"].sel(time=slice(SETTLED, None))
    steady = (abs(part.kappa - BAND) < 0.1).all("time")
    low, high = part.loss.min("time"), part.loss.max("time")
    return np.asarray((steady & (high < 2.6) & (high - low > 1)).values)


def compare(data: Data, scale: Scale) -> list[Row]:
    """The numbers of the network, of the softmax map, and of both together."""
    return [*_network(data, scale), *_map(data), *_statistics(data, scale)]


def _network(data: Data, scale: Scale) -> list[Row]:
    norm = data["series"].value.sel(channel="l1", time=slice(1000, None))
    on = data["transient"].value.sel(channel="hidden_square").mean("init")
    late = data["transient"].value.sel(channel="stuck_on").isel(time=slice(-20, None))
    changing = float((late.max("time") > late.min("time")).mean())
    still = (data["moving"].path > 1e-2).sum("weight")
    ends, high = data["collapse"], data["collapse"].eta >= 3
    constant = (ends.output_range < 1e-2).sel(eta=high).mean()
    slack = 0.5 if scale.quick else 0.0
    return [
        between("smallest ‖W‖₁ after step 1000", 80, 110, float(norm.min()), "fig", text="94", slack=30 * slack),
        between("largest ‖W‖₁", 160, 230, float(norm.max()), "fig", text="214", slack=80 * slack),
        between("share of runs with a jump of ‖W‖₁", 0.5, 1, float((data["plateaus"].jumps > 0).mean()), "fig",
                text="plateau-hopping"),
        near("units on (mean Σh²) at step 0", 4.9, 0.6, float(on[0]), "re", slack=slack),
        near("units on at step 5000", 1.4, 0.3, float(on.sel(time=5000)), "re", slack=slack),
        between("share of runs that still change, last 2000 steps", 0, 0.1, changing, "re", text="few",
                slack=0.1 * slack),
        between("weights that still move, median of 83", 4, 30, float(still.median()), "fig", text="8, one run"),
        between("share of runs with constant output, η ≥ 3", 0.85, 1, float(constant), "re", text="nearly all",
                slack=0.1 * slack),
        between("share of runs that follow the softmax map, η ≥ 3", 0.8, 1, float(ends.matched.sel(eta=high).mean()),
                "re", text="all branches", slack=0.3 * slack),
    ]  # fmt: skip


def _map(data: Data) -> list[Row]:
    period, values = data["attractors"].period.values.ravel(), data["attractors"].value
    rows = values.values.reshape(len(period), -1)
    band, cycle = rows[period == 0], np.sort(rows[period == 3][:, :3], axis=1)
    first = min(cycle.tolist(), default=[np.nan] * 3, key=lambda c: c[0])
    still = data["diagram"].sel(kappa=5.0, method="nearest").value
    mean = data["exponents"].exponent.mean("init").values
    bends = data["flip"].period.isel(init=0)
    equal = data["uniform"].loss.values[data["uniform"].period.values == 3]
    cycle_text = "2.900, 2.982, 3.011"
    return [
        near("loss at κ = 5 (fixed point)", 1.0984, 1e-3, float(still.mean()), "exact", digits=5, text="H(p) = 1.098"),
        near("first flip, κ", 5.916, 0.004, float(bends.kappa[bends.values == 2][0]), "exact", digits=4,
             text="2/μ_max = 5.916"),
        near("first exponent at κ = 10", 0.236, 0.004, float(mean[0]), "re"),
        near("second exponent", 0.136, 0.004, float(mean[1]), "re"),
        near("band at κ = 10, smallest loss", 1.1025, 5e-4, float(band.min()), "re", digits=5),
        near("band at κ = 10, largest loss", 2.3821, 1e-3, float(band.max()), "re", digits=5),
        Row("3-cycle that coexists with it", cycle_text, ", ".join(number(value, ".3f") for value in first),
            bool(np.abs(np.array(first) - [2.900, 2.982, 3.011]).max() < 2e-3), "within 0.002", "re"),
        near("loss of the 3-cycle of equal classes, κ = 12", 3.83258, 1e-5, float(equal.mean()), "exact", digits=6),
    ]  # fmt: skip


def _statistics(data: Data, scale: Scale) -> list[Row]:
    reduced = data["autocorrelation_reduced"].autocorrelation.mean("init")
    exact = {1: -0.278, 2: -0.325, 3: 0.171, 7: -0.181}
    rows = [
        near(f"autocorrelation of the softmax map, lag {lag}", value, 0.004, float(reduced.sel(lag=lag)), "re",
             slack=0.01 * scale.quick)
        for lag, value in exact.items()
    ]  # fmt: skip
    chosen = in_band(data)
    if chosen.any():
        network = data["autocorrelation"].autocorrelation.values[chosen].mean(axis=0)
        shown = {1: -0.28, 2: -0.32, 3: 0.17, 7: -0.19}
        rows += [
            near(f"autocorrelation of the network's loss, lag {lag}", value, 0.03, float(network[lag]), "fig")
            for lag, value in shown.items()
        ]
    plain, embedded = data["expansion"], data["expansion_embedded"]
    rates = plain.rate.values[plain.kept.values]
    true = embedded.rate.values[embedded.kept.values]
    return [
        *rows,
        near("local expansion rates as in the study, mode", 0.25, 0.15, mode(rates), "fig"),
        near("smallest such rate", -1.0, 0.6, float(rates.min()), "fig"),
        near("largest such rate", 2.3, 0.6, float(rates.max()), "fig"),
        between("share of false neighbours there, mean", 0.3, 1.0, float(plain.false_share.mean()), "re", text="most"),
        between("the same in three dimensions", 0.0, 0.15, float(embedded.false_share.mean()), "ours", text="few"),
        near("median rate in three dimensions", 0.236, 0.03, float(np.median(true)), "exact", text="λ₁ = 0.236"),
    ]  # fmt: skip


def mode(values: Array, width: float = 0.1) -> float:
    """The middle of the fullest bin."""
    counts, edges = np.histogram(values, np.arange(-1.5, 3.5, width))
    return float(edges[counts.argmax()] + width / 2)


# ------------------------------------------------------------------------------------------------------------- pictures


def draw(data: Data, scale: Scale) -> list[Picture]:
    """Runs, saturation, the collapse on the softmax map, correlations, and local rates."""
    return [_runs(data), _saturation(data), _collapse(data), _correlations(data), _rates(data)]


def _runs(data: Data) -> Picture:
    fig, panels = figure(2, 3, 11.0, 5.4, sharex=True)
    part, found = data["series"], data["plateaus"]
    jumps = np.argsort(-found.jumps.values)[:2]
    band = np.flatnonzero(in_band(data))[:1]
    shown = list(dict.fromkeys([*jumps.tolist(), *band.tolist(), *range(part.sizes["init"])]))[:3]
    for init, (top, below) in zip(shown, panels.T, strict=True):
        top.plot(part.time, part.value.sel(init=init, channel="loss"), ",", color=COLOURS[0], rasterized=True)
        top.set_title(f"initial state {init}", fontsize="medium")
        below.plot(part.time, part.value.sel(init=init, channel="l1"), color=COLOURS[0], linewidth=0.6)
        one = found.sel(init=init)
        flat = one.flat.values
        level, start, end = (one[name].values[flat] for name in ("level", "start", "end"))
        below.hlines(level, start, end, color=COLOURS[1], linewidth=2.2, alpha=0.7)
        top.set_ylim(0.9, None)
        below.set_xlabel("step")
    panels[0, 0].set_ylabel("loss (nats)")
    panels[1, 0].set_ylabel("‖W‖₁")
    caption = (
        "Three runs at η = 5, every step a dot. The loss hops between fixed values, 3-band cycles and chaotic "
        "bands; the norm sits on plateaus (orange: found automatically). All of them answer every input alike: "
        "chance accuracy."
    )
    return Picture("runs", "Plateaus, bands and jumps at η = 5", caption, fig)


def _saturation(data: Data) -> Picture:
    fig, (left, right) = figure(1, 2, 10.0, 3.6)
    on, part = data["transient"].value, data["residual"]
    for i, (name, label) in enumerate((("hidden_square", "mean Σh²"), ("stuck_on", "stuck on, n"))):
        left.plot(on.time, on.sel(channel=name).mean("init"), color=COLOURS[i], label=label)
    left.set(xlabel="step", ylabel="hidden units on, mean over runs", ylim=(0, None))
    left.legend(frameon=False, fontsize="small")
    values = np.maximum(part.residual.values, 1e-16)
    for i, level in enumerate((0.5, 0.75, 0.95)):
        right.plot(
            part.time, np.quantile(values, level, axis=0), color=COLOURS[i], linewidth=0.8, label=f"{level:.0%} of runs"
        )
    right.axhline(MATCHED, color=GREY, linewidth=0.8)
    right.set(yscale="log", xlabel="step", ylabel="residual of the softmax map (logits)")
    right.legend(frameon=False, fontsize="small", title="at most this in")
    caption = (
        f"Left: units that are on, in the mean of {on.sizes['init']} runs. Right: how far one step of the network "
        "is from one step of the softmax map with κ = η(1 + Σh²); below the grey line a run counts as following it."
    )
    return Picture("saturation", "Hidden units saturate, and the network follows the softmax map", caption, fig)


def _collapse(data: Data) -> Picture:
    fig, axes = figure(1, 1, 10.0, 5.2)
    base, ends = data["diagram"], data["collapse"]
    x = np.repeat(base.kappa.values, base.value[0].size)
    axes.plot(x, base.value.values.ravel(), ",", color="0.6", zorder=0, rasterized=True)
    axes.plot([], [], "s", color="0.6", markersize=4, label="softmax map")
    kappa, loss = (ends[name].values for name in ("kappa", "value"))
    for n in range(6):
        chosen = ends.matched.values & (np.rint(ends.stuck_on.values) == n)
        if chosen.any():
            place = np.repeat(kappa[chosen], loss.shape[-1])
            axes.plot(place, loss[chosen].ravel(), ".", color=COLOURS[n % 7], markersize=1.5, rasterized=True)
            axes.plot([], [], "o", color=COLOURS[n % 7], markersize=4, label=f"network, n = {n}")
    axes.set(xlabel="κ = η(1 + Σh²)", ylabel="loss (nats)", xlim=(2, 60), ylim=(0.9, 40), yscale="log")
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper left")
    share = float(ends.matched.mean())
    caption = (
        f"Runs at {ends.sizes['eta']} learning rates from 2 to 12, all on one axis, n being the number of hidden "
        f"units stuck on; {share:.0%} of the runs follow the softmax map (residual below {MATCHED:g} throughout, "
        "and the same range of the loss) and are shown. In most of the others a jump falls into the steps looked "
        "at: for some twenty steps a hidden unit is not saturated. From η ≈ 3 up nearly all runs are saturated: "
        "constant output, chance accuracy."
    )
    return Picture("collapse", "All branches of all learning rates on one diagram", caption, fig)


def _correlations(data: Data) -> Picture:
    fig, axes = figure(1, 1, 6.4, 3.6)
    reduced, network = data["autocorrelation_reduced"], data["autocorrelation"]
    axes.plot(reduced.lag, reduced.autocorrelation.mean("init"), "x", color="k", label="softmax map, κ = 10")
    chosen = in_band(data)
    if chosen.any():
        rows = network.autocorrelation.values[chosen]
        axes.plot(
            network.lag, rows.mean(axis=0), ".-", color=COLOURS[0], label=f"network, {chosen.sum()} runs in the band"
        )
        low, high = (network[name].values[chosen].mean(axis=0) for name in ("null_low", "null_high"))
        axes.fill_between(
            network.lag[1:], low[1:], high[1:], color=GREY, alpha=0.4, linewidth=0, label="95 % of shuffles"
        )
    axes.set(xlabel="lag (steps)", ylabel="autocorrelation of the loss", ylim=(-0.5, 1.02))
    axes.set_xticks(range(0, 21, 5))
    axes.legend(frameon=False, fontsize="small")
    caption = "Autocorrelation of the loss from step 3000 on in the chaotic band, and of the softmax map."
    return Picture("autocorrelation", "The loss remembers", caption, fig)


def _rates(data: Data) -> Picture:
    fig, panels = figure(1, 2, 10.0, 3.6, sharey=True)
    titles = ("one dimension, as in the study", "three dimensions, windows of 12 steps and more")
    for name, title, axes in zip(("expansion", "expansion_embedded"), titles, panels, strict=True):
        part = data[name]
        kept = part.kept.values
        value, rate, false = (part[name].values[kept] for name in ("value", "rate", "false_share"))
        dots = axes.scatter(value, rate, c=false, s=5, vmin=0, vmax=1, cmap="cividis")
        axes.axhline(0.236, color=COLOURS[1], linewidth=1)
        axes.set(xlabel="loss (nats)")
        axes.set_title(title, fontsize="medium")
    panels[0].set_ylabel("local expansion rate\n(nats per step)")
    fig.colorbar(dots, ax=panels, label="share of false neighbours")
    caption = (
        "Local expansion rates of the loss in the chaotic band over the loss (softmax map, κ = 10), coloured by the "
        "share of false neighbours; orange: the true exponent, 0.236. Large rates come from neighbours of a "
        "one-dimensional projection that are no neighbours in the state."
    )
    return Picture("expansion", "Local expansion rates, and false neighbours", caption, fig)


E4 = Experiment(
    "E4",
    "Learning rate 5: intermittency, and the softmax map behind it",
    "Twenty runs of 10 000 steps. Hidden units saturate; with n of them stuck on, all inputs get the same logits z, "
    "and these follow z' = z − κ(softmax z − p) with κ = η(1 + n). So every plateau is an attractor of one small "
    "map.",
    {
        "series": series,
        "plateaus": plateaus,
        "laminar": laminar,
        "transient": transient,
        "moving": moving,
        "residual": residual,
        "collapse": collapse,
        "diagram": diagram,
        "flip": flip,
        "attractors": attractors,
        "uniform": uniform,
        "exponents": exponents,
        "autocorrelation": autocorrelation,
        "autocorrelation_reduced": autocorrelation_reduced,
        "expansion": expansion,
        "expansion_embedded": expansion_embedded,
    },
    compare,
    draw,
)
