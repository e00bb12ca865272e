"""The commands; each takes what was typed after it, and returns the exit status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass

import nnflow
from nnflow.cli.errors import Misuse, complain
from nnflow.cli.inputs import analysis_named, ensemble_of, map_named
from nnflow.cli.installed import listing
from nnflow.cli.options import Check, Plot, annotated, parse, parse_run, picture_option, positional
from nnflow.cli.outputs import check_picture, described, save_picture
from nnflow.names import harmless, unknown
from nnflow.summary import summary, title
from nnflow.writing import check_writable

EXAMPLE = """\
example: nnflow run lyapunov_spectrum --map logistic --scan r=3.5:4:400 --inits 8 --steps 2000 -o out.nc --plot out.png
"""


def run(argv: list[str]) -> int:
    """`nnflow run ANALYSIS --map NAME [options]`."""
    if argv in ([], ["-h"], ["--help"]):
        print("usage: nnflow run ANALYSIS --map NAME [options]\n\nanalyses\n" + listing(nnflow.analyses))
        print(f"\n{EXAMPLE}\nnnflow run ANALYSIS --help lists the settings of one analysis.")
        return 0 if argv else 2
    if argv[0].startswith("-"):
        raise Misuse("name the analysis first: nnflow run ANALYSIS --map NAME ... (nnflow list shows them)")
    kind = analysis_named(argv[0])
    options, settings = parse_run(argv[0], kind, argv[1:])
    if options.output is not None:
        check_writable(options.output, [".nc"])
    if options.plot is not None:
        check_picture(options.plot, kind, argv[0])
    ensemble, said = ensemble_of(options, kind, settings)
    dataset = nnflow.run(argv[0], ensemble, return_states=options.return_states, **settings)
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
            save_picture(dataset, options.plot)
        except Exception:
            if options.output is None:
                print(harmless(summary(dataset, ensemble)))  # so that the work is not lost
            raise
    return 0


def plot(argv: list[str]) -> int:
    """`nnflow plot FILE.nc [-o FILE.png]`."""
    from nnflow.plotting import analysis_of

    options = parse(annotated(Plot, output=picture_option()), argv, "nnflow plot", Plot.__doc__, config=positional())
    picture = options.output or options.file.with_suffix(".png")
    dataset = nnflow.load(options.file)
    if picture.exists() and picture.samefile(options.file):
        raise Misuse(f"{picture} holds the result itself: name the picture, -o FILE.png")
    check_picture(picture, type(analysis_of(dataset)), dataset.attrs["analysis"])
    save_picture(dataset, picture)
    return 0


def check(argv: list[str]) -> int:
    """`nnflow check NAME`."""
    from nnflow import testing

    options = parse(Check, argv, "nnflow check", config=positional())
    name = options.name
    if name not in nnflow.maps and name not in nnflow.analyses:
        raise Misuse(unknown("map or analysis", name, [*nnflow.maps.names(), *nnflow.analyses.names()]))
    on = None if options.map is None else map_named(options.map, {})
    checks: list[tuple[str, Callable[[], list[str]]]] = []
    if name in nnflow.maps:
        checks.append(("map", lambda: testing.check_map(nnflow.maps[name](), name)))
    if name in nnflow.analyses:
        checks.append(("analysis", lambda: testing.check_analysis(nnflow.analyses[name], on)))
    for kind, look in checks:
        try:
            passed = look()
        except AssertionError as error:
            return complain(f"the {kind} {name} fails: {error}", 1)
        print(f"{kind} {name}: {len(passed)} checks passed", *passed, sep="\n  ")
    return 0


def reproduce(argv: list[str]) -> int:
    """`nnflow reproduce STUDY [options]`."""
    if argv in ([], ["-h"], ["--help"], ["--list"]):
        print(
            "usage: nnflow reproduce STUDY [options]\n\nstudies\n" + "\n".join(map(described, nnflow.studies.names()))
        )
        print("\nnnflow reproduce STUDY --help lists the options of one study.")
        return 0 if argv else 2
    if argv[0].startswith("-"):
        raise Misuse("name the study first: nnflow reproduce STUDY ... (nnflow reproduce --list shows them)")
    kind = nnflow.studies[argv[0]]
    if not (isinstance(kind, type) and is_dataclass(kind) and "__call__" in dir(kind)):
        raise nnflow.PluginError(f"the study {argv[0]!r} is no dataclass with a __call__: {kind!r}")
    return parse(kind, argv[1:], f"nnflow reproduce {argv[0]}")() or 0


def demo(argv: list[str]) -> int:
    """`nnflow demo [options]`: the study of that name."""
    return reproduce(["demo", *argv])
