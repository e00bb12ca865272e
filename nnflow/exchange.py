"""Exchange with other toolkits: a map as plain functions of (u, parameters), and such functions as a map.

Outwards, `numba_mapping` for toolkits that compile with numba, `numpy_mapping` and `torch_mapping` for everything else;
inwards, `from_mapping`. Throughout, `parameters` holds the parameters in the map's order, and J[i, j] = ∂u'_i/∂u_j.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import jit

from nnflow.compiled import CompiledMap, Functions, ways
from nnflow.compiled.kernels import frame_tangent as tangent_of
from nnflow.compiled.kernels import once, writing
from nnflow.compiled.loops import Constants, Shape
from nnflow.frozen import fingerprint
from nnflow.labels import by_label, in_order
from nnflow.machine import loop
from nnflow.map import Map
from nnflow.names import Refusal, WrongKind, unknown
from nnflow.settings import numbers, whole
from nnflow.typing import Array

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.schedules import Schedule


class NumbaMapping(NamedTuple):
    """A map as two functions compiled by numba: `mapping(u, parameters)` and `jacobian(u, parameters, *args)`."""

    mapping: Callable[[Array, Array], Array]
    jacobian: Callable[..., Array]


def numba_mapping(map: Map, clock: bool = False) -> NumbaMapping:
    """A compiled map as functions for numba-based toolkits, to call from Python or from other compiled code.

    J is exact where the map has a tangent (`map.exact_tangent`), else by central differences.

    Args:
        map: A compiled map.
        clock: Whether u has one more component, the last: the step index t, which grows by 1, so that a map whose rule
            depends on t becomes autonomous. A step index has no derivative: the last row and column of J are those of
            the identity, and the spectrum has one more exponent, 0. Without it the rule is always called with t = 0.

    Returns:
        `mapping(u, parameters)` → u' ``(dim,)``, a new array, and `jacobian(u, parameters, *args)` → J ``(dim, dim)``,
        further arguments ignored; all float64, to which other real numbers are converted. These compiled functions
        raise ValueError for a u or parameters of another shape.

    Raises:
        WrongKind: (a TypeError) for a map that is not compiled.
        Refusal: (a ValueError) for one that is not autonomous, without `clock`: whose fields say so, or whose rule or
            tangent looks at t without a word of its fields (`repeats`).

    >>> import nnflow
    >>> mapping, jacobian = numba_mapping(nnflow.maps["henon"]())
    >>> jacobian(np.array([0.5, 0.0]), np.array([1.4, 0.3])).tolist()
    [[-1.4, 1.0], [0.3, 0.0]]
    """
    if not isinstance(map, CompiledMap):
        raise WrongKind(f"{map!r:.80} is not a CompiledMap, which numba could call: use nnflow.numpy_mapping")
    if not (clock or map.autonomous):
        raise Refusal(
            f"{map.name} depends on the step index t: call numba_mapping(map, clock=True), "
            "which puts t into the state as its last component"
        )
    if map.constants is None:
        return _mapping_once(map.functions, map.tangent_shape, clock, map.check, map.name, ())
    schedule = getattr(map, "schedule", None)
    return _mapping(map.functions, map.tangent_shape, clock, map.check, map.name, map.constants, schedule)


def _handing(constants: Constants, schedule: Schedule | None) -> Callable[[int], Constants]:
    """Build what tells what the functions get behind t. Raises Refusal for a schedule that numba cannot compile."""
    if schedule is None:

        @ways.part
        def handed(t: int) -> Constants:
            return constants

        return handed
    from nnflow.schedules import compiled

    factor = compiled(schedule)

    @ways.rule
    def handed_at(t: int) -> Constants:
        return constants + (t, np.array([factor(t)]))  # noqa: RUF005 (numba knows no other way)

    return handed_at


def _mapping(
    functions: Functions, shape: Shape, clock: bool, checked: bool, name: str, c: Constants,
    schedule: Schedule | None = None,
) -> NumbaMapping:  # fmt: skip
    """Both functions, compiled once a machine, but for `jacobian` itself, which takes any further arguments."""
    mark = fingerprint(functions, shape, clock, checked, name, c, schedule)
    dim, parameters, handed = shape.dim, shape.parameters, _handing(c, schedule)
    step = writing(functions.rule, shape, checked, 1)
    frame_tangent = tangent_of(functions, shape, checked)
    sizes = f"{name} takes u of shape ({dim + clock},) and parameters of shape ({parameters},)"

    @ways.rule
    def parts(u: Array, p: Array) -> tuple[Array, Array, int]:
        """The state, the parameters and the step index, as the rule takes them: whatever numbers are given, float64."""
        a, b = np.asarray(u, np.float64), np.asarray(p, np.float64)
        v, q = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
        if a.ndim != 1 or b.ndim != 1 or v.size != dim + clock or q.size != parameters:
            raise ValueError(sizes)
        t = int(np.rint(v[dim])) if clock else 0  # finite differences in u may shift the clock a little
        return v, q, t

    @loop(mark, _nrt=True)
    def mapping(u: Array, parameters: Array) -> Array:
        """The next state."""
        v, p, t = parts(u, parameters)
        out = np.empty(dim + clock)
        step(v[:dim], p, t, handed(t), out[:dim])
        out[dim:] = v[dim:] + 1.0
        return out

    @loop(mark, _nrt=True)
    def matrix(u: Array, parameters: Array) -> Array:
        """The Jacobian: the rows of frame_tangent(identity) are its columns."""
        v, p, t = parts(u, parameters)
        columns = np.empty((dim, dim))
        frame_tangent(v[:dim], p, t, handed(t), np.eye(dim), columns)
        out = np.eye(dim + clock)
        out[:dim, :dim] = columns.T
        return out

    @jit(nogil=True)
    def jacobian(u: Array, parameters: Array, *args: Any) -> Array:
        """The Jacobian, whatever else a toolkit passes."""
        return matrix(u, parameters)

    return NumbaMapping(mapping, jacobian)


_mapping_once = once(_mapping)


def numpy_mapping(map: Map) -> Callable[..., Array]:
    """Any map as a numpy function `f(u, parameters=None, t=0, **named)` → u', ``(dim,)`` or ``(n, dim)`` as `u`.

    Args:
        map: The map.

    Returns:
        The function f. Its `parameters` is an array ``(parameter,)`` or a mapping by name, as is a pandas Series with
        names; `named` are single parameters; what is not given has the map's default. Columns of u that have the
        coordinates' names are told by them. Results are float64; a state that leaves the finite numbers
        is NaN in all its components. f raises ValueError for a wrong shape, other labels, a parameter that is
        unknown, given twice or beyond its limits, and a t that is no whole number from 0 on.

    >>> import nnflow
    >>> f = numpy_mapping(nnflow.maps["henon"]())
    >>> f([0.5, 0.0], b=0.2).tolist()
    [0.65, 0.1]
    """

    def mapping(
        u: npt.ArrayLike, parameters: npt.ArrayLike | Mapping[str, float] | None = None, t: int = 0, **named: float
    ) -> Array:
        x = numbers("u", in_order(u, map.coordinates, "the components of u"))
        _check_states(map, x.shape)
        chosen = map.with_parameters(**_by_name(map, parameters, named)).parameters
        rows = x.reshape(-1, map.dim)
        p = np.tile(list(chosen.values()), (len(rows), 1)).astype(np.float64)
        return map.to_numpy(map.advance(map.native(rows), p, whole("t", t, 0), 1).states).reshape(x.shape)

    return mapping


def torch_mapping(map: Map) -> Callable[..., Tensor]:
    """A tensor map as a torch function `f(u, parameters=None, t=0, **named)` → u', ``(dim,)`` or ``(n, dim)`` as `u`.

    Args:
        map: A map on tensors.

    Returns:
        The function f. Its arguments are those of `numpy_mapping`, numbers or tensors. torch differentiates it with
        respect to u and parameters; the result has the map's dtype and is on its device. f raises ValueError as that of
        `numpy_mapping`, but knows no limits.

    Raises:
        WrongKind: (a TypeError) for a map that is not on tensors, for torch has no derivative of compiled code.

    >>> import torch, nnflow
    >>> bowl = nnflow.gradient_map(lambda w: (w * w).sum(), 2, backend="tensor", eta=0.25)
    >>> f = torch_mapping(bowl)  # w' = (1 − 2 eta) w
    >>> torch.func.jacrev(f)(torch.ones(2)).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    import torch
    from torch.func import vmap

    from nnflow.tensor import TensorMap

    if not isinstance(map, TensorMap):
        raise WrongKind(
            f"{map!r:.80} is not a TensorMap, and torch cannot differentiate anything else: use nnflow.numpy_mapping, "
            'or make the map on tensors, as training_map(…, backend="tensor") does'
        )

    def mapping(u: Any, parameters: Any = None, t: int = 0, **named: Any) -> Tensor:
        own = isinstance(u, torch.Tensor) and not u.is_complex()
        x = map.native(u if own else numbers("u", in_order(u, map.coordinates, "the components of u")))
        _check_states(map, tuple(x.shape))
        given = {**map.parameters, **_by_name(map, parameters, named)}
        p = torch.stack([map.native(value) for value in given.values()]) if given else map.native([])
        now = map.moment(whole("t", t, 0))
        rows: Tensor = vmap(lambda x: map._one(now, x, p))(x.reshape(-1, map.dim))
        return rows.reshape(x.shape)

    return mapping


def _check_states(map: Map, shape: tuple[int, ...]) -> None:
    if len(shape) not in (1, 2) or shape[-1] != map.dim:
        raise Refusal(f"u of shape {shape}: {map.name} takes one state ({map.dim},) or several (n, {map.dim})")


def _by_name(map: Map, parameters: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """The given parameters by name, from an array, or from a mapping and keywords."""
    parameters = by_label(parameters)
    if parameters is None or isinstance(parameters, Mapping):
        if twice := [name for name in named if name in (parameters or {})]:
            raise Refusal(f"{', '.join(twice)}: given in parameters and by name; give one of them")
        given = {**(parameters or {}), **named}
        for name in given:
            if name not in map.parameters:
                raise Refusal(unknown(f"parameter of {map.name}", name, map.parameters, map.structure_hint(name)))
        return given
    shape, wanted = tuple(np.shape(parameters)), (len(map.parameters),)
    if named or shape != wanted:
        also = f" and {', '.join(named)} by name" if named else ""
        raise Refusal(
            f"parameters of shape {shape}{also}: give an array {wanted} of {', '.join(map.parameters)}, or some by name"
        )
    return dict(zip(map.parameters, parameters, strict=True))


def from_mapping(
    mapping: Callable[[Array, Array], Any],
    jacobian: Callable[..., Any] | None = None,
    *,
    dim: int,
    parameters: Mapping[str, float] | None = None,
    check: bool = True,
    **settings: Any,
) -> CompiledMap:
    """A compiled map from a function `mapping(u, parameters)` → u' ``(dim,)``, in plain Python or compiled by numba.

    Args:
        mapping: `mapping(u, parameters)` → u' ``(dim,)``.
        jacobian: `jacobian(u, parameters)` → J ``(dim, dim)``; without it, central differences.
        dim: How many components u has.
        parameters: Name → default, in the order of the array that both functions get.
        check: Whether both are tried once, as plain Python, on a drawn state; False leaves that out, as for
            `CompiledMap`.
        **settings: `Map`'s fields: name, coordinates, periods, box, ….

    Returns:
        The map.

    Raises:
        WrongKind: (a TypeError) for what is no function.
        Refusal: (a ValueError) if a function fails at the drawn state or returns another shape.
        CompilationError: (a ValueError) at first use, for one that numba cannot compile.

    >>> def henon(u, parameters):
    ...     return np.array([1.0 - parameters[0] * u[0] ** 2 + u[1], parameters[1] * u[0]])
    >>> map = from_mapping(henon, dim=2, parameters={"a": 1.4, "b": 0.3})
    >>> map.step(np.array([[0.5, 0.0]]), np.array([[1.4, 0.3]]), 0).tolist()
    [[0.65, 0.15]]
    """
    for kind, function in {"mapping": mapping, "jacobian": jacobian}.items():
        if not callable(function) and (function is not None or kind == "mapping"):
            raise WrongKind(f"{kind} = {function!r:.80}: give a function of (u, parameters)")
    image = _dispatcher(mapping)

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        y = image(x, p)
        if len(y) != dim:
            raise ValueError("the mapping returns another size")
        for i in range(dim):
            out[i] = y[i]

    frame_tangent = None if jacobian is None else _by_matrix(_dispatcher(jacobian), dim)
    settings = {"name": getattr(mapping, "__name__", "mapping"), **settings}
    if check:
        drawn = Map(dim=dim, parameters=parameters or {}, **settings)
        _try(drawn, "mapping", mapping, (dim,))
        if jacobian is not None:
            _try(drawn, "jacobian", jacobian, (dim, dim))
    settings |= {"dim": dim, "parameters": parameters or {}, "check": check}
    return CompiledMap(rule, frame_tangent=frame_tangent, **settings)


def _dispatcher(function: Any) -> Any:
    """Compiled such that a division by zero gives inf, as in every rule."""
    options = getattr(function, "targetoptions", {})
    if options.get("error_model") == "numpy":
        return function
    return jit(**{**options, "error_model": "numpy"})(getattr(function, "py_func", function))


def _by_matrix(jacobian: Any, dim: int) -> Callable[..., None]:
    """The tangent map on all rows of V, from one evaluation of the Jacobian."""

    def frame_tangent(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        J = jacobian(x, p)
        if J.shape != (dim, dim):
            raise ValueError("the jacobian returns another shape")
        for k in range(V.shape[0]):
            for i in range(dim):
                total = 0.0
                for j in range(dim):
                    total += J[i, j] * V[k, j]
                out[k, i] = total

    return frame_tangent


def _try(map: Map, kind: str, function: Any, shape: tuple[int, ...]) -> None:
    """Call a function once, uncompiled: compiled code does not notice an index out of bounds."""
    u, parameters = map.initial_states(1, 0)[0], np.array(list(map.parameters.values()))
    where = f"at u = {np.array2string(u, threshold=8)}, parameters = {parameters}"
    try:
        with np.errstate(all="ignore"):
            found = np.shape(getattr(function, "py_func", function)(u, parameters))
    except Exception as error:
        raise Refusal(f"the {kind} of {map.name!r} fails {where}: {type(error).__name__}: {error}") from error
    if found != shape:
        raise Refusal(f"the {kind} of {map.name!r} returns shape {found} {where}: for dim = {map.dim} give {shape}")
