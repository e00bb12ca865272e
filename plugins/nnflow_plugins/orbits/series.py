"""Series: what is observed along the orbit, as it is: losses, norms, chosen weights, projections, the way gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import (
    NORMS,
    Analysis,
    Array,
    Ensemble,
    Recording,
    Result,
    at_least,
    first,
    generator,
    length,
    multiple_of,
    one_of,
    room,
)
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Series(Analysis):
    """Time series of observables, at t, t + every, …; only what is asked for is computed.

    Distance and projections are over the weights of a training map (optimizer memory left out).

    Returns:
        value (…, channel, time): The channels named by what they are: observables and coordinates; `distance`, from the
            state before the transient; `projection0`, …, components along random unit vectors. NaN once a member has
            escaped.
        put_to_rest (…): Of orbits of a map, whether rounding, or its start, has put the orbit on an unstable point (a
            warning, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for an unknown observable or norm, or steps that are no multiple of every.
    """

    observe: tuple[str, ...] = ()
    """Observables and coordinates (default: the loss, or the first coordinate)."""
    distance: str | None = None
    """Also the distance from the initial state, in this norm: l1, l2 or max."""
    projections: int = 0
    """Also this many components along random unit vectors, the same for all members."""
    steps: int = 1000
    """Steps followed, after the transient."""
    transient: int = 0
    """Steps dropped first."""
    every: int = 1
    """Steps between samples."""
    seed: int = 0
    """Seed of the random unit vectors."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, projections=self.projections, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every)
        multiple_of("every", self.every, steps=self.steps)
        if self.distance is not None:
            one_of(NORMS, distance=self.distance)
        room("projections", self.projections, self.steps // self.every)

    def __call__(self, ensemble: Ensemble | Recording) -> Result:
        """Compute the variables."""
        names: tuple[str, ...] = self.observe or (first(ensemble, None),)
        now: Any = ensemble.advance(self.transient)
        if self.distance is None and not self.projections:
            values, now = now.orbit(self.steps, self.every, names)
        else:
            values, now = self._with_states(ensemble, now, names)
            names = (
                *names,
                *(["distance"] if self.distance else []),
                *map("projection{}".format, range(self.projections)),
            )
        start = now.t - self.steps
        return {
            "channel": ("channel", np.array(names)),
            "time": ("time", np.arange(start, now.t, self.every), {"long_name": "step", "units": "iterations"}),
            "value": (("member", "channel", "time"), np.ascontiguousarray(values.transpose(0, 2, 1))),
            **put_to_rest(ensemble, now),
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def _with_states(self, start: Any, now: Any, names: tuple[str, ...]) -> tuple[Array, Any]:
        """Stop at each sample, where the states themselves are looked at; none is kept."""
        weights = start.map.weights
        vectors = generator(self.seed, "projections").standard_normal((self.projections, weights))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        seen = []
        for _ in range(self.steps // self.every):
            w, apart = now.states[:, :weights], now.map.difference(now.states, start.states)[:, :weights]
            ways = [length(apart, self.distance)[:, None]] if self.distance else []
            along = [(w * vector).sum(axis=1)[:, None] for vector in vectors]  # in an order of its own for each member
            observed, after = now.orbit(self.every, self.every, names)
            seen.append(np.concatenate([observed[:, 0], *ways, *along], axis=1))
            now = after
        return np.stack(seen, axis=1), now

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """Each channel over time: the median over members, shaded between quartiles."""
        from nnflow_plugins.tools.drawing import band

        for i, name in enumerate(dataset["channel"].values):
            rows = dataset["value"].sel(channel=name).transpose(..., "time").values.reshape(-1, dataset.sizes["time"])
            band(axes, dataset["time"], rows, i, label=str(name))
        names = [str(name) for name in dataset["channel"].values]
        axes.set(xlabel="step", ylabel=names[0] if len(names) == 1 else "value")
        if len(names) > 1:
            axes.legend(frameon=False, fontsize="small")
