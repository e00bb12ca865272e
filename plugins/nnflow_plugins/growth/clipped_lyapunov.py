"""Where instability comes from: growth rates with one kind of curvature taken out of the tangent map.

Plain gradient descent has the symmetric tangent map J = I − ηH. A direction grows because its curvature is negative
(an eigenvalue of J above 1) or because it is beyond 2/η (an eigenvalue below −1): the flip of the edge of stability.
Clipped to 1 or to −1, that kind of growth is gone, along the very same orbit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import Analysis, Array, Ensemble, Result, WrongKind, at_least
from nnflow_plugins.tools.remarks import at_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

CLIPS = {"none": (-np.inf, np.inf), "negative": (-np.inf, 1.0), "beyond": (-1.0, np.inf)}


def clipped(values: Array, vectors: Array, v: Array) -> Array:
    """Tangent vectors after J = Σ μ q qᵀ with its eigenvalues μ clipped, each by its own of the CLIPS, in their order.

    Args:
        values: The eigenvalues μ, ``(member, dim)``.
        vectors: The eigenvectors q, columns of ``(member, dim, dim)``.
        v: ``(member, clip, dim)``.

    Returns:
        ``(member, clip, dim)``.
    """
    bounds = np.array(list(CLIPS.values()))
    kept = np.clip(values[:, None], bounds[None, :, :1], bounds[None, :, 1:])
    return np.asarray((kept * (v @ vectors)) @ vectors.transpose(0, 2, 1))


@dataclass(frozen=True)
class ClippedLyapunov(Analysis):
    """The finite-time exponent of a random tangent vector under J, and under J without one kind of curvature.

    Each step takes a dense eigendecomposition, dim³.

    Returns:
        exponent (…, clipped): Nats per iteration, `clipped` being none, negative (curvatures below 0 set to 0) or
            beyond (curvatures above 2/η set to 2/η). NaN for an escaped member.
        largest (…, time): The largest eigenvalue of J: with plain gradient descent 1 − ηh_min.
        smallest (…, time): The smallest: with plain gradient descent 1 − ηh_max, so that the sharpness over its
            threshold 2/η is (1 − smallest)/2. Where −smallest exceeds largest the strongest stretch is a flip,
            elsewhere negative curvature.
        at_rest (…): Whether the orbit ended on a fixed point (one of chaos is put there by rounding, which warns).
        put_to_rest (…): Whether rounding has put it there, or some of its coordinates on an unstable point.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        WrongKind: (a TypeError) unless the tangent map is symmetric (plain gradient descent, any one-dimensional map).
    """

    steps: int = 200
    """Steps averaged over, after the transient."""
    transient: int = 0
    """Steps dropped first, by the state; the vectors start afterwards."""
    seed: int = 0
    """Seed of the random vector (one per initial state)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now = ensemble.advance(self.transient)
        first = now.draw("tangent", (1, now.map.dim), seed=self.seed)
        v = np.repeat(first / np.sqrt((first * first).sum(axis=2, keepdims=True)), len(CLIPS), axis=1)
        total, ends, start = np.zeros((len(now), len(CLIPS))), [], now.t
        for _ in range(self.steps):
            values, vectors, now = self._eigen(now)
            v = clipped(values, vectors, v)
            size = np.sqrt((v * v).sum(axis=2))
            with np.errstate(divide="ignore", invalid="ignore"):
                total += np.log(size)
                v = np.where(size[..., None] > 0, v / size[..., None], v)
            ends.append(values[:, [-1, 0]])
        edges = np.stack(ends, axis=1)
        unit = {"long_name": "finite-time Lyapunov exponent", "units": "nats per iteration"}
        exponent = np.where(now.escaped[:, None] >= 0, np.nan, total / self.steps)
        return {
            "clipped": ("clipped", np.array(list(CLIPS))),
            "time": ("time", start + np.arange(self.steps), {"long_name": "step", "units": "iterations"}),
            "exponent": (("member", "clipped"), exponent, unit),
            "largest": (("member", "time"), edges[:, :, 0], {"long_name": "largest eigenvalue of the tangent map"}),
            "smallest": (("member", "time"), edges[:, :, 1], {"long_name": "smallest eigenvalue of the tangent map"}),
            **at_rest(
                ensemble,
                now,
                total[:, 0],
                lambda at, n: at.with_vectors(now.frames).tangent_orbit(n, n, keep=("factors",))[1],
            ),
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def _eigen(self, now: Ensemble) -> tuple[Array, Array, Ensemble]:
        """Eigenvalues and eigenvectors of each member's tangent map, NaN where it is not finite; and a step further.

        J is what one step makes of the unit vectors: the frame after it, times the factor R that was taken out.

        Returns:
            Eigenvalues, ascending, eigenvectors, as columns, and the ensemble after the step.

        Raises:
            WrongKind: (a TypeError) if J is not symmetric.
        """
        unit = np.broadcast_to(np.eye(now.map.dim), (len(now), now.map.dim, now.map.dim)).copy()
        records, ahead = now.with_vectors(unit).tangent_orbit(1, keep=("factors",))
        assert records.factors is not None
        j = ahead.frames.transpose(0, 2, 1) @ np.asarray(records.factors)[:, 0]
        lost = np.asarray(~np.isfinite(j).all(axis=(1, 2)))
        j = np.where(lost[:, None, None], 0.0, j)
        gap = np.abs(j - j.transpose(0, 2, 1)).max() / max(1.0, np.abs(j).max())
        if gap > 1e-6:
            raise WrongKind(f"{now.map.name} has no symmetric tangent map (it differs from its transpose by {gap:.1e})")
        values, vectors = np.linalg.eigh(j)
        return np.where(lost[:, None], np.nan, values), np.where(lost[:, None, None], np.nan, vectors), ahead

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The distribution of the exponent over the members, for each clip."""
        from nnflow_plugins.tools.drawing import COLOURS

        data = dataset["exponent"].transpose(..., "clipped")
        columns = data.values.reshape(-1, len(CLIPS)).T
        known: list[Any] = [column[np.isfinite(column)] for column in columns]
        labels = ("all curvature", "negative curvature\nset to 0", "curvature beyond\n2/η set to 2/η")
        axes.boxplot(known, tick_labels=labels, whis=(5, 95), showfliers=False, medianprops={"color": COLOURS[1]})
        axes.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_ylabel(f"exponent over {dataset.sizes['time']} steps (nats per iteration)")
