"""A function of tensors, traced once and replayed: the same operations, without the layers of Python above them.

The operations that a call makes are written down (`make_fx`), those that change nothing are left out, and what depends
on constants alone is computed once. The replay is compared, bit by bit, with the function itself at other arguments
before it is trusted; what differs, or cannot be traced, is called as it is, for good.
"""

from __future__ import annotations

import dis
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, MethodDescriptorType
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Interpreter, Node

from nnflow.internals import make_fx, tree_flatten, tree_leaves, tree_unflatten
from nnflow.names import Refusal

PATIENCE = 24  # calls of one kind before it is traced, which takes as long as some hundred small ones
TRIALS = 3  # calls at which a replay is compared before it is trusted
IDLE = (torch.ops.aten.detach.default, torch.ops.aten.alias.default, torch.ops.aten.clone.default)
WHOLE = (torch.int64, torch.int32)
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
    functional: bool = True  # whether operations in place are traced as others, so that equal ones can be shared
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

    def call(self, kind: Hashable, drawing: Drawing, function: Function, *arguments: Any) -> Any:
        """The same, replayed once it is trusted."""
        flat = list(tensors_in(arguments))
        known = self.known(kind, flat)
        replay, failed = known.replay, ""  # as it is now: another thread may give it up
        if replay is not None and known.agreed >= TRIALS:
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
                    known.replay = shortened(traced(function, known.functional, *arguments), arguments).forward
            with drawing():
                again = known.replay(*tensors_in(arguments))
        except Exception as error:  # whatever it is: the function itself goes on
            kind = "" if isinstance(error, Refusal) else f"{type(error).__name__}: "
            self._give_up(known, f"{kind}{error}".partition("\n")[0])
            return
        if same(found, again):
            known.agreed += 1
        elif known.functional:  # torch has other kernels for some of them (GRU): once more, as they are
            known.functional, known.replay, known.agreed = False, None, 0
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


def tensors_in(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, in order, also of those that are tuples."""
    for each in arguments:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, tuple):
            yield from tensors_in(each)


def same(one: Any, other: Any) -> bool:
    """Whether two results are the same to the bit; NaN is NaN."""
    pairs = list(zip(tensors_in((one,)), tensors_in((other,)), strict=True))
    alike = all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return alike and all(bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)


def traced(function: Function, functional: bool, *arguments: Any) -> GraphModule:
    """The operations of a call, as a graph of the tensors among its arguments."""
    flat, form = tree_flatten(arguments)

    def of_tensors(*tensors: Tensor) -> Any:
        left = iter(tensors)
        return function(*tree_unflatten([next(left) if isinstance(each, Tensor) else each for each in flat], form))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = make_fx(functionalize(of_tensors) if functional else of_tensors)(
            *(each for each in flat if isinstance(each, Tensor))
        )
    refuse_changing_sizes(graph)
    graph.graph.eliminate_dead_code()
    if not any(map(_is_mutable, graph.graph.nodes)):
        _leave_out_idle(graph)
        _share(graph)
        _fold(graph)
        graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def refuse_changing_sizes(graph: GraphModule) -> None:
    """Refuse operations whose results have other sizes for other numbers: a trace has those of the numbers it saw.

    Such a size may have become a number of Python's, `len(x[x > 0])`, and the operation be dead code: asked before that
    is left out. What is chosen from constants has one size.

    Args:
        graph: As it was traced.

    Raises:
        Refusal: for a graph with such an operation.
    """
    moving: set[Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or moving.intersection(node.all_input_nodes):
            moving.add(node)
        if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()) and moving.intersection(_sizing(node)):
            raise Refusal(f"the size of what {node.target} gives depends on the numbers it is called with")


def _sizing(node: Node) -> list[Node]:
    """On whose numbers the size of a result may depend: masks, but not whole indices."""
    if str(node.target) not in ("aten.index.Tensor", "aten.masked_select.default"):
        return node.all_input_nodes
    chosen = [each for each in tree_leaves(node.args[1]) if isinstance(each, Node)]
    known = {each: each.meta.get("val") for each in chosen}
    return [each for each, value in known.items() if not (isinstance(value, Tensor) and value.dtype in WHOLE)]


def _leave_out_idle(graph: GraphModule) -> None:
    """Without operations in place, copies and detached tensors are what they are made from."""
    for node in list(graph.graph.nodes):
        if node.target in IDLE and len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], Node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)


def _share(graph: GraphModule) -> None:
    """The same operation on the same arguments is done once."""
    first: dict[Hashable, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Hashable = ("constant", id(_constant(graph, str(node.target))))
        elif node.op == "call_function" and not _is_random(node):
            key = (node.target, _frozen(node.args), _frozen(node.kwargs))
        else:
            continue
        if key in first:
            node.replace_all_uses_with(first[key])
            graph.graph.erase_node(node)
        else:
            first[key] = node


def _fold(graph: GraphModule) -> None:
    """What depends on constants alone is computed once."""
    values: dict[Node, Any] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            values[node] = _constant(graph, str(node.target))
        elif node.op == "call_function" and node.all_input_nodes and not _is_random(node):
            if not values.keys() >= set(node.all_input_nodes):
                continue
            args, options = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **options)
    for count, (node, value) in enumerate(values.items()):
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in values for user in node.users):
            continue
        name = f"_folded{count}"
        graph.register_buffer(name, value)
        with graph.graph.inserting_before(node):
            held = graph.graph.get_attr(name)
        node.replace_all_uses_with(held)


class _Shorter(Interpreter):
    """Runs a graph once, and finds shorter ways to the same: torch's plain functions, and views that undo each other.

    An operation is called by torch's function of its name, which takes less time, unless that does not take the same
    arguments, or gives other numbers, shapes or strides. A view of views of a tensor that lies as one of these does is
    that one.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.lies: dict[Node, Hashable] = {}
        self.viewed: dict[Node, Node] = {}  # what a view is made from
        self.same: dict[Node, Node] = {}

    def run_node(self, n: Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor):
            self._look_at(n, found)
        direct = _plain(n)
        if direct is not None:
            args, options = self.fetch_args_kwargs_from_env(n)
            try:
                again = direct(*args, **options)
            except Exception:  # whatever it takes amiss
                return found
            one, other = _listed(found), _listed(again)
            if list(map(_lies, one)) == list(map(_lies, other)) and same(one, other):
                n.target = direct
        return found

    def _look_at(self, node: Node, value: Tensor) -> None:
        self.lies[node] = _lies(value)
        if getattr(node.target, "is_view", False) and isinstance(node.args[0], Node):
            self.viewed[node] = node.args[0]
        above = node
        while above in self.viewed:
            above = self.viewed[above]
            if self.lies.get(above) == self.lies[node]:
                self.same[node] = above


def shortened(graph: GraphModule, arguments: Iterable[Any]) -> GraphModule:
    """A graph of operations with shorter ways to the same numbers."""
    runner = _Shorter(graph)
    runner.run(*tensors_in(arguments))
    if not any(map(_is_mutable, graph.graph.nodes)):
        for node, other in runner.same.items():
            node.replace_all_uses_with(other)
        graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _lies(value: Any) -> Hashable:
    """How a tensor lies in its memory; anything else lies like nothing else."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return object()
    place = tuple(value.shape), value.stride(), value.storage_offset()
    return *place, value.dtype, value.is_conj(), value.is_neg()


def _listed(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, (list, tuple)) else (result,)


def _plain(node: Node) -> Function | None:
    """Torch's function, or method, of the name of one of its own operations; none for what draws or writes."""
    packet: Any = getattr(node.target, "overloadpacket", None)
    own = str(node.target).startswith("aten.")  # a stranger's may bear any name
    if packet is None or not own or _is_random(node) or _is_mutable(node):
        return None
    name = packet.__name__
    plain: Function | None = getattr(torch, name, None) or getattr(Tensor, name, None)
    return plain if isinstance(plain, (BuiltinFunctionType, MethodDescriptorType)) else None


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _is_mutable(node: Node) -> bool:
    schema: Any = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _constant(graph: GraphModule, name: str) -> Any:
    value: Any = graph
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _frozen(value: Any) -> Hashable:
    """Arguments of an operation as something to look up by; numbers that are equal and of other types are not alike."""
    if isinstance(value, dict):
        return tuple((key, _frozen(each)) for key, each in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return (type(value), repr(value) if isinstance(value, float) else value)
