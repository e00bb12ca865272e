"""Finite-time Lyapunov exponents: how fast tangent vectors grow over stretches of a given length, as a distribution.

Over a finite time the growth rate depends on where the orbit is and when one looks. In training it often starts
positive and dies out: chaos that is transient. One number would hide that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import Analysis, Ensemble, Result, at_least, multiple_of
from nnflow_plugins.tools.remarks import at_rest, start_counts

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class FiniteTimeLyapunov(Analysis):
    """Λ_i = (1/n) Σ ln R_ii over consecutive stretches of n steps: the k largest growth rates of each stretch.

    The frame starts Haar-random, drawn per initial state, and goes on from stretch to stretch. Without a transient the
    first stretch starts from random directions, as a perturbation does, and their turning counts: about ln(dim)/2n too
    little.

    Returns:
        exponent (…, time, index): Nats per iteration, `time` being the first step of the stretch. NaN from the stretch
            on in which a member escapes.
        at_rest (…): Whether the orbit ended on a fixed point (one of chaos is put there by rounding, which warns).
        put_to_rest (…): Whether rounding has put it there, or some of its coordinates on an unstable point.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for k beyond dim, or steps that are no multiple of the window.

    Source:
        P. Grassberger, R. Badii, A. Politi, J. Stat. Phys. 51, 135 (1988), doi:10.1007/BF01015324; E. Ott, Chaos in
        Dynamical Systems, 2nd ed., 2002, section 9.4.
    """

    k: int = 1
    """How many exponents."""
    window: int = 200
    """Steps of a stretch."""
    steps: int = 1000
    """Steps followed, after the transient: a multiple of the window."""
    transient: int = 0
    """Steps dropped first, by the state and by the frame."""
    seed: int = 0
    """Seed of the random frame (one frame per initial state)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, k=self.k, window=self.window, steps=self.steps)
        multiple_of("window", self.window, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now = ensemble.with_frame(self.k, self.seed)
        if self.transient:
            now = now.tangent_orbit(self.transient)[1]
        starts = now.t + np.arange(0, self.steps, self.window)
        means = []
        for _ in starts:
            records, now = now.tangent_orbit(self.window)
            means.append(np.asarray(records.log_stretches).mean(axis=1))
        exponent = np.stack(means, axis=1)
        growth = exponent.sum(axis=1).max(axis=1) * self.window
        resting = at_rest(ensemble, now, growth, lambda at, n: at.with_vectors(now.frame).tangent_orbit(n, n)[1])
        unit: dict[str, Any] = {"long_name": "finite-time Lyapunov exponent", "units": "nats per iteration"}
        unit |= {"window": self.window, **start_counts(self.transient)}
        return {
            "time": ("time", starts, {"long_name": "first step of the stretch", "units": "iterations"}),
            "index": ("index", np.arange(1, self.k + 1)),
            "exponent": (("member", "time", "index"), exponent, unit),
            **resting,
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The largest exponent: its distribution over all members in each stretch, from the first to the last."""
        from nnflow_plugins.tools.drawing import COLOURS

        data = dataset["exponent"].isel(index=0).transpose(..., "time")
        rows = data.values.reshape(-1, data.sizes["time"])
        shown = [column[np.isfinite(column)] for column in rows.T]
        kept = [i for i, column in enumerate(shown) if column.size]
        middle = dataset["time"].values + self.window / 2
        if len(kept) > 0:
            axes.boxplot(
                [shown[i] for i in kept],
                positions=middle[kept],
                widths=0.6 * self.window,
                showfliers=False,
                whis=(5, 95),
                manage_ticks=False,
                medianprops={"color": COLOURS[1]},
            )
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set(xlabel="step", ylabel=f"exponent over {self.window} steps (nats per iteration)")
