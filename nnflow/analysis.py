"""What the author of an analysis writes: a frozen dataclass of settings that is called on an ensemble.

    @dataclass(frozen=True)
    class Mean(nnflow.Analysis):
        \"\"\"The time mean of an observable.\"\"\"

        observable: str | None = None
        \"\"\"What is averaged (default: the first coordinate).\"\"\"
        steps: int = 1000
        \"\"\"How many steps.\"\"\"

        def __call__(self, ensemble):
            records, after = ensemble.orbit(self.steps, observe=first(ensemble, self.observable))
            return {"mean": ("member", records[:, :, 0].mean(axis=1)), "escaped": ("member", after.escaped)}

Its fields are the command line's options, the defaults and the provenance. `run` does the rest. Each value is converted
and validated against its field's annotation before the author's own `__post_init__` sees it (`nnflow.settings`); bounds
belong there, by `at_least` and its kin. ``ensemble: Ensemble`` says that it needs a map and takes no recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, ClassVar, TypeAlias, get_type_hints

import numpy as np

from nnflow.ensemble import Ensemble
from nnflow.names import Refusal, WrongKind, shown
from nnflow.recording import Recording
from nnflow.settings import at_least as at_least
from nnflow.settings import convert_fields, refusing
from nnflow.settings import multiple_of as multiple_of
from nnflow.settings import one_of as one_of
from nnflow.values import hidden

Dims: TypeAlias = str | tuple[str, ...]
Variable: TypeAlias = tuple[Dims, Any] | tuple[Dims, Any, Mapping[str, Any]]
Result: TypeAlias = Mapping[str, Variable]
RESERVED = ("map", "set", "scan", "inits", "start", "plot", "output", "help")  # names of the command line's own options
OF_RUN = (
    "analysis",
    "ensemble",
    "executor",
    "chunk",
    "progress",
    "return_states",
    "store",
    "until",
)  # what `run` takes itself


@dataclass(frozen=True)
class Analysis:
    """Settings, called on an ensemble (or a recording): ``{name: (dims, array)}`` or ``(dims, array, attributes)``.

    An analysis that can draw has a method `draw(dataset, axes)`, which imports matplotlib itself.

    Attributes:
        ends: Whether each member follows one orbit, where which ends is returned as `after`, so that `run` can return
            the states.

    Returns:
        When called, its variables. The first dim is "member"; a variable named like its dim (without "member") is that
        dim's coordinate. Among them is `escaped ("member")`, usually the ensemble's after the last verb. One that says
        it `ends` returns that ensemble, too: `after ("member")`.

    Raises:
        Refusal: (a ValueError) for a setting that its annotation or the author's `__post_init__` does not allow.
    """

    ends: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Whatever checks an author writes, they see settings that are converted already, and what fails is refused."""
        super().__init_subclass__(**options)
        if (check := cls.__dict__.get("__post_init__")) is not None:

            @wraps(check)
            def converted(self: Analysis, *extra: Any) -> None:
                convert_fields(self)
                with refusing():
                    check(self, *extra)

            cls.__post_init__ = converted  # type: ignore[method-assign]

    def __post_init__(self, *extra: Any) -> None:
        """Convert the settings. An author's own comes after that."""
        convert_fields(self)

    def __call__(self, ensemble: Any) -> Result:
        """Compute the variables from an ensemble.

        Args:
            ensemble: An Ensemble, or a Recording where the annotation allows it.

        Returns:
            ``{name: (dims, array)}`` or ``{name: (dims, array, attributes)}``, see the class.

        Raises:
            NotImplementedError: if the subclass does not write it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not write __call__(ensemble)")

    def couples(self, ensemble: Ensemble | Recording) -> Sequence[str]:
        """The axes along which members depend on one another, so that they are never split; by default none.

        Args:
            ensemble: What the analysis will be called on.

        Returns:
            Names of its axes.
        """
        return ()

    def work(self, ensemble: Ensemble | Recording) -> int:
        """How much there is to do, for the progress bar: by default members × (transient + steps).

        Args:
            ensemble: What the analysis will be called on.

        Returns:
            Steps × members.
        """
        return len(ensemble) * (getattr(self, "transient", 0) + getattr(self, "steps", 0))


def first(ensemble: Ensemble | Recording, observable: str | None) -> str:
    """The name asked for, or what an ensemble is best known by: a training map's loss, the first coordinate.

    Args:
        ensemble: A recording is best known by its first channel.
        observable: The name asked for; None is no name.

    Returns:
        The name of a coordinate, an observable or a channel.
    """
    if observable is not None:
        return observable
    if isinstance(ensemble, Recording):
        return ensemble.names[0]
    return "loss" if "loss" in ensemble.map.observables else ensemble.map.coordinates[0]


def refuse_reserved(kind: type) -> None:
    """Refuse an analysis with settings that could never be given: `run` or the command line takes them for itself."""
    taken = [f.name for f in fields(kind) if f.name in RESERVED]
    if taken:
        raise Refusal(f"the settings {', '.join(taken)} are the command line's own options: rename them")
    taken = [f.name for f in fields(kind) if f.name in OF_RUN]
    if taken:
        raise Refusal(f"the settings {', '.join(taken)} are arguments of run itself: rename them")


def check_result(name: str, result: Any) -> None:
    """Refuse what an analysis returned if it is not what `Analysis` says, or if no file can hold it.

    Args:
        name: The analysis, for the message.
        result: What it returned.

    Raises:
        WrongKind: (a TypeError) for another form or kind of numbers.
        Refusal: (a ValueError) where `escaped` is missing.
    """
    if not isinstance(result, Mapping):
        raise WrongKind(f"{name} returned {shown(result)}: return {{name: (dims, array)}}, first dim 'member'")
    if "escaped" not in result:
        raise Refusal(f"{name} returned no 'escaped': return {{…, 'escaped': ('member', after.escaped)}}")
    for variable, part in result.items():
        if not (isinstance(variable, str) and _is_variable(part)):
            raise WrongKind(
                f"{name}: variable {shown(variable)} is {shown(part)}: return {{name: (dims, array)}} or "
                "{name: (dims, array, attributes)}, first dim 'member'"
            )
        if hidden(part[1]):
            raise WrongKind(f"{name}: variable {variable!r} is masked: fill it, with nan what is missing")
        if (found := _unwritable(part[1])) is not None:
            raise WrongKind(
                f"{name}: variable {variable!r} is {found}, which no file holds: return an array of numbers or texts, "
                "of complex numbers the real and the imaginary part as two variables"
            )


def without_end(result: Any) -> tuple[Any, Ensemble | None]:
    """What an analysis returned without `after`, and that ensemble; None where there is none, or a recording."""
    if not isinstance(result, Mapping) or not _is_variable(result.get("after")):
        return result, None
    after = result["after"][1]
    if not isinstance(after, (Ensemble, Recording)):
        return result, None
    left = {name: part for name, part in result.items() if name != "after"}
    return left, after if isinstance(after, Ensemble) else None


def _is_variable(part: Any) -> bool:
    """Whether it is ``(dims, array)`` or ``(dims, array, attributes)``."""
    if not isinstance(part, (tuple, list)) or len(part) not in (2, 3):
        return False
    dims = (part[0],) if isinstance(part[0], str) else part[0]
    named = isinstance(dims, (tuple, list)) and all(isinstance(dim, str) for dim in dims)
    return named and all(isinstance(attributes, Mapping) for attributes in part[2:])


def _unwritable(values: Any) -> str | None:
    """What an array of neither numbers nor texts is of."""
    try:
        array = np.asarray(values)
    except ValueError:
        return "of rows of unequal length"
    texts = array.dtype.kind in "UT" or (array.dtype.kind == "O" and all(isinstance(each, str) for each in array.flat))
    return None if texts or array.dtype.kind in "biuf" else f"of dtype {array.dtype}"


def takes_recordings(kind: type[Analysis]) -> bool:
    """Whether an analysis may be called on a recording; one that says ``ensemble: Ensemble`` needs a map."""
    try:
        hints = [hint for name, hint in get_type_hints(kind.__call__).items() if name != "return"]
    except NameError:  # a name that only type checkers see
        return True
    return hints != [Ensemble]
