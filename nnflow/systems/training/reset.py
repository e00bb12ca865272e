"""Initial states as a torch module draws them, by `reset_parameters`, or as a function of a seed gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES, first_line
from nnflow.systems.training.state import Layout, checkpoint, fitting
from nnflow.typing import Array
from nnflow.values import real


def seed_of(seed: int, i: int) -> int:
    """The seed of the i-th state that is drawn from a seed."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1)


class Reset:
    """Initial states by the module's own `reset_parameters`, each from its own seed; optimizer memory 0."""

    def __init__(self, module: nn.Module, memory: int) -> None:
        self.module = module
        self.memory = memory

    def __call__(self, n: int, seed: int) -> Array:
        """``(n, dim)`` drawn states."""
        module = copy.deepcopy(self.module)
        states = np.zeros((n, sum(p.numel() for p in module.parameters()) + self.memory))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for i in range(n):
                torch.manual_seed(seed_of(seed, i))
                for name, parameter in module.named_parameters():
                    if "bias" not in name and parameter.ndim > 1:
                        parameter.fill_(torch.nan)
                module.apply(_reset)  # children first: what holds them has the last word
                _all_drawn(module)
                flat = torch.cat([p.ravel() for p in module.parameters()])
                states[i, : len(flat)] = flat.numpy()
        return states


class Given:
    """Initial states by a user's function of a seed, each from its own; optimizer memory 0."""

    def __init__(self, init: Callable[[int], Any], layout: Layout, entries: tuple[str, ...], memory: int) -> None:
        self.init, self.layout, self.entries, self.memory = init, layout, entries, memory

    def __call__(self, n: int, seed: int) -> Array:
        """``(n, dim)`` states. Raises Refusal for what is no finite weights, or other ones when asked again."""
        seeds = [seed_of(seed, i) for i in range(n)]
        drawn = [self._weights(one) for one in seeds]
        if n and not np.array_equal(self._weights(seeds[0]), drawn[0]):
            raise Refusal("init gives other weights for the same seed: draw them from the seed alone")
        if n > 1 and np.array_equal(drawn[0], drawn[1]):
            raise Refusal("init gives the same weights for different seeds: draw them from the seed, or give states")
        return np.concatenate([np.reshape(drawn, (n, -1)), np.zeros((n, self.memory))], axis=1)

    def _weights(self, seed: int) -> Array:
        """The weights that the function gives; what it draws by torch comes from the seed, too."""
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            try:
                found = self.init(seed)
            except FAILURES as error:
                raise Refusal(f"init fails for the seed {seed}: {first_line(error)}") from error
        size = sum(int(np.prod(shape)) for _, shape in self.layout)
        if isinstance(found, (nn.Module, Mapping)):
            parts: Any = (
                fitting(self.layout, found)
                if isinstance(found, nn.Module)
                else checkpoint(self.layout, self.entries, found)
            )
            weights = np.concatenate([real(part, "the weights of init").ravel() for part in parts])
        else:
            weights = real(found, "what init gives")
        if weights.shape != (size,):
            raise Refusal(f"init gives an array of shape {weights.shape}: give ({size},), a module, or its state_dict")
        if not np.isfinite(weights).all():
            raise Refusal(f"init gives weights that are not finite, for the seed {seed}")
        return weights


def _reset(part: nn.Module) -> None:
    reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)  # attention has this
    if callable(reset):
        reset()
    elif any(True for _ in part.parameters(recurse=False)):
        raise Refusal(f"{type(part).__name__} has parameters but no reset_parameters(): give states, or scale=…")


def _all_drawn(module: nn.Module) -> None:
    """Refuse kernels that no reset_parameters has written: a weight norm computes them from others, which stay."""
    for name, parameter in module.named_parameters():
        if parameter.isnan().any():
            raise Refusal(f"reset_parameters() does not draw {name}: give states, or scale=…")
