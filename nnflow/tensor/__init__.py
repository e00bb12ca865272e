"""Maps whose rule is written on torch tensors: `map` is the map and its verbs, `trace` replays what its rule does."""

from nnflow.tensor.map import Component, Gradient, Named, TensorMap, placed
from nnflow.tensor.modes import everyday
from nnflow.tensor.trace import UntracedWarning

__all__ = ["Component", "Gradient", "Named", "TensorMap", "UntracedWarning", "everyday", "placed"]
