"""plot(): finds the analysis in a dataset's attributes and lets it draw."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from nnflow.analysis import Analysis
from nnflow.names import Refusal, WrongKind, harmless, shown, unknown
from nnflow.runner import analyses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# blue, orange, green, … of Okabe and Ito (2008): told apart by colour-blind readers too
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
LONGEST = 200  # letters of a text in a picture


def plot(dataset: xr.Dataset, axes: Axes | None = None, *, analysis: Analysis | type[Analysis] | None = None) -> Figure:
    """Draw a dataset that `run` made, the way its analysis draws.

    Nothing is imported or called by a name that stands in a dataset, which may come from anywhere.

    Args:
        dataset: What `run` returned.
        axes: Matplotlib axes to draw on (default: those of a new figure).
        analysis: An analysis of your own, the class or an instance; a registered one is found by the name in the
            attributes.

    Returns:
        The matplotlib Figure.

    Raises:
        LookupError: for an analysis that is not installed.
        Refusal: (a ValueError) if the dataset names none, or settings that it does not have, or if the analysis cannot
            draw it.
        WrongKind: (a TypeError) for what is no dataset.
    """
    import matplotlib.pyplot as plt

    method = analysis_of(dataset) if analysis is None else _given(dataset, analysis)
    name = _text(dataset, "analysis") or type(method).__name__
    if not hasattr(method, "draw"):
        raise Refusal(f"{name} does not draw: plot its variables {list(dataset.data_vars)}")
    made = None
    if axes is None:
        made = plt.figure(figsize=(6.4, 4.0), layout="constrained")
        axes = made.add_subplot()
        axes.set_title(f"{_text(dataset, 'map')}: {name}", fontsize="medium")
    try:
        method.draw(_drawable(dataset), axes)
        _spell_out(axes.figure)
    except Exception as error:
        if made is not None:
            plt.close(made)
        raise Refusal(f"{name} cannot draw this dataset: {type(error).__name__}: {error}") from error
    figure: Any = axes.figure
    return figure  # type: ignore[no-any-return]


def analysis_of(dataset: xr.Dataset) -> Analysis:
    """The registered analysis, with its settings, that made a dataset.

    Args:
        dataset: What `run` returned.

    Returns:
        An instance of the analysis.

    Raises:
        LookupError: for an analysis that is not installed.
        Refusal: (a ValueError) if the attributes do not say, or hold settings that are not its own.
        WrongKind: (a TypeError) for what is no dataset.
    """
    name = _text(dataset, "analysis")
    if name is None:
        raise Refusal("the dataset has no attributes 'analysis' and 'settings': give one that nnflow.run made")
    if ":" in name:
        raise Refusal(
            f"the dataset was made by {name:.200}, which is not registered, and nothing is imported by a name in a "
            "dataset: give the class, nnflow.plot(dataset, analysis=...)"
        )
    return _with_settings(analyses[name], dataset)


def _given(dataset: xr.Dataset, analysis: Analysis | type[Analysis]) -> Analysis:
    """An analysis that the caller names himself, with the dataset's settings if he gives the class."""
    if isinstance(analysis, Analysis):
        return analysis
    if not (isinstance(analysis, type) and issubclass(analysis, Analysis)):
        raise Refusal(f"analysis = {analysis!r}: give a class derived from nnflow.Analysis, or an instance")
    return _with_settings(analysis, dataset)


def _with_settings(kind: type[Analysis], dataset: xr.Dataset) -> Analysis:
    """An analysis with the settings that stand in a dataset. Raises Refusal if they are not its own."""
    text = _text(dataset, "settings")
    try:
        settings = json.loads(text or "")
        if not isinstance(settings, dict):
            raise Refusal("no names with values")
        strangers = sorted(set(settings) - {f.name for f in fields(kind)})
        if strangers:
            raise Refusal(unknown("setting", strangers[0], [f.name for f in fields(kind)]))
        return kind(**{name: _frozen(value) for name, value in settings.items()})
    except (ValueError, TypeError, RecursionError) as error:
        raise Refusal(
            f"the dataset's settings {shown(text)} are not those of {getattr(kind, '__name__', kind)}: {error}"
        ) from error


def _text(dataset: xr.Dataset, name: str) -> str | None:
    """An attribute that is a text, or None."""
    if not isinstance(dataset, xr.Dataset):
        raise WrongKind(f"a {type(dataset).__name__}: give a dataset that nnflow.run made")
    value = dataset.attrs.get(name)
    return value if isinstance(value, str) else None


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _drawable(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset whose texts may be labels of ticks: those are made when a picture is, and nobody looks at them then."""
    return dataset.assign(
        {
            name: (variable.dims, np.reshape([_label(text) for text in variable.values.flat], variable.shape))
            for name, variable in dataset.variables.items()
            if variable.size
            and variable.dtype.kind in "OTU"
            and all(isinstance(text, str) for text in variable.values.flat)
        }
    )


def _label(text: str) -> str:
    """A text for the label of a tick, which cannot be told that it is no formula."""
    text = _shortened(text)
    return text if _is_settable(text) else text.replace("$", r"\$")


def _spell_out(figure: Any) -> None:
    """Show letter by letter what matplotlib would take for a formula and fail at: names with dollar signs."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(_shortened(text.get_text()))
        if not _is_settable(text.get_text()):
            text.set_parse_math(False)


def _shortened(text: str) -> str:
    """A harmless text with an end: to set a long one takes minutes, and no picture would hold it."""
    return harmless(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _is_settable(text: str) -> bool:
    """Whether matplotlib can set a text: what it takes for a formula has to be one."""
    from matplotlib.cbook import is_math_text
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("path")
    try:
        for line in text.split("\n"):
            if is_math_text(line):
                parser.parse(line)
    except ValueError:
        return False
    return True
