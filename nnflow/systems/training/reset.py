"""Initial states as a torch module draws them: by `reset_parameters`, seeded."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from nnflow.names import Refusal
from nnflow.typing import Array


class Reset:
    """Initial states by the module's own `reset_parameters`, each from its own seed; optimizer memory 0."""

    def __init__(self, module: nn.Module, memory: int, averages: Sequence[str] = ()) -> None:
        self.module = module
        self.memory = memory
        self.averages = averages  # buffers behind the memory

    def __call__(self, n: int, seed: int) -> Array:
        """``(n, dim)`` drawn states."""
        module = copy.deepcopy(self.module)
        states = np.zeros((n, sum(p.numel() for p in module.parameters()) + self.memory))
        held = [module.get_buffer(name) for name in self.averages]
        reset = np.zeros((n, sum(len(each) for each in held)))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for i in range(n):
                torch.manual_seed(int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1))
                for name, parameter in module.named_parameters():
                    if "bias" not in name and parameter.ndim > 1:
                        parameter.fill_(torch.nan)
                module.apply(_reset)  # children first: what holds them has the last word
                _all_drawn(module)
                flat = torch.cat([p.ravel() for p in module.parameters()])
                states[i, : len(flat)] = flat.numpy()
                reset[i] = np.concatenate([np.zeros(0), *(each.numpy() for each in held)])
        return np.hstack([states, reset])


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
