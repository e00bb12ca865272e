"""Separation: the distances of perturbed neighbors from an orbit, as they grow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnflow.authors import (
    NORMS,
    Analysis,
    Array,
    Ensemble,
    Recording,
    Refusal,
    Result,
    at_least,
    length,
    multiple_of,
    one_of,
    project_out,
)
from nnflow_plugins.tools.remarks import put_to_rest

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Separation(Analysis):
    """Distances d(t) of perturbed copies from each member's orbit; no orbit is kept.

    One init has the same perturbations at every grid point.

    Returns:
        distance (…, [size,] perturbation, time): In the chosen norm, at steps since the perturbation. An escaped member
            gives NaN from then on.
        layer_distance (…, [size,] perturbation, layer, time): On request, the same within each layer.
        unresolved (…, [size]): The share of perturbations near or below the floating-point resolution of the state
            (also a warning): what grows from those is rounding.
        put_to_rest (…): Whether rounding, or its start, has put the orbit on an unstable point (a warning, too).
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) for steps that are no multiple of every, a size that is not positive, or a pattern that
            matches nothing.
    """

    perturbation: float | tuple[float, ...] = 1e-8
    """Size of the perturbation, or several sizes: each component moves by size · U(−1, 1), or size · N(0, 1)."""
    perturbations: int = 5
    """Perturbed copies of each member, per size."""
    distribution: str = "uniform"
    """What the components of a perturbation are drawn from: uniform or normal."""
    where: str = "weights"
    """Which coordinates are perturbed: weights (all but optimizer memory), or a pattern of names ("*": all)."""
    gauge: bool = True
    """Whether directions that are neutral by a symmetry of the map count; if not, they are projected out."""
    norm: str = "l1"
    """Norm of the distance, over the whole state, the optimizer's memory included: l1, l2 or max."""
    layers: bool = False
    """Also the distance within each layer: components whose names agree up to a bracket (W1, b1, …)."""
    steps: int = 200
    """Steps followed, after the transient."""
    transient: int = 0
    """Steps before the perturbation."""
    every: int = 1
    """Steps between records."""
    seed: int = 0
    """Seed of the perturbations (the same for all members of one initial state)."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient, seed=self.seed)
        at_least(1, steps=self.steps, every=self.every, perturbations=self.perturbations)
        one_of(NORMS, norm=self.norm)
        one_of(("uniform", "normal"), distribution=self.distribution)
        multiple_of("every", self.every, steps=self.steps)
        if np.size(self.perturbation) == 0 or not np.all(np.asarray(self.perturbation) > 0):
            raise Refusal(f"perturbation = {self.perturbation}: give one positive size or more")

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        now, sizes = ensemble.advance(self.transient), np.atleast_1d(np.asarray(self.perturbation, dtype=float))
        names, columns = _layers(now.map.coordinates)
        neighbors = np.concatenate([self._neighbors(now, size) for size in sizes], axis=1)
        unresolved = now.unresolved(neighbors).reshape(len(now), len(sizes), -1).mean(axis=2)
        seen, after = self._followed(now, neighbors, columns)
        seen = seen.reshape(len(now), len(sizes), self.perturbations, *seen.shape[2:])
        several = np.ndim(self.perturbation) > 0
        dims: tuple[str, ...] = ("member", "size") if several else ("member",)
        seen, unresolved = (seen, unresolved) if several else (seen[:, 0], unresolved[:, 0])
        what = {"long_name": f"distance ({self.norm})"}
        per_layer: dict[str, Any] = {
            "layer": ("layer", np.array(names)),
            "layer_distance": ((*dims, "perturbation", "layer", "time"), seen[..., 1:, :], what),
        }
        return {
            **({"size": ("size", sizes)} if several else {}),
            "time": ("time", self._times(), {"long_name": "steps since the perturbation", "units": "iterations"}),
            "distance": ((*dims, "perturbation", "time"), np.ascontiguousarray(seen[..., 0, :]), what),
            **(per_layer if self.layers else {}),
            "unresolved": (dims, unresolved),
            **put_to_rest(ensemble, after),
            "escaped": ("member", after.escaped),
            "after": ("member", after),
        }

    def _times(self) -> npt.NDArray[np.int64]:
        return np.arange(0, self.steps, self.every)

    def _neighbors(self, now: Ensemble, size: float) -> Array:
        options: Any = {"distribution": self.distribution, "where": self.where, "gauge": self.gauge}
        return now.perturbed(size, self.perturbations, seed=self.seed, **options)

    def _followed(self, now: Ensemble, neighbors: Array, layers: list[slice]) -> tuple[Array, Ensemble]:
        """Follow the neighbors. Without gauge, what lies along it is taken out of each difference.

        That, and layers, need a stop at each sample.

        Returns:
            Distances ``(member, perturbation, 1 + layers asked for, time)``, the whole first, and the ensemble after.
        """
        if self.gauge and not self.layers:
            distances, after = now.separation_orbit(neighbors, self.steps, self.every, self.norm)
            return distances[:, :, None], after
        parts = [slice(None), *(layers if self.layers else [])]
        seen, ahead = [], now.with_neighbors(neighbors)
        for _ in self._times():
            apart = ahead.displacements
            if not self.gauge:
                apart = project_out(apart, ahead.gauge())
            seen.append(np.stack([length(apart[..., part], self.norm) for part in parts], axis=2))
            ahead = ahead.separation_orbit(ahead.neighbors, self.every, self.every, self.norm)[1]
        return np.stack(seen, axis=3), ahead

    def work(self, ensemble: Ensemble | Recording) -> int:
        """How many member-steps it will take."""
        return len(ensemble) * (self.transient + self.steps)

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The mean distance over time on a logarithmic axis: one curve a size, a layer or a value of the scanned axis.

        Shaded between quartiles of the members.
        """
        from nnflow_plugins.tools.drawing import band, scanned

        per_layer = "layer_distance" in dataset and "size" not in dataset.dims
        data = dataset["layer_distance" if per_layer else "distance"].mean("perturbation")
        own = next((dim for dim in ("size", "layer") if dim in data.dims), None) or scanned(data, "time")
        chosen = (
            data[own].values[np.linspace(0, data.sizes[own] - 1, min(6, data.sizes[own])).astype(int)]
            if own
            else [None]
        )
        for i, value in enumerate(chosen):
            rows = data if value is None else data.sel({own: value})
            label = value if isinstance(value, str) else "" if value is None else f"{value:.3g}"
            band(
                axes,
                dataset["time"],
                rows.transpose(..., "time").values.reshape(-1, data.sizes["time"]),
                i,
                label=label,
                marker=None,
            )
        axes.set(yscale="log", xlabel="steps since the perturbation", ylabel=f"distance ({self.norm})")
        if own:
            axes.legend(title=own, frameon=False, fontsize="small")


def _layers(coordinates: tuple[str, ...]) -> tuple[list[str], list[slice]]:
    """Neighboring components whose names agree up to a bracket: the names, and where they are."""
    sizes = [(name, len(list(group))) for name, group in groupby(name.partition("[")[0] for name in coordinates)]
    ends = np.cumsum([size for _, size in sizes]).tolist()
    return [name for name, _ in sizes], [slice(end - size, end) for end, (_, size) in zip(ends, sizes, strict=True)]
