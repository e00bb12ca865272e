"""A map whose rule is written on torch tensors, for one member: any differentiable function, on any device.

Members and tangent vectors are batched by vmap; the tangent is forward-mode automatic differentiation (for a training
map: forward over reverse, so no Hessian is ever formed). States and frames stay on their device; records are numpy.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.overrides import TorchFunctionMode

from nnflow.differences import Misfit, misfit
from nnflow.internals import TorchDispatchMode, custom_function_call, tree_leaves
from nnflow.map import NORMS, End, Into, Map, TangentRecords, new_records, tangent_records
from nnflow.names import Refusal, WrongKind, unknown
from nnflow.typing import Array, Integers

TensorRule = Callable[[Tensor, "Named", int], Tensor]
Gradient = Callable[[Tensor, int], Tensor]
UNSEEN = "by torch's forward mode, which does not see through detach(), or an autograd.Function without the right jvp"
_NUMBERS = (
    "it is called once for all members, so x holds no single numbers: write torch.where for if, torch.stack for "
    "torch.tensor([...]), and tensor operations for float(x), .item(), .tolist() and numpy"
)
ADVICE = {
    ".item()": _NUMBERS,
    "data-dependent": _NUMBERS,
    "doesn't have storage": _NUMBERS,
    "detach views": _NUMBERS,
    "random operation": "it draws random numbers, so a step is no fixed map: draw them before the map is made",
    "inplace": "it writes into a tensor that it made: build the result with torch.stack or torch.cat, or write into "
    "torch.zeros_like(x)",
}  # words of torch -> what to do
ROOM = 2**29  # bytes that the operations of a step may make: so many members of a grouped map go at a time


class Named(dict[str, Tensor]):
    """The parameters of one member by name, ``p["eta"]`` or ``p.eta``, or in their order, ``p[0]``."""

    def __missing__(self, key: Any) -> Tensor:
        if isinstance(key, int) and -len(self) <= key < len(self):
            return list(self.values())[key]
        raise Refusal(unknown("parameter", key, self))

    def __getattr__(self, name: str) -> Tensor:
        if name not in self:
            raise AttributeError(unknown("parameter", name, self))
        return self[name]


@dataclass(frozen=True)
class Component:
    """An observable that is one entry of a tensor `function(x, p, t)`, which is computed once for all its entries."""

    function: Callable[[Tensor, Named, int], Tensor]
    index: tuple[int, ...]

    def __call__(self, x: Tensor, p: Named, t: int) -> Tensor:
        """The entry."""
        return self.function(x, p, t)[self.index]


def placed(device: str | torch.device | None, dtype: torch.dtype | None) -> tuple[torch.device, torch.dtype]:
    """Where and how states are held: the cpu and torch.float64 unless said otherwise.

    Args:
        device: None is the cpu.
        dtype: None is torch.float64.

    Returns:
        The device and the dtype.

    Raises:
        WrongKind: (a TypeError) for a dtype that is no floating torch dtype.
        Refusal: for a dtype that is too coarse for linear algebra, or a device that cannot be had.
    """
    kind = torch.float64 if dtype is None else dtype
    if not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise WrongKind(f"dtype = {dtype!r}: give a floating torch dtype, such as torch.float32")
    if kind not in (torch.float32, torch.float64):
        raise Refusal(f"dtype = {dtype}: states are held in torch.float32 or torch.float64")
    try:
        return torch.empty(0, device=device or "cpu", dtype=kind).device, kind
    except (RuntimeError, AssertionError, TypeError) as error:  # an unknown device, or a torch built without it
        raise Refusal(f"device = {device!r}: {str(error).splitlines()[0]}") from error


class TensorMap(Map):
    """A map x' = f(x, p, t), its rule written for one member on torch tensors.

    The first tangent is compared with differences of the rule, as is each in which the rule uses `detach` or an
    `autograd.Function`, and each verb ends by asking for one step again. With the same chunking results are the same;
    other chunks round differently, and chaos amplifies that.

    Args:
        rule: `rule(x, p, t)` returns the next state ``(dim,)`` from `x (dim,)`, the parameters by name (``p["a"]`` or
            ``p.a``, scalar tensors) and the step index `t`.
        gradient: Of a training map, for `curvature`: the loss gradient as a function of the weights (the state without
            the optimizer's memory) and t.
        device: Of states, frames and parameters (default: cpu).
        dtype: Of states, frames and parameters (default: torch.float64).
        seeded: Whether the rule seeds torch's random numbers by t, so that they are the same for all members; without,
            it may draw none.
        check: False goes without the comparisons, and `structure` says so.
        **settings: `Map`'s fields, with `observables`: name → `f(x, p, t)` → scalar tensor.

    Raises:
        WrongKind: (a TypeError) for a rule that is no function or a dtype that is no floating torch dtype.
        Refusal: (a ValueError) for a device that cannot be had and, at first use, a rule whose tangent is no
            derivative, or that does not return ``(dim,)``.
    """

    in_numpy = False
    threads = False
    grouped = False  # whether only so many members go at a time as there is room for
    differentiated = False  # whether tangents were compared with differences when the map was made
    rule: TensorRule
    gradient: Gradient | None
    device: torch.device
    dtype: torch.dtype
    seeded: bool

    def __init__(
        self,
        rule: TensorRule,
        *,
        gradient: Gradient | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        seeded: bool = False,
        check: bool = True,
        **settings: Any,
    ) -> None:
        if not callable(rule):
            raise WrongKind(f"rule = {rule!r}: give a function")
        place, kind = placed(device, dtype)
        super().__init__(**{"name": getattr(rule, "__name__", "map"), "check": check, **settings})
        held = {"rule": rule, "gradient": gradient, "device": place, "dtype": kind, "seeded": seeded}
        for name, value in held.items():
            object.__setattr__(self, name, value)

    # -- numpy and back --------------------------------------------------------------------------------------------

    def native(self, x: Any) -> Tensor:
        """An array as a tensor of the map's dtype on its device."""
        if isinstance(x, np.ndarray) and not x.flags.writeable:  # torch would write to it all the same
            x = x.copy()
        return torch.as_tensor(x, dtype=self.dtype, device=self.device)

    def to_numpy(self, x: Any) -> Array:
        """A tensor as a float64 array."""
        return np.asarray(x.detach().cpu().numpy() if isinstance(x, Tensor) else x, dtype=np.float64)

    @property
    def resolution(self) -> float:
        """The relative distance of neighboring numbers of a state: 1.2e-7 in float32."""
        return float(torch.finfo(self.dtype).eps)

    # -- one step, batched -----------------------------------------------------------------------------------------

    @property
    def exact_tangent(self) -> bool:
        """The tangent is always differentiated automatically."""
        return True

    def _named(self, p: Tensor) -> Named:
        return Named(zip(self.parameters, p.clone(), strict=True))  # it may write into its p

    def _one(self, x: Tensor, p: Tensor, t: int) -> Tensor:
        with self._explained("rule", t):
            out = self.rule(x.clone(), self._named(p), t)  # it may write into its x
        if not isinstance(out, Tensor) or out.shape != (self.dim,):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise Refusal(f"the rule of {self.name!r} returned {shape}: it must return a tensor of shape ({self.dim},)")
        if out.dtype != self.dtype and (out.is_floating_point() or out.is_complex()):
            raise Refusal(
                f"the rule of {self.name!r} returns {out.dtype} in a map of {self.dtype}: make the map with "
                "dtype=…, or the modules that it calls of the same type"
            )
        return out.to(self.dtype)

    @contextmanager
    def _explained(self, what: str, t: int) -> Iterator[None]:
        """Say of what torch cannot batch which function it is in, and what to write instead."""
        try:
            yield
        except (Refusal, MemoryError):
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            if isinstance(error, torch.OutOfMemoryError) or "allocate" in reason:
                raise
            if not isinstance(error, RuntimeError):
                reason = f"{type(error).__name__}: {reason}"
            told = next((advice for words, advice in ADVICE.items() if words in reason), "")
            raise Refusal(f"the {what} of {self.name!r} fails at t = {t}: {told or reason}") from error

    def step(self, x: Any, p: Any, t: int) -> Tensor:
        """One step of every member ``(member, dim)``. Raises Refusal if it cannot be batched."""
        return self.each("step", lambda x, p: self._one(x, p, t), self.native(x), self.native(p))

    @contextmanager
    def _asked_again(self, x: Tensor, p: Tensor, t: int) -> Iterator[None]:
        """Ask for the first step of all again after what is done: it was kept, of one member, when a verb began first.

        Yields:
            Nothing. Raises Refusal for a rule that gives other numbers then.
        """
        if self.check and not self._first:
            one = x[:1].clone(), p[:1].clone()
            self._first.append((*one, t, self.step(*one, t)))
            self._ask_again()
        yield
        if self.check:
            self._ask_again()

    def _ask_again(self) -> None:
        x, p, t, first = self._first[0]
        again = self.step(x, p, t)
        room = 1e3 * self.resolution  # an accelerator may add in another order
        if not torch.allclose(
            again, first, rtol=room, atol=room * float(first.abs().nan_to_num().max()), equal_nan=True
        ):
            worst = int((again - first).abs().nan_to_num(torch.inf).argmax())
            raise Refusal(
                f"the rule of {self.name!r} gives {self.coordinates[worst]} = {first[0, worst]:.9g} at t = {t}, and "
                f"{again[0, worst]:.9g} when it is asked again: let it depend on x, p and t alone, count no calls and "
                "draw no random numbers"
            )

    def tangent(self, x: Any, p: Any, t: int, v: Any) -> Tensor:
        """The Jacobian at x_t times each row of ``v (member, k, dim)``, by forward-mode differentiation.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Tangent vectors ``(member, k, dim)``, one a row.

        Returns:
            ``(member, k, dim)``, of the map's dtype, on its device.

        Raises:
            Refusal: if it is not what differences of the rule show: looked at in the first call, and in each in which
                the rule cuts a derivative off or has one of its own (`detach`, an `autograd.Function`).
        """
        moved, cut = self.unchecked_tangent(x, p, t, v)
        if self.check and cut:
            self._differentiate(x, p, t, None)
        elif not self.differentiated:
            self.once("tangent", lambda: self._differentiate(x, p, t, 1))
        return moved

    @cached_property
    def _first(self) -> list[tuple[Tensor, Tensor, int, Tensor]]:
        """(x, p, t) of the first step of a verb, and its end."""
        return []

    def unchecked_tangent(self, x: Any, p: Any, t: int, v: Any) -> tuple[Tensor, bool]:
        """The same unchecked, and whether the rule cut a derivative off."""

        def one(x: Tensor, p: Tensor, v: Tensor) -> Tensor:
            return self._derivatives(lambda x: self._one(x, p, t), x, v)

        with _forward_mode(), _Cuts() as cuts:
            return self.each("tangent", one, self.native(x), self.native(p), self.native(v)), cuts.seen

    def _differentiate(self, x: Any, p: Any, t: int, members: int | None) -> bool:
        """Compare the tangent with differences of the rule, at the first members that are finite.

        Returns:
            Whether there were any.

        Raises:
            Refusal: where it differs.
        """
        states, parameters = self.to_numpy(x), self.to_numpy(p)
        looked = np.flatnonzero(np.isfinite(states).all(axis=1))[:members]
        for member in looked:
            found = self._misfit(states[member], parameters[[member]], t)
            if found is not None:
                raise Refusal(
                    f"the tangent of {self.name!r} at t = {t} is not the derivative of its rule: along some direction "
                    f"{self.coordinates[found.component]} changes by {found.found:.6g} by differences, "
                    f"{found.claimed:.6g} {UNSEEN}: write the rule without them (check=False goes on anyway)"
                )
        return len(looked) > 0

    def _misfit(self, state: Array, p: Array, t: int) -> Misfit | None:
        """Where the tangent at a state differs most from differences of the step, optimizer memory held."""

        def step(x: Array) -> Array:
            return self.to_numpy(self.step(x, p.repeat(len(x), 0), t))

        def tangent(x: Array, v: Array) -> Array:
            moved: Array = self.to_numpy(self.unchecked_tangent(x, p, t, v[None])[0])[0]
            return moved

        return misfit(step, tangent, state, self.resolution, self.difference, self.dim - self.memory)

    def curvature(self, x: Any, p: Any, t: int, v: Any) -> Any:
        """The loss Hessian at x_t times each row of ``v (member, k, weights)``.

        Args:
            x: States ``(member, dim)``.
            p: Parameters ``(member, parameter)``.
            t: The step index.
            v: Vectors of weights ``(member, k, weights)``, one a row.

        Returns:
            ``(member, k, weights)``, of the map's dtype, on its device.

        Raises:
            WrongKind: (a TypeError) without a loss.
            Refusal: where the loss cuts a derivative off, and differences of the gradient show another Hessian.
        """
        if self.gradient is None:
            return super().curvature(x, p, t, v)
        weights = self.native(x)[:, : self.dim - self.memory]
        bent, cut = self.unchecked_curvature(weights, t, v)
        if self.check and cut:
            self._bend(weights, t)
        return bent

    def unchecked_curvature(self, weights: Any, t: int, v: Any) -> tuple[Tensor, bool]:
        """The same unchecked, from the weights alone, and whether the loss cut a derivative off."""

        def one(w: Tensor, v: Tensor) -> Tensor:
            return self._derivatives(lambda w: self.slope(w, t), w, v)

        with _forward_mode(), _Cuts() as cuts:
            return self.each("curvature", one, self.native(weights), self.native(v)), cuts.seen

    def slope(self, w: Tensor, t: int) -> Tensor:
        """The gradient of a training map at the weights ``(weights,)`` of one member. Raises Refusal if it fails."""
        assert self.gradient is not None
        with self._explained("loss", t):
            return self.gradient(w, t)

    def _bend(self, weights: Any, t: int) -> None:
        """Compare the curvature with differences of the gradient, at all members that are finite. Raises Refusal."""
        states = self.to_numpy(weights)
        for state in states[np.isfinite(states).all(axis=1)]:
            found = misfit(
                lambda w: self.to_numpy(self.each("gradient", lambda w: self.slope(w, t), self.native(w))),
                lambda w, v: self.to_numpy(self.unchecked_curvature(w, t, v[None])[0])[0],
                state, self.resolution,
            )  # fmt: skip
            if found is not None:
                raise Refusal(
                    f"the curvature of {self.name!r} at t = {t} is not the derivative of its gradient: "
                    f"{self.coordinates[found.component]} changes by {found.found:.6g} by differences, "
                    f"{found.claimed:.6g} {UNSEEN}: write the loss without them (check=False goes on anyway)"
                )

    def observable(self, name: str, x: Any, p: Any, t: int) -> Array:
        """One observable of every member, ``(member,)``."""
        return self._watch(self.observables[name], x, p, t)

    def _watch(self, function: Callable[[Tensor, Named, int], Tensor], x: Any, p: Any, t: int) -> Array:
        def one(x: Tensor, p: Tensor) -> Tensor:
            with self._explained("observable", t):
                value = function(x.clone(), self._named(p), t)  # it may write into its x
            if isinstance(value, Tensor) and value.is_complex():
                raise Refusal(
                    f"an observable of {self.name!r} is complex: give its real or imaginary part, or its size"
                )
            return value

        return self.to_numpy(self.each(id(function), one, self.native(x), self.native(p)))

    def observe(self, x: Any, p: Any, t: int, names: Sequence[str]) -> Array:
        """The named coordinates and observables, ``(member, channel)``; NaN for a member that has escaped."""
        states, seen = self.to_numpy(x), dict[Any, Any]()
        out = np.empty((len(states), len(names)))
        for i, name in enumerate(names):
            part = self.observables.get(name)
            if not isinstance(part, Component):
                out[:, i] = self.observable(name, x, p, t) if part else states[:, self.column(name)]
                continue
            if part.function not in seen:
                seen[part.function] = self._watch(part.function, x, p, t)
            out[:, i] = seen[part.function][:, *part.index]
        out[~np.asarray(np.isfinite(states)).all(axis=1)] = np.nan
        return out

    def each(self, kind: Hashable, function: Callable[..., Tensor], *members: Tensor) -> Tensor:
        """Apply a function of one member to all members.

        Args:
            kind: Names the function.
            function: Of one tensor for each of `members`.
            *members: ``(member, …)`` each.

        Returns:
            ``(member, …)``.
        """
        size, count = None, len(members[0])
        with everyday(), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # members one by one: slower, and right
            members = tuple(part.clone() if part.is_inference() else part for part in members)
            if self.grouped and count > 1:
                fit = max(1, ROOM // self._made((kind, members[-1].shape[1:]), function, *members))
                size = fit if fit < count else None
            out = self._vmap(function, size)(*members)
            return torch.zeros_like(out) if out._is_zerotensor() else out  # a derivative that is 0 has no memory

    def _vmap(self, function: Callable[..., Tensor], size: int | None = None) -> Callable[..., Tensor]:
        return vmap(function, randomness="same" if self.seeded else "error", chunk_size=size)

    def _made(self, kind: Hashable, function: Callable[..., Tensor], *members: Tensor) -> int:
        """How many bytes the operations of a function make for one member: found out once, at its first step."""
        if kind not in self._bytes:
            with _Bytes() as seen:  # type: ignore[no-untyped-call]
                self._vmap(function)(*(values[:1].clone() for values in members))
            self._bytes[kind] = max(1, seen.total)
        return self._bytes[kind]

    @cached_property
    def _bytes(self) -> dict[Hashable, int]:
        return {}

    def _derivatives(self, function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
        """The derivatives of a function at ``x (dim,)`` along the rows of ``v (k, dim)``."""
        return self._vmap(lambda v: jvp(function, (x,), (v,))[1])(v)

    def difference(self, x: Any, y: Any) -> Any:
        """x − y, of tensors or of numpy arrays, with angles taken the short way round."""
        if not isinstance(x, Tensor):
            return super().difference(x, y)
        periods = self.native([self.periods.get(name, float("inf")) for name in self.coordinates])
        d = x - y
        return d - torch.where(torch.isinf(periods), 0.0, periods * torch.round(d / periods))

    # -- the verbs -------------------------------------------------------------------------------------------------

    def advance(self, x: Any, p: Any, t: int, steps: int) -> End:
        """`steps` steps from step index t; no record."""
        p, (x, escaped) = self.native(p), _settle(self.native(x), None, t)
        with self._asked_again(x, p, t):
            for s in range(t, t + steps):
                x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
        return End(x, None, t + steps, _steps(escaped))

    def orbit(
        self, x: Any, p: Any, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """As `Map.orbit`, all members at once; the records are numpy."""
        records, first = into or new_records(len(x), steps // every, len(observe))
        p, (x, escaped) = self.native(p), _settle(self.native(x), None, t)
        with self._asked_again(x, p, t):
            for s in range(t, t + steps):
                if (s - t) % every == 0:
                    records[:, first + (s - t) // every] = self.observe(x, p, s, observe)
                x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
        return records, End(x, None, t + steps, _steps(escaped))

    def tangent_orbit(
        self, x: Any, p: Any, t: int, frame: Any, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """As `Map.tangent_orbit`, all members at once; frames stay on the device, the records are numpy."""
        p, frame, (x, escaped) = self.native(p), self.native(frame), _settle(self.native(x), None, t)
        members, k, dim = frame.shape
        records = tangent_records(members, steps // every, k, dim, keep)
        with self._asked_again(x, p, t):
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
        """As `Map.separation_orbit`, all members at once. Raises Refusal for an unknown norm."""
        if norm not in NORMS:
            raise Refusal(unknown("norm", norm, NORMS))
        order = {"l1": 1.0, "l2": 2.0, "max": float("inf")}[norm]
        p, y, (x, escaped) = self.native(p), self.native(y), _settle(self.native(x), None, t)
        members, count, dim = y.shape
        copies, copied = y.reshape(-1, dim), p.repeat_interleave(count, dim=0)
        copies, gone = _settle(copies, None, t)
        distances = np.empty((members, count, steps // every))
        with self._asked_again(x, p, t):
            for s in range(t, t + steps):
                if (s - t) % every == 0:
                    d = self.difference(copies.reshape(members, count, dim), x[:, None])
                    distances[:, :, (s - t) // every] = self.to_numpy(torch.linalg.vector_norm(d, order, dim=2))
                copies, gone = _settle(self.step(copies, copied, s), gone, s + 1)
                x, escaped = _settle(self.step(x, p, s), escaped, s + 1)
        return distances, End(x, copies.reshape(members, count, dim), t + steps, _steps(escaped))


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what all operations make, whether or not it is kept: at least as much as is ever held at once."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(part.nbytes for part in tree_leaves(out) if isinstance(part, Tensor))
        return out


class _Cuts(TorchFunctionMode):
    """Sees whether a function cuts a derivative off, or brings one of its own: those may be no derivatives."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func in _CUTTING
        return func(*args, **(kwargs or {}))


_CUTTING = (Tensor.detach, torch.detach, custom_function_call)  # vmap itself refuses detach_ and .data


@contextmanager
def everyday() -> Iterator[None]:
    """Torch without the modes that a caller may have set around us: inference, and number types chosen by autocast."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


_AUTOCAST = ("cpu", "cuda")
_forward_lock = threading.RLock()


@contextmanager
def _forward_mode() -> Iterator[None]:
    """One forward-mode derivative at a time: torch counts their levels for the whole process, not for each thread."""
    with _forward_lock:
        _load_forward_rules()
        yield


@cache
def _load_forward_rules() -> None:
    """Let torch load its rules of forward-mode differentiation, once, without its warnings about its own torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _settle(x: Tensor, escaped: Tensor | None, t: int) -> tuple[Tensor, Tensor]:
    """Make every state that is not finite NaN, for good, and note the step index of its first such state."""
    if escaped is None:
        escaped = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    bad = ~torch.isfinite(x).all(dim=1) | (escaped >= 0)
    return torch.where(bad[:, None], torch.nan, x), torch.where(bad & (escaped < 0), t, escaped)


def _steps(escaped: Tensor) -> Integers:
    return np.asarray(escaped.cpu().numpy(), dtype=np.int64)


def _orthonormalise(frame: Tensor, escaped: Tensor) -> tuple[Tensor, Tensor]:
    """QR of each member's rows with a positive diagonal: the new rows ``(member, k, dim)`` and R ``(member, k, k)``."""
    bad = escaped | ~torch.isfinite(frame).all(dim=2).all(dim=1)
    q, r = torch.linalg.qr(torch.where(bad[:, None, None], 0.0, frame).transpose(1, 2))
    sign = torch.where(torch.diagonal(r, dim1=1, dim2=2) < 0, -1.0, 1.0).to(frame.dtype)
    rows, factor = (q * sign[:, None, :]).transpose(1, 2), r * sign[:, :, None]
    hole = bad[:, None, None]
    return torch.where(hole, torch.nan, rows).contiguous(), torch.where(hole, torch.nan, factor)
