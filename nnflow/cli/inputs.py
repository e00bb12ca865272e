"""What an analysis is applied to: a map with its parameters and its scan, or a recorded series."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import nnflow
from nnflow.analysis import refuse_reserved
from nnflow.cli.errors import Misuse, warn
from nnflow.cli.options import Options
from nnflow.names import shown, unknown
from nnflow.recorded import SERIES, read_series
from nnflow.room import room
from nnflow.settings import whole
from nnflow.writing import check_file


def analysis_named(name: str) -> type[nnflow.Analysis]:
    """A registered analysis. Raises PluginError for what is none, or has reserved settings."""
    kind = nnflow.analyses[name]
    if not (isinstance(kind, type) and is_dataclass(kind) and issubclass(kind, nnflow.Analysis)):
        raise nnflow.PluginError(f"{name!r} is no frozen dataclass derived from nnflow.Analysis: {kind!r}")
    refuse_reserved(kind)
    return kind


def ensemble_of(
    options: Options, kind: type, settings: dict[str, Any]
) -> tuple[nnflow.Ensemble | nnflow.Recording, str]:
    """What the analysis is applied to, and what has to be said about it."""
    values = {name: _number(name, text) for name, text in _pairs("--set", options.set).items()}
    axes = {name: _values(name, text) for name, text in _pairs("--scan", options.scan).items()}
    if Path(options.map).suffix.lower() in SERIES:
        if values or axes or options.inits is not None or options.start is not None:
            raise Misuse(f"{options.map} is a recorded series: --set, --scan, --inits and --start are for maps")
        if options.seed is not None and "seed" not in settings:
            raise Misuse(f"--seed {options.seed}: {options.map} is a recorded series, and this analysis draws nothing")
        return _recording(Path(options.map), kind, settings)
    twice = sorted(set(values) & set(axes))
    if twice:
        raise Misuse(f"{', '.join(twice)}: in --set and in --scan; give one of them")
    map = map_named(_known_map(options.map), values)
    for name in axes:
        if name not in map.parameters and name not in map.coordinates:
            shown = [*map.parameters, *map.coordinates[:12]]
            raise Misuse(unknown(f"parameter or coordinate of {map.name}", name, shown, map.structure_hint(name)))
    if options.start is not None:
        return _started(options.start, map, options, axes), ""
    return nnflow.Ensemble.grid(map, inits=options.inits, seed=options.seed, **axes), ""


def _started(path: Path, map: nnflow.Map, options: Options, axes: Mapping[str, Any]) -> nnflow.Ensemble:
    """The ensemble that starts where a file says: a checkpoint of torch, or a result with states."""
    if options.inits is not None:
        raise Misuse(f"--start {path}: that is one state, and --inits draws others; give one of them")
    if path.suffix.lower() != ".nc":
        model, optimizer = checkpoint_of(path)
        started = nnflow.Ensemble.from_module(map, model, optimizer, seed=options.seed, **axes)
        return replace(started, origin=f"{started.origin}, from {path.name}")
    if given := [f"--{name}" for name, value in (("scan", axes), ("set", options.set)) if value]:
        raise Misuse(f"--start {path}: that run has its own axes and parameters; leave {' and '.join(given)} out")
    started = nnflow.Ensemble.from_result(map, nnflow.load(path))
    return started if options.seed is None else replace(started, seed=options.seed)


def checkpoint_of(path: Path) -> tuple[Any, Any]:
    """The state_dicts of a module and, if it is there, of its optimizer, in a file that torch.save wrote.

    Nothing in it is called: only tensors and plain values are read.

    Args:
        path: The file: a state_dict, or {"model": …, "optimizer": …}.

    Returns:
        Both; None in place of an optimizer.

    Raises:
        Misuse: for a file that is not there, or holds neither.
    """
    import torch

    check_file(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Misuse(f"--start {path}: no such file") from None
    except Exception as error:  # a pickle of anything
        raise Misuse(
            f"--start {path}: no weights can be read from it ({str(error).partition('. ')[0]}): write it by "
            "torch.save(module.state_dict(), FILE)"
        ) from error
    if not isinstance(held, Mapping) or not held:
        raise Misuse(
            f"--start {path}: it holds a {type(held).__name__}: write it by torch.save(module.state_dict(), FILE)"
        )
    if not isinstance(held.get("model"), Mapping):
        return held, None
    if others := [str(name) for name in held if name not in ("model", "optimizer")]:
        warn(f"{path}: {', '.join(others)} beside model and optimizer: not used")
    return held["model"], held.get("optimizer")


def _known_map(name: str) -> str:
    """The name of a map. Raises Misuse for a file that no series is read from."""
    if name not in nnflow.maps and (Path(name).suffix or os.path.sep in name):
        files = f"{', '.join(SERIES[:-1])} and {SERIES[-1]}"
        raise Misuse(
            f"unknown map {shown(name)}. Recorded series are read from {files} files; nnflow list shows the maps"
        )
    return name


def map_named(name: str, values: Mapping[str, Any]) -> nnflow.Map:
    """A registered map with these values of --set."""
    factory = nnflow.maps[name]
    try:
        map = factory(**values)
    except (TypeError, ValueError) as error:
        if not values:
            raise
        raise Misuse(f"--set for {name}: {error}") from error
    if not isinstance(map, nnflow.Map):
        raise nnflow.PluginError(f"the map {name!r} of {nnflow.maps.distribution(name)} made no nnflow.Map: {map!r}")
    return map


def _pairs(option: str, given: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    """NAME=TEXT words as a dict."""
    pairs: dict[str, str] = {}
    for word in (word for words in given for word in words):
        name, equals, text = word.partition("=")
        if not (name and equals and text):
            raise Misuse(
                f"{option} {word}: write NAME=..., e.g. {option} {'r=3.5' if option == '--set' else 'r=2.5:4:400'}"
            )
        if name in pairs:
            raise Misuse(f"{option} {word}: {name} is given twice")
        pairs[name] = text
    if given and not pairs:
        raise Misuse(f"{option}: no NAME=... after it")
    return pairs


def _number(name: str, text: str) -> int | float | str | None:
    """A whole number, another number, None, or the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            number = kind(text)
            if not math.isfinite(number):
                raise Misuse(f"--set {name}={text}: give a finite number")
            return number
    return None if text.lower() == "none" else text


def _values(name: str, text: str) -> Any:
    """The values of START:STOP:COUNT or V1,V2,…."""
    try:
        if ":" not in text:
            return np.array([float(part) for part in text.split(",")])
        start, stop, count = text.split(":")
        ends, number = (float(start), float(stop)), whole("count", count)
    except ValueError:
        raise Misuse(f"--scan {name}={text}: write {name}=START:STOP:COUNT, or {name}=V1,V2,...") from None
    if number < 1:
        raise Misuse(f"--scan {name}={text}: an empty scan; the count after the second colon must be 1 or more")
    room(f"--scan {name}", number)
    return np.linspace(*ends, number)


def _recording(path: Path, kind: type, settings: dict[str, Any]) -> tuple[nnflow.Recording, str]:
    """The series of a file, and a line that says what of it is analyzed; the choice goes into the settings."""
    name = next((f.name for f in fields(kind) if f.name in ("observable", "observe")), None)
    asked = settings.get(name or "")
    wanted = (asked,) if isinstance(asked, str) else tuple(asked or ())
    series = read_series(path, wanted, name is not None, f"--{name or 'observable'}")
    if not wanted and name is not None and series.others:
        settings[name] = series.recording.names[0] if name == "observable" else series.recording.names
    for remark in series.remarks:
        warn(f"{path}: {remark}")
    return series.recording, f"{path}: {series}"
