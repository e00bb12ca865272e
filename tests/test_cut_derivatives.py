"""A derivative that is cut off anywhere on the way is found there: at some states, from some step on, for some members.

The rule is watched in each call: where it uses detach or an autograd.Function, its tangent is compared with
differences, for all members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow

RNG = np.random.default_rng(10)
X, LABELS = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12)


class Halved(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, v: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * v


def chaotic(x: Tensor) -> Tensor:
    return 4 * x * (1 - x)


RULES: dict[str, Callable[[Tensor, Any, int], Tensor]] = {
    "at some states": lambda x, p, t: torch.where(x > 0.9, 4 * x * (1 - x.detach()), chaotic(x)),
    "torch.detach": lambda x, p, t: torch.where(x > 0.9, 4 * x * (1 - torch.detach(x)), chaotic(x)),
    "a wrong jvp": lambda x, p, t: torch.where(x > 0.9, 4 * x - 4 * Halved.apply(x), chaotic(x)),
    "late": lambda x, p, t: 4 * x * (1 - (x.detach() if t >= 10 else x)),
    "once": lambda x, p, t: 4 * x * (1 - (x.detach() if t == 57 else x)),
    "now and then": lambda x, p, t: 4 * x * (1 - (x if t % 7 else x.detach())) if t else chaotic(x),
}


@pytest.mark.parametrize("name", RULES)
def test_a_cut_that_is_not_active_at_first_is_found(name: str) -> None:
    """Only the first state and step were looked at: the exponent was wrong from then on, and said nothing."""
    map = nnflow.TensorMap(RULES[name], dim=1, box=([0.1], [0.8]))
    with pytest.raises(nnflow.Refusal, match=r"tangent of .* at t = \d+ is not the derivative of its rule: .*detach"):
        nnflow.run("lyapunov_spectrum", nnflow.Ensemble.grid(map, states=[[0.2], [0.3]]), steps=200, transient=0)


def test_a_cut_that_changes_no_derivative_is_none() -> None:
    """x − max(x) with a detached maximum, say: what is cut off cancels. The value is right."""
    rules = lambda x, p, t: chaotic(x) + (x.detach() - x.detach()), lambda x, p, t: chaotic(x)
    maps = [nnflow.TensorMap(rule, dim=1, box=([0.1], [0.8])) for rule in rules]
    cut, plain = (nnflow.run("lyapunov_spectrum", map, steps=60, transient=0).exponent.item() for map in maps)
    assert cut == plain


def test_a_cut_in_a_loss_is_found_where_it_is_active() -> None:
    """In the tangent and in the curvature; the loss's own gradient, which stops at detach in torch too, is right."""
    loss = lambda w: torch.where(w < 0.1, w * w.detach(), w * w).sum()  # noqa: E731
    for analysis, settings, kind in (
        ("lyapunov_spectrum", {"steps": 40, "transient": 0}, "tangent"), ("sharpness", {"k": 1}, "curvature"),
    ):  # fmt: skip
        start = nnflow.Ensemble.grid(nnflow.gradient_map(loss, 1, eta=0.1, backend="tensor"), states=[[1.0]])
        with pytest.raises(nnflow.Refusal, match=rf"the {kind} of .* is not the derivative"):
            nnflow.run(analysis, start, **settings)


def test_a_cut_in_a_module_is_found_where_it_is_active() -> None:
    """A statistic that is detached once the weights are large: not where training starts, nor nearby."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            z, size = self.layer(x), self.layer.weight.square().mean()
            return torch.where(size < 4, z, z / z.detach().std())

    map = nnflow.training_map(Late(), F.cross_entropy, X, LABELS)
    fine = nnflow.run("lyapunov_spectrum", map, k=1, steps=3, transient=0)
    assert np.isfinite(fine.exponent.item())
    far = nnflow.Ensemble.grid(map, states=[10 * map.start])
    for analysis, settings in (("lyapunov_spectrum", {"k": 1, "steps": 3, "transient": 0}), ("sharpness", {"k": 1})):
        with pytest.raises(nnflow.Refusal, match="is not the derivative of its"):
            nnflow.run(analysis, far, **settings)
