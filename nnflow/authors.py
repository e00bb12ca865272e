"""What the author of an analysis needs beside the public names of `nnflow`; the built-in analyses import nothing else.

An analysis is a frozen dataclass derived from `Analysis`, called on an `Ensemble` or a `Recording`, whose verbs it
uses. Each name is loaded when it is first asked for, so that a plugin imports only what it uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnflow.analysis import Analysis as Analysis
    from nnflow.analysis import Result as Result
    from nnflow.analysis import at_least as at_least
    from nnflow.analysis import first as first
    from nnflow.analysis import multiple_of as multiple_of
    from nnflow.analysis import one_of as one_of
    from nnflow.compiled.ways import kernel as kernel
    from nnflow.curvature import Extreme as Extreme
    from nnflow.curvature import broadened as broadened
    from nnflow.curvature import largest as largest
    from nnflow.curvature import quadrature as quadrature
    from nnflow.ensemble import Ensemble as Ensemble
    from nnflow.ensemble import ResolutionWarning as ResolutionWarning
    from nnflow.machine import loop as loop
    from nnflow.map import generator as generator
    from nnflow.names import Refusal as Refusal
    from nnflow.names import WrongKind as WrongKind
    from nnflow.progress import heard_by as heard_by
    from nnflow.progress import tick as tick
    from nnflow.recording import Recording as Recording
    from nnflow.records import Gathered as Gathered
    from nnflow.room import room as room
    from nnflow.typing import Array as Array
    from nnflow.typing import Integers as Integers
    from nnflow.values import real as real
    from nnflow.vectors import NORMS as NORMS
    from nnflow.vectors import length as length
    from nnflow.vectors import orthonormalise as orthonormalise
    from nnflow.vectors import project_out as project_out

OFFERED = {
    "nnflow.analysis": (
        "Analysis",  # what an analysis is derived from …
        "Result",  # … and returns when it is called
        "at_least",  # bounds of settings
        "multiple_of",  # steps that are whole records
        "one_of",  # settings that have a few values
        "first",  # the observable that is taken if none is asked for
    ),
    "nnflow.ensemble": ("Ensemble", "ResolutionWarning"),
    "nnflow.recording": ("Recording",),
    "nnflow.map": ("generator",),  # random numbers from a seed and a purpose
    "nnflow.records": ("Gathered",),  # records of single steps put together to those of blocks
    "nnflow.vectors": ("NORMS", "length", "orthonormalise", "project_out"),  # of differences of states, and of frames
    "nnflow.curvature": ("Extreme", "largest", "quadrature", "broadened"),  # of a Hessian, by its products with vectors
    "nnflow.machine": ("loop",),  # compile what Python calls, to be kept on disk …
    "nnflow.compiled.ways": ("kernel",),  # … and what is called in there
    "nnflow.names": ("Refusal", "WrongKind"),  # what misuse raises
    "nnflow.progress": ("tick", "heard_by"),  # let Ctrl-C through; do steps that are none of the run's
    "nnflow.room": ("room",),  # refuse what fits into no memory
    "nnflow.typing": ("Array", "Integers"),
    "nnflow.values": ("real",),  # arrays of any numbers as float64
}
_MODULES = {name: module for module, names in OFFERED.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
