"""`load_state` makes a module of a state, and leaves the user's module alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(8)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    module[2].weight = module[0].weight
    return module


MODULES: dict[str, Any] = {
    "small": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)),
    "tied": tied,
    "half precision": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).bfloat16(),
    "buffers": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).eval(),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_loaded_module_is_a_copy_with_exactly_these_weights(name: str, dtype: Any) -> None:
    """It overwrote the user's module, in float32: `state_of(load_state(m, s))` was off by 1e-8.

    The same kind: gradients and buffers of the user's module, tied parameters, modules of another number type, two
    loads that share their memory, and the state itself, which a later step of the module must not reach.
    """
    torch.manual_seed(0)
    module = MODULES[name]()
    first = next(module.parameters())
    first.grad = torch.ones_like(first)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    map = nnflow.training_map(module, F.cross_entropy, X, LABELS, dtype=dtype, backend="tensor")
    state = nnflow.Ensemble.grid(map, inits=1, seed=1).states[0]
    kept = state.copy()
    one, other = map.load_state(module, state), map.load_state(module, torch.as_tensor(state))
    assert np.array_equal(map.state_of(one), state)
    assert next(one.parameters()).dtype == dtype
    assert sum(p.numel() for p in one.parameters()) == map.weights  # what is tied stays tied
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert np.array_equal(map.state_of(other), kept)
    assert np.array_equal(state, kept)
    assert one is not module
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(value.dtype == before[key].dtype for key, value in module.state_dict().items())
    assert torch.equal(first.grad, torch.ones_like(first))
    x, y = torch.tensor(X, dtype=dtype), torch.tensor(LABELS)
    found = nnflow.Ensemble.grid(map, states=[state]).orbit(1, observe="loss")[0].item()
    assert found == pytest.approx(F.cross_entropy(other(x), y).item(), rel=1e-5)


def test_a_compiled_map_loads_in_float64() -> None:
    torch.manual_seed(0)
    module = MODULES["small"]()
    map = nnflow.training_map(module, F.cross_entropy, X, LABELS)
    state = map.initial_states(1, 3)[0]
    with torch.inference_mode():
        inside = map.load_state(module, state)
    for loaded in (map.load_state(module, state), inside):
        assert np.array_equal(map.state_of(loaded), state)
    assert next(module.parameters()).dtype == torch.float32
