"""Options, by tyro: an analysis's settings become options and help by themselves."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import nnflow
from nnflow.cli.errors import Helped, Misuse
from nnflow.settings import convert

NARROWEST = 40  # columns: on a terminal of fewer than 8, tyro looks for a place to break its lines for ever


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
    start: Path | None = None
    """Start where a torch module stands, a .pt file of its state_dict or of {"model": …, "optimizer": …} (of a training
    map), or where a run with --return-states ended, its .nc file."""
    return_states: bool = False
    """Also return the states in which the members ended, to go on from by --start."""
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


def parse(kind: Any, argv: list[str], prog: str, description: str | None = None, **options: Any) -> Any:
    """The instance of a dataclass that the arguments describe; misuse as one line instead of tyro's box."""
    import tyro

    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    options = {"registry": _readers(), **options}
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            parsed = tyro.cli(kind, args=argv, prog=prog, description=description, **options)
    except SystemExit as end:
        if not end.code:
            raise Helped from None
        raise Misuse(f"{_unboxed(heard.getvalue())} (options: {prog} --help)") from None
    except tyro.UnsupportedTypeAnnotationError as error:
        raise nnflow.PluginError(f"{prog} has a setting that cannot be an option: {error}") from error
    parts = list(filter(is_dataclass, (parsed, *vars(parsed).values())))
    typed = _flags(argv, {f.name for part in parts for f in fields(part)})
    if twice := sorted(name for name in set(typed) - {"set", "scan"} if typed.count(name) > 1):
        raise Misuse(f"--{twice[0].replace('_', '-')} is given twice: one of them would be ignored")
    for part in parts:
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


def annotated(kind: type, **annotations: Any) -> type:
    """A dataclass that tells tyro more about some of its fields, and keeps its own checks for later."""
    known = {f.name: f for f in fields(kind)}
    changed = [
        (name, annotation, field(default=known[name].default, default_factory=known[name].default_factory))
        for name, annotation in annotations.items()
    ]
    own = {"__doc__": " ", "__post_init__": lambda self: None}
    return make_dataclass(kind.__name__, changed, bases=(kind,), namespace=own, frozen=True)


def picture_option() -> Any:
    """-o as well as --output, of a file."""
    from tyro.conf import arg

    return Annotated[Path | None, arg(aliases=["-o"], metavar="FILE")]


def parse_run(name: str, kind: type, argv: list[str]) -> tuple[Options, dict[str, Any]]:
    """The options, and those settings of the analysis that were given."""
    from tyro.conf import OmitArgPrefixes, Suppress, UseAppendAction, arg

    many, file = UseAppendAction[tuple[tuple[str, ...], ...]], Annotated[Path | None, arg(metavar="FILE")]
    options = annotated(
        Options,
        map=Annotated[str, arg(metavar="NAME|FILE")],
        set=Annotated[many, arg(metavar="NAME=VALUE")],
        scan=Annotated[many, arg(metavar="NAME=START:STOP:COUNT|NAME=V1,V2,...")],
        inits=Annotated[int | None, arg(metavar="COUNT")],
        start=file,
        output=picture_option(),
        plot=file,
    )
    names = [f.name for f in fields(kind)]
    settings = annotated(kind, **({"seed": Suppress[int]} if "seed" in names else {}))
    bare: Any = OmitArgPrefixes
    whole = make_dataclass("Run", [("run", bare[options]), ("analysis", bare[settings])])
    parsed = parse(whole, argv, f"nnflow run {name}", inspect.getdoc(kind))
    given = _flags(argv, [*names, *(f.name for f in fields(Options))])
    chosen = {n: getattr(parsed.analysis, n) for n in names if n in given and n != "seed"}
    if "seed" in names and "seed" in given:
        chosen["seed"] = parsed.run.seed
    return parsed.run, chosen


def _flags(argv: list[str], names: Collection[str]) -> list[str]:
    """Which of these settings were typed, each as often as it was; --no-name is --name, if no setting is called so."""
    long = ["--output" if re.match("-o(=|$)", word) else word for word in argv]
    typed = [re.split("[=.]", word[2:])[0].replace("-", "_") for word in long if word.startswith("--")]
    return [name if name in names else name.removeprefix("no_") for name in typed]


def positional() -> tuple[Any, ...]:
    """That a required setting is no option but a word."""
    from tyro.conf import PositionalRequiredArgs

    return (PositionalRequiredArgs,)
