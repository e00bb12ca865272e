"""Knock-out: how much the loss grows when a single weight is set to 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nnflow.authors import Analysis, Ensemble, Result, at_least, first

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

ENTRIES = 2**22  # numbers in the states that are looked at together: 32 MiB


@dataclass(frozen=True)
class KnockOut(Analysis):
    """The loss (or another observable) with one weight at a time set to 0, over that of the intact state.

    Returns:
        ratio (…, weight): The coordinate names the weights. NaN or inf where the baseline is 0.
        baseline (…): The observable of the intact state.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for a pattern that matches nothing, or an unknown observable.

    Source:
        K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.
    """

    where: str = "weights"
    """Which coordinates: weights (all but optimizer memory), or a pattern of names such as "W1*"."""
    observable: str | None = None
    """What is compared (default: the loss, or the first coordinate)."""
    transient: int = 0
    """Steps before the knock-out."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now, name = ensemble.advance(self.transient), first(ensemble, self.observable)
        columns = np.flatnonzero(now.map.chosen(self.where))
        baseline, _ = now.orbit(1, observe=name)
        size = max(1, ENTRIES // (len(now) * now.map.dim))
        parts = [self._without(now, columns[i : i + size], name) for i in range(0, len(columns), size)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.concatenate(parts, axis=1) / baseline[:, 0]
        return {
            "weight": ("weight", np.array([now.map.coordinates[i] for i in columns])),
            "ratio": (("member", "weight"), ratio, {"long_name": f"{name} without the weight / {name}"}),
            "baseline": ("member", baseline[:, 0, 0], {"long_name": name}),
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def _without(self, now: Ensemble, columns: np.typing.NDArray[np.int64], name: str) -> np.typing.NDArray[np.float64]:
        """The observable of copies that lack one weight each, ``(member, column)``."""
        copies = now.take(np.repeat(np.arange(len(now)), len(columns)))
        states = copies.states.copy()
        states[np.arange(len(states)), np.tile(columns, len(now))] = 0.0
        seen, _ = copies.with_states(now.map.native(states)).orbit(1, observe=name)
        return np.asarray(seen[:, 0, 0].reshape(len(now), len(columns)))

    def work(self, ensemble: object) -> int:
        """How many member-steps are known beforehand: those of the transient."""
        return len(ensemble) * self.transient if isinstance(ensemble, Ensemble) else 0

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The ratios in the order of the weights: the median over members, with a line between quartiles."""
        from nnflow_plugins.tools.drawing import band

        rows = dataset["ratio"].transpose(..., "weight").values.reshape(-1, dataset.sizes["weight"])
        band(axes, np.arange(rows.shape[1]), rows, marker=".", linestyle="")
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set(xlabel="weight", ylabel=dataset["ratio"].attrs["long_name"])
