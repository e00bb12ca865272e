"""The command line: `nnflow list | run | plot | check | reproduce`, and `nnflow demo`, short for a study.

An analysis's settings become options and help by themselves (tyro reads its dataclass), so a stranger's plugin needs no
line here. Only the plugin that was asked for is imported. Misuse is one line on stderr and exit status 2.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before anything slow is imported
    from nnflow.process import command

    sys.exit(command())

import contextlib
import inspect
import io
import math
import os
import re
import shutil
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

import nnflow
from nnflow.analysis import refuse_reserved
from nnflow.names import harmless, shown, unknown
from nnflow.recorded import SERIES, read_series
from nnflow.registry import UnknownPlugin
from nnflow.room import room
from nnflow.settings import convert, whole
from nnflow.summary import summary, title
from nnflow.writing import check_writable, write

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NARROWEST = 40  # columns: on a terminal of fewer than 8, tyro looks for a place to break its lines for ever

USAGE = """\
usage: nnflow COMMAND ...

  nnflow list                                the maps, analyses and studies that are installed
  nnflow run ANALYSIS --map NAME [options]   apply an analysis to a map, or to a scan of one; see nnflow run --help
  nnflow plot FILE.nc [-o FILE.png]          draw a result that was written by nnflow run
  nnflow check NAME                          test a map or an analysis against the contract
  nnflow reproduce STUDY [options]           rerun a study, such as danovski2024; --list shows them
  nnflow demo [options]                      the same as nnflow reproduce demo

COMMAND --help says more.
"""

EXAMPLE = """\
example: nnflow run lyapunov_spectrum --map logistic --scan r=3.5:4:400 --inits 8 --steps 2000 -o out.nc --plot out.png
"""


class Misuse(Exception):
    """What was typed makes no sense; the message says what would."""


class Helped(Exception):
    """The help has been printed: there is nothing left to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a failed check, 2 for misuse, 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *where, **rest: _warn(message)
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        _flush()
        return status
    except KeyboardInterrupt:
        return _complain("interrupted; no half-written file is left", 130)
    except Helped:
        return 0
    except BrokenPipeError:  # nnflow list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except MemoryError as error:
        return _complain(f"out of memory: {error}" if str(error) else "out of memory")
    except RecursionError as error:
        return _complain(f"calls that are nested too deeply: {error}")
    except (Misuse, nnflow.Refusal, nnflow.PluginError, UnknownPlugin, OSError, ImportError) as error:
        return _complain(error)
    except (ValueError, TypeError) as error:
        if not _deliberate(error):
            raise
        return _complain(error)
    except Exception:
        raise
    except BaseException as end:  # sys.exit() in a plugin
        return _complain(f"a plugin ended the work by {end!r}")


def _complain(message: object, status: int = 2) -> int:
    with contextlib.suppress(OSError):
        print(f"nnflow: {harmless(' '.join(str(message).split()))}", file=sys.stderr)
    with contextlib.suppress(OSError, Misuse):
        _flush()
    return status


def _warn(message: object) -> None:
    print(f"nnflow: warning: {harmless(str(message))}", file=sys.stderr)


def _flush() -> None:
    """Let out what was printed; where that fails, drop it, since Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if isinstance(error, BrokenPipeError):
            raise
        raise Misuse(f"what was printed is lost, stdout takes no more: {error.strerror}") from error


def _deliberate(error: Exception) -> bool:
    """Whether somebody wrote `raise` here, for a user to read; what numpy or Python refuse by themselves is a bug."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and (frames[-1].line or "").startswith("raise ")


def _dispatch(argv: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "run": _run,
        "plot": _plot,
        "check": _check,
        "reproduce": _reproduce,
        "demo": lambda rest: _reproduce(["demo", *rest]),
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"nnflow {nnflow.__version__}")
        return 0
    if argv[0] in commands:
        return commands[argv[0]](argv[1:])
    hint = f"{argv[0]} is a study: nnflow reproduce {argv[0]}." if argv[0] in nnflow.studies else ""
    raise Misuse(unknown("command", argv[0], list(commands), hint))


# -- list ----------------------------------------------------------------------------------------------------------


def _list(argv: list[str]) -> int:
    if argv in (["-h"], ["--help"]):
        print("usage: nnflow list\n\nThe maps, analyses and studies that are installed; imports none of them.")
        return 0
    if argv:
        raise Misuse(f"nnflow list takes no arguments, not {' '.join(argv)}")
    listed = {"maps": _listing(nnflow.maps), **_analyses(), "studies": _listing(nnflow.studies)}
    print("\n\n".join(f"{title}\n{lines}" for title, lines in listed.items()))
    return 0


def _analyses() -> dict[str, str]:
    """What analyses there are to each question, with the first line of their docs; a stranger's by distribution."""
    names = nnflow.analyses.names()
    width = max(map(len, names), default=0)
    groups: dict[tuple[bool, str], list[str]] = {}
    for name in names:
        try:
            owner, (text, question) = nnflow.analyses.distribution(name), nnflow.analyses.about(name)
        except nnflow.PluginError as clash:
            owner, text, question = "more than one distribution", f"cannot be used: {clash}", ""
        group = (False, question[:1].lower() + question[1:]) if owner == "nnflow" else (True, f"of {owner}")
        groups.setdefault(group, []).append(f"  {name:<{width}}  {text}".rstrip())
    found = {f"analyses: {title}": "\n".join(groups[stranger, title]) for stranger, title in sorted(groups)}
    return found or {"analyses": "  none installed"}


def _listing(registry: nnflow.Registry) -> str:
    names = registry.names()
    width = max(map(len, names), default=0)
    return "\n".join(f"  {name:<{width}}  {_owner(registry, name)}".rstrip() for name in names) or "  none installed"


def _owner(registry: nnflow.Registry, name: str) -> str:
    """The distribution a plugin comes from, when it is not nnflow itself."""
    try:
        owner = registry.distribution(name)
    except nnflow.PluginError as clash:
        return f"cannot be used: {clash}"
    return "" if owner == "nnflow" else f"({owner})"


# -- options, by tyro ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """Options of `nnflow run` beside the analysis's own settings."""

    map: str
    """A registered map, or a recorded series: a .csv or .tsv file (a header row names the columns) or a .npy array."""
    set: tuple[tuple[str, ...], ...] = ()
    """Set parameters of the map, or what is fixed when it is made (size, optimizer, ...)."""
    scan: tuple[tuple[str, ...], ...] = ()
    """Scan parameters or coordinates: COUNT evenly spaced values with both ends (descending is fine), or a list."""
    inits: int | None = None
    """How many initial states to draw, the same ones at every point of the scan (default: one)."""
    seed: int | None = None
    """Seed of the initial states, and of the analysis if it draws something (default: 0)."""
    output: Path | None = None
    """Write the result to this netCDF file (.nc)."""
    plot: Path | None = None
    """Draw the result into this picture (.png, .pdf, .svg, ...)."""


@dataclass(frozen=True)
class Plot:
    """Draw a result that `nnflow run` wrote."""

    file: Path
    """The netCDF file."""
    output: Path | None = None
    """The picture (default: FILE.png beside the file)."""


@dataclass(frozen=True)
class Check:
    """Test a registered map or analysis against the contract; exit status 1 if it fails."""

    name: str
    """A registered map or analysis."""
    map: str | None = None
    """The map to try an analysis on, for one that needs more than the logistic map offers."""


def _parse(kind: Any, argv: list[str], prog: str, description: str | None = None, **options: Any) -> Any:
    """The instance of a dataclass that the arguments describe; misuse as one line instead of tyro's box."""
    import tyro

    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    options = {"registry": _readers(), **options}
    heard = io.StringIO()
    typed = _flags(argv)
    twice = sorted(name for name in set(typed) - {"set", "scan"} if typed.count(name) > 1)
    if twice:
        raise Misuse(f"--{twice[0].replace('_', '-')} is given twice: one of them would be ignored")
    try:
        with contextlib.redirect_stderr(heard):
            parsed = tyro.cli(kind, args=argv, prog=prog, description=description, **options)
    except SystemExit as end:
        if not end.code:
            raise Helped from None
        raise Misuse(f"{_unboxed(heard.getvalue())} (options: {prog} --help)") from None
    except tyro.UnsupportedTypeAnnotationError as error:
        raise nnflow.PluginError(f"{prog} has a setting that cannot be an option: {error}") from error
    for part in filter(is_dataclass, (parsed, *vars(parsed).values())):
        for name in typed:
            if getattr(part, name, None) == ():
                raise Misuse(f"--{name.replace('_', '-')}: give a value after it")
    return parsed


def _readers() -> Any:
    """Numbers are read as those that are given in Python: 1e4 is a whole number."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        kind = info.type
        if kind not in (int, float):
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda words: convert("value", words[0], kind),
            is_instance=lambda value: isinstance(value, kind) and not isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _unboxed(text: str) -> str:
    """What tyro says in its box, without the box: the message, and the option it suggests."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    box = ("╭", "╰", "+")
    lines = [line.strip("│| ") for line in plain.splitlines() if not line.startswith(box)]
    if not plain.startswith(box):  # where the locale has no lines for a box, the title is a line, and one is below it
        lines = lines[2:]
    rules = [i for i, line in enumerate(lines) if line and not line.strip("─-")] or [len(lines)]
    near = [f"Did you mean {lines[i + 1]}?" for i, line in enumerate(lines[:-1]) if line == "Perhaps you meant:"]
    said = " ".join([*lines[: rules[0]], *near]) or plain
    if several := re.search(r"Error parsing (--[\w-]+):.* arguments: \['([^' ]*,[^' ]*)'\]", said):
        option, values = several.groups()
        return f"{option} {values}: part several values by blanks, {option} {values.replace(',', ' ')}"
    return re.sub(r"no type matching .* - <class '\w+'>: (?=value = )", "", said)  # of several types, the last one's


def _annotated(kind: type, **annotations: Any) -> type:
    """A dataclass that tells tyro more about some of its fields, and keeps its own checks for later."""
    known = {f.name: f for f in fields(kind)}
    changed = [
        (name, annotation, field(default=known[name].default, default_factory=known[name].default_factory))
        for name, annotation in annotations.items()
    ]
    own = {"__doc__": " ", "__post_init__": lambda self: None}
    return make_dataclass(kind.__name__, changed, bases=(kind,), namespace=own, frozen=True)


def _picture_option() -> Any:
    from tyro.conf import arg

    return Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")]


def _parse_run(name: str, kind: type, argv: list[str]) -> tuple[Options, dict[str, Any]]:
    """The options, and those settings of the analysis that were given."""
    from tyro.conf import OmitArgPrefixes, Suppress, UseAppendAction, arg

    many, file = UseAppendAction[tuple[tuple[str, ...], ...]], Annotated[Path | None, arg(metavar="FILE")]
    options = _annotated(
        Options,
        map=Annotated[str, arg(metavar="NAME|FILE")],
        set=Annotated[many, arg(metavar="NAME=VALUE")],
        scan=Annotated[many, arg(metavar="NAME=START:STOP:COUNT|NAME=V1,V2,...")],
        inits=Annotated[int | None, arg(metavar="COUNT")],
        output=_picture_option(),
        plot=file,
    )
    names = [f.name for f in fields(kind)]
    settings = _annotated(kind, **({"seed": Suppress[int]} if "seed" in names else {}))
    bare: Any = OmitArgPrefixes
    whole = make_dataclass("Run", [("run", bare[options]), ("analysis", bare[settings])])
    parsed = _parse(whole, argv, f"nnflow run {name}", inspect.getdoc(kind))
    given = _flags(argv)
    chosen = {n: getattr(parsed.analysis, n) for n in names if n in given and n != "seed"}
    if "seed" in names and "seed" in given:
        chosen["seed"] = parsed.run.seed
    return parsed.run, chosen


def _flags(argv: list[str]) -> list[str]:
    """The names of the options that were typed, each as often as it was; --no-name is --name."""
    long = ["--output" if re.match("-o(=|$)", word) else word for word in argv]
    typed = [re.split("[=.]", word[2:])[0].replace("-", "_") for word in long if word.startswith("--")]
    return [name.removeprefix("no_") for name in typed]


# -- run -----------------------------------------------------------------------------------------------------------


def _run(argv: list[str]) -> int:
    if argv in ([], ["-h"], ["--help"]):
        print("usage: nnflow run ANALYSIS --map NAME [options]\n\nanalyses\n" + _listing(nnflow.analyses))
        print(
            f"\n{EXAMPLE}\nnflow run ANALYSIS --help lists the settings of one analysis.".replace("\nnflow", "\nnnflow")
        )
        return 0 if argv else 2
    if argv[0].startswith("-"):
        raise Misuse("name the analysis first: nnflow run ANALYSIS --map NAME ... (nnflow list shows them)")
    kind = _analysis(argv[0])
    options, settings = _parse_run(argv[0], kind, argv[1:])
    if options.output is not None:
        check_writable(options.output, [".nc"])
    if options.plot is not None:
        _check_picture(options.plot, kind, argv[0])
    ensemble, said = _ensemble(options, kind, settings)
    dataset = nnflow.run(argv[0], ensemble, **settings)
    if said:
        print(harmless(said))
        dataset.attrs["recording"] = said
    if options.output is not None:
        nnflow.save(dataset, options.output)
        print(f"wrote {options.output}: {title(dataset, ensemble)}")
    if options.output is None and options.plot is None:
        print(harmless(summary(dataset, ensemble)))
    if options.plot is not None:
        try:
            _save_picture(dataset, options.plot)
        except Exception:
            if options.output is None:
                print(harmless(summary(dataset, ensemble)))  # so that the work is not lost
            raise
    return 0


def _analysis(name: str) -> type[nnflow.Analysis]:
    kind = nnflow.analyses[name]
    if not (isinstance(kind, type) and is_dataclass(kind) and issubclass(kind, nnflow.Analysis)):
        raise nnflow.PluginError(f"{name!r} is no frozen dataclass derived from nnflow.Analysis: {kind!r}")
    refuse_reserved(kind)
    return kind


def _ensemble(options: Options, kind: type, settings: dict[str, Any]) -> tuple[nnflow.Ensemble | nnflow.Recording, str]:
    """What the analysis is applied to, and what has to be said about it."""
    values = {name: _number(name, text) for name, text in _pairs("--set", options.set).items()}
    axes = {name: _values(name, text) for name, text in _pairs("--scan", options.scan).items()}
    if Path(options.map).suffix.lower() in SERIES:
        if values or axes or options.inits is not None:
            raise Misuse(f"{options.map} is a recorded series: --set, --scan and --inits are for maps")
        if options.seed is not None and "seed" not in settings:
            raise Misuse(f"--seed {options.seed}: {options.map} is a recorded series, and this analysis draws nothing")
        return _recording(Path(options.map), kind, settings)
    twice = sorted(set(values) & set(axes))
    if twice:
        raise Misuse(f"{', '.join(twice)}: in --set and in --scan; give one of them")
    map = _map(_known_map(options.map), values)
    for name in axes:
        if name not in map.parameters and name not in map.coordinates:
            shown = [*map.parameters, *map.coordinates[:12]]
            raise Misuse(unknown(f"parameter or coordinate of {map.name}", name, shown, map.structure_hint(name)))
    return nnflow.Ensemble.grid(map, inits=options.inits, seed=options.seed or 0, **axes), ""


def _known_map(name: str) -> str:
    """The name of a map. Raises Misuse for a file that no series is read from."""
    if name not in nnflow.maps and (Path(name).suffix or os.path.sep in name):
        files = f"{', '.join(SERIES[:-1])} and {SERIES[-1]}"
        raise Misuse(
            f"unknown map {shown(name)}. Recorded series are read from {files} files; nnflow list shows the maps"
        )
    return name


def _map(name: str, values: Mapping[str, Any]) -> nnflow.Map:
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
        _warn(f"{path}: {remark}")
    return series.recording, f"{path}: {series}"


# -- files ---------------------------------------------------------------------------------------------------------


def _check_picture(path: Path, kind: type, name: str) -> None:
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


def _save_picture(dataset: xr.Dataset, path: Path) -> None:
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


def _plot(argv: list[str]) -> int:
    from nnflow.plotting import analysis_of

    options = _parse(
        _annotated(Plot, output=_picture_option()), argv, "nnflow plot", Plot.__doc__, config=_positional()
    )
    picture = options.output or options.file.with_suffix(".png")
    dataset = nnflow.load(options.file)
    if picture.exists() and picture.samefile(options.file):
        raise Misuse(f"{picture} holds the result itself: name the picture, -o FILE.png")
    _check_picture(picture, type(analysis_of(dataset)), dataset.attrs["analysis"])
    _save_picture(dataset, picture)
    return 0


def _positional() -> tuple[Any, ...]:
    from tyro.conf import PositionalRequiredArgs

    return (PositionalRequiredArgs,)


# -- check and studies ---------------------------------------------------------------------------------------------


def _check(argv: list[str]) -> int:
    from nnflow import testing

    options = _parse(Check, argv, "nnflow check", config=_positional())
    name = options.name
    if name not in nnflow.maps and name not in nnflow.analyses:
        raise Misuse(unknown("map or analysis", name, [*nnflow.maps.names(), *nnflow.analyses.names()]))
    on = None if options.map is None else _map(options.map, {})
    checks: list[tuple[str, Callable[[], list[str]]]] = []
    if name in nnflow.maps:
        checks.append(("map", lambda: testing.check_map(nnflow.maps[name](), name)))
    if name in nnflow.analyses:
        checks.append(("analysis", lambda: testing.check_analysis(nnflow.analyses[name], on)))
    for kind, check in checks:
        try:
            passed = check()
        except AssertionError as error:
            return _complain(f"the {kind} {name} fails: {error}", 1)
        print(f"{kind} {name}: {len(passed)} checks passed", *passed, sep="\n  ")
    return 0


def _reproduce(argv: list[str]) -> int:
    if argv in ([], ["-h"], ["--help"], ["--list"]):
        print(
            "usage: nnflow reproduce STUDY [options]\n\nstudies\n" + "\n".join(map(_described, nnflow.studies.names()))
        )
        print("\nnnflow reproduce STUDY --help lists the options of one study.")
        return 0 if argv else 2
    if argv[0].startswith("-"):
        raise Misuse("name the study first: nnflow reproduce STUDY ... (nnflow reproduce --list shows them)")
    kind = nnflow.studies[argv[0]]
    if not (isinstance(kind, type) and is_dataclass(kind) and "__call__" in dir(kind)):
        raise nnflow.PluginError(f"the study {argv[0]!r} is no dataclass with a __call__: {kind!r}")
    return _parse(kind, argv[1:], f"nnflow reproduce {argv[0]}")() or 0


def _described(name: str) -> str:
    """A study's name and what it is, in a line; a broken one says why."""
    try:
        text = (inspect.getdoc(nnflow.studies[name]) or "").partition("\n")[0]
    except nnflow.PluginError as error:
        text = f"cannot be used: {error}"
    return f"  {name:<14}  {text}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
