"""The spectrum of the loss Hessian at a state: its density, and how many directions are flat, negative or unstable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

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


def _bracketed(nodes: Array, shares: Array, probes: int, low: Array, high: Array, whole: bool) -> tuple[Array, Array]:
    """The share of a density above `low` and at most `high`, from the quadrature of several random vectors.

    Of one vector, the share up to a bound between the nodes k and k + 1 lies between the sums of the weights of the
    first k − 1 and of the first k + 1 nodes; a quadrature with as many nodes as there are directions is exact.

    Args:
        nodes: ``(member, probe · order)``.
        shares: Their weights, likewise, which add up to 1.
        probes: How many vectors.
        low: ``(member, 1)``.
        high: ``(member, 1)``.
        whole: Whether a vector has as many nodes as there are directions.

    Returns:
        The share and its error, ``(member,)`` each: half the bracket and two standard errors.
    """
    apart = nodes.reshape(len(nodes), probes, -1)
    sums = np.cumsum(probes * shares.reshape(apart.shape), axis=2)
    padded = np.concatenate([np.zeros((*sums.shape[:2], 2)), sums, sums[..., -1:]], axis=2)  # S_-1, S_0, S_1, …, S_n+1

    def up_to(bound: Array) -> tuple[Array, Array]:
        k = (apart <= bound[:, :, None]).sum(axis=2)[..., None]
        steps = (0, 0) if whole else (-1, 1)
        first, last = (np.take_along_axis(padded, k + 1 + step, axis=2)[..., 0] for step in steps)
        return np.where(bound == -np.inf, 0.0, first), np.where(bound == np.inf, 1.0, last)

    (low_least, low_most), (high_least, high_most) = up_to(low), up_to(high)
    high_least, low_most = np.where(high == np.inf, 1.0, high_least), np.where(low == -np.inf, 0.0, low_most)
    least, most = np.maximum(high_least - low_most, 0.0), np.minimum(high_most - low_least, 1.0)
    middle = 0.5 * (least + most)
    spread = middle.std(axis=1, ddof=1) / np.sqrt(probes) if probes > 1 else np.full(len(nodes), np.inf)
    return middle.mean(axis=1), 0.5 * (most - least).mean(axis=1) + 2.0 * spread


@dataclass(frozen=True)
class HessianSpectrum(Analysis):
    """Density and counts of the eigenvalues h of the loss Hessian, at the state after the transient.

    Directions that are neutral by a symmetry are taken out first, and counted apart. Up to `dense` weights the Hessian
    is dense, and counts are exact: a minute or two for 5000 weights. Beyond, density and counts are estimates by
    stochastic Lanczos quadrature, with what their error may be: a count is bracketed by that of the nodes on both sides
    of the bound (Chebyshev, Markov and Stieltjes), averaged over the random vectors, two standard errors added. What
    lies about 0 is hard to part from it: the error of `negative` and `flat` may be as large as they are. Of
    mini-batches, the Hessian is that of the batch of step t (the last of an epoch may be short), while `gradient_norm`
    is that of all rows.

    Returns:
        curvature (…, point): Where the density is given.
        density (…, point): Eigenvalues broadened by Gaussians, integral 1.
        negative (…): How many h < −flat · max |h|.
        flat (…): How many |h| ≤ flat · max |h|.
        unstable (…): How many are beyond `threshold`, of the preconditioned Hessian for Adam and its kin.
        threshold (…): That of the optimizer: 2/eta for plain gradient descent.
        negative_error, flat_error, unstable_error (…): How far these three may be off; 0 where the Hessian is dense.
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
        2019, arXiv:1901.10159; the brackets: G. Szegő, Orthogonal Polynomials, 1939, theorem 3.41.1.
    """

    transient: int = 0
    """Steps before the state that is looked at."""
    dense: int = 5000
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
    full: bool = False
    """Whether the Hessian is that of the loss of all data, where a step sees a batch."""
    ends: ClassVar[bool] = True

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
        seen_by = now.of_all_data() if self.full else now
        nodes, shares = look(seen_by, gauge)
        left = size - gauge.shape[1]
        edge = self.flat * np.abs(nodes).max(axis=1)
        counted = {
            "negative": self._count((nodes, shares), -np.inf, np.nextafter(-edge, -np.inf), left, exact),
            "flat": self._count((nodes, shares), np.nextafter(-edge, -np.inf), edge, left, exact),
            "unstable": self._unstable(seen_by, (nodes, shares), left, exact),
        }
        counts = {name: count for name, (count, _) in counted.items()} | {
            "gauge": np.full(len(now), float(gauge.shape[1])),
            "stationary_dimension": counted["flat"][0] + gauge.shape[1],
            **{f"{name}_error": error for name, (_, error) in counted.items()},
        }
        how = "all eigenvalues" if exact else "estimated by stochastic Lanczos quadrature"
        curvature, density = broadened(nodes, shares, self.points, self.width)
        return {
            "curvature": (("member", "point"), curvature, {"long_name": "Hessian eigenvalue"}),
            "density": (("member", "point"), density, {"long_name": "density of eigenvalues", "method": how}),
            **{name: ("member", count, {"units": "directions", "method": how}) for name, count in counts.items()},
            "threshold": ("member", now.threshold()),
            **({"eigenvalue": (("member", "index"), nodes[:, ::-1])} if exact else {}),
            **self._gradient(seen_by),
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def _unstable(self, now: Ensemble, plain: Nodes, left: int, exact: bool) -> tuple[Array, Array]:
        """How many directions are beyond the threshold, of the Hessian that the optimizer sees; and the error."""
        limit = now.threshold()
        if not now.map.preconditioned:
            return self._count(plain, limit, np.inf, left, exact)
        look = self._all if exact else self._some
        seen = look(now, np.zeros((len(now), 0, now.map.weights)), effective=True)
        return self._count(seen, limit, np.inf, now.map.weights, exact)

    def _count(self, seen: Nodes, low: Any, high: Any, directions: int, exact: bool) -> tuple[Array, Array]:
        """How many eigenvalues are above `low` and at most `high`, and how far that may be off."""
        nodes, shares = seen
        low, high = (np.broadcast_to(bound, len(nodes))[:, None] for bound in (low, high))
        count = np.round(directions * np.where((nodes > low) & (nodes <= high), shares, 0.0).sum(axis=1), 9)
        error = np.zeros(len(nodes))
        if not exact:
            share, off = _bracketed(nodes, shares, self.probes, low, high, nodes.shape[1] // self.probes == directions)
            count, error = directions * share, directions * off
        lost = np.isnan(nodes).any(axis=1) | np.isnan(low).ravel()  # groups of weights may have no one threshold
        return np.where(lost, np.nan, count), np.where(lost, np.nan, error)

    def _all(self, now: Ensemble, gauge: Array, effective: bool = False) -> Nodes:
        """Every eigenvalue on the complement of the gauge directions, ascending; member by member, to save memory."""
        values = np.full((len(now), now.map.weights - gauge.shape[1]), np.nan)
        for i, basis in enumerate(gauge):
            rows = np.linalg.qr(np.vstack([basis, np.eye(now.map.weights)]).T)[0].T[None, len(basis) :]
            parts = [now.take([i]).curvature(rows[:, j : j + ROWS], effective) for j in range(0, rows.shape[1], ROWS)]
            with np.errstate(all="ignore"):
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
