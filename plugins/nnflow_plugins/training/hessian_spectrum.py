"""The spectrum of the loss Hessian at a state: its density, and how many directions are flat, negative or unstable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnflow.authors import (
    Analysis,
    Array,
    Ensemble,
    Refusal,
    Result,
    at_least,
    broadened,
    project_out,
    quadrature,
    room,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

ROWS = 64  # Hessian-vector products at a time
Nodes = tuple[Array, Array]  # eigenvalues and their shares of the density, (member, node) both


@dataclass(frozen=True)
class HessianSpectrum(Analysis):
    """Density and counts of the eigenvalues h of the loss Hessian, at the state after the transient.

    Directions that are neutral by a symmetry are taken out first, and counted apart. Up to `dense` weights the Hessian
    is dense, and counts are exact; beyond, density and counts are estimates by stochastic Lanczos quadrature. Of
    mini-batches, the Hessian is that of the batch of step t (the last of an epoch may be short), while `gradient_norm`
    is that of all rows.

    Returns:
        curvature (…, point): Where the density is given.
        density (…, point): Eigenvalues broadened by Gaussians, integral 1.
        negative (…): How many h < −flat · max |h|.
        flat (…): How many |h| ≤ flat · max |h|.
        unstable (…): How many are beyond `threshold`, of the preconditioned Hessian for Adam and its kin.
        threshold (…): That of the optimizer: 2/eta for plain gradient descent.
        gauge (…): How many directions are neutral by a symmetry.
        stationary_dimension (…): flat + gauge, at a trained state the dimension of the manifold of minima it lies on,
            if `gradient_norm` is near 0.
        gradient_norm (…): Where the map has this observable.
        eigenvalue (…, index): Descending, where the Hessian is dense.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        WrongKind: (a TypeError) for a map without a loss.
        Refusal: (a ValueError) for settings out of range.

    Source:
        L. Sagun, U. Evci, V. U. Güney, Y. Dauphin, L. Bottou, arXiv:1706.04454; B. Ghorbani, S. Krishnan, Y. Xiao, ICML
        2019, arXiv:1901.10159.
    """

    transient: int = 0
    """Steps before the state that is looked at."""
    dense: int = 1000
    """Up to this many weights all eigenvalues are computed."""
    probes: int = 10
    """Random vectors of the quadrature, beyond."""
    order: int = 60
    """Lanczos steps of each."""
    flat: float = 1e-6
    """|h| up to this share of the largest counts as flat."""
    points: int = 400
    """Points of the density."""
    width: float = 0.01
    """Standard deviation of the Gaussians, as a share of the range of eigenvalues."""
    seed: int = 0
    """Seed of the random vectors."""

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, dense=self.dense, flat=self.flat, seed=self.seed)
        at_least(1, probes=self.probes, order=self.order)
        at_least(2, points=self.points)
        room("points", self.points, self.probes * self.order)
        if not 0 < self.width < 1:
            raise Refusal(f"width = {self.width}: give a share of the range, between 0 and 1")

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now = ensemble.advance(self.transient)
        size, exact = now.map.weights, now.map.weights <= self.dense
        gauge = now.gauge()[:, :, :size]
        look = self._all if exact else self._some
        nodes, shares = look(now, gauge)
        left = size - gauge.shape[1]
        largest = np.abs(nodes).max(axis=1, keepdims=True)
        flat = self._count(np.abs(nodes) <= self.flat * largest, shares, left, nodes)
        counts = {
            "negative": self._count(nodes < -self.flat * largest, shares, left, nodes),
            "flat": flat,
            "unstable": self._unstable(now, (nodes, shares), left, look),
            "gauge": np.full(len(now), float(gauge.shape[1])),
            "stationary_dimension": flat + gauge.shape[1],
        }
        how = "all eigenvalues" if exact else "estimated by stochastic Lanczos quadrature"
        curvature, density = broadened(nodes, shares, self.points, self.width)
        return {
            "curvature": (("member", "point"), curvature, {"long_name": "Hessian eigenvalue"}),
            "density": (("member", "point"), density, {"long_name": "density of eigenvalues", "method": how}),
            **{name: ("member", count, {"units": "directions", "method": how}) for name, count in counts.items()},
            "threshold": ("member", now.threshold()),
            **({"eigenvalue": (("member", "index"), nodes[:, ::-1])} if exact else {}),
            **self._gradient(now),
            "escaped": ("member", now.escaped),
        }

    def _unstable(self, now: Ensemble, plain: Nodes, left: int, look: Callable[..., Nodes]) -> Array:
        """How many directions are beyond the threshold, of the Hessian that the optimizer sees."""
        limit = now.threshold()[:, None]
        if not now.map.preconditioned:
            return self._count(plain[0] > limit, plain[1], left, plain[0])
        nodes, shares = look(now, np.zeros((len(now), 0, now.map.weights)), effective=True)
        return self._count(nodes > limit, shares, now.map.weights, nodes)

    def _count(self, chosen: npt.NDArray[np.bool_], shares: Array, directions: int, nodes: Array) -> Array:
        number = directions * np.where(chosen, shares, 0.0).sum(axis=1)
        return np.where(np.isnan(nodes).any(axis=1), np.nan, np.round(number, 9))

    def _all(self, now: Ensemble, gauge: Array, effective: bool = False) -> Nodes:
        """Every eigenvalue on the complement of the gauge directions, ascending; member by member, to save memory."""
        values = np.full((len(now), now.map.weights - gauge.shape[1]), np.nan)
        for i, basis in enumerate(gauge):
            rows = np.linalg.qr(np.vstack([basis, np.eye(now.map.weights)]).T)[0].T[None, len(basis) :]
            parts = [now.take([i]).curvature(rows[:, j : j + ROWS], effective) for j in range(0, rows.shape[1], ROWS)]
            matrix = np.concatenate(parts, axis=1)[0] @ rows[0].T
            if np.isfinite(matrix).all():
                values[i] = np.linalg.eigvalsh(0.5 * (matrix + matrix.T))
        return values, np.full(values.shape, 1.0 / values.shape[1])

    def _some(self, now: Ensemble, gauge: Array, effective: bool = False) -> Nodes:
        """Nodes and weights of the quadrature, from random vectors in that complement."""
        drawn = now.draw("hessian", (self.probes, now.map.weights), seed=self.seed)
        probes = project_out(drawn, gauge)
        return quadrature(lambda v: now.curvature(v, effective), probes, self.order)

    def _gradient(self, now: Ensemble) -> dict[str, Any]:
        if "gradient_norm" not in now.map.observables:
            return {}
        seen, _ = now.orbit(1, observe="gradient_norm")
        return {"gradient_norm": ("member", seen[:, 0, 0], {"long_name": "norm of the gradient"})}

    def work(self, ensemble: Any) -> int:
        """How many member-steps are known beforehand: those of the transient."""
        return len(ensemble) * self.transient

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The density of the first members, on a logarithmic axis, with the threshold of stability."""
        from nnflow_plugins.tools.drawing import COLOURS

        curvature, density = (
            dataset[name].values.reshape(-1, dataset.sizes["point"]) for name in ("curvature", "density")
        )
        limits = np.atleast_1d(dataset["threshold"].values).ravel()
        for i, (x, y, limit) in enumerate(zip(curvature, density, limits, strict=True)):
            if i < len(COLOURS):
                axes.plot(x, y, color=COLOURS[i], linewidth=1)
                if np.isfinite(limit) and limit <= x.max():
                    axes.axvline(limit, color=COLOURS[i], linestyle="--", linewidth=0.8, label="threshold of stability")
        top = np.nanmax(density) if np.isfinite(density).any() else 1.0
        if axes.lines and (handles := axes.get_legend_handles_labels()[0]):
            axes.legend(handles=handles[:1], frameon=False, fontsize="small")
        axes.set(yscale="log", ylim=(1e-6 * top, 2 * top), xlabel="Hessian eigenvalue", ylabel="density")
