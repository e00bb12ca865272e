"""A map whose rule is written on torch tensors, for one member: any differentiable function, on any device.

Members and tangent vectors are batched by vmap; the tangent is forward-mode automatic differentiation (for a training
map: forward over reverse, so no Hessian is ever formed). States and frames stay on their device; records are numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from nnflow.map import NORMS, Array, End, IntArray, Map, TangentRecords, tangent_records, unknown

TensorRule = Callable[[Tensor, "Named", int], Tensor]


class Named(dict[str, Tensor]):
    """The parameters of one member by name: ``p["eta"]`` or ``p.eta``."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(unknown("parameter", name, self)) from None


class TensorMap(Map):
    """A map x' = f(x, p, t), its rule written for one member on torch tensors.

    `rule(x, p, t)` returns the next state ``(dim,)`` from `x (dim,)`, the parameters by name (``p["a"]`` or ``p.a``,
    scalar tensors) and the step index `t`. `observables`: name → `f(x, p, t)` → scalar tensor. `device` (default: cpu)
    and `dtype` (default: torch.float64) hold for states, frames and parameters. The other arguments are `Map`'s fields.

    With the same chunking results are the same; other chunks round differently, and chaos amplifies that.
    Raises TypeError for a rule that is no function; ValueError, at first use, if it does not return ``(dim,)``.
    """

    threads = False
    rule: TensorRule
    device: torch.device
    dtype: torch.dtype

    def __init__(
        self, rule: TensorRule, *, device: str | torch.device | None = None, dtype: Any = None, **settings: Any
    ) -> None:
        if not callable(rule):
            raise TypeError(f"rule = {rule!r}: give a function")
        super().__init__(**{"name": getattr(rule, "__name__", "map"), **settings})
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "device", torch.device(device or "cpu"))
        object.__setattr__(self, "dtype", dtype or torch.float64)

    # -- numpy and back --------------------------------------------------------------------------------------------

    def native(self, x: Any) -> Tensor:
        """An array as a tensor of the map's dtype on its device."""
        return torch.as_tensor(x, dtype=self.dtype, device=self.device)

    def to_numpy(self, x: Any) -> Array:
        """A tensor as a float64 array."""
        return np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x, dtype=np.float64)

    # -- one step, batched -----------------------------------------------------------------------------------------

    @property
    def exact_tangent(self) -> bool:
        """The tangent is always differentiated automatically."""
        return True

    def _named(self, p: Tensor) -> Named:
        return Named(zip(self.parameters, p, strict=True))

    def _one(self, x: Tensor, p: Tensor, t: int) -> Tensor:
        out = self.rule(x, self._named(p), t)
        if not isinstance(out, Tensor) or out.shape != (self.dim,):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"the rule of {self.name!r} returned {shape}: it must return a tensor of shape ({self.dim},)"
            )
        return out

    def step(self, x: Any, p: Any, t: int) -> Tensor:
        """One step of every member: ``x (member, dim)`` → ``(member, dim)``."""
        with torch.no_grad():
            out: Tensor = vmap(lambda x, p: self._one(x, p, t))(self.native(x), self.native(p))
        return out

    def tangent(self, x: Any, p: Any, t: int, v: Any) -> Tensor:
        """The Jacobian at x_t times each row of ``v (member, k, dim)``, by forward-mode differentiation."""

        def one(x: Tensor, p: Tensor, v: Tensor) -> Tensor:
            return vmap(lambda v: jvp(lambda x: self._one(x, p, t), (x,), (v,))[1])(v)  # type: ignore[no-any-return]

        with torch.no_grad():
            out: Tensor = vmap(one)(self.native(x), self.native(p), self.native(v))
        return out

    def observable(self, name: str, x: Any, p: Any, t: int) -> Array:
        """One observable of every member, ``(member,)``."""
        function = self.observables[name]
        with torch.no_grad():
            values = vmap(lambda x, p: function(x, self._named(p), t))(self.native(x), self.native(p))
        return self.to_numpy(values)

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """x − y, with angles taken the short way round."""
        periods = self.native([self.periods.get(name, float("inf")) for name in self.coordinates])
        d = x - y
        return d - torch.where(torch.isinf(periods), 0.0, periods * torch.round(d / periods))

    # -- the verbs -------------------------------------------------------------------------------------------------

    def advance(self, x: Any, p: Any, t: int, steps: int) -> End:
        """`steps` steps from step index t; no record."""
        p, (x, escaped) = self.native(p), _settle(self.native(x), None, t)
        for s in range(t, t + steps):
            x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
        return End(x, None, t + steps, _steps(escaped))

    def orbit(self, x: Any, p: Any, t: int, steps: int, every: int, observe: Sequence[str]) -> tuple[Array, End]:
        """Records ``(member, steps // every, channel)`` of what is observed at t, t + every, …, and the end."""
        p, (x, escaped) = self.native(p), _settle(self.native(x), None, t)
        records = np.empty((len(x), steps // every, len(observe)))
        for s in range(t, t + steps):
            if (s - t) % every == 0:
                records[:, (s - t) // every] = self.observe(x, p, s, observe)
            x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
        return records, End(x, None, t + steps, _steps(escaped))

    def tangent_orbit(
        self, x: Any, p: Any, t: int, frame: Any, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """Carry ``frame (member, k, dim)`` along the orbit, re-orthonormalised each `every` steps."""
        p, frame, (x, escaped) = self.native(p), self.native(frame), _settle(self.native(x), None, t)
        records = tangent_records(len(x), steps // every, *frame.shape[1:], keep)
        for block in range(steps // every):
            if records.frames is not None:
                records.frames[:, block] = self.to_numpy(frame)
            for s in range(t + block * every, t + (block + 1) * every):
                frame = self.tangent(x, p, s, frame)
                x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
            frame, factor = _orthonormalise(frame, escaped >= 0)
            records.log_stretches[:, block] = self.to_numpy(torch.log(torch.diagonal(factor, dim1=1, dim2=2)))
            if records.factors is not None:
                records.factors[:, block] = self.to_numpy(factor)
        return records, End(x, frame, t + steps, _steps(escaped))

    def separation_orbit(
        self, x: Any, y: Any, p: Any, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """Distances ``(member, perturbation, steps // every)`` of y ``(member, perturbation, dim)`` from the orbit."""
        if norm not in NORMS:
            raise ValueError(unknown("norm", norm, NORMS))
        order = {"l1": 1.0, "l2": 2.0, "max": float("inf")}[norm]
        p, y, (x, escaped) = self.native(p), self.native(y), _settle(self.native(x), None, t)
        members, count, dim = y.shape
        copies, copied = y.reshape(-1, dim), p.repeat_interleave(count, dim=0)
        copies, gone = _settle(copies, None, t)
        distances = np.empty((members, count, steps // every))
        for s in range(t, t + steps):
            if (s - t) % every == 0:
                d = self.difference(copies.reshape(members, count, dim), x[:, None])
                distances[:, :, (s - t) // every] = self.to_numpy(torch.linalg.vector_norm(d, order, dim=2))
            copies, gone = _settle(self.step(copies, copied, s), gone, s + 1)
            x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
        return distances, End(x, copies.reshape(members, count, dim), t + steps, _steps(escaped))


def _settle(x: Tensor, escaped: Tensor | None, t: int) -> tuple[Tensor, Tensor]:
    """Make every state that is not finite NaN, for good, and note the step index of its first such state."""
    if escaped is None:
        escaped = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    bad = ~torch.isfinite(x).all(dim=1) | (escaped >= 0)
    return torch.where(bad[:, None], torch.nan, x), torch.where(bad & (escaped < 0), t, escaped)


def _steps(escaped: Tensor) -> IntArray:
    return np.asarray(escaped.cpu().numpy(), dtype=np.int64)


def _orthonormalise(frame: Tensor, escaped: Tensor) -> tuple[Tensor, Tensor]:
    """QR of each member's rows with a positive diagonal: the new rows ``(member, k, dim)`` and R ``(member, k, k)``."""
    bad = escaped | ~torch.isfinite(frame).all(dim=2).all(dim=1)
    q, r = torch.linalg.qr(torch.where(bad[:, None, None], 0.0, frame).transpose(1, 2))
    sign = torch.where(torch.diagonal(r, dim1=1, dim2=2) < 0, -1.0, 1.0).to(frame.dtype)
    rows, factor = (q * sign[:, None, :]).transpose(1, 2), r * sign[:, :, None]
    hole = bad[:, None, None]
    return torch.where(hole, torch.nan, rows).contiguous(), torch.where(hole, torch.nan, factor)
