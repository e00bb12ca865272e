"""What every map of an optimizer on a loss knows: the curvature beyond which a minimum is unstable under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnflow.map import Map
from nnflow.schedules import Schedule
from nnflow.systems.optimisers.table import OPTIMISERS, meant
from nnflow.typing import Array

Values = dict[str, Any]  # parameter name -> number, array or tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Descent(Map):
    """What every map of an optimizer on a loss knows beside the verbs: when a curvature is too large for it.

    Attributes:
        optimizer: Its name.
        schedule: A function of t that multiplies the learning rate (None: 1).
    """

    optimizer: str = "gd"
    schedule: Schedule | None = None

    def structure_hint(self, name: str) -> str:
        """What to say when `name` is structure, or what others call a parameter."""
        return super().structure_hint(name) or meant(name, self.parameters)

    def _values(self, p: Any, t: int) -> Values:
        """The parameters by name, ``(member,)`` each, the learning rate as scheduled at t."""
        values = {"weight_decay": 0.0, **dict(zip(self.parameters, self.to_numpy(p).T, strict=True))}
        values["eta"] = values["eta"] * (1.0 if self.schedule is None else float(self.schedule(t)))
        return values

    @property
    def preconditioned(self) -> bool:  # type: ignore[override]
        """Whether each weight has a learning rate of its own."""
        return OPTIMISERS[self.optimizer].preconditioned

    def threshold(self, p: Any, t: int) -> Array:
        """The (effective) curvature h beyond which a direction of a minimum is unstable.

        gd 2/η − wd; heavy_ball 2(1+β)/η − wd; nesterov (2+2β)/(η(1+2β)) − wd; of the preconditioned Hessian, rmsprop
        2/η, adam 2(1+β₁)/((1−β₁)η), adamw (2 − η wd)(1+β₁)/((1−β₁)η); inf where η = 0.

        Args:
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member,)`` float64.

        Source:
            Cohen et al. 2021, arXiv:2103.00065; 2022, arXiv:2207.14484.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(_THRESHOLDS[self.optimizer](**self._values(p, t)), dtype=np.float64)

    def preconditioner(self, x: Any, p: Any, t: int) -> Array:
        """The D of a step w' = w − η D⁻¹ (momentum of g) from x_t; 1 without preconditioning.

        rmsprop D = √s' + ε; adam (1 − β₁ᵗ⁺¹)(√ŝ + ε), with the s' that this step makes.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member, weights)`` float64.
        """
        if not self.preconditioned:
            return np.ones((len(x), self.weights))
        values = {name: np.reshape(value, (-1, 1)) for name, value in self._values(p, t).items()}
        square = self.to_numpy(self.advance(x, p, t, 1).states)[:, -self.weights :]
        if self.optimizer == "rmsprop":
            return np.asarray(np.sqrt(square) + values["epsilon"])
        first, second = (1 - values[name] ** (t + 1) for name in ("beta1", "beta2"))
        return np.asarray(first * (np.sqrt(square / second) + values["epsilon"]))

    def effective_curvature(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """D^(−½) (H + weight_decay) D^(−½) times each row of ``v (member, k, weights)``; without a D, H v.

        Its eigenvalues are those of D⁻¹(H + weight_decay); decoupled weight decay is in the threshold instead.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Vectors of weights ``(member, k, weights)``, one a row.

        Returns:
            ``(member, k, weights)``, numpy; without a D, in the backend's own array.
        """
        if not self.preconditioned:
            return self.curvature(x, p, t, v)
        scale = 1.0 / np.sqrt(self.preconditioner(x, p, t))[:, None]
        scaled = scale * self.to_numpy(v)
        decay = 0.0 if self.optimizer == "adamw" else np.reshape(self._values(p, t)["weight_decay"], (-1, 1, 1))
        return scale * (self.to_numpy(self.curvature(x, p, t, self.native(scaled))) + decay * scaled)


_THRESHOLDS: dict[str, Callable[..., Any]] = {
    "gd": lambda eta, weight_decay: 2 / eta - weight_decay,
    "heavy_ball": lambda eta, beta, weight_decay: 2 * (1 + beta) / eta - weight_decay,
    "nesterov": lambda eta, beta, weight_decay: (2 + 2 * beta) / (eta * (1 + 2 * beta)) - weight_decay,
    "adam": lambda eta, beta1, **rest: 2 * (1 + beta1) / ((1 - beta1) * eta),
    "adamw": lambda eta, beta1, weight_decay, **rest: (2 - eta * weight_decay) * (1 + beta1) / ((1 - beta1) * eta),
    "rmsprop": lambda eta, **rest: 2 / eta,
}
