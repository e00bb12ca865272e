"""What can be known before the work: an analysis is rehearsed, on an ensemble that computes nothing.

Two short looks. First the analysis itself, with its own settings, up to its first record: the ensemble that it is given
takes steps for granted, so that unknown observables, a k beyond dim and records that fit into no memory are found at
once, whatever transient comes before. Then, if the members have axes, the analysis with as few steps as it accepts, on
one member: that shows the names of its variables and dims, which may not be those of the axes.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from nnflow.analysis import Analysis, check_result, without_end
from nnflow.axes import Axis
from nnflow.ensemble import Ensemble
from nnflow.locks import Lock
from nnflow.names import Refusal
from nnflow.recording import Recording
from nnflow.settings import whole

MOST = 2**20  # steps of a rehearsal


class Enough(BaseException):
    """A rehearsal has come to the first record. No Exception: an analysis may catch those."""


@dataclass(frozen=True, eq=False, repr=False)
class Rehearsed(Ensemble):
    """An ensemble that checks what it is asked for, and stops there."""

    def advance(self, steps: int) -> Ensemble:
        """As if it had been: at step index t + steps."""
        return replace(self, frame=None, neighbors=None, t=self.t + whole("steps", steps, 0))

    def _blocks(self, verb: Hashable, steps: int, every: int, least: int = 1, most: int | None = None) -> Iterator[int]:
        raise Enough


def rehearse(name: str, method: Analysis, ensemble: Ensemble | Recording, axes: bool) -> set[str]:
    """Call an analysis as far as its first record. Whatever it raises before that comes through.

    Args:
        name: The analysis.
        method: The analysis with its settings.
        ensemble: What it is called on.
        axes: Whether there are axes that names could clash with.

    Returns:
        The names that its result will have, those that can be known: none where there are no axes, or where the
        analysis cannot be shortened.
    """
    with _quiet(), ensemble.map.uncompiled() if isinstance(ensemble, Ensemble) else nullcontext():
        if isinstance(ensemble, Ensemble):
            with suppress(Enough):
                method(_stopping(ensemble))
        return _names(name, method, ensemble) if axes else set()


_silence: list[Any] = []  # what to leave again, once for each rehearsal that goes on
_changing = Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings. Their filters are the whole process's: the first of several threads sets them, the last one back."""
    with _changing():
        if not _silence:
            _silence.append(warnings.catch_warnings())
            _silence[0].__enter__()
            warnings.simplefilter("ignore")
        _silence.append(None)
    try:
        yield
    finally:
        with _changing():
            _silence.pop()
            if len(_silence) == 1:
                _silence.pop().__exit__(None, None, None)


def _stopping(ensemble: Ensemble) -> Rehearsed:
    """The ensemble for a rehearsal. Its map gives one curvature, to see that it has any, and stops, too."""
    kind = type(ensemble.map)

    def curvature(self: Any, x: Any, p: Any, t: int, v: Any) -> Any:
        kind.curvature(self, x[:1], p[:1], t, v[:1, :1])
        raise Enough

    map: Any = object.__new__(type(kind.__name__, (kind,), {"curvature": curvature, "whole": lambda self: self}))
    map.__dict__.update(ensemble.map.__dict__)
    given = {f.name: getattr(ensemble, f.name) for f in fields(Ensemble)}
    return Rehearsed(**{**given, "map": map})


def _one(ensemble: Any) -> Any:
    """One member; where many have machine code of their own, beside copies of itself, so that no other is compiled."""
    axes = tuple(Axis(axis.name, axis.values[:1], axis.kind) for axis in ensemble.axes)
    many = ensemble.map.many if isinstance(ensemble, Ensemble) else 1
    if not 1 < many <= len(ensemble):
        return ensemble.take([0], axes)
    return ensemble.take([0] * many, (*axes, Axis("copy", np.arange(many), "member")))


def _names(name: str, method: Analysis, ensemble: Ensemble | Recording) -> set[str]:
    """The names in the result of a short run of one member; none if it fails, for it may only have been too short."""
    result: Any = None
    one = _one(ensemble)
    with suppress(Exception), np.errstate(all="ignore"):
        result, _ = without_end(shortened(method)(one))
    if result is None:
        return set()
    check_result(name, result)
    return names_of(result)


def names_of(result: Any) -> set[str]:
    """The names of variables and dims in what an analysis returned, but for "member"."""
    dims = ((part[0],) if isinstance(part[0], str) else part[0] for part in result.values())
    return {*result, *(name for several in dims for name in several)} - {"member"}


def refuse_clash(name: str, axes: Sequence[str], names: set[str]) -> None:
    """Refuse axes named like a variable or a dim of the result: one of the two would be lost."""
    taken = [axis for axis in axes if axis in names]
    if taken:
        raise Refusal(
            f"axis {', '.join(taken)}: {name} returns a variable or dim of this name, so the result could not hold "
            "both; give the map's parameter or coordinate another name"
        )


def shortened(method: Analysis) -> Analysis:
    """The analysis with as few steps as its own checks allow.

    Steps are often a multiple of another setting: those settings, doubled again and again, are tried in order.

    Args:
        method: The analysis with its settings.

    Returns:
        The analysis with other `steps`.

    Raises:
        Refusal: (a ValueError) if it stays long.
    """
    settings: dict[str, Any] = {f.name: getattr(method, f.name) for f in fields(method)}
    steps, at_once = settings.get("steps", 0), {"transient": 0} if "transient" in settings else {}
    units = {1, *(value for value in settings.values() if type(value) is int and value > 0)}
    for fewer in sorted({unit << i for unit in units for i in range(MOST.bit_length())}):
        if fewer < min(steps, MOST):
            with suppress(ValueError):
                return replace(method, **{"steps": fewer, **at_once})
    if steps > MOST:
        raise Refusal(f"steps = {steps}: too many to try")
    return replace(method, **at_once)
