"""Initial states as a torch module draws them, by `reset_parameters`, or as a function of a seed gives them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from nnflow.names import Refusal
from nnflow.systems.failures import FAILURES, first_line
from nnflow.systems.training.modules import is_bias
from nnflow.systems.training.state import Layout, checkpoint, fitting
from nnflow.tensor.modes import drawing_apart
from nnflow.typing import Array
from nnflow.values import real


def seed_of(seed: int, i: int) -> int:
    """The seed of the i-th state that is drawn from a seed."""
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> 1)


class Reset:
    """Initial states by the module's own `reset_parameters`, each from its own seed; optimizer memory 0."""

    def __init__(self, module: nn.Module, memory: int, averages: Sequence[str] = ()) -> None:
        self.module = module
        self.memory = memory
        self.averages = averages  # buffers behind the memory

    def __call__(self, n: int, seed: int) -> Array:
        """``(n, dim)`` drawn states."""
        module = copy.deepcopy(self.module)
        _refuse_two_ways(module)
        states = np.zeros((n, sum(p.numel() for p in module.parameters()) + self.memory))
        reset = np.zeros((n, sum(len(module.get_buffer(name)) for name in self.averages)))
        with drawing_apart(), torch.no_grad():
            for i in range(n):
                torch.manual_seed(seed_of(seed, i))
                for name, parameter in module.named_parameters():
                    holder = module.get_submodule(name.rpartition(".")[0])
                    listed = isinstance(holder, (nn.ParameterList, nn.ParameterDict))
                    if listed or (not is_bias(name) and parameter.ndim > 1):
                        parameter.fill_(torch.nan)
                module.apply(_reset)  # children first: what holds them has the last word
                _all_drawn(module)
                flat = torch.cat([p.ravel() for p in module.parameters()])
                states[i, : len(flat)] = flat.numpy()
                reset[i] = np.concatenate([np.zeros(0), *(module.get_buffer(name).numpy() for name in self.averages)])
        return np.hstack([states, reset])


class Given:
    """Initial states by a user's function of a seed, each from its own; behind the weights always the same."""

    def __init__(self, init: Callable[[int], Any], layout: Layout, entries: tuple[str, ...], rest: Array) -> None:
        self.init, self.layout, self.entries, self.rest = init, layout, entries, rest

    def __call__(self, n: int, seed: int) -> Array:
        """``(n, dim)`` states. Raises Refusal for what is no finite weights."""
        drawn = [self._weights(seed_of(seed, i)) for i in range(n)]
        return np.concatenate([np.reshape(drawn, (n, -1)), np.tile(self.rest, (n, 1))], axis=1)

    def try_out(self) -> None:
        """Refuse a function that gives other weights for one seed, or the same ones for two."""
        one, other, again = (self._weights(seed_of(0, i)) for i in (0, 1, 0))
        if not np.array_equal(one, again):
            raise Refusal("init gives other weights for the same seed: draw them from the seed alone")
        if np.array_equal(one, other):
            raise Refusal("init gives the same weights for different seeds: draw them from the seed, or give states")

    def _weights(self, seed: int) -> Array:
        """The weights that the function gives; what it draws by torch comes from the seed, too."""
        with drawing_apart(), torch.enable_grad():
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


def _refuse_two_ways(module: nn.Module) -> None:
    """Refuse a parameter that layers of different kinds share (an embedding and a head): each would draw it its way."""
    owners: dict[int, tuple[str, type]] = {}
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(path, recurse=False):
            where, kind = owners.setdefault(id(parameter), (name, type(part)))
            if kind is not type(part):
                raise Refusal(
                    f"{where} belongs to a {kind.__name__} and, as {name}, to a {type(part).__name__}, which draw it "
                    "in different ways: give states, scale=… or init=…"
                )


def _reset(part: nn.Module) -> None:
    reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)  # attention has this
    if callable(reset) and is_parametrized(part):
        _reset_parametrized(part)
    elif callable(reset):
        reset()
    elif isinstance(part, (nn.ParameterList, nn.ParameterDict, ParametrizationList)):
        pass  # what holds it draws it, or is told that it does not
    elif any(True for _ in part.parameters(recurse=False)):
        raise Refusal(f"{type(part).__name__} has parameters but no reset_parameters(): give states, or scale=…")


def _reset_parametrized(part: nn.Module) -> None:
    """As torch makes such a layer: its own weights are drawn, and what they are computed from follows from them."""
    names = list(part.parametrizations)  # type: ignore[arg-type]
    drawn = {name: nn.Parameter(torch.full_like(getattr(part, name), torch.nan)) for name in names}
    plain: Any = object.__new__(type(part).__bases__[0])
    own = {name: child for name, child in part._modules.items() if name != "parametrizations"}
    vars(plain).update({**vars(part), "_modules": own, "_parameters": {**part._parameters, **drawn}})
    before = [buffer.clone() for buffer in part.buffers()]
    _reset(plain)
    for name, values in drawn.items():
        setattr(part, name, values.detach())
    if not all(map(torch.equal, part.buffers(), before)):
        raise Refusal(
            f"reset_parameters() of a {type(plain).__name__} changes buffers of its parametrization, so that it would "
            "be another map: give states, or scale=…"
        )


def _all_drawn(module: nn.Module) -> None:
    """Refuse kernels that no reset_parameters has written: a weight norm computes them from others, which stay."""
    for name, parameter in module.named_parameters():
        if parameter.isnan().any():
            raise Refusal(f"reset_parameters() does not draw {name}: give states, or scale=…")
