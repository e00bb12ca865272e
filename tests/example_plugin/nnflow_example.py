"""A stranger's plugins: an analysis, a map and a study."""

from dataclasses import dataclass

import nnflow


@dataclass(frozen=True)
class Spread(nnflow.Analysis):
    """The range of an observable along the orbit."""

    coordinate: int = 0
    """Which coordinate."""
    steps: int = 100
    """How many steps."""
    scale: float = 1.0
    """A factor on the result."""

    def __call__(self, ensemble):
        records, after = ensemble.orbit(self.steps)
        series = records[:, :, self.coordinate]
        return {
            "spread": ("member", self.scale * (series.max(axis=1) - series.min(axis=1))),
            "escaped": ("member", after.escaped),
        }


def doubling(**parameters):
    """x' = c x mod 1."""

    def rule(x, p, t, out):
        out[0] = p[0] * x[0] % 1.0

    def tangent(x, p, t, v, out):
        out[0] = p[0] * v[0]

    return nnflow.CompiledMap(
        rule, tangent, name="doubling", parameters={"c": 1.9}, periods={"x0": 1.0}, source="an exercise"
    ).with_parameters(**parameters)


@dataclass(frozen=True)
class Hello:
    """Say hello."""

    name: str = "world"
    """To whom."""

    def __call__(self) -> None:
        print(f"hello {self.name}")
