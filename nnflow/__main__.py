"""The command line: `nnflow list | run | plot | check | reproduce`, and `nnflow demo`, short for a study.

An analysis's settings become options and help by themselves (tyro reads its dataclass), so a stranger's plugin needs no
line here. Only the plugin that was asked for is imported. Misuse is one line on stderr and exit status 2.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before anything slow is imported
    from nnflow.process import command

    sys.exit(command())

import os
import warnings
from collections.abc import Sequence
from pkgutil import resolve_name

import nnflow
from nnflow.cli.errors import Helped, Misuse, complain, flush, warn
from nnflow.names import unknown
from nnflow.registry import UnknownPlugin

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
COMMANDS = {  # loaded when they are asked for
    "list": "nnflow.cli.installed:list_plugins",
    "run": "nnflow.cli.commands:run",
    "plot": "nnflow.cli.commands:plot",
    "check": "nnflow.cli.commands:check",
    "reproduce": "nnflow.cli.commands:reproduce",
    "demo": "nnflow.cli.commands:demo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a failed check, 2 for misuse, 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *where, **rest: warn(message)
    try:
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        flush()
        return status
    except KeyboardInterrupt:
        return complain("interrupted; no half-written file is left", 130)
    except Helped:
        return 0
    except BrokenPipeError:  # nnflow list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except MemoryError as error:
        return complain(f"out of memory: {error}" if str(error) else "out of memory")
    except RecursionError as error:
        return complain(f"calls that are nested too deeply: {error}")
    except (Misuse, nnflow.Refusal, nnflow.PluginError, UnknownPlugin, OSError, ImportError) as error:
        return complain(error)
    except Exception:
        raise
    except BaseException as end:  # sys.exit() in a plugin
        return complain(f"a plugin ended the work by {end!r}")


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"nnflow {nnflow.__version__}")
        return 0
    if argv[0] in COMMANDS:
        status: int = resolve_name(COMMANDS[argv[0]])(argv[1:])
        return status
    hint = f"{argv[0]} is a study: nnflow reproduce {argv[0]}." if argv[0] in nnflow.studies else ""
    raise Misuse(unknown("command", argv[0], list(COMMANDS), hint))


if __name__ == "__main__":
    sys.exit(main())
