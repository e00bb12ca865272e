"""A map whose rule is written on torch tensors, for one member: any differentiable function, on any device.

Members and tangent vectors are batched by vmap; the tangent is forward-mode automatic differentiation (for a training
map: forward over reverse, so no Hessian is ever formed). States and frames stay on their device; records are numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp
from torch.overrides import TorchFunctionMode

from nnflow.differences import Misfit, misfit
from nnflow.internals import custom_function_call
from nnflow.methods import refuse_coarse
from nnflow.names import Refusal, WrongKind, unknown
from nnflow.readonly import Fixed
from nnflow.records import End, Into, TangentRecords, new_records, tangent_records
from nnflow.settings import convert, whole
from nnflow.tensor.escapes import safe, settle, standing_in, steps_of
from nnflow.tensor.frames import orthonormalise
from nnflow.tensor.inductor import compiler
from nnflow.tensor.members import Call, MemberMap
from nnflow.tensor.modes import forward_mode, threads_of_torch
from nnflow.tensor.outside import Outside
from nnflow.tensor.trace import timeless
from nnflow.typing import Array
from nnflow.vectors import NORMS

TensorRule = Callable[[Tensor, "Named", Any], Tensor]
Gradient = Callable[[Tensor, Any], Tensor]
UNSEEN = "by torch's forward mode, which does not see through detach(), or an autograd.Function without the right jvp"


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


def _as_made(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb of a tensor map, by the rule as it was, with as many threads of torch as the map has."""

    @wraps(verb)
    def called(self: TensorMap, *arguments: Any, **keywords: Any) -> Any:
        with threads_of_torch(self.torch_threads):
            self._look_outside()
            return verb(self, *arguments, **keywords)

    return called


class TensorMap(MemberMap):
    """A map x' = f(x, p, t), its rule written for one member on torch tensors.

    The first tangent is compared with differences of the rule, as is each in which the rule uses `detach` or an
    `autograd.Function`; the first step is asked for again whenever the steps taken have doubled. What is called often
    is traced and replayed (see `trace`), with the same bits. With the same chunking results are the same; other chunks
    round differently, and chaos amplifies that.

    Args:
        rule: `rule(x, p, t)` returns the next state ``(dim,)`` from `x (dim,)`, the parameters by name (``p["a"]`` or
            ``p.a``, scalar tensors) and the step index `t`.
        gradient: Of a training map, for `curvature`: the loss gradient as a function of the weights (the state without
            the optimizer's memory) and t.
        threshold: Of a training map: `threshold(p, t)`, the curvature beyond which a direction is unstable, from the
            parameters by name and the step index, a number.
        device: Of states, frames and parameters (default: cpu).
        dtype: Of states, frames and parameters (default: torch.float64).
        clock: `clock(t)` is what rule, gradient and observables get in place of t: a tuple of tensors. The operations
            of a step are then the same at all t, and are traced; a rule that looks at the number t is not.
        noise: The seed of what the rule draws by torch, the same for all members, as a function of (noise, t); without,
            it may draw nothing.
        torch_threads: How many threads torch uses within one operation on the CPU, whatever is set elsewhere. They
            change the last bits, so more than 1 stand in `structure`; they pay for one large network. Many members keep
            all cores busy without.
        calls: The functions of the user that the rule calls, if it is none of his own: what they read beside their
            arguments is not to change.
        check: False goes without the comparisons, and `structure` says so.
        compile: Whether steps, tangents and curvatures are compiled, on the CPU by torch's Inductor and a C++ compiler,
            on CUDA devices as CUDA graphs (not measured). Results agree to rounding with those of the map without,
            which the first three calls of each kind are compared with, and say `compiled`; bits are the same in every
            process. The rule must not look at t. The first call of each kind, and of each number of members at a time,
            compiles: tens of seconds of a core for a small CNN, and a few in later processes.
        **settings: `Map`'s fields, with `observables`: name → `f(x, p, t)` → scalar tensor.

    Raises:
        WrongKind: (a TypeError) for a rule that is no function or a dtype that is no floating torch dtype.
        Refusal: (a ValueError) for a device that cannot be had, compile=True without a compiler and, at first use, a
            rule whose tangent is no derivative, that does not return ``(dim,)``, or that cannot be compiled as asked.
    """

    in_numpy = False
    threads = False
    differentiated = False  # whether steps and tangents were compared with others when the map was made
    rule: TensorRule
    gradient: Gradient | None
    dtype: torch.dtype
    calls: tuple[Any, ...]
    limit: Callable[[Named, int], Any] | None

    def __init__(
        self,
        rule: TensorRule,
        *,
        gradient: Gradient | None = None,
        threshold: Callable[[Named, int], Any] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        clock: Callable[[int], tuple[Any, ...]] | None = None,
        noise: int | None = None,
        torch_threads: int = 1,
        calls: Sequence[Any] = (),
        check: bool = True,
        compile: bool = False,
        **settings: Any,
    ) -> None:
        if not callable(rule):
            raise WrongKind(f"rule = {rule!r}: give a function")
        if clock is not None and not callable(clock):
            raise WrongKind(f"clock = {clock!r}: give a function of t, which returns a tuple of tensors")
        if threshold is not None and (not callable(threshold) or gradient is None):
            raise WrongKind(f"threshold = {threshold!r}: give a function of (p, t), with a gradient")
        noise = None if noise is None else whole("noise", noise, 0)
        place, kind = placed(device, dtype)
        if place.type != "cpu" and torch_threads != 1:
            raise Refusal(
                f"torch_threads = {torch_threads}, device = {place}: they are threads of the CPU; leave it out"
            )
        compiled = compiler(place, noise) if convert("compile", compile, bool) else ""
        if compiled:
            settings["structure"] = {**settings.get("structure", {}), "compile": True}
        super().__init__(**{"name": getattr(rule, "__name__", "map"), "check": check, **settings})
        held = {"rule": rule, "gradient": gradient, "device": place, "dtype": kind, "clock": clock, "noise": noise,
                "torch_threads": whole("torch_threads", torch_threads, 1), "calls": tuple(calls),
                "limit": threshold}  # fmt: skip
        if compiled:
            self._refuse_clocks(rule, gradient, clock)
        for name, value in {**held, "compiled": compiled}.items():
            object.__setattr__(self, name, value)
        if self.torch_threads > 1:
            object.__setattr__(self, "structure", Fixed(self.structure, torch_threads=self.torch_threads))
        self.remember()

    def remember(self) -> None:
        """Note what the rule reads beside its arguments, as the map's meaning."""
        if self.check:
            self._outside[:] = [self._seen_outside()]

    def _refuse_clocks(self, rule: TensorRule, gradient: Gradient | None, clock: Any) -> None:
        """A function that looks at the number t does other operations at each step: it is not compiled for one."""
        if clock is None and not (timeless(rule, 2) and (gradient is None or timeless(gradient, 1))):
            raise Refusal(
                f"compile = True: the rule of {self.name!r} looks at t, or nobody can tell: write a plain function "
                "that does not, or give clock=, a function from t to tensors"
            )

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

    def _one(self, now: Any, x: Tensor, p: Tensor) -> Tensor:
        with self._explained("rule"):
            out = self.rule(x.clone(), self._named(p), now)  # it may write into its x
        if not isinstance(out, Tensor) or out.shape != (self.dim,):
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise Refusal(f"the rule of {self.name!r} returned {shape}: it must return a tensor of shape ({self.dim},)")
        if out.dtype != self.dtype and (out.is_floating_point() or out.is_complex()):
            raise Refusal(
                f"the rule of {self.name!r} returns {out.dtype} in a map of {self.dtype}: make the map with "
                "dtype=…, or the modules that it calls of the same type"
            )
        return out.to(self.dtype)

    def step(self, x: Any, p: Any, t: int) -> Tensor:
        """One step of every member ``(member, dim)``. Raises Refusal if it cannot be batched."""
        out: Tensor = self.each(Call("step", self._one, self.rule), t, self.native(x), self.native(p))
        return out

    @contextmanager
    def _asked_again(self, x: Tensor, p: Tensor, t: int, steps: int) -> Iterator[None]:
        """Ask for the first step of all again after so many steps: it was kept, of one member, when a verb began first.

        It is asked for again whenever the steps taken have doubled.

        Yields:
            Nothing. Raises Refusal for a rule that gives other numbers then.
        """
        finite = torch.isfinite(x).all(dim=1).nonzero().ravel().tolist() if self.check and not self._first else []
        if finite:
            member = slice(finite[0], finite[0] + 1)
            one = x[member].clone(), p[member].clone()
            self._first.append(_First(*one, t, self._step_anew(*one, t)))
            self._ask_again()
            if not self.differentiated and self.dtype == torch.float64:
                self._look_for_steps(*one, t)
        yield
        if self._first:
            first = self._first[0]
            first.taken += steps
            if first.taken >= 2 * first.asked:
                first.asked = first.taken
                self._ask_again()

    def _look_for_steps(self, x: Tensor, p: Tensor, t: int) -> None:
        """Refuse a rule that computes in single precision inside."""

        def step(x: Array) -> Array:
            return self.to_numpy(self.step(x, p.repeat(len(x), 1), t))

        with self.uncompiled():
            refuse_coarse(self, step, self.to_numpy(x))

    @cached_property
    def _outside(self) -> list[Outside]:
        """What the user's functions read beside their arguments, as it was when the map was made."""
        return [self._seen_outside()]

    def _seen_outside(self) -> Outside:
        return Outside(self.calls or (self.rule, self.gradient, *self.observables.values()))

    def _look_outside(self) -> None:
        """See that the rule reads what it read when the map was made, or gives the same numbers at least.

        What counts its calls to no effect is a rule like any other; then what was traced is traced anew.

        Raises:
            Refusal: for a rule that has become another one.
        """
        if not self.check or not (name := self._outside[0].changed()):
            return
        if not self._first:
            raise Refusal(
                f"{name}, which {self.name!r} reads, has changed since the map was made, and a map means what it meant "
                "then: make a new one"
            )
        self._ask_again(name)
        self.remember()
        self._traces.forget()
        self._codes.forget()

    def _ask_again(self, changed: str = "") -> None:
        x, p, t, first = self._first[0].x, self._first[0].p, self._first[0].t, self._first[0].ahead
        again = self._step_anew(x, p, t)
        room = 1e3 * self.resolution  # an accelerator may add in another order
        if not torch.allclose(
            again, first, rtol=room, atol=room * float(first.abs().nan_to_num().max()), equal_nan=True
        ):
            worst = int((again - first).abs().nan_to_num(torch.inf).argmax())
            raise Refusal(
                f"the rule of {self.name!r} gives {self.coordinates[worst]} = {first[0, worst]:.9g} at t = {t}, and "
                f"{again[0, worst]:.9g} when it is asked again{changed and f', since {changed} has changed'}: let it "
                "depend on x, p and t alone, count no calls and draw no random numbers"
            )

    def _step_anew(self, x: Tensor, p: Tensor, t: int) -> Tensor:
        """A step by the rule itself, no replay of it."""
        out: Tensor = self.each(Call("step", self._one), t, x, p)
        return out

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
        self._look_at(x, p, t, cut)
        return moved

    def _look_at(self, x: Any, p: Any, t: int, cut: bool) -> None:
        """Compare tangents with differences: the first one, and each in which a derivative was cut off."""
        if self.check and cut:
            self._differentiate(x, p, t, None)
        elif not self.differentiated:
            self.once("tangent", lambda: self._differentiate(x, p, t, 1))

    @cached_property
    def _first(self) -> list[_First]:
        """The first step of a verb, if there was one."""
        return []

    def unchecked_tangent(self, x: Any, p: Any, t: int, v: Any) -> tuple[Tensor, bool]:
        """The same unchecked, and whether the rule cut a derivative off."""

        def one(now: Any, x: Tensor, p: Tensor, v: Tensor) -> Tensor:
            return self._derivatives(lambda x: self._one(now, x, p), x, v)

        return self._differentiated_forward(Call("tangent", one, self.rule), t, x, p, v)

    def step_and_tangent(self, x: Any, p: Any, t: int, v: Any) -> tuple[Tensor, Tensor]:
        """The next states and tangent vectors, by `step` and by `tangent`; a replay does once what both do."""
        if self.noise is not None:  # each draws its numbers from the first one on: the same ones
            return self.step(x, p, t), self.tangent(x, p, t, v)

        def one(now: Any, x: Tensor, p: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return self._one(now, x, p), self._derivatives(lambda x: self._one(now, x, p), x, v)

        found, cut = self._differentiated_forward(Call("both", one, self.rule), t, x, p, v)
        self._look_at(x, p, t, cut)
        both: tuple[Tensor, Tensor] = found
        return both

    def _differentiated_forward(self, call: Call, t: int, *members: Any) -> tuple[Any, bool]:
        """What a call that differentiates forward gives, and whether it cut a derivative off."""
        if call.kind in self._cut and not self.compiled:
            call = call._replace(origin=None)
        cuts = _Cuts()
        out = self.each(call._replace(within=(forward_mode, lambda: cuts)), t, *map(self.native, members))
        if cuts.seen and self.compiled and self.check:
            raise Refusal(
                f"compile = True: the {call.what} of {self.name!r} has parts that torch's forward mode does not see "
                "through (detach(), an autograd.Function), so that each tangent is compared with differences: leave "
                "compile=True out"
            )
        if cuts.seen:
            self._cut.add(call.kind)
        return out, cuts.seen

    @cached_property
    def _cut(self) -> set[Hashable]:
        """The kinds of calls in which a derivative is cut off: they are looked at each time, and not replayed."""
        return set()

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
            with self.uncompiled():
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

    def threshold(self, p: Any, t: int) -> Array:
        """The curvature beyond which a direction is unstable, ``(member,)``: by the map's own function, if it has one.

        Args:
            p: Parameters ``(member, parameter)``.
            t: The step index.

        Returns:
            float64.

        Raises:
            Refusal: for a function that gives no number.
        """
        if self.limit is None:
            return super().threshold(p, t)
        rows = self.native(p)
        try:
            return np.array([float(self.limit(self._named(row), t)) for row in rows])
        except Exception as error:
            raise Refusal(f"the threshold of {self.name!r} gives no number: {type(error).__name__}: {error}") from error

    def unchecked_curvature(self, weights: Any, t: int, v: Any) -> tuple[Tensor, bool]:
        """The same unchecked, from the weights alone, and whether the loss cut a derivative off."""

        def one(now: Any, w: Tensor, v: Tensor) -> Tensor:
            return self._derivatives(lambda w: self._slope(now, w), w, v)

        return self._differentiated_forward(Call("curvature", one, self.gradient), t, weights, v)

    def slopes(self, weights: Any, t: int) -> Tensor:
        """The gradient of a training map at the weights ``(member, weights)``. Raises Refusal if it fails."""
        out: Tensor = self.each(Call("gradient", self._slope, self.gradient), t, self.native(weights))
        return out

    def _slope(self, now: Any, w: Tensor) -> Tensor:
        assert self.gradient is not None
        with self._explained("loss"):
            return self.gradient(w, now)

    def _bend(self, weights: Any, t: int) -> None:
        """Compare the curvature with differences of the gradient, at all members that are finite. Raises Refusal."""
        states = self.to_numpy(weights)
        for state in states[np.isfinite(states).all(axis=1)]:
            found = misfit(
                lambda w: self.to_numpy(self.slopes(w, t)),
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

    def _watch(self, function: Callable[[Tensor, Named, Any], Tensor], x: Any, p: Any, t: int) -> Array:
        def one(now: Any, x: Tensor, p: Tensor) -> Tensor:
            with self._explained("observable"):
                value = function(x.clone(), self._named(p), now)  # it may write into its x
            if isinstance(value, Tensor) and value.is_complex():
                raise Refusal(
                    f"an observable of {self.name!r} is complex: give its real or imaginary part, or its size"
                )
            return value

        return self.to_numpy(self.each(Call(id(function), one, function), t, self.native(x), self.native(p)))

    def observe(self, x: Any, p: Any, t: int, names: Sequence[str]) -> Array:
        """The named coordinates and observables, ``(member, channel)``; NaN for a member that has escaped."""
        states, seen = self.to_numpy(x), dict[Any, Any]()
        out = np.empty((len(states), len(names)))
        places, columns, rest = self.placed(names)
        out[:, places] = states[:, columns]
        for i in rest:
            part = self.observables[names[i]]
            if not isinstance(part, Component):
                out[:, i] = self.observable(names[i], x, p, t)
                continue
            if part.function not in seen:
                seen[part.function] = self._watch(part.function, x, p, t)
            out[:, i] = seen[part.function][:, *part.index]
        out[~np.asarray(np.isfinite(states)).all(axis=1)] = np.nan
        return out

    def _derivatives(self, function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
        """The derivatives of a function at ``x (dim,)`` along the rows of ``v (k, dim)``."""
        out: Tensor = self._mapped(lambda v: jvp(function, (x,), (v,))[1], v)
        return out

    def difference(self, x: Any, y: Any) -> Any:
        """x − y, of tensors or of numpy arrays, with angles taken the short way round."""
        if not isinstance(x, Tensor):
            return super().difference(x, y)
        periods = self.native([self.periods.get(name, float("inf")) for name in self.coordinates])
        d = x - y
        return d - torch.where(torch.isinf(periods), 0.0, periods * torch.round(d / periods))

    # -- the verbs -------------------------------------------------------------------------------------------------

    @_as_made
    def advance(self, x: Any, p: Any, t: int, steps: int) -> End:
        """`steps` steps from step index t; no record."""
        p, (x, escaped) = self.native(p), settle(self.native(x), None, t)
        start = standing_in(x, escaped)
        with self._asked_again(x, p, t, steps):
            for s in range(t, t + steps):
                x, escaped = settle(self.step(safe(x, escaped, start), p, s), escaped, s + 1)
        return End(x, None, t + steps, steps_of(escaped, len(x)))

    @_as_made
    def orbit(
        self, x: Any, p: Any, t: int, steps: int, every: int, observe: Sequence[str], into: Into | None = None
    ) -> tuple[Array, End]:
        """As `Map.orbit`, all members at once; the records are numpy."""
        records, first = into or new_records(len(x), steps // every, len(observe))
        p, (x, escaped) = self.native(p), settle(self.native(x), None, t)
        start = standing_in(x, escaped)
        with self._asked_again(x, p, t, steps):
            for s in range(t, t + steps):
                if (s - t) % every == 0:
                    seen = self.observe(safe(x, escaped, start), p, s, observe)
                    seen[steps_of(escaped, len(x)) >= 0] = np.nan
                    records[:, first + (s - t) // every] = seen
                x, escaped = settle(self.step(safe(x, escaped, start), p, s), escaped, s + 1)
        return records, End(x, None, t + steps, steps_of(escaped, len(x)))

    @_as_made
    def tangent_orbit(
        self, x: Any, p: Any, t: int, frame: Any, steps: int, every: int, keep: Sequence[str] = ()
    ) -> tuple[TangentRecords, End]:
        """As `Map.tangent_orbit`, all members at once; frames stay on the device, the records are numpy."""
        p, frame, (x, escaped) = self.native(p), self.native(frame), settle(self.native(x), None, t)
        (members, k, dim), start = frame.shape, standing_in(x, escaped)
        records = tangent_records(members, steps // every, k, dim, keep)
        with self._asked_again(x, p, t, steps):
            for block in range(steps // every):
                if records.frames is not None:
                    records.frames[:, block] = self.to_numpy(frame)
                for s in range(t + block * every, t + (block + 1) * every):
                    ahead, frame = self.step_and_tangent(safe(x, escaped, start), p, s, frame)
                    x, escaped = settle(ahead, escaped, s + 1)
                frame, factor = orthonormalise(frame, escaped)
                records.log_stretches[:, block] = self.to_numpy(torch.log(torch.diagonal(factor, dim1=1, dim2=2)))
                if records.factors is not None:
                    records.factors[:, block] = self.to_numpy(factor)
        return records, End(x, frame, t + steps, steps_of(escaped, len(x)))

    @_as_made
    def separation_orbit(
        self, x: Any, y: Any, p: Any, t: int, steps: int, every: int, norm: str = "l1"
    ) -> tuple[Array, End]:
        """As `Map.separation_orbit`, all members at once. Raises Refusal for an unknown norm."""
        if norm not in NORMS:
            raise Refusal(unknown("norm", norm, NORMS))
        order = {"l1": 1.0, "l2": 2.0, "max": float("inf")}[norm]
        p, y, (x, escaped) = self.native(p), self.native(y), settle(self.native(x), None, t)
        members, count, dim = y.shape
        copies, copied = y.reshape(-1, dim), p.repeat_interleave(count, dim=0)
        copies, gone = settle(copies, None, t)
        start, beside = standing_in(x, escaped), standing_in(copies, gone)
        distances = np.empty((members, count, steps // every))
        with self._asked_again(x, p, t, steps):
            for s in range(t, t + steps):
                if (s - t) % every == 0:
                    d = self.difference(copies.reshape(members, count, dim), x[:, None])
                    distances[:, :, (s - t) // every] = self.to_numpy(torch.linalg.vector_norm(d, order, dim=2))
                copies, gone = settle(self.step(safe(copies, gone, beside), copied, s), gone, s + 1)
                x, escaped = settle(self.step(safe(x, escaped, start), p, s), escaped, s + 1)
        return distances, End(x, copies.reshape(members, count, dim), t + steps, steps_of(escaped, len(x)))


@dataclass
class _First:
    """The first step of a verb: (x, p, t) and its end; the steps taken since, and those when it was last asked for."""

    x: Tensor
    p: Tensor
    t: int
    ahead: Tensor
    taken: int = 0
    asked: int = 0


class _Cuts(TorchFunctionMode):
    """Sees whether a function cuts a derivative off, or brings one of its own: those may be no derivatives."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen = self.seen or func in _CUTTING
        return func(*args, **(kwargs or {}))


_CUTTING = (Tensor.detach, torch.detach, custom_function_call)  # vmap itself refuses detach_ and .data
