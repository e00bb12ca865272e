"""What every map of an optimizer on a loss knows: the curvature beyond which a minimum is unstable under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnflow.map import Map
from nnflow.schedules import Schedule
from nnflow.systems.optimisers.groups import Groups, kind_of
from nnflow.systems.optimisers.table import OPTIMISERS, meant
from nnflow.typing import Array

Values = dict[str, Any]  # parameter name -> number, array or tensor


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Descent(Map):
    """What every map of an optimizer on a loss knows beside the verbs: when a curvature is too large for it.

    Attributes:
        optimizer: Its name.
        schedule: A function of t that multiplies the learning rate (None: 1).
        groups: Which weights have parameters of their own.
    """

    optimizer: str = "gd"
    schedule: Schedule | None = None
    groups: Groups = field(default_factory=Groups)

    def structure_hint(self, name: str) -> str:
        """What to say when `name` is structure, or what others call a parameter."""
        return super().structure_hint(name) or meant(name, self.parameters)

    def _values(self, p: Any, t: int) -> Values:
        """The parameters by name, ``(member,)`` each, the learning rates as scheduled at t."""
        values = {"weight_decay": np.zeros(len(p)), **dict(zip(self.parameters, self.to_numpy(p).T, strict=True))}
        factor = 1.0 if self.schedule is None else float(self.schedule(t))
        return {name: value * factor if kind_of(name) == "eta" else value for name, value in values.items()}

    def _each(self, p: Any, t: int) -> Values:
        """The same for each weight: ``(member, weights)``, or ``(member, 1)`` where all have the same."""
        values = self._values(p, t)
        each = {name: np.reshape(value, (-1, 1)) for name, value in values.items() if name == kind_of(name)}
        own = {key: np.stack(self.groups.values(values, key), axis=1) for key in self.groups.own(values)}
        return each | {key: value[:, self.groups.which] for key, value in own.items()}

    def _common(self, p: Any, t: int) -> Values:
        """What the threshold is of: one value a member, of the groups' rates the largest, with NaN where there is none.

        Groups with rates of their own make the curvature one that is preconditioned, and weight decay a part of it. A
        momentum has to be the same for all, and so has what decoupled weight decay takes off.

        Returns:
            Parameter → ``(member,)``.
        """
        if not self.groups.held:
            return self._values(p, t)
        each = self._each(p, t)
        decay = each["eta"] * each["weight_decay"] if self.optimizer == "adamw" else np.zeros((1, 1))
        values = {key: _only(value) for key, value in each.items() if key in ("beta", "beta1")}
        eta = each["eta"].max(axis=1)
        return {**values, "eta": eta, "weight_decay": _only(decay) / np.where(eta > 0, eta, 1.0)}

    @property
    def preconditioned(self) -> bool:  # type: ignore[override]
        """Whether each weight, or each group, has a learning rate of its own."""
        return OPTIMISERS[self.optimizer].preconditioned or bool(self.groups.held)

    def threshold(self, p: Any, t: int) -> Array:
        """The (effective) curvature h beyond which a direction of a minimum is unstable.

        gd 2/η − wd; heavy_ball 2(1+β)/η − wd; nesterov (2+2β)/(η(1+2β)) − wd; of the preconditioned Hessian, rmsprop
        2/η, adam 2(1+β₁)/((1−β₁)η), adamw (2 − η wd)(1+β₁)/((1−β₁)η); inf where η = 0. With groups, η is the largest of
        their rates, the curvature is the effective one, wd a part of it (but for adamw), and there is no one threshold
        (NaN) where their momenta differ, or, of adamw, their η wd.

        Args:
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member,)`` float64.

        Source:
            Cohen et al. 2021, arXiv:2103.00065; 2022, arXiv:2207.14484.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(_THRESHOLDS[self.optimizer](**self._common(p, t)), dtype=np.float64)

    def preconditioner(self, x: Any, p: Any, t: int) -> Array:
        """The D of a step w' = w − η D⁻¹ (momentum of g) from x_t; 1 without preconditioning.

        rmsprop D = √s' + ε; adam (1 − β₁ᵗ⁺¹)(√ŝ + ε), with the s' that this step makes. With groups η is the largest of
        their rates, and D is times η over the rate of a weight.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            ``(member, weights)`` float64.
        """
        each, slower = self._each(p, t), np.ones((len(x), self.weights))
        with np.errstate(divide="ignore"):
            top = each["eta"].max(axis=1, keepdims=True)
            slower *= np.where(top > 0, np.where(top > 0, top, 1.0) / each["eta"], 1.0) if self.groups.held else 1.0
        if not OPTIMISERS[self.optimizer].preconditioned:
            return slower
        last = len(OPTIMISERS[self.optimizer].memory) * self.weights
        square = self.to_numpy(self.advance(x, p, t, 1).states)[:, last : last + self.weights]
        if self.optimizer == "rmsprop":
            return np.asarray(slower * (np.sqrt(square) + each["epsilon"]))
        first, second = (1 - each[name] ** (t + 1) for name in ("beta1", "beta2"))
        return np.asarray(slower * first * (np.sqrt(square / second) + each["epsilon"]))

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
        decay = 0.0 if self.optimizer == "adamw" else self._each(p, t)["weight_decay"][:, None]
        return scale * (self.to_numpy(self.curvature(x, p, t, self.native(scaled))) + decay * scaled)


def _only(values: Array) -> Array:
    """The value that all entries of a row have; NaN where they differ."""
    return np.where((values == values[:, :1]).all(axis=1), values[:, 0], np.nan)


_THRESHOLDS: dict[str, Callable[..., Any]] = {
    "gd": lambda eta, weight_decay: 2 / eta - weight_decay,
    "heavy_ball": lambda eta, beta, weight_decay: 2 * (1 + beta) / eta - weight_decay,
    "nesterov": lambda eta, beta, weight_decay: (2 + 2 * beta) / (eta * (1 + 2 * beta)) - weight_decay,
    "adam": lambda eta, beta1, **rest: 2 * (1 + beta1) / ((1 - beta1) * eta),
    "adamw": lambda eta, beta1, weight_decay, **rest: (2 - eta * weight_decay) * (1 + beta1) / ((1 - beta1) * eta),
    "rmsprop": lambda eta, **rest: 2 / eta,
}
