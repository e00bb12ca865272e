"""A function of tensors, traced once and replayed: the same operations, without the layers of Python above them.

What is called often is written down as a graph (`graph.py`). Its replay is compared, bit by bit, with the function
itself at other arguments before it is trusted; what differs, or cannot be traced, is called as it is, for good.
"""

from __future__ import annotations

import dis
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from nnflow.names import Refusal
from nnflow.tensor.graph import same, shortened, tensors_in, traced

PATIENCE = 24  # calls of one kind before it is traced, which takes as long as some hundred small ones
TRIALS = 3  # calls at which a replay is compared before it is trusted
Function = Callable[..., Any]
Drawing = Callable[[], AbstractContextManager[None]]


class UntracedWarning(UserWarning):
    """A function of tensors cannot be traced, so that it is called as it is: slower, and right."""


@dataclass
class _Kind:
    """What is known of the calls of one kind: with arguments of the same shapes."""

    calls: int = 0
    replay: Function | None = None
    agreed: int = 0
    functional: bool = True  # whether its trace was
    hopeless: bool = False


class Known(Protocol):
    """What is known of the calls of one kind, by whatever way they are made."""

    agreed: int


K = TypeVar("K", bound=Known)


class Calls(Generic[K]):
    """The calls of one map, of each kind what is known of it.

    Args:
        name: Of the map.
        new: Makes what is known of a kind at first.
    """

    def __init__(self, name: str, new: Callable[[], K]) -> None:
        self.name = name
        self._new = new
        self._kinds: dict[Hashable, K] = {}

    def known(self, kind: Hashable, flat: Iterable[Tensor]) -> K:
        """What is known of a kind, with arguments of these shapes."""
        return self._kinds.setdefault(key(kind, flat), self._new())

    def forget(self) -> None:
        """Begin anew."""
        self._kinds.clear()

    def trusted(self, kind: Hashable, *arguments: Any) -> bool:
        """Whether such a call has been compared often enough."""
        known = self._kinds.get(key(kind, tensors_in(arguments)))
        return known is not None and known.agreed >= TRIALS

    def call(self, kind: Hashable, drawing: Drawing, function: Function, *arguments: Any) -> Any:
        """What a function of tensors gives.

        Args:
            kind: Names the function; under one name it does the same operations for all arguments of the same shapes.
            drawing: A context in which torch draws the numbers of this call, from the first one on.
            function: Of tensors, and of tuples of tensors.
            *arguments: Its arguments.

        Returns:
            What it returns.

        Raises:
            NotImplementedError: if a subclass does not say how.
        """
        raise NotImplementedError


class Traces(Calls[_Kind]):
    """The traces of one map."""

    def __init__(self, name: str) -> None:
        super().__init__(name, _Kind)
        self._lock = threading.Lock()
        self._functional = True  # whether operations in place are traced as others, so that equal ones can be shared

    def call(self, kind: Hashable, drawing: Drawing, function: Function, *arguments: Any) -> Any:
        """The same, replayed once it is trusted."""
        flat = list(tensors_in(arguments))
        known = self.known(kind, flat)
        trusted, failed = known.agreed >= TRIALS, ""  # asked before the replay, which another thread may exchange
        if trusted and (replay := known.replay) is not None:
            try:
                with drawing():
                    return owned(replay(*flat), flat)
            except RuntimeError as error:  # of torch: the function says what is wrong, or goes on
                failed = f"{error}".partition("\n")[0]
        with drawing():
            found = function(*arguments)
        if failed:
            self._give_up(known, f"a replay of its operations fails: {failed}")
        elif not known.hopeless and self._lock.acquire(blocking=False):
            try:
                self._learn(known, drawing, function, arguments, found)
            finally:
                self._lock.release()
        return found

    def _learn(
        self, known: _Kind, drawing: Drawing, function: Function, arguments: tuple[Any, ...], found: Any
    ) -> None:
        """Trace a function that is called often, and compare what a replay gives."""
        known.calls += 1
        if known.calls < PATIENCE or known.agreed >= TRIALS:  # another thread has learnt it meanwhile
            return
        try:
            if known.replay is None:
                with drawing():
                    known.replay = shortened(traced(function, self._functional, *arguments), arguments).forward
                known.functional = self._functional
            with drawing():
                again = known.replay(*tensors_in(arguments))
        except Exception as error:  # whatever it is: the function itself goes on
            kind = "" if isinstance(error, Refusal) else f"{type(error).__name__}: "
            self._give_up(known, f"{kind}{error}".partition("\n")[0])
            return
        if same(found, again):
            known.agreed += 1
        elif known.functional:  # torch has other kernels for some of them (GRU): from now on as they are
            self._functional, known.replay, known.agreed = False, None, 0
        else:
            self._give_up(known, "a replay of its operations gives other numbers")

    def _give_up(self, known: _Kind, reason: str) -> None:
        known.hopeless, known.replay, known.agreed = True, None, 0
        warnings.warn(
            f"{self.name} is not traced, and slower; its numbers are right: {reason}", UntracedWarning, stacklevel=5
        )


def owned(out: Any, flat: Sequence[Tensor]) -> Any:
    """A result, or several, of which none lies in the memory of the arguments."""
    if not isinstance(out, Tensor):
        return tuple(owned(each, flat) for each in out)
    place = out.untyped_storage().data_ptr()
    return out.clone() if any(place == each.untyped_storage().data_ptr() for each in flat) else out


def key(kind: Hashable, flat: Iterable[Tensor]) -> Hashable:
    """What calls of a kind have in common that do the same operations."""
    return (kind, *((each.shape, each.dtype) for each in flat))


def timeless(function: Function, position: int) -> bool:
    """Whether a plain function never looks at its argument of this position, so that it is the same at all of them."""
    function, position = getattr(function, "__func__", function), position + hasattr(function, "__func__")
    code = getattr(function, "__code__", None)
    return code is not None and position < code.co_argcount and not _loads(code, code.co_varnames[position])


@lru_cache(1024)
def _loads(code: CodeType, name: str) -> bool:
    """Whether code reads a variable, or hands it to functions within; some instructions name two."""
    return name in code.co_cellvars or any(
        name in (step.argval if isinstance(step.argval, tuple) else (step.argval,))
        for step in dis.get_instructions(code)
        if "LOAD_" in step.opname
    )
