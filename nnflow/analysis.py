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

Its fields are the command line's options, the defaults and the provenance. `run` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from nnflow.ensemble import Ensemble, Recording

Dims: TypeAlias = str | tuple[str, ...]
Variable: TypeAlias = tuple[Dims, Any] | tuple[Dims, Any, Mapping[str, Any]]
Result: TypeAlias = Mapping[str, Variable]
RESERVED = ("map", "set", "scan", "inits", "plot", "output")  # names of the command line's own options


@dataclass(frozen=True)
class Analysis:
    """Settings, called on an ensemble (or a recording): ``{name: (dims, array)}`` or ``(dims, array, attributes)``.

    The first dim is "member"; a variable named like its dim (without "member") is that dim's coordinate. Among the
    variables is `escaped ("member")`, usually the ensemble's after the last verb. An analysis that can draw has a
    method `draw(dataset, axes)`, which imports matplotlib itself.
    """

    def __call__(self, ensemble: Any) -> Result:
        """Compute the variables from an ensemble."""
        raise NotImplementedError(f"{type(self).__name__} does not write __call__(ensemble)")

    def couples(self, ensemble: Ensemble | Recording) -> Sequence[str]:
        """The axes along which members depend on one another, so that they are never split; by default none."""
        return ()

    def work(self, ensemble: Ensemble | Recording) -> int:
        """How many member-steps it will take, for the progress bar: by default members × (transient + steps)."""
        return len(ensemble) * (getattr(self, "transient", 0) + getattr(self, "steps", 0))


def first(ensemble: Ensemble | Recording, observable: str | None) -> str:
    """The name asked for, or what an ensemble is best known by: a training map's loss, the first coordinate."""
    if observable is not None:
        return observable
    if isinstance(ensemble, Recording):
        return ensemble.names[0]
    return "loss" if "loss" in ensemble.map.observables else ensemble.map.coordinates[0]


def at_least(least: float, **settings: float) -> None:
    """Refuse settings below a bound: ``at_least(1, steps=self.steps)``. Raises ValueError with the name and value."""
    for name, value in settings.items():
        if not value >= least:
            raise ValueError(f"{name} = {value}: give {least} or more")


def one_of(known: Sequence[str], **settings: str) -> None:
    """Refuse a setting that is not one of the known names: a ValueError with name, value and the known ones."""
    for name, value in settings.items():
        if value not in known:
            raise ValueError(f"{name} = {value!r}: give one of {', '.join(known)}")
