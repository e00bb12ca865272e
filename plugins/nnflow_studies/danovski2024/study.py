"""The study as a command: experiments one after the other, results kept, a table on the terminal and a page."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import xarray as xr
from tqdm import tqdm

import nnflow
from nnflow import Refusal
from nnflow_studies.danovski2024 import report
from nnflow_studies.danovski2024.chaos import E3
from nnflow_studies.danovski2024.experiment import Experiment, Row, Scale
from nnflow_studies.danovski2024.intermittency import E4
from nnflow_studies.danovski2024.low_rate import E1, E2
from nnflow_studies.danovski2024.rates import E5

EXPERIMENTS = (E1, E2, E3, E4, E5)
Key = Literal["E1", "E2", "E3", "E4", "E5"]


@dataclass(frozen=True)
class Danovski2024:
    """Rerun the experiments of Danovski, Soriano and Lacasa (2024) and compare every number.

    Into the output folder go one netCDF file for each part of an experiment, the figures, and report.html, one page
    with everything. Parts that are there already, made with the same seed and size by the same version, are not made
    again: after an interruption, give the same command. (Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.)

    Raises:
        OSError: if the folder cannot be written.
    """

    out: Path = Path("danovski2024")
    """Folder for datasets, figures and the page; made if it is not there."""
    only: tuple[Key, ...] = ()
    """Run these experiments only (E1 … E5); the page also shows others that are finished."""
    quick: bool = False
    """Fewer initial states, under a minute once everything is compiled; numbers scatter more, and the page says so."""
    seed: int = 0
    """Seed of the initial states, perturbations and everything else that is drawn."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise Refusal(f"seed = {self.seed}: give a whole number, 0 or larger")

    def __call__(self) -> None:
        """Run the study."""
        began = time.perf_counter()
        out = Path(self.out)
        out.mkdir(parents=True, exist_ok=True)
        chosen = [e for e in EXPERIMENTS if not self.only or e.key in self.only]
        for path in (out / report.TEMPLATE, *(self.path(e, name) for e in chosen for name in e.parts)):
            nnflow.check_writable(path)  # before the work, not after it
        results: dict[Experiment, dict[str, xr.Dataset]] = {e: {} for e in chosen}
        with tqdm(total=sum(len(e.parts) for e in chosen), unit=" parts", disable=not sys.stderr.isatty()) as bar:
            for experiment in chosen:
                for name in experiment.parts:
                    bar.set_description(f"{experiment.key} {name.replace('_', ' ')}")
                    results[experiment][name] = self.part(experiment, name)
                    bar.update()
        results |= self.finished([e for e in EXPERIMENTS if e not in chosen])
        results = {e: results[e] for e in EXPERIMENTS if e in results}
        rows = {e: list(e.compare(data, self.scale)) for e, data in results.items()}
        report.write(out, results, rows, self.scale)
        print(table(rows, self.quick))
        minutes, seconds = divmod(time.perf_counter() - began, 60)
        print(f"\nWrote {out / 'report.html'}, figures and datasets in {int(minutes)} min {seconds:.0f} s.")

    @property
    def scale(self) -> Scale:
        """The size of the run."""
        return Scale(self.quick, self.seed)

    def part(self, experiment: Experiment, name: str) -> xr.Dataset:
        """One part's dataset: from the folder, or made and written there."""
        kept = self.kept(experiment, name, "it is made anew")
        if kept is not None:
            return kept
        began = time.perf_counter()
        made = experiment.parts[name](self.scale)
        made.attrs |= {
            "study": self.mark,
            "part": f"{experiment.key}-{name}",
            "seconds": round(time.perf_counter() - began, 2),
        }
        nnflow.save(made, self.path(experiment, name))
        return made

    def finished(self, experiments: list[Experiment]) -> dict[Experiment, dict[str, xr.Dataset]]:
        """The datasets of those experiments that have all their parts in the folder."""
        found: dict[Experiment, dict[str, xr.Dataset]] = {}
        for experiment in experiments:
            parts = {name: self.kept(experiment, name, "the page leaves it out") for name in experiment.parts}
            whole = {name: part for name, part in parts.items() if part is not None}
            if len(whole) == len(parts):
                found[experiment] = whole
        return found

    def kept(self, experiment: Experiment, name: str, otherwise: str) -> xr.Dataset | None:
        """A part's dataset if it is in the folder, whole and made with these settings; what is not whole is said."""
        path = self.path(experiment, name)
        if not path.exists():
            return None
        own = {"study": self.mark, "part": f"{experiment.key}-{name}"}
        try:
            found = nnflow.load(path)
            if own.items() <= found.attrs.items():
                return found
            reason = f"{path} is another part, or was made with other settings or by another version"
        except (nnflow.Refusal, OSError) as error:
            reason = str(error)
        tqdm.write(f"nnflow: {reason}: {otherwise}", file=sys.stderr)
        return None

    def path(self, experiment: Experiment, name: str) -> Path:
        """Where a part's dataset is."""
        return Path(self.out) / f"{experiment.key}-{name}.nc"

    @property
    def mark(self) -> str:
        """What a dataset of this run has in its attributes."""
        return json.dumps({"version": nnflow.__version__, "quick": self.quick, "seed": self.seed})


def table(rows: dict[Experiment, list[Row]], quick: bool) -> str:
    """Quantity, ours, published and agreement of every row, for the terminal."""
    every = [row for part in rows.values() for row in part]
    cells = [("quantity", "ours", "published", "agree"), *map(_cells, every)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(cells[0], widths)]
    for experiment, part in rows.items():
        lines += ["", f"{experiment.key}  {experiment.title}", *(_line(_cells(row), widths) for row in part)]
    count = sum(row.agrees for row in every)
    size = " A quick run: few initial states, wide tolerances." if quick else ""
    return "\n".join([*lines, "", f"{count} of {len(every)} numbers agree.{size}"])


def _cells(row: Row) -> tuple[str, str, str, str]:
    return row.quantity, row.ours, row.published, "yes" if row.agrees else "NO"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
