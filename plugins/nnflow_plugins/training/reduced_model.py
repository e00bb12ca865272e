"""How well the softmax map describes a network in training: saturated units, the reduced map's κ, and its residual.

If the hidden units answer every input alike, with activations h, then so do the logits z, and a step of gradient
descent on the mean cross-entropy moves them by z' = z − κ(softmax z − p), κ = η(1 + Σh²), p the class frequencies. With
n units stuck on and the others off, Σh² = n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nnflow.authors import Analysis, Array, Ensemble, Refusal, Result, at_least, multiple_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes


def softmax_step(z: Array, kappa: Array, frequencies: Array) -> Array:
    """One step of the softmax map, z − κ(softmax z − p), along the last axis.

    Args:
        z: Logits, ``(…, class)``.
        kappa: ``(…)``.
        frequencies: The p, ``(class,)``.

    Returns:
        ``(…, class)``.
    """
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(z - kappa[..., None] * (e / e.sum(axis=-1, keepdims=True) - frequencies))


@dataclass(frozen=True)
class ReducedModel(Analysis):
    """Saturated hidden units, κ and the step-wise residual of the softmax map along a network's orbit.

    Returns:
        stuck_on (…, time): The number n of hidden units near their upper limit for every input, at t, t + every, …. An
            escaped member gives NaN.
        kappa (…, time): η(1 + Σh²) from the mean of Σh² over the inputs.
        output_range (…, time): The largest range of a logit over the inputs, 0 where all are answered alike.
        residual (…, time): The largest |z(t+1) − [z − κ(softmax z − p)]| of the mean logits, both where the step
            starts.
        loss (…, time): In nats.
        escaped (…): The step index of the first non-finite state, -1 = never.

    Raises:
        Refusal: (a ValueError) unless it is a training map with these observables and plain gradient descent on the
            cross-entropy; or for steps that are no multiple of every.
    """

    steps: int = 1000
    """Steps followed, after the transient."""
    transient: int = 0
    """Steps dropped first."""
    every: int = 1
    """Steps between two looks, each at one step of the map."""
    ends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(0, transient=self.transient)
        at_least(1, steps=self.steps, every=self.every)
        multiple_of("every", self.every, steps=self.steps)

    def __call__(self, ensemble: Ensemble) -> Result:
        """Compute the variables."""
        eta, frequencies = task(ensemble)
        logits = [f"output[{c}]" for c in range(len(frequencies))]
        names = [*logits, "hidden_square", "output_range", "stuck_on", "loss"]
        now, seen, start = ensemble.advance(self.transient), [], ensemble.t + self.transient
        for _ in range(self.steps // self.every):
            records, ahead = now.orbit(1, observe=names)
            after, _ = ahead.orbit(1, observe=names)  # the same names: compiled once
            seen.append(np.concatenate([records[:, 0], after[:, 0, : len(logits)]], axis=1))
            now = ahead.advance(self.every - 1)
        classes, values = len(logits), np.stack(seen, axis=1)
        z, (square, spread, stuck, loss) = values[..., :classes], np.moveaxis(values[..., classes:-classes], -1, 0)
        kappa = eta[:, None] * (1 + square)
        left = np.abs(values[..., -classes:] - softmax_step(z, kappa, frequencies)).max(axis=-1)
        dims = ("member", "time")
        times = np.arange(start, start + self.steps, self.every)
        return {
            "time": ("time", times, {"long_name": "step", "units": "iterations"}),
            "stuck_on": (dims, stuck, {"long_name": "hidden units stuck on"}),
            "kappa": (dims, kappa, {"long_name": "κ = η(1 + Σh²)"}),
            "output_range": (dims, spread, {"long_name": "range of the logits over the inputs"}),
            "residual": (dims, left, {"long_name": "residual of the softmax map"}),
            "loss": (dims, loss, {"long_name": "loss", "units": "nats"}),
            "escaped": ("member", now.escaped),
            "after": ("member", now),
        }

    def draw(self, dataset: xr.Dataset, axes: Axes) -> None:
        """The residual over time: the median over members, shaded between quartiles."""
        from nnflow_plugins.tools.drawing import band

        rows = dataset["residual"].transpose(..., "time").values.reshape(-1, dataset.sizes["time"])
        band(axes, dataset["time"], np.maximum(rows, np.finfo(float).tiny))
        axes.set(yscale="log", xlabel="step", ylabel="residual of the softmax map (logits)")


def task(ensemble: Ensemble) -> tuple[Array, Array]:
    """Each member's learning rate, and the class frequencies.

    Args:
        ensemble: Of a training map.

    Returns:
        ``(member,)`` and ``(class,)``.

    Raises:
        Refusal: (a ValueError) for what is not plain full-batch gradient descent on logits.
    """
    map = ensemble.map
    counts = np.array(getattr(map, "classes", None) or (), dtype=float)
    plain = map.structure.get("optimizer") == "gd" and map.autonomous and "weight_decay" not in map.parameters
    if not (counts.size and plain and "stuck_on" in map.observables):
        raise Refusal(
            f"{map.name}: give a compiled training map with bounded hidden units, cross-entropy and plain full-batch "
            "gradient descent, such as iris"
        )
    return ensemble.parameters[:, list(map.parameters).index("eta")], counts / counts.sum()
