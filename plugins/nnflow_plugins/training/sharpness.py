"""Sharpness along the orbit: the largest curvatures of the loss, and how near they are to the optimizer's limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nnflow.authors import Analysis, Array, Ensemble, Extreme, Result, at_least, largest, multiple_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Sharpness(Analysis):
    """The k largest eigenvalues of the loss Hessian at t, t + every, …, by Lanczos from the previous eigenvectors.

    An eigenvalue that has just overtaken by less than a per cent may be seen a look late. Of mini-batches, the
    curvature is that of the batch of step t.

    Returns:
        curvature (…, time, index): Descending.
        residual (…, time, index): Within which of each there is an eigenvalue.
        sharpness (…, time): The first of them.
        threshold (…, time): The curvature beyond which a direction of a minimum is unstable under the optimizer (2/eta
            for plain gradient descent).
        stability (…, time): The ratio of the two (eta S/2), beyond 1 at the edge of stability. With Adam, AdamW and
            RMSprop it is that of the preconditioned Hessian, whose largest eigenvalue costs a second iteration.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        WrongKind: (a TypeError) for a map without a loss.
        Refusal: (a ValueError) for k beyond the number of weights, or steps that are no multiple of every.

    Source:
        J. Cohen et al., ICLR 2021, arXiv:2103.00065; 2022, arXiv:2207.14484.
    """

    k: int = 1
    """How many of the largest curvatures."""
    steps: int = 100
    """Steps followed, after the transient."""
    transient: int = 0
    """Steps dropped first."""
    every: int = 10
    """Steps between one look and the next."""
    tolerance: float = 1e-6
    """Largest residual, relative to the largest curvature."""
    iterations: int = 100
    """Most Hessian-vector products for one eigenvalue; what is reached by then is in `residual`."""
    seed: int = 0
    """Seed of the vectors that the first iteration starts from."""
    full: bool = False
    """Whether the Hessian is that of the loss of all data, where a step sees a batch."""
    vectors: bool = False
    """Whether the eigenvectors of the Hessian are returned, too: of length 1, of either sign."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, tolerance=self.tolerance, seed=self.seed)
        at_least(1, k=self.k, steps=self.steps, every=self.every, iterations=self.iterations)
        multiple_of("every", self.every, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now = ensemble.advance(self.transient)
        drawn = now.draw("sharpness", (self.k, now.map.weights), seed=self.seed)
        drawn /= np.sqrt((drawn * drawn).sum(axis=2, keepdims=True))
        plain = effective = drawn
        seen: list[tuple[Array, ...]] = []
        start = now.t
        for _ in range(self.steps // self.every):
            seen_by = now.of_all_data() if self.full else now
            found = self._largest(seen_by, plain)
            plain, top = _mixed(found, drawn), found.values[:, 0]
            if now.map.preconditioned:
                other = self._largest(seen_by, effective[:, :1], effective=True)
                effective, top = _mixed(other, drawn[:, :1]), other.values[:, 0]
            limit = now.threshold()
            kept = (found.vectors,) if self.vectors else ()
            seen.append((found.values, found.residuals, found.values[:, 0], limit, top / limit, *kept))
            now = now.advance(self.every)
        return self._result([np.stack(part, axis=1) for part in zip(*seen, strict=True)], start, now)

    def _largest(self, now: Ensemble, starts: Array, effective: bool = False) -> Extreme:
        return largest(lambda v: now.curvature(v[:, None], effective)[:, 0], starts, self.tolerance, self.iterations)

    def _result(self, parts: list[Array], start: int, after: Ensemble) -> Result:
        curvature, residual, sharpness, threshold, stability, *vectors = parts
        times = start + np.arange(0, self.steps, self.every)
        found: dict[str, Any] = {
            "time": ("time", times, {"long_name": "step", "units": "iterations"}),
            "index": ("index", np.arange(1, self.k + 1)),
            "curvature": (("member", "time", "index"), curvature, {"long_name": "largest Hessian eigenvalues"}),
            "residual": (("member", "time", "index"), residual, {"long_name": "bound on their error"}),
            "sharpness": (("member", "time"), sharpness, {"long_name": "sharpness"}),
            "threshold": (("member", "time"), threshold, {"long_name": "curvature at the edge of stability"}),
            "stability": (("member", "time"), stability, {"long_name": "sharpness / threshold"}),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }
        if vectors:
            names = np.array(after.map.coordinates[: after.map.weights])
            found["weight"] = ("weight", names)
            found["eigenvector"] = (("member", "time", "index", "weight"), vectors[0], {"long_name": "eigenvectors"})
        return found

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """Sharpness over its threshold, along the orbit: the median over members, shaded between quartiles."""
        from nnflow_plugins.tools.drawing import band

        rows = dataset["stability"].transpose(..., "time").values.reshape(-1, dataset.sizes["time"])
        band(axes, dataset["time"], rows)
        axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        axes.set(xlabel="step", ylabel="sharpness / threshold of stability")


def _mixed(found: Extreme, drawn: Array) -> Array:
    """Where the next iterations start: at the eigenvectors, and a little of random vectors.

    Returns:
        Not the eigenvectors alone, which would hide, but for rounding, another eigenvalue that has overtaken theirs.
    """
    return np.where(np.isfinite(found.vectors), found.vectors + 0.1 * drawn, drawn)
