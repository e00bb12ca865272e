"""What the command line shows: lists of what is installed, and pictures."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import TYPE_CHECKING

import nnflow
from nnflow.cli.errors import Misuse
from nnflow.writing import check_writable, write

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def check_picture(path: Path, kind: type, name: str) -> None:
    """Find out before a long run, not after it, that its picture cannot be drawn: try the format on a word."""
    from matplotlib.backend_bases import FigureCanvasBase
    from matplotlib.figure import Figure

    if not hasattr(kind, "draw"):
        raise Misuse(f"{name} does not draw: write its result with -o FILE.nc and plot what you need")
    check_writable(path, [f".{ending}" for ending in sorted(FigureCanvasBase.get_supported_filetypes())])
    word = Figure(figsize=(1.0, 1.0))
    word.text(0.5, 0.5, "x")
    try:
        _drawn(word, path)
    except Exception as error:
        raise Misuse(f"{path}: matplotlib cannot write this format here: {error}") from error


def _drawn(figure: Figure, path: Path) -> bytes:
    """A figure in the format that the name of a file asks for."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=200)
    return picture.getvalue()


def save_picture(dataset: xr.Dataset, path: Path) -> None:
    """Draw into a file, whole or not at all."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = nnflow.plot(dataset)
    try:
        picture = _drawn(figure, path)
    except Exception as error:  # values that span more than a float holds, a label that cannot be set
        raise Misuse(f"{path}: matplotlib cannot draw this result: {error}") from error
    finally:
        plt.close(figure)
    write(path, picture)
    print(f"wrote {path}")


def described(name: str) -> str:
    """A study's name and what it is, in a line; a broken one says why."""
    try:
        text = (inspect.getdoc(nnflow.studies[name]) or "").partition("\n")[0]
    except nnflow.PluginError as error:
        text = f"cannot be used: {error}"
    return f"  {name:<14}  {text}".rstrip()
