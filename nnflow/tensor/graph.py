"""The operations that a call of a function of tensors makes: written down, and shortened to what the numbers need.

`traced` records them (`make_fx`), leaves out those that change nothing, and computes once what depends on constants
alone. `shortened` finds quicker ways to the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Interpreter, Node

from nnflow.internals import make_fx, tree_flatten, tree_leaves, tree_unflatten
from nnflow.names import Refusal

IDLE = (torch.ops.aten.detach.default, torch.ops.aten.alias.default, torch.ops.aten.clone.default)
WHOLE = (torch.int64, torch.int32)
Function = Callable[..., Any]


def tensors_in(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, in order, also of those that are tuples."""
    for each in arguments:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, tuple):
            yield from tensors_in(each)


def only_tensors(value: Any) -> bool:
    """Whether something is a tensor, or a tuple of tensors, of such tuples, or of nothing in their place."""
    return isinstance(value, Tensor) or (
        isinstance(value, tuple) and all(each is None or only_tensors(each) for each in value)
    )


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
    _give_copies(graph)
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


def _give_copies(graph: GraphModule) -> None:
    """A result that is a constant of the graph is given as a copy, which its caller may write into."""
    (end,) = graph.graph.find_nodes(op="output")

    def copied(node: Node) -> Node:
        if node.op != "get_attr":
            return node
        with graph.graph.inserting_before(end):
            return graph.graph.call_function(torch.ops.aten.clone.default, (node,))

    end.args = torch.fx.map_arg(end.args, copied)


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
