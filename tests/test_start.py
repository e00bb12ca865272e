"""Where a training map starts: from its module's own weights unless states are asked for, and what is drawn then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(2)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)


def trained() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    adam = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(150):
        adam.zero_grad()
        F.cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).backward()
        adam.step()
    return module


@pytest.mark.parametrize("backend", ["tensor", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_bare_training_map_starts_from_the_modules_own_weights(backend: str) -> None:
    """hessian_spectrum of a trained network was that of a fresh one: loss .737 for .003.

    The same kind: scans of a parameter without states, iterates, optimisers with memory. States are drawn if `inits` or
    a `seed` ask for them, and the result says which it was.
    """
    module = trained()
    map = nnflow.training_map(module, F.cross_entropy, X, LABELS, "heavy_ball", backend=backend)
    own = map.state_of(module)
    for ensemble in (nnflow.Ensemble.grid(map), nnflow.Ensemble.grid(map, eta=[0.1, 0.2])):
        assert (ensemble.states == own).all()
    assert (nnflow.Ensemble.grid(nnflow.iterate(map, 2)).states == own).all()
    found = nnflow.run("sharpness", map, k=1)
    assert found.attrs["initial_states"] == "the map's own"
    given = nnflow.run("sharpness", nnflow.Ensemble.grid(map, states=[own]), k=1)
    assert given.attrs["initial_states"] == "given"
    np.testing.assert_array_equal(found.sharpness, given.sharpness)
    for asked in ({"inits": 1}, {"seed": 0}, {"inits": 2, "seed": 3}):
        drawn = nnflow.Ensemble.grid(map, **asked)
        expected = map.initial_states(asked.get("inits", 1), asked.get("seed", 0))
        assert np.array_equal(drawn.states, expected)
        assert drawn.origin == "drawn from the seed"
    logistic = nnflow.run("lyapunov_spectrum", nnflow.maps["logistic"](), steps=10)
    assert logistic.attrs["initial_states"] == "drawn from the seed"


class Attending(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.out(seen[:, -1])


LAYERS: dict[str, Any] = {
    "attention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "attention, biased": lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_attention_is_drawn_by_its_own_initialisation(name: str) -> None:
    """It has `_reset_parameters`, by which torch makes it; "no reset_parameters()" was the answer."""
    map = nnflow.training_map(Attending(LAYERS[name]()), F.cross_entropy, RNG.normal(size=(12, 5, 4)), LABELS)
    states = map.initial_states(300, 1)
    assert np.array_equal(map.initial_states(2, 1), states[:2])
    kernel = states[:, [i for i, c in enumerate(map.coordinates) if "in_proj_weight" in c]]
    bound = np.sqrt(6 / (4 + 12))  # Xavier's, of a matrix (12, 4)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert not states[:, [i for i, c in enumerate(map.coordinates) if "in_proj_bias" in c]].any()
    made = LAYERS[name]()
    own = made.self_attn if hasattr(made, "self_attn") else made
    assert own.in_proj_weight.abs().max().item() <= bound


def test_kernels_that_no_reset_draws_are_told() -> None:
    """A parametrised layer resets what is computed from its parameters: all states would have been the same."""
    torch.manual_seed(0)
    module = nn.Sequential(torch.nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(4, 3))
    map = nnflow.training_map(module, F.cross_entropy, X, LABELS)
    with pytest.raises(nnflow.Refusal, match=r"changes buffers of its parametrization.*: give states, or scale="):
        map.initial_states(2, 0)

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.gain = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.tensor([0.5]))

        def reset_parameters(self) -> None:
            self.gain.uniform_()

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * (x @ self.w)

    with pytest.raises(nnflow.Refusal, match=r"reset_parameters\(\) does not draw w: give states, or scale="):
        nnflow.training_map(Partly(), F.cross_entropy, X, LABELS).initial_states(2, 0)
