"""Descent on losses of one weight, compiled: two landscapes in which training is a classic map in disguise."""

from __future__ import annotations

from typing import Any

from nnflow.compiled import CompiledMap
from nnflow.compiled.ways import kernel
from nnflow.names import Refusal, shown
from nnflow.settings import numbers
from nnflow.systems.optimisers.compiled import compiled_descent
from nnflow.systems.optimisers.stability import Descent
from nnflow.systems.optimisers.table import is_repeating, limits_of, memory_names, optimiser
from nnflow.typing import Array


class CompiledDescent(CompiledMap, Descent):
    """An optimizer on a compiled loss."""


@kernel
def _cubic_gradient(w: Array, t: int, c: Any, g: Array) -> None:
    g[0] = w[0] - w[0] * w[0]


@kernel
def _cubic_products(w: Array, t: int, c: Any, g: Array, V: Array, out: Array) -> None:
    g[0] = w[0] - w[0] * w[0]
    for j in range(V.shape[0]):
        out[j, 0] = (1.0 - 2.0 * w[0]) * V[j, 0]


def _cubic_loss(x: Array, p: Array, t: int, c: Any) -> float:
    return 0.5 * float(x[0]) ** 2 - float(x[0]) ** 3 / 3.0


@kernel
def _well_gradient(w: Array, t: int, c: Any, g: Array) -> None:
    g[0] = w[0] * (w[0] * w[0] - 1.0)


@kernel
def _well_products(w: Array, t: int, c: Any, g: Array, V: Array, out: Array) -> None:
    g[0] = w[0] * (w[0] * w[0] - 1.0)
    for j in range(V.shape[0]):
        out[j, 0] = (3.0 * w[0] * w[0] - 1.0) * V[j, 0]


def _well_loss(x: Array, p: Array, t: int, c: Any) -> float:
    return 0.25 * (float(x[0]) ** 2 - 1.0) ** 2


def cubic_descent(optimizer: str = "heavy_ball", box: Any = None, **parameters: float) -> CompiledMap:
    """Descent on L = w²/2 − w³/3, which is a classic map in disguise.

    With plain gradient descent (`optimizer="gd"`, or beta = 0) it is the logistic map with r = 1 + eta, by x = eta (1 −
    w)/(1 + eta); with heavy ball (the default; state (w, velocity)) the Hénon map with b = −beta and a = (eta² − (1 +
    beta)²)/4.

    Args:
        optimizer: See `nnflow.systems.optimisers`.
        box: (low, high) of the initial w, each a list (default: 0.1 to 0.5; memory 0).
        **parameters: Parameter → its default (eta: 2.5, beta: 0).

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer or parameter, or a box of another shape.
    """
    functions = (_cubic_gradient, _cubic_products, _cubic_loss)
    return _one_weight(
        "cubic_descent",
        functions,
        optimizer,
        box if box is not None else ([0.1], [0.5]),
        {"eta": 2.5, "beta": 0.0},
        {"eta": (0.1, 3.0), "beta": (-0.3, 0.9)},
        "L''(0) = 1: first period doubling at eta = 2 (1 + beta)",
        parameters,
    )


def double_well_descent(optimizer: str = "heavy_ball", box: Any = None, **parameters: float) -> CompiledMap:
    """Descent on the double well L = (w² − 1)²/4; with beta = 0, u = √eta w obeys u' = (1 + eta) u − u³.

    The minima at ±1 have L'' = 2: first period doubling at eta = 1 + beta.

    Args:
        optimizer: See `nnflow.systems.optimisers`.
        box: (low, high) of the initial w, each a list (default: 0.2 to 0.9; memory 0).
        **parameters: Parameter → its default (eta: 1.5, beta: 0).

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for an unknown optimizer or parameter, or a box of another shape.
    """
    functions = (_well_gradient, _well_products, _well_loss)
    return _one_weight(
        "double_well_descent",
        functions,
        optimizer,
        box if box is not None else ([0.2], [0.9]),
        {"eta": 1.5, "beta": 0.0},
        {"eta": (0.05, 2.0), "beta": (-0.5, 0.9)},
        "L''(1) = 2: first period doubling at eta = 1 + beta",
        parameters,
    )


def _one_weight(
    name: str,
    functions: tuple[Any, Any, Any],
    optimizer: str,
    box: Any,
    defaults: dict[str, float],
    ranges: dict[str, tuple[float, float]],
    source: str,
    given: dict[str, float],
) -> CompiledDescent:
    gradient, products, loss = functions
    known = optimiser(optimizer, {}, compiled=True)
    known = optimiser(optimizer, {key: defaults.get(key, known[key]) for key in known} | given, compiled=True)
    memory = memory_names(optimizer, ("w",))
    sides = numbers("box", box)
    if sides.ndim != 2 or len(sides) != 2:
        raise Refusal(f"box = {shown(box)}: give (low, high), each a number for each component")
    low, high = sides.tolist()
    padding = [0.0] * (1 + len(memory) - len(low))
    return CompiledDescent(
        *compiled_descent(gradient, products, 1, optimizer, known),
        constants=(),
        name=name,
        dim=1 + len(memory),
        parameters=known,
        limits=limits_of(known),
        repeats=is_repeating(optimizer, None),
        coordinates=("w", *memory),
        observables={"loss": loss},
        box=(low + padding, high + padding),
        ranges={key: ranges[key] for key in known if key in ranges},
        memory=len(memory),
        structure={"optimizer": optimizer},
        source=source if optimizer in ("gd", "heavy_ball") else "",
        optimizer=optimizer,
    )
