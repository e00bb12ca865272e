"""Known answers: Lyapunov exponents (nats per iteration) of maps with given parameters and initial states."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

LN2 = math.log(2.0)
GOLDEN = math.log((3 + math.sqrt(5)) / 2)


@dataclass(frozen=True)
class Row:
    """One map with its exponents; `tolerance` is on the mean over `steps` steps after a transient of 1000."""

    name: str
    exponents: tuple[float, ...]
    tolerance: float
    source: str
    parameters: dict[str, Any] = field(default_factory=dict)
    state: tuple[float, ...] | None = None
    steps: int = 20_000
    sum: float | None = None  # of all exponents, exact


def _ring(size: int, coupling: float) -> tuple[float, ...]:
    modes = [1 - coupling * (1 - math.cos(2 * math.pi * k / size)) for k in range(size)]
    return tuple(sorted((LN2 + math.log(abs(m)) for m in modes), reverse=True))


IKEDA = "theta = 0.4 - 6/(1+x^2+y^2): three runs of 1e7 steps; the sum is 2 ln mu"
PERIOD2 = "lambda = 1/2 ln|4 + 2r - r^2| for 3 < r < 1 + sqrt(6)"

EXPONENTS = (
    Row("logistic", (LN2,), 2e-3, "conjugate to the tent map", {"r": 4.0}),
    Row("logistic", (math.log(0.5),), 1e-6, "ln|2-r| for 1 < r < 3", {"r": 1.5}),
    Row("logistic", (math.log(0.8),), 1e-6, "ln|2-r| for 1 < r < 3", {"r": 2.8}),
    Row("logistic", (-0.9162907,), 1e-6, PERIOD2, {"r": 3.2}),
    Row("logistic", (-0.1372184,), 1e-6, PERIOD2, {"r": 3.4}),
    Row("logistic", (-math.inf,), 0.0, "superstable: the orbit of 0.1 hits 1/2 exactly", {"r": 2.0}, (0.1,)),
    Row("henon", (0.41922, -1.62319), 5e-3, "Sprott, Common Chaotic Systems", {}, sum=math.log(0.3)),
    Row("cat", (GOLDEN, -GOLDEN), 1e-3, "eigenvalues of ((2, 1), (1, 1))", {}, sum=0.0),
    Row("baker", (LN2, -LN2), 1e-9, "stretches by 2, squeezes by 1/2", {}, sum=0.0),
    Row("tent", (math.log(1.9999),), 1e-12, "slope mu everywhere", {"mu": 1.9999}),
    Row("standard", (0.105, -0.105), 0.02, "sticky; single orbits of 1e7 steps: .103 to .124", {"k": 1.0}, (0.0, 6.0),
        steps=10_000_000, sum=0.0),
    Row("ikeda", (0.5077, -0.7184), 1e-2, IKEDA, {"mu": 0.9}, (0.1, 0.1), steps=100_000, sum=2 * math.log(0.9)),
    Row("ikeda", (math.log(0.9),) * 2, 1e-3, "the coexisting fixed point at (2.972, 4.146)", {"mu": 0.9}, (3.0, 3.0),
        sum=2 * math.log(0.9)),
    Row("lozi", (0.47, -1.1631), 2e-2, "the sum is ln|b|", {"a": 1.7, "b": 0.5}, sum=math.log(0.5)),
    Row("logistic_ring", _ring(4, 0.4), 5e-3, "synchronised: ln 2 + ln|1 - eps (1 - cos 2 pi k/N)|",
        {"r": 4.0, "coupling": 0.4, "size": 4}, (0.3,) * 4),
    Row("cubic_descent", (LN2,), 2e-3, "logistic map with r = 1 + eta", {"optimizer": "gd", "eta": 3.0}),
    Row("cubic_descent", (0.41922, -1.62319), 5e-3, "Hénon map with b = -beta, a = (eta^2 - (1+beta)^2)/4",
        {"eta": math.sqrt(6.09), "beta": -0.3}, sum=math.log(0.3)),
    Row("double_well_descent", (math.log(0.2),), 1e-6, "w = 1: 1 - 2 eta", {"optimizer": "gd", "eta": 0.4}, (0.5,)),
)  # fmt: skip

PERIOD_DOUBLINGS = (3.0, 1 + math.sqrt(6))  # logistic map
CHAOS = 3.5699457  # where the period doublings of the logistic map accumulate (Feigenbaum 1978)
PERIOD_THREE = 1 + math.sqrt(8)
HENON_FIXED = (0.6313544771, -1.1313544771)  # x of the fixed points, a = 1.4, b = 0.3
HENON_PERIOD_2 = (0.9758000512, -0.4758000512)
