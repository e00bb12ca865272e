"""Optimisers as maps: w' = w − η∇L(w) and its kin, on any loss.

The optimiser's memory is part of the state. Gradient descent has state w and parameter eta; heavy ball has state
(w, v), v' = βv + ∇L(w), w' = w − ηv', and parameters eta and beta. Written twice: for compiled gradients and for torch
losses.
(B. T. Polyak, USSR Comput. Math. Math. Phys. 4, 1 (1964), doi:10.1016/0041-5553(64)90137-5.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from nnflow.compiled import CompiledMap, Rule
from nnflow.map import Array, generator
from nnflow.names import unknown

if TYPE_CHECKING:
    from torch import Tensor

    from nnflow.tensor import Named, TensorMap

OPTIMISERS: dict[str, dict[str, float]] = {"gd": {"eta": 0.1}, "heavy_ball": {"eta": 0.1, "beta": 0.9}}


class Descent(NamedTuple):
    """The compiled functions of an optimiser on one loss."""

    rule: Rule
    frame_tangent: Rule
    hessian: Rule


def optimiser(name: str, /, **defaults: float) -> dict[str, float]:
    """The parameters of an optimiser with their defaults. Raises ValueError for an unknown optimiser or parameter."""
    if name not in OPTIMISERS:
        raise ValueError(unknown("optimizer", name, OPTIMISERS))
    for key in defaults:
        if key not in OPTIMISERS[name]:
            raise ValueError(unknown(f"parameter of {name}", key, OPTIMISERS[name]))
    return {**OPTIMISERS[name], **defaults}


def memory_names(name: str, weights: tuple[str, ...]) -> tuple[str, ...]:
    """The coordinates of an optimiser's memory, in order; none for gradient descent."""
    return () if name == "gd" else tuple(f"velocity.{weight}" for weight in weights)


def compiled_descent(gradient: Any, hessian_products: Any, size: int, name: str) -> Descent:
    """An optimiser on a compiled loss of `size` weights.

    `gradient(w, g)` writes ∇L into g; `hessian_products(w, V, out)` writes H V[j] into out[j], V being (k, size).
    """

    def hessian(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        hessian_products(x[:size], V, out)

    if name == "heavy_ball":
        return Descent(*_heavy_ball(gradient, hessian_products, size), hessian)

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        gradient(x, out)
        for i in range(size):
            out[i] = x[i] - p[0] * out[i]

    def frame_tangent(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        hessian_products(x, V, out)
        for j in range(V.shape[0]):
            for i in range(size):
                out[j, i] = V[j, i] - p[0] * out[j, i]

    return Descent(rule, frame_tangent, hessian)


def _heavy_ball(gradient: Any, hessian_products: Any, size: int) -> tuple[Rule, Rule]:
    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        gradient(x[:size], out[size:])
        for i in range(size):
            out[size + i] += p[1] * x[size + i]
            out[i] = x[i] - p[0] * out[size + i]

    def frame_tangent(x: Array, p: Array, t: int, V: Array, out: Array) -> None:
        products = np.empty((V.shape[0], size))
        hessian_products(x[:size], np.ascontiguousarray(V[:, :size]), products)
        for j in range(V.shape[0]):
            for i in range(size):
                out[j, size + i] = p[1] * V[j, size + i] + products[j, i]
                out[j, i] = V[j, i] - p[0] * out[j, size + i]

    return rule, frame_tangent


# -- on torch losses ---------------------------------------------------------------------------------------------


def tensor_descent(gradient: Callable[[Any], Any], name: str) -> Callable[[Any, Any, int], Any]:
    """The rule of an optimiser on torch tensors, from `gradient(w)`."""
    from torch import cat

    def gd(x: Tensor, p: Named, t: int) -> Tensor:
        step: Tensor = p["eta"] * gradient(x)
        return x - step

    def heavy_ball(x: Tensor, p: Named, t: int) -> Tensor:
        w, velocity = x.chunk(2)
        velocity = p["beta"] * velocity + gradient(w)
        return cat([w - p["eta"] * velocity, velocity])

    return {"gd": gd, "heavy_ball": heavy_ball}[name]


def gradient_map(
    loss: Callable[[Tensor], Tensor],
    dim: int,
    optimizer: str = "gd",
    *,
    name: str | None = None,
    device: Any = None,
    dtype: Any = None,
    **defaults: float,
) -> TensorMap:
    """Gradient descent on a loss as a map: `loss` takes a torch tensor ``(dim,)`` and returns a scalar tensor.

    `optimizer`: "gd" (state w; parameter eta) or "heavy_ball" (state (w, velocity); eta, beta); `defaults` set the
    parameters' defaults. Weights are drawn N(0, 1), memory 0. Observables: loss, gradient_norm (L2). The tangent is
    v − ηHv by forward over reverse differentiation.

    Raises ValueError for an unknown optimizer or parameter, a dim below 1, or a loss that fails or does not return a
    finite scalar at a drawn state.

    >>> bowl = gradient_map(lambda w: (w * w).sum(), dim=2, eta=0.25)  # w' = w - 0.25 * 2w
    >>> bowl.advance(bowl.native([[1.0, 2.0]]), np.array([[0.25]]), 0, 1).states.tolist()
    [[0.5, 1.0]]
    """
    import torch
    from torch.func import grad

    from nnflow.tensor import TensorMap

    def weights(x: Tensor) -> Tensor:
        return x[:dim]

    if not callable(loss) or int(dim) != dim or dim < 1:
        raise ValueError(f"loss = {loss!r}, dim = {dim!r}: give a function of a tensor (dim,), and dim >= 1")
    gradient = grad(loss)
    parameters = optimiser(optimizer, **defaults)
    names = tuple(f"w{i}" for i in range(dim)) if dim > 1 else ("w",)
    memory = memory_names(optimizer, names)
    map = TensorMap(
        tensor_descent(gradient, optimizer),
        gradient=gradient,
        device=device,
        dtype=dtype,
        dim=dim + len(memory),
        name=name or getattr(loss, "__name__", "loss"),
        parameters=parameters,
        coordinates=(*names, *memory),
        initial=normal_weights(dim, len(memory)),
        memory=len(memory),
        structure={"optimizer": optimizer},
        observables={
            "loss": lambda x, p, t: loss(weights(x)),
            "gradient_norm": lambda x, p, t: torch.linalg.vector_norm(gradient(weights(x))),
        },
    )
    try:
        value = loss(weights(map.native(map.initial_states(1, 0))[0]))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the loss fails on a tensor of shape ({dim},): {reason}") from error
    if not isinstance(value, torch.Tensor) or value.shape != () or not torch.isfinite(value):
        raise ValueError(
            f"the loss returned {described(value)} at a drawn state: it must return a finite scalar tensor"
        )
    return map


def described(value: Any) -> str:
    """What a loss returned, in a few words: a number, or the shape of a tensor."""
    shape = tuple(getattr(value, "shape", ()))
    return f"a tensor of shape {shape}" if shape else repr(value)


def normal_weights(size: int, memory: int) -> Callable[[int, int], Array]:
    """Initial states: weights N(0, 1), optimiser memory 0."""

    def draw(n: int, seed: int) -> Array:
        weights = generator(seed, "states").standard_normal((n, size))
        return np.hstack([weights, np.zeros((n, memory))])

    return draw


# -- named losses of one weight ----------------------------------------------------------------------------------


@njit
def _cubic_gradient(w: Array, g: Array) -> None:
    g[0] = w[0] - w[0] * w[0]


@njit
def _cubic_hessian(w: Array, V: Array, out: Array) -> None:
    for j in range(V.shape[0]):
        out[j, 0] = (1.0 - 2.0 * w[0]) * V[j, 0]


def _cubic_loss(x: Array, p: Array, t: int) -> float:
    return 0.5 * float(x[0]) ** 2 - float(x[0]) ** 3 / 3.0


@njit
def _well_gradient(w: Array, g: Array) -> None:
    g[0] = w[0] * (w[0] * w[0] - 1.0)


@njit
def _well_hessian(w: Array, V: Array, out: Array) -> None:
    for j in range(V.shape[0]):
        out[j, 0] = (3.0 * w[0] * w[0] - 1.0) * V[j, 0]


def _well_loss(x: Array, p: Array, t: int) -> float:
    return 0.25 * (float(x[0]) ** 2 - 1.0) ** 2


def cubic_descent(optimizer: str = "heavy_ball", box: Any = None, **parameters: float) -> CompiledMap:
    """Descent on L = w²/2 − w³/3, which is a classic map in disguise.

    With plain gradient descent (`optimizer="gd"`, or beta = 0) it is the logistic map with r = 1 + eta, by
    x = eta (1 − w)/(1 + eta); with heavy ball (the default; state (w, velocity)) the Hénon map with b = −beta and
    a = (eta² − (1 + beta)²)/4.
    """
    functions = (_cubic_gradient, _cubic_hessian, _cubic_loss)
    return _one_weight(
        "cubic_descent",
        functions,
        optimizer,
        box if box is not None else ([0.1], [0.5]),
        {"eta": 2.5, "beta": 0.0},
        {"eta": (0.1, 3.0), "beta": (-0.3, 0.9)},
        "L''(0) = 1: first period doubling at eta = 2 (1 + beta)",
    ).with_parameters(**parameters)


def double_well_descent(optimizer: str = "heavy_ball", box: Any = None, **parameters: float) -> CompiledMap:
    """Descent on the double well L = (w² − 1)²/4; with beta = 0, u = √eta w obeys u' = (1 + eta) u − u³.

    The minima at ±1 have L'' = 2: first period doubling at eta = 1 + beta.
    """
    functions = (_well_gradient, _well_hessian, _well_loss)
    return _one_weight(
        "double_well_descent",
        functions,
        optimizer,
        box if box is not None else ([0.2], [0.9]),
        {"eta": 1.5, "beta": 0.0},
        {"eta": (0.05, 2.0), "beta": (-0.5, 0.9)},
        "L''(1) = 2: first period doubling at eta = 1 + beta",
    ).with_parameters(**parameters)


def _one_weight(
    name: str,
    functions: tuple[Any, Any, Any],
    optimizer: str,
    box: Any,
    defaults: dict[str, float],
    ranges: dict[str, tuple[float, float]],
    source: str,
) -> CompiledMap:
    gradient, hessian, loss = functions
    known = optimiser(optimizer)
    memory = memory_names(optimizer, ("w",))
    low, high = (np.ravel(side).tolist() for side in box)
    padding = [0.0] * (1 + len(memory) - len(low))
    rule, frame_tangent, curvature = compiled_descent(gradient, hessian, 1, optimizer)
    return CompiledMap(
        rule,
        None,
        frame_tangent,
        curvature,
        name=name,
        dim=1 + len(memory),
        parameters={key: defaults[key] for key in known},
        coordinates=("w", *memory),
        observables={"loss": loss},
        box=(low + padding, high + padding),
        ranges={key: ranges[key] for key in known},
        memory=len(memory),
        structure={"optimizer": optimizer},
        source=source,
    )
