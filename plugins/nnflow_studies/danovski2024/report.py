"""The page: one HTML file with all figures, numbers, settings, seeds and versions, that needs nothing beside it."""

from __future__ import annotations

import base64
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import xarray as xr
from jinja2 import Environment, StrictUndefined

import nnflow
from nnflow_studies.danovski2024.experiment import Data, Experiment, Picture, Row, Scale

TEMPLATE = "report.html"


def write(
    out: Path, results: Mapping[Experiment, Data], rows: Mapping[Experiment, Sequence[Row]], scale: Scale
) -> Path:
    """Write the figures and report.html into a folder, each whole or not at all.

    Args:
        out: The folder.
        results: The datasets of each experiment.
        rows: What is compared.
        scale: The size of the run.

    Returns:
        The page's path.
    """
    sections: list[dict[str, Any]] = [
        {
            "experiment": experiment,
            "rows": rows[experiment],
            "pictures": [_picture(out, experiment, picture) for picture in experiment.draw(data, scale)],
            "parts": [_part(out, experiment, name, dataset) for name, dataset in data.items()],
        }
        for experiment, data in results.items()
    ]
    every = [row for part in rows.values() for row in part]
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")).render(
        sections=sections,
        quick=scale.quick,
        seed=scale.seed,
        agreeing=sum(row.agrees for row in every),
        total=len(every),
        seconds=sum(part["seconds"] for section in sections for part in section["parts"]),
        bytes=sum(part["bytes"] for section in sections for part in section["parts"]),
        versions=_versions(results),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    )
    path = out / TEMPLATE
    nnflow.write(path, page.encode())
    return path


def _picture(out: Path, experiment: Experiment, picture: Picture) -> dict[str, str]:
    """The figure as a file beside the page, and as text inside it."""
    import matplotlib.pyplot as plt

    drawn = BytesIO()
    picture.figure.savefig(drawn, format="png", dpi=150)
    width = round(96 * picture.figure.get_figwidth())  # CSS pixels: 96 an inch
    plt.close(picture.figure)
    nnflow.write(out / f"{experiment.key}-{picture.name}.png", drawn.getvalue())
    data = base64.b64encode(drawn.getvalue()).decode()
    source = f"data:image/png;base64,{data}"
    return {"title": picture.title, "caption": picture.caption, "source": source, "width": str(width)}


def _part(out: Path, experiment: Experiment, name: str, dataset: xr.Dataset) -> dict[str, Any]:
    """How a dataset was made, as the page tells it."""
    settings = json.loads(dataset.attrs.get("settings", "{}"))
    size = {str(dim): count for dim, count in dataset.sizes.items()}
    return {
        "name": name,
        "file": f"{experiment.key}-{name}.nc",
        "bytes": (out / f"{experiment.key}-{name}.nc").stat().st_size,
        "map": dataset.attrs["map"],
        "parameters": ", ".join(f"{k} = {v}" for k, v in json.loads(dataset.attrs.get("parameters", "{}")).items()),
        "analysis": dataset.attrs["analysis"],
        "settings": ", ".join(f"{key} = {_short(value)}" for key, value in settings.items()),
        "dims": " × ".join(f"{dim} {count}" for dim, count in size.items()),
        "seed": dataset.attrs["seed"],
        "seconds": dataset.attrs["seconds"],
    }


def _short(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _versions(results: Mapping[Experiment, Data]) -> str:
    """The versions that the datasets name."""
    known = [
        json.loads(d.attrs["versions"]) for data in results.values() for d in data.values() if "versions" in d.attrs
    ]
    found = {package: version for versions in known for package, version in versions.items()}
    return ", ".join(f"{package} {version}" for package, version in {"nnflow": nnflow.__version__, **found}.items())
