"""The softmax map: what is left of a network whose hidden units are all saturated.

With n hidden units stuck on and the others off, a sigmoid network gives the same logits z for every input, and gradient
descent on the mean cross-entropy moves only those: z' = z − κ(softmax z − p), with κ = η(1 + n) and the class
frequencies p of the training rows. It explains the plateaus that K. Danovski, M. C. Soriano and L. Lacasa saw (Front.
Complex Syst. 2, 1367957 (2024), arXiv:2404.05782).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nnflow.compiled import CompiledMap
from nnflow.compiled.ways import kernel
from nnflow.names import Refusal
from nnflow.settings import numbers
from nnflow.typing import Array


@kernel
def _softmax(z: Array, out: Array) -> float:
    """Write softmax z into out; returns ln Σ exp z. Nothing overflows."""
    top, total = z[0], 0.0
    for c in range(1, z.size):
        top = max(top, z[c])
    for c in range(z.size):
        out[c] = math.exp(z[c] - top)
        total += out[c]
    for c in range(z.size):
        out[c] /= total
    return float(top + math.log(total))


class SoftmaxMap(CompiledMap):
    """The softmax map: adding a constant to all logits changes nothing else."""

    def gauge(self, x: Any, p: Any) -> Array:
        """``(member, 1, classes)``: the direction (1, …, 1)/√classes."""
        return np.full((len(x), 1, self.dim), self.dim**-0.5)


def softmax(
    frequencies: npt.ArrayLike = (39 / 120, 40 / 120, 41 / 120), box: Any = None, **parameters: float
) -> SoftmaxMap:
    """z' = z − kappa (softmax z − p), p the class frequencies.

    Σz is conserved, and the time mean of softmax z is p on any bounded orbit. The fixed point z = ln p + const loses
    its stability at kappa = 2/μ, μ the largest eigenvalue of diag p − ppᵀ: at 2K for K equal classes. Observable: loss,
    the mean cross-entropy ln Σ exp z − p·z.

    Args:
        frequencies: ``(classes,)``, two or more positive numbers; made to add up to 1 (structure).
        box: (low, high) of the initial states, each a list of one number a class (default: −1 to 1).
        **parameters: Parameter → its default (kappa: 10).

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for fewer than two classes, or frequencies that are not positive.

    Source:
        For the plateaus of K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024),
        arXiv:2404.05782.
    """
    weights = numbers("frequencies", frequencies)
    if weights.ndim != 1 or len(weights) < 2 or not (np.isfinite(weights) & (weights > 0)).all():
        raise Refusal(f"frequencies = {frequencies!r}: give two or more positive numbers, one a class")
    share, classes = weights / weights.sum(), len(weights)

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        _softmax(x, out)
        for c in range(classes):
            out[c] = x[c] - p[0] * (out[c] - share[c])

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        _softmax(x, out)
        mean = 0.0
        for c in range(classes):
            mean += out[c] * v[c]
        for c in range(classes):
            out[c] = v[c] - p[0] * out[c] * (v[c] - mean)

    def loss(x: Array, p: Array, t: int) -> float:
        total = _softmax(x, np.empty(classes))
        for c in range(classes):
            total -= share[c] * x[c]
        return total

    return SoftmaxMap(
        rule,
        tangent,
        dim=classes,
        name="softmax",
        parameters={"kappa": 10.0},
        coordinates=tuple(f"z{c}" for c in range(classes)),
        observables={"loss": loss},
        limits={"kappa": (0.0, np.inf)},
        ranges={"kappa": (1.0, 14.0)},
        structure={"frequencies": tuple(share.tolist())},
        box=box if box is not None else ([-1.0] * classes, [1.0] * classes),
        source="K. Danovski, M. C. Soriano, L. Lacasa, Front. Complex Syst. 2, 1367957 (2024), arXiv:2404.05782",
    ).with_parameters(**parameters)
