"""What is done for one member, done for all: in groups that fit into a cache, replayed or compiled, on all cores."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from nnflow.internals import TorchDispatchMode, tree_leaves
from nnflow.map import Map
from nnflow.names import Refusal, shown
from nnflow.tensor.graph import only_tensors, tensors_in
from nnflow.tensor.inductor import Compiled
from nnflow.tensor.modes import everyday, seeded, threads_of_torch
from nnflow.tensor.trace import Calls, Traces, timeless
from nnflow.workers import on_all_cores

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
STEPPING = ("step", "tangent", "both", "curvature", "gradient")  # kinds of calls that are compiled, if any are
OF_WEIGHTS = ("curvature", "gradient")  # calls of a function (w, t), others are of one (x, p, t)
ROOM = 2**23  # bytes that the operations of a step may make: so many members of a grouped map go at a time …
ROOM_OF_DEVICE = 2**32  # … and on an accelerator, which wants much work at a time


class Call(NamedTuple):
    """What is done for each member."""

    kind: Hashable  # names it among the calls of a map
    function: Callable[..., Any]  # of the moment, and of one member's tensors
    origin: Callable[..., Any] | None = None  # what it calls, by which one knows whether it looks at t; None: no replay
    within: tuple[Callable[[], Any], ...] = ()  # the modes of torch that it needs

    @property
    def what(self) -> str:
        """What it calls, for messages."""
        return "loss" if self.kind in OF_WEIGHTS else "rule" if isinstance(self.kind, str) else "observable"


class MemberMap(Map):
    """A map on torch tensors as far as it calls functions of one member; `TensorMap` says which.

    Attributes:
        device: Of states, frames and parameters.
        clock: What functions get in place of t, as a function of t.
        noise: The seed of what they draw.
        compiled: What compiles them, in words; "" if nothing does.
        torch_threads: Threads of torch within an operation.
    """

    grouped = False  # whether only so many members go at a time as there is room for
    device: torch.device
    clock: Callable[[int], tuple[Any, ...]] | None
    noise: int | None
    compiled: str
    torch_threads: int

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Let this thread call what is compiled as it is: comparisons are made once, with shapes of their own."""
        before = self._now.__dict__.get("uncompiled", False)
        self._now.uncompiled = True
        try:
            yield
        finally:
            self._now.uncompiled = before

    def moment(self, t: int) -> Any:
        """What the rule gets in place of t: t itself, or what `clock` makes of it."""
        if self.clock is None:
            return t
        now = self.clock(t)
        if not only_tensors(now):
            raise Refusal(
                f"the clock of {self.name!r} gives {shown(now)} at t = {t}: give a tensor, or a tuple of tensors (of "
                "anything else a trace would keep what it saw)"
            )
        return now

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Say of what torch cannot batch which function it is in, and what to write instead."""
        try:
            yield
        except (Refusal, MemoryError, Warning):
            raise
        except Exception as error:
            reason = str(error).partition("\n")[0]
            if isinstance(error, torch.OutOfMemoryError) or "allocate" in reason:
                raise
            if not isinstance(error, RuntimeError):
                reason = f"{type(error).__name__}: {reason}"
            told = next((advice for words, advice in ADVICE.items() if words in reason), "")
            raise Refusal(f"the {what} of {self.name!r} fails{self._when()}: {told or reason}") from error

    def each(self, call: Call, t: int, *members: Tensor) -> Any:
        """Apply a function of one member to all members.

        Args:
            call: What is called, with the moment and one tensor for each of `members`.
            t: The step index.
            *members: ``(member, …)`` each.

        Returns:
            ``(member, …)``, or a tuple of such.
        """
        self._now.t = t  # for messages
        with everyday(), threads_of_torch(self.torch_threads), torch.no_grad():
            members = tuple((part.clone() if part.is_inference() else part).contiguous() for part in members)
            now, count = self.moment(t), len(members[0])
            size = self._group_of(call, now, members) if self.grouped and count > 1 else count
            if size >= count:
                return self._all(call, now, members)
            groups = [[part[i : i + size] for part in members] for i in range(0, count, size)]
            parts = self._side_by_side(call, t, now, groups)
            several = isinstance(parts[0], tuple)
            return tuple(map(torch.cat, zip(*parts, strict=True))) if several else torch.cat(parts)

    def _side_by_side(self, call: Call, t: int, now: Any, groups: list[list[Tensor]]) -> list[Any]:
        """The same for several groups: one after the other until all are replayed, and then on all cores."""
        plain = self._is_plain(call)

        def of(group: list[Tensor]) -> Any:
            self._now.t = t
            as_here = self.uncompiled() if plain else nullcontext()
            with as_here, everyday(), threads_of_torch(self.torch_threads), torch.no_grad():
                return self._all(call, now, group)

        known: Calls[Any] = self._traces if plain else self._codes
        first = (now,) if self.clock else ()
        ready = call.origin and self.device.type == "cpu" and all(known.trusted(call.kind, *first, *g) for g in groups)
        return on_all_cores(of, groups) if ready else [self._all(call, now, group) for group in groups]

    def _is_plain(self, call: Call) -> bool:
        """Whether a call is not one of those that are compiled."""
        return not self.compiled or call.kind not in STEPPING or self._now.__dict__.get("uncompiled", False)

    def _all(self, call: Call, now: Any, members: Sequence[Tensor]) -> Any:
        """The same for a group, by a replay of what was done for another one where that can be."""
        function, given = self._of_group(call, now), (now, *members) if self.clock else members
        drawing = partial(seeded, self.noise, self._now.t, self.device)
        if len(members[0]) == 1 and call.kind not in self._batched:
            with drawing():
                function(*given, batched=True)  # refuses what several members could not do
            self._batched.add(call.kind)
        if call.origin and (self.clock or timeless(call.origin, 1 if call.kind in OF_WEIGHTS else 2)):
            known: Calls[Any] = self._traces if self._is_plain(call) else self._codes
            with self._explained(call.what):
                return known.call(call.kind, drawing, function, *given)
        with drawing():
            return function(*given)

    def _of_group(self, call: Call, now: Any) -> Callable[..., Any]:
        """A call as a function of the members' tensors; of a map with a clock, of the moment before them."""

        def function(*given: Any, batched: bool = False) -> Any:
            at, *rest = given if self.clock else (now, *given)
            with ExitStack() as stack, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # one by one: slower, and right
                for mode in call.within:
                    stack.enter_context(mode())
                out = (self._together if batched else self._mapped)(partial(call.function, at), *rest)
            return tuple(map(_held, out)) if isinstance(out, tuple) else _held(out)

        return function

    @cached_property
    def _traces(self) -> Traces:
        return Traces(self.name)

    @cached_property
    def _codes(self) -> Compiled:
        return Compiled(self.name)

    def _when(self) -> str:
        return f" at t = {self._now.t}" if hasattr(self._now, "t") else ""

    @cached_property
    def _now(self) -> threading.local:
        return threading.local()

    def _mapped(self, function: Callable[..., Any], *rows: Tensor) -> Any:
        """A function of one row for all rows: at once, or, if there is one, by itself, which is faster."""
        if len(rows[0]) > 1:
            return self._together(function, *rows)
        out = function(*(part[0] for part in rows))
        return tuple(part[None] for part in out) if isinstance(out, tuple) else out[None]

    def _together(self, function: Callable[..., Any], *rows: Tensor) -> Any:
        return vmap(function, randomness="error" if self.noise is None else "same")(*rows)

    @cached_property
    def _batched(self) -> set[Hashable]:
        """The kinds of calls that were once tried as if there were several members."""
        return set()

    def _group_of(self, call: Call, now: Any, members: Sequence[Tensor]) -> int:
        """So many members for which there is room at a time."""
        room = ROOM if self.device.type == "cpu" else ROOM_OF_DEVICE
        return max(1, room // self._made(call, now, *members))

    def _made(self, call: Call, now: Any, *members: Tensor) -> int:
        """How many bytes the operations of a function make for one member: found out once, at its first step."""
        kind = call.kind, members[-1].shape[1:], *(part.shape for part in tensors_in((now,)))
        if kind not in self._bytes:
            one, first = [values[:1].clone() for values in members], (now,) if self.clock else ()
            with _Bytes() as seen, seeded(self.noise, self._now.t, self.device):  # type: ignore[no-untyped-call]
                self._of_group(call, now)(*first, *one, batched=True)  # what was called before changes no number
            self._batched.add(call.kind)
            self._bytes[kind] = max(1, seen.total)
        return self._bytes[kind]

    @cached_property
    def _bytes(self) -> dict[Hashable, int]:
        return {}


def _held(out: Any) -> Any:
    """A result with memory: a derivative that is 0 has none."""
    return torch.zeros_like(out) if isinstance(out, Tensor) and out._is_zerotensor() else out


class _Bytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what all operations make, whether or not it is kept: at least as much as is ever held at once."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(part.nbytes for part in tree_leaves(out) if isinstance(part, Tensor))
        return out
