"""The demo: one bifurcation scan of three maps, the logistic map, the Hénon map and a network trained on Iris.

All three are maps with a parameter, so the same analyses apply: orbit diagram, largest Lyapunov exponent, 0–1 test. The
figure sets them side by side, and on one axis: the parameter over its value at the first period doubling.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import xarray as xr
from tqdm import tqdm

import nnflow
from nnflow import Refusal
from nnflow_studies import demo_figure

Array = npt.NDArray[np.float64]

CHANCE = 0.36
"""An accuracy up to here is that of a constant answer: the largest class holds 41 of 120 rows."""


@dataclass(frozen=True)
class Case:
    """One of the three maps: what is scanned, what is watched, what is known."""

    name: str
    parameter: str
    low: float
    high: float
    observable: str
    settle: int
    doubling: float | None
    doubling_source: str
    chaos: float | None
    chaos_source: str


CASES = (
    Case("logistic", "r", 2.5, 4.0, "x", 20_000, 3.0, "3", 3.5699456718, "3.56995 (Feigenbaum point)"),
    Case("henon", "a", 0.0, 1.4, "x", 20_000, 0.3675, "3(1-b)²/4 = 0.3675", 1.0580459, "1.05805 (b = 0.3)"),
    Case("iris", "eta", 0.01, 12.0, "loss", 2500, None, "-", None, "-"),
)


@dataclass(frozen=True)
class Arrive(nnflow.Analysis):
    """Where the members are after some steps, so that all analyses start from there and the way is gone once."""

    steps: int
    """Steps to take."""
    title: ClassVar[str] = "settling"

    def __call__(self, ensemble: nnflow.Ensemble) -> dict[str, Any]:
        """The states ``(…, component)``."""
        after = ensemble.advance(self.steps)
        return {"state": (("member", "component"), after.states), "escaped": ("member", after.escaped)}


@dataclass(frozen=True)
class Means(nnflow.Analysis):
    """Time means of some observables."""

    observables: tuple[str, ...]
    """Their names."""
    steps: int = 100
    """Steps averaged over."""
    title: ClassVar[str] = "time means"

    def __call__(self, ensemble: nnflow.Ensemble) -> dict[str, Any]:
        """One variable for each observable."""
        records, after = ensemble.orbit(self.steps, observe=self.observables)
        means = {name: ("member", records[:, :, i].mean(axis=1)) for i, name in enumerate(self.observables)}
        return {**means, "escaped": ("member", after.escaped)}


@dataclass(frozen=True)
class Demo:
    """Scan the logistic map over r, the Hénon map over a and the Iris network over eta; write a figure and datasets.

    Into the output folder go demo.png and, for each map, one netCDF file with the orbit diagram, the finite-time
    largest exponent, the 0–1 test and (for the network) accuracy and saturated units. A table on the terminal says
    where each map first doubles its period and turns chaotic. Of the network that is a count over orbits that have not
    all settled: with the seeds 0 to 3 it is at 1.5 to 2.0 and 2.2 to 2.6.

    Raises:
        OSError: if the folder cannot be written.
    """

    out: Path = Path("nnflow-demo")
    """Folder for the figure and the datasets; made if it is not there."""
    values: int = 400
    """Parameter values in each scan."""
    inits: int = 8
    """Initial states, the same ones at every parameter value."""
    seed: int = 0
    """Seed of the initial states and frames."""
    settle: float = 1.0
    """How long to let the maps settle, as a multiple of the usual time (smaller is faster and less settled)."""

    def __post_init__(self) -> None:
        for name, least in (("values", 4), ("inits", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise Refusal(f"{name} = {getattr(self, name)}: give {least} or more")
        if not 0 < self.settle <= 1000:
            raise Refusal(f"settle = {self.settle}: give a factor above 0, up to 1000")

    def __call__(self) -> None:
        """Run the study."""
        began = time.perf_counter()
        out = Path(self.out)
        out.mkdir(parents=True, exist_ok=True)
        for name in ("demo.png", *(f"{case.name}.nc" for case in CASES)):
            nnflow.check_writable(out / name)  # before the work, not after it
        results = {}
        with tqdm(total=5 * len(CASES), desc="demo", unit=" scans", disable=not sys.stderr.isatty()) as bar:
            for case in CASES:
                results[case.name] = self.scan(case, bar)
                nnflow.save(results[case.name], out / f"{case.name}.nc")
        demo_figure.save(results, CASES, out / "demo.png")
        print(table(results))
        minutes, seconds = divmod(time.perf_counter() - began, 60)
        files = ", ".join(f"{case.name}.nc" for case in CASES)
        print(f"\nWrote {out / 'demo.png'} and {files} in {int(minutes)} min {seconds:.0f} s.")

    def scan(self, case: Case, bar: tqdm[Any]) -> xr.Dataset:
        """All analyses of one map over its parameter, as one dataset."""

        def run(analysis: Any, ensemble: nnflow.Ensemble, **settings: Any) -> xr.Dataset:
            bar.set_description(f"{case.name}: {getattr(analysis, 'title', analysis)}")
            dataset = nnflow.run(analysis, ensemble, progress=False, **settings)
            bar.update()
            return dataset

        grid = {case.parameter: np.linspace(case.low, case.high, self.values)}
        fresh = nnflow.Ensemble.grid(nnflow.maps[case.name](), inits=self.inits, seed=self.seed, **grid)
        steps = max(10, int(case.settle * self.settle))
        arrived = run(Arrive(steps), fresh).transpose(..., "component").state.values
        settled = fresh.with_states(fresh.map.native(arrived.reshape(len(fresh), -1)), t=steps)
        orbit = run("orbit_diagram", settled, observable=case.observable, transient=0, steps=120)
        exponent = run("lyapunov_spectrum", settled, k=1, transient=100, steps=1000, seed=self.seed)
        test = run("zero_one_test", settled, observable=case.observable, transient=0, steps=1000)
        watched = ("accuracy", "stuck_on", "loss") if case.name == "iris" else (case.observable,)
        ends = run(Means(watched), settled)
        whole = orbit.assign(exponent=exponent.exponent.isel(index=0, drop=True), K=test.K, drift=test.drift)
        whole = whole.assign({f"mean_{name}": ends[name] for name in watched})
        whole.attrs["settle"] = steps
        whole = whole.assign(kind=_kind(whole), ending=_ending(whole))
        whole.attrs["first_doubling"] = case.doubling or first_doubling(whole, case.parameter)
        return whole


KINDS = ("fixed point", "period 2", "period 3 and up", "no period found", "drifting", "escaped")
ENDINGS = ("above chance", "chance, no unit stuck on", "chance, 1 stuck on", "chance, 2 or more stuck on", "escaped")


def _kind(data: xr.Dataset) -> xr.DataArray:
    """What the orbit does, as an index into KINDS."""
    period, drift = data.period.values, data["drift"]
    conditions = [
        data.escaped.values >= 0,
        period == 1,
        period == 2,
        period > 2,
        drift.values > drift.attrs["threshold"],
    ]
    return _flag(data, np.select(conditions, [5, 0, 1, 2, 4], 3), KINDS)


def _flag(data: xr.Dataset, values: npt.NDArray[np.int64], meanings: tuple[str, ...]) -> xr.DataArray:
    return xr.DataArray(values, data.escaped.coords, data.escaped.dims, attrs={"flag_meanings": "; ".join(meanings)})


def _ending(data: xr.Dataset) -> xr.DataArray:
    """What the network has learned, as an index into ENDINGS; for the classic maps, escaped or not."""
    if "mean_accuracy" not in data:
        return _flag(data, np.where(data.escaped.values >= 0, 4, 0), ENDINGS)
    stuck = np.rint(data.mean_stuck_on.values).clip(0, 2)
    conditions = [data.escaped.values >= 0, data.mean_accuracy.values > CHANCE, stuck == 0, stuck == 1]
    return _flag(data, np.select(conditions, [4, 0, 1, 2], 3), ENDINGS)


def first_doubling(data: xr.Dataset, parameter: str) -> float:
    """The smallest parameter value at which half of the initial states oscillate (NaN if there is none)."""
    return _first(data, parameter, (data.kind >= 1) & (data.kind <= 3))


def first_chaos(data: xr.Dataset, parameter: str) -> float:
    """The smallest value at which half of the initial states have no period, exponent > 0.01 and K > 0.5."""
    return _first(data, parameter, (data.kind == 3) & (data.exponent > 0.01) & (data.K > 0.5))


def _first(data: xr.Dataset, parameter: str, where: xr.DataArray) -> float:
    share = where.mean("init") if "init" in where.dims else where.astype(float)
    found = data[parameter].values[share.values >= 0.5]
    return float(found.min()) if found.size else float("nan")


def _cell(value: float) -> str:
    """A parameter value, or a dash if there is none."""
    return "-" if np.isnan(value) else f"{value:.4f}"


def table(results: dict[str, xr.Dataset]) -> str:
    """Where each map first doubles its period and turns chaotic, beside the known values."""
    lines = [f"{'map':<10}{'parameter':<11}{'first doubling':>15}   {'known':<22}{'chaotic from':>13}   known"]
    for case in CASES:
        data = results[case.name]
        doubling, chaos = first_doubling(data, case.parameter), first_chaos(data, case.parameter)
        found = f"{_cell(doubling):>15}   {case.doubling_source:<22}{_cell(chaos):>13}   {case.chaos_source}"
        lines.append(f"{case.name:<10}{case.parameter:<11}{found}")
    spacing = ", ".join(f"{float(np.diff(results[c.name][c.parameter].values[:2])[0]):.3g} ({c.name})" for c in CASES)
    lines.append(
        f"At half or more of the initial states; grid spacing {spacing}. Exponents are finite-time (1000 steps)."
    )
    return "\n".join(lines)
