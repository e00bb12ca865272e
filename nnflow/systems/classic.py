"""The classic maps, each with its exact tangent: the systems that every method is first tried on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nnflow.compiled import CompiledMap
from nnflow.names import Refusal
from nnflow.room import room
from nnflow.settings import whole
from nnflow.typing import Array

TURN = 2 * math.pi
ULP = 2.0**-53  # spacing of floats just below 1
FILL = 1e6 / math.e  # no simple fraction: far digits of y become near ones


def logistic(box: Any = None, **parameters: float) -> CompiledMap:
    """x' = r x (1 − x), 0 ≤ r ≤ 4.

    At r = 4 every orbit in floating point falls on 0 sooner or later (after 10⁵ to 10⁷ steps), since some x have the
    image 1. At the default r = 3.9999 none has.

    Args:
        box: (low, high) of the initial states, each a list (default: 0.01 to 0.99).
        **parameters: Parameter → its default.

    Returns:
        The map.

    Source:
        R. M. May, Nature 261, 459 (1976), doi:10.1038/261459a0.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = p[0] * x[0] * (1.0 - x[0])

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = p[0] * (1.0 - 2.0 * x[0]) * v[0]

    return CompiledMap(
        rule,
        tangent,
        name="logistic",
        parameters={"r": 3.9999},
        coordinates=("x",),
        ranges={"r": (2.5, 4.0)},
        box=box if box is not None else ([0.01], [0.99]),
        source="R. M. May, Nature 261, 459 (1976), doi:10.1038/261459a0",
    ).with_parameters(**parameters)


def henon(box: Any = None, **parameters: float) -> CompiledMap:
    """x' = 1 − a x² + y, y' = b x.

    Args:
        box: (low, high) of the initial states, each a list (default: −0.1 to 0.1).
        **parameters: Parameter → its default (a: 1.4, b: 0.3).

    Returns:
        The map.

    Source:
        M. Hénon, Commun. Math. Phys. 50, 69 (1976), doi:10.1007/BF01608556.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 1.0 - p[0] * x[0] * x[0] + x[1]
        out[1] = p[1] * x[0]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = -2.0 * p[0] * x[0] * v[0] + v[1]
        out[1] = p[1] * v[0]

    return CompiledMap(
        rule,
        tangent,
        dim=2,
        name="henon",
        parameters={"a": 1.4, "b": 0.3},
        coordinates=("x", "y"),
        ranges={"a": (0.0, 1.42), "b": (-0.3, 0.3)},
        box=box if box is not None else ([-0.1, -0.1], [0.1, 0.1]),
        source="M. Hénon, Commun. Math. Phys. 50, 69 (1976), doi:10.1007/BF01608556",
    ).with_parameters(**parameters)


def tent(box: Any = None, **parameters: float) -> CompiledMap:
    """x' = mu min(x, 1 − x), 0 ≤ mu ≤ 2; exponent ln mu.

    At mu = 2 binary floats collapse to 0 after about 55 steps, so the default is 1.9999.

    Args:
        box: (low, high) of the initial states, each a list (default: 0.01 to 0.99).
        **parameters: Parameter → its default.

    Returns:
        The map.

    Source:
        B. Derrida, A. Gervois, Y. Pomeau, J. Phys. A 12, 269 (1979), doi:10.1088/0305-4470/12/2/017.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = p[0] * x[0] if x[0] < 0.5 else p[0] * (1.0 - x[0])

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = p[0] * v[0] if x[0] < 0.5 else -p[0] * v[0]

    return CompiledMap(
        rule,
        tangent,
        name="tent",
        parameters={"mu": 1.9999},
        coordinates=("x",),
        ranges={"mu": (1.0, 2.0)},
        box=box if box is not None else ([0.01], [0.99]),
        source="B. Derrida, A. Gervois, Y. Pomeau, J. Phys. A 12, 269 (1979), doi:10.1088/0305-4470/12/2/017",
    ).with_parameters(**parameters)


def standard(box: Any = None, **parameters: float) -> CompiledMap:
    """p' = p + k sin θ, θ' = θ + p' (both mod 2π): Chirikov's standard map.

    Args:
        box: (low, high) of the initial states (θ, p), each a list (default: 0 to 2π).
        **parameters: Parameter → its default (k: 1).

    Returns:
        The map.

    Source:
        B. V. Chirikov, Phys. Rep. 52, 263 (1979), doi:10.1016/0370-1573(79)90023-1.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[1] = (x[1] + p[0] * math.sin(x[0])) % TURN
        out[0] = (x[0] + out[1]) % TURN

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[1] = v[1] + p[0] * math.cos(x[0]) * v[0]
        out[0] = v[0] + out[1]

    return CompiledMap(
        rule,
        tangent,
        dim=2,
        name="standard",
        parameters={"k": 1.0},
        coordinates=("theta", "p"),
        periods={"theta": TURN, "p": TURN},
        ranges={"k": (0.0, 5.0)},
        box=box if box is not None else ([0.0, 0.0], [TURN, TURN]),
        source="B. V. Chirikov, Phys. Rep. 52, 263 (1979), doi:10.1016/0370-1573(79)90023-1",
    ).with_parameters(**parameters)


def cat(box: Any = None, **parameters: float) -> CompiledMap:
    """Arnold's cat map x' = x + y, y' = x + 2y (mod 1); exponents ± ln((3 + √5)/2).

    Args:
        box: (low, high) of the initial states, each a list (default: 0 to 1).
        **parameters: None exist.

    Returns:
        The map.

    Source:
        V. I. Arnold, A. Avez, Ergodic Problems of Classical Mechanics (1968).
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = (x[0] + x[1]) % 1.0
        out[1] = (x[0] + 2.0 * x[1]) % 1.0

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = v[0] + v[1]
        out[1] = v[0] + 2.0 * v[1]

    return CompiledMap(
        rule,
        tangent,
        dim=2,
        name="cat",
        coordinates=("x", "y"),
        periods={"x": 1.0, "y": 1.0},
        box=box if box is not None else ([0.0, 0.0], [1.0, 1.0]),
        source="V. I. Arnold, A. Avez, Ergodic Problems of Classical Mechanics (1968)",
    ).with_parameters(**parameters)


def baker(box: Any = None, **parameters: float) -> CompiledMap:
    """The symmetric baker's map: x' = 2x mod 1, y' = (y + ⌊2x⌋)/2; exponents ± ln 2.

    Doubling shifts the binary digits of x out, and in floating point x would be 0 after about 55 steps. So the digit
    that comes in at the end is taken from the digits of y: a change of x by less than 1.2e-16.

    Args:
        box: (low, high) of the initial states, each a list (default: 0 to 1).
        **parameters: None exist.

    Returns:
        The map.

    Source:
        E. Hopf, Ergodentheorie (1937), doi:10.1007/978-3-642-86630-2.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        half = 0.0 if x[0] < 0.5 else 1.0
        out[0] = 2.0 * x[0] - half + (ULP if FILL * x[1] % 1.0 < 0.5 else 0.0)
        out[1] = 0.5 * (x[1] + half)

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = 2.0 * v[0]
        out[1] = 0.5 * v[1]

    return CompiledMap(
        rule,
        tangent,
        dim=2,
        name="baker",
        coordinates=("x", "y"),
        box=box if box is not None else ([0.0, 0.0], [1.0, 1.0]),
        source="E. Hopf, Ergodentheorie (1937), doi:10.1007/978-3-642-86630-2",
    ).with_parameters(**parameters)


def ikeda(box: Any = None, **parameters: float) -> CompiledMap:
    """z' = 1 + mu z exp(iθ), θ = 0.4 − 6/(1 + |z|²), z = x + iy.

    Args:
        box: (low, high) of the initial states (x, y), each a list (default: 0 to 0.2, −0.1 to 0.1).
        **parameters: Parameter → its default (mu: 0.9).

    Returns:
        The map.

    Source:
        K. Ikeda, Opt. Commun. 30, 257 (1979), doi:10.1016/0030-4018(79)90090-7.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        theta = 0.4 - 6.0 / (1.0 + x[0] * x[0] + x[1] * x[1])
        c, s = math.cos(theta), math.sin(theta)
        out[0] = 1.0 + p[0] * (x[0] * c - x[1] * s)
        out[1] = p[0] * (x[0] * s + x[1] * c)

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        q = 1.0 + x[0] * x[0] + x[1] * x[1]
        theta = 0.4 - 6.0 / q
        turn = 12.0 * (x[0] * v[0] + x[1] * v[1]) / (q * q)
        c, s = math.cos(theta), math.sin(theta)
        out[0] = p[0] * (v[0] * c - v[1] * s - (x[0] * s + x[1] * c) * turn)
        out[1] = p[0] * (v[0] * s + v[1] * c + (x[0] * c - x[1] * s) * turn)

    return CompiledMap(
        rule,
        tangent,
        dim=2,
        name="ikeda",
        parameters={"mu": 0.9},
        coordinates=("x", "y"),
        ranges={"mu": (0.3, 0.95)},
        box=box if box is not None else ([0.0, -0.1], [0.2, 0.1]),
        source="K. Ikeda, Opt. Commun. 30, 257 (1979), doi:10.1016/0030-4018(79)90090-7",
    ).with_parameters(**parameters)


def lozi(box: Any = None, **parameters: float) -> CompiledMap:
    """x' = 1 − a |x| + y, y' = b x.

    Args:
        box: (low, high) of the initial states, each a list (default: −0.1 to 0.1).
        **parameters: Parameter → its default (a: 1.7, b: 0.5).

    Returns:
        The map.

    Source:
        R. Lozi, J. Phys. Colloq. 39, C5-9 (1978), doi:10.1051/jphyscol:1978505.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = 1.0 - p[0] * abs(x[0]) + x[1]
        out[1] = p[1] * x[0]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = (-p[0] if x[0] >= 0.0 else p[0]) * v[0] + v[1]
        out[1] = p[1] * v[0]

    return CompiledMap(
        rule,
        tangent,
        dim=2,
        name="lozi",
        parameters={"a": 1.7, "b": 0.5},
        coordinates=("x", "y"),
        ranges={"a": (1.0, 1.75), "b": (-0.5, 0.5)},
        box=box if box is not None else ([-0.1, -0.1], [0.1, 0.1]),
        source="R. Lozi, J. Phys. Colloq. 39, C5-9 (1978), doi:10.1051/jphyscol:1978505",
    ).with_parameters(**parameters)


def gauss(box: Any = None, **parameters: float) -> CompiledMap:
    """x' = exp(−alpha x²) + beta: the Gauss (mouse) map.

    Args:
        box: (low, high) of the initial states, each a list (default: −1 to 1).
        **parameters: Parameter → its default (alpha: 6.2, beta: −0.5).

    Returns:
        The map.

    Source:
        R. C. Hilborn, Chaos and Nonlinear Dynamics, Oxford University Press (1994).
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = math.exp(-p[0] * x[0] * x[0]) + p[1]

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = -2.0 * p[0] * x[0] * math.exp(-p[0] * x[0] * x[0]) * v[0]

    return CompiledMap(
        rule,
        tangent,
        name="gauss",
        parameters={"alpha": 6.2, "beta": -0.5},
        coordinates=("x",),
        ranges={"alpha": (4.9, 6.2), "beta": (-1.0, 1.0)},
        box=box if box is not None else ([-1.0], [1.0]),
        source="R. C. Hilborn, Chaos and Nonlinear Dynamics, Oxford University Press (1994)",
    ).with_parameters(**parameters)


def circle(box: Any = None, **parameters: float) -> CompiledMap:
    """θ' = θ + omega − (k/2π) sin 2πθ (mod 1): the sine circle map.

    Args:
        box: (low, high) of the initial states, each a list (default: 0 to 1).
        **parameters: Parameter → its default (omega: (√5 − 1)/2, k: 1).

    Returns:
        The map.

    Source:
        V. I. Arnold (1961), Amer. Math. Soc. Transl. 46, 213 (1965), doi:10.1090/trans2/046/11.
    """

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        out[0] = (x[0] + p[0] - p[1] / TURN * math.sin(TURN * x[0])) % 1.0

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        out[0] = (1.0 - p[1] * math.cos(TURN * x[0])) * v[0]

    return CompiledMap(
        rule,
        tangent,
        name="circle",
        parameters={"omega": (math.sqrt(5.0) - 1.0) / 2.0, "k": 1.0},
        coordinates=("theta",),
        periods={"theta": 1.0},
        ranges={"omega": (0.0, 1.0), "k": (0.0, 4.0)},
        box=box if box is not None else ([0.0], [1.0]),
        source="V. I. Arnold, Amer. Math. Soc. Transl. 46, 213 (1965), doi:10.1090/trans2/046/11",
    ).with_parameters(**parameters)


def logistic_ring(size: int = 8, box: Any = None, **parameters: float) -> CompiledMap:
    """x_i' = (1 − ε) f(x_i) + ε/2 (f(x_{i−1}) + f(x_{i+1})), f(x) = r x (1 − x), on a ring of `size` sites.

    Args:
        size: How many sites.
        box: (low, high) of the initial states, each a list of `size` (default: 0.01 to 0.99).
        **parameters: Parameter → its default (r: 4, coupling: 0.1); ε is `coupling`.

    Returns:
        The map.

    Raises:
        Refusal: (a ValueError) for fewer than 3 sites.

    Source:
        K. Kaneko, Prog. Theor. Phys. 72, 480 (1984), doi:10.1143/PTP.72.480.
    """
    n = whole("size", size)
    if n < 3:
        raise Refusal(f"size = {n}: a ring needs 3 sites or more")
    room("size (each site has a name and a box)", n, 25)

    def rule(x: Array, p: Array, t: int, out: Array) -> None:
        for i in range(n):
            left, here, right = x[(i - 1) % n], x[i], x[(i + 1) % n]
            near = left * (1.0 - left) + right * (1.0 - right)
            out[i] = p[0] * ((1.0 - p[1]) * here * (1.0 - here) + 0.5 * p[1] * near)

    def tangent(x: Array, p: Array, t: int, v: Array, out: Array) -> None:
        for i in range(n):
            j, k = (i - 1) % n, (i + 1) % n
            near = (1.0 - 2.0 * x[j]) * v[j] + (1.0 - 2.0 * x[k]) * v[k]
            out[i] = p[0] * ((1.0 - p[1]) * (1.0 - 2.0 * x[i]) * v[i] + 0.5 * p[1] * near)

    return CompiledMap(
        rule,
        tangent,
        dim=n,
        name="logistic_ring",
        parameters={"r": 4.0, "coupling": 0.1},
        coordinates=tuple(f"x{i}" for i in range(n)),
        ranges={"r": (2.5, 4.0), "coupling": (0.0, 1.0)},
        structure={"size": n},
        box=box if box is not None else (np.full(n, 0.01).tolist(), np.full(n, 0.99).tolist()),
        source="K. Kaneko, Prog. Theor. Phys. 72, 480 (1984), doi:10.1143/PTP.72.480",
    ).with_parameters(**parameters)
