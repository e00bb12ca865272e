"""Displacement against path length, weight by weight: do weights go straight, or wander?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nnflow.authors import Analysis, Ensemble, Result, at_least
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

BLOCK = 256  # steps of an orbit that are held at a time (not by memory: sums must not depend on the chunk)


@dataclass(frozen=True)
class Displacement(Analysis):
    """For each weight its net displacement |w_T − w_0| and its path length Σ_t |w_{t+1} − w_t|.

    Of a coordinate that is an angle, steps are taken the shorter way round, and the net displacement is their sum. The
    ratio path/net is 1 for a weight that never turns.

    Returns:
        net (…, weight): Net displacement, the coordinate naming the weights. An escaped member gives NaN.
        path (…, weight): Path length.
        initial (…, weight): |w_0|.
        relative (…): Σ |w_T − w_0| / Σ |w_0| over the weights.
        put_to_rest (…): Whether rounding, or its start, has put the orbit on an unstable point (a warning, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for a pattern that matches nothing.

    Source:
        K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782.
    """

    where: str = "weights"
    """Which coordinates: weights (all but optimizer memory), or a pattern of names such as "W1*"."""
    steps: int = 5000
    """Steps of the way, after the transient."""
    transient: int = 0
    """Steps dropped first."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient)
        at_least(1, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now = ensemble.advance(self.transient)
        columns = np.flatnonzero(now.map.chosen(self.where))
        names = tuple(now.map.coordinates[i] for i in columns)
        turns = np.array([now.map.periods.get(name, 0.0) for name in names])
        angle = turns > 0
        start = np.take(now.states, columns, axis=1)  # [:, columns] would lie in columns: sums in another order
        (way, path), last, left = np.zeros((2, *start.shape)), start, self.steps
        while left > 0:
            size = min(left, BLOCK)
            records, now = now.orbit(size, observe=names)
            ways = np.concatenate([records, np.take(now.states, columns, axis=1)[:, None]], axis=1)
            moves = np.diff(ways, axis=1)
            moves[..., angle] -= turns[angle] * np.round(moves[..., angle] / turns[angle])
            way, path = way + moves.sum(axis=1), path + np.abs(moves).sum(axis=1)
            last, left = ways[:, -1], left - size
        net = np.abs(np.where(angle, way, last - start))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = net.sum(axis=1) / np.abs(start).sum(axis=1)
        return {
            "weight": ("weight", np.array(names)),
            "net": (("member", "weight"), net, {"long_name": "net displacement"}),
            "path": (("member", "weight"), np.where(np.isnan(net), np.nan, path), {"long_name": "path length"}),
            "initial": (("member", "weight"), np.abs(start)),
            "relative": ("member", relative),
            **put_to_rest(ensemble, now),
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """Relative net displacement over relative path length, a point a weight; on the line a weight goes straight."""
        from nnflow_plugins.tools.drawing import COLOURS

        initial = dataset["initial"].values.ravel()
        net, path = (dataset[name].values.ravel() for name in ("net", "path"))
        moved = (net > 0) & (initial > 0) & np.isfinite(path)
        x, y = path[moved] / initial[moved], net[moved] / initial[moved]
        axes.plot(x, y, ".", color=COLOURS[0], markersize=3, alpha=0.6)
        if moved.any():
            ends = np.array([x.min(), x.max()])
            axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
            axes.set(xscale="log", yscale="log")
        axes.set(xlabel="path length / |initial weight|", ylabel="net displacement / |initial weight|")
