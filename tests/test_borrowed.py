"""What is given or handed out is nobody else's: changing it changes no map, no ensemble and no orbit.

The kinds: a function that writes into what it is given; an array that is a view of what an ensemble holds; a mapping or
array from which a map was made; what lies below a mask; numbers of another type than the map's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, relu

import nnflow
from nnflow.typing import Array


def henon(x: Any, p: Any, t: int) -> Any:
    return torch.stack([1.0 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]])


def halved(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = 0.5 * x[0]


def written(x: Any, p: Any, t: int) -> Any:
    x[1] = 0.0
    return x.sum()


@pytest.mark.parametrize(
    "seen",
    [
        lambda x, p, t: x.abs_().sum(),
        lambda x, p, t: x.sub_(1.0).sum(),
        lambda x, p, t: relu(x, inplace=True).sum(),
        lambda x, p, t: p["a"].mul_(0.0) + x.sum(),
        written,
    ],
)
def test_an_observable_on_tensors_that_writes_into_what_it_gets(seen: Any) -> None:
    def rule(x: Any, p: Any, t: int) -> Any:
        return henon(x, p, t) * p["a"]

    map = nnflow.TensorMap(rule, dim=2, parameters={"a": 1.0}, start=np.array([0.1, 0.1]), observables={"o": seen})
    both, _ = nnflow.Ensemble.grid(map).orbit(9, observe=("o", "x0"))
    alone, _ = nnflow.Ensemble.grid(map).orbit(9, observe="x0")
    np.testing.assert_array_equal(both[:, :, 1], alone[:, :, 0])


@pytest.mark.parametrize("backend", ["compiled", "tensor"])
def test_states_and_parameters_of_an_ensemble(backend: str) -> None:
    map = nnflow.maps["henon"]() if backend == "compiled" else nnflow.TensorMap(henon, dim=2, parameters={"a": 1.0})
    ensemble = nnflow.Ensemble.grid(map, inits=2)
    before, states = ensemble.states, ensemble.states
    states += 1.0
    np.testing.assert_array_equal(ensemble.states, before)
    with pytest.raises(ValueError, match="read-only"):
        ensemble.advance(1).parameters[:] = 0.0
    for given in (np.zeros((2, 2)), torch.zeros((2, 2), dtype=torch.float64)):
        if isinstance(given, np.ndarray) or backend == "tensor":
            there = ensemble.with_states(given)
            given += 1.0
            assert not there.states.any()
    if backend == "tensor":
        with pytest.raises(nnflow.Refusal, match="states are complex"):
            ensemble.with_states(torch.zeros((2, 2), dtype=torch.complex128))


def turned(x: Array, p: Array, t: int, out: Array) -> None:
    out[0] = (x[0] + 0.3) % p[0]


def test_what_a_map_is_made_of() -> None:
    start, periods, scale = np.zeros(1), {"x0": 1.0}, {"o": lambda x, p, t: 1.0 * x[0]}
    compiled, tensor = [], []
    for value in (1.0, 0.1):
        start[0], periods["x0"] = value, value
        compiled.append(nnflow.CompiledMap(turned, parameters={"c": 1.0}, start=start, periods=periods))
        scale["o"] = lambda x, p, t, by=value: by * x[0]
        tensor.append(nnflow.TensorMap(lambda x, p, t: 0.5 * x, start=start, observables=scale, structure=periods))
    assert [map.periods["x0"] for map in compiled] == [1.0, 0.1]
    assert [map.structure["x0"] for map in tensor] == [1.0, 0.1]
    for maps in (compiled, tensor):
        assert [map.start.item() for map in maps] == [1.0, 0.1]
    seen = [nnflow.Ensemble.grid(map, states=[[1.0]]).orbit(1, observe="o")[0].item() for map in tensor]
    assert seen == [1.0, 0.1]
    with pytest.raises(ValueError, match="read-only"):
        compiled[0].start += 1.0


@pytest.mark.parametrize("start", [[3.0, 4.0], 3.0, "abc", np.ma.masked_array([3.0], [True]), [1j]])
@pytest.mark.parametrize("make", [nnflow.CompiledMap, nnflow.TensorMap])
def test_a_start_that_is_no_state_is_refused(make: Any, start: Any) -> None:
    rule = halved if make is nnflow.CompiledMap else (lambda x, p, t: 0.5 * x)
    with pytest.raises(nnflow.Refusal, match="start"):
        make(rule, start=start)
    assert make(rule, start=[3]).start.tolist() == [3.0]


@pytest.mark.parametrize(
    "drawn", [np.ma.masked_array([[777.0]], [[True]]), [[1j]], [[np.nan]], [[1.0, 2.0]], [["a"]]], ids=repr
)
def test_drawn_states_that_are_none_are_refused(drawn: Any) -> None:
    with pytest.raises(nnflow.Refusal, match="what `initial`"):
        nnflow.Ensemble.grid(nnflow.CompiledMap(halved, initial=lambda n, seed: drawn, check=False), inits=1)


def test_masked_rows_train_nothing() -> None:
    inputs, labels = np.ma.masked_array(np.eye(3), np.eye(3) > 2), np.arange(3)
    assert nnflow.training_map(nn.Linear(3, 3), cross_entropy, inputs, labels).dim == 12  # nothing is masked
    inputs[1, 1] = np.ma.masked
    for arguments in ((inputs, labels), (np.eye(3), np.ma.masked_array(labels, [0, 0, 1]))):
        with pytest.raises(nnflow.Refusal, match="are masked: leave out"):
            nnflow.training_map(nn.Linear(3, 3), cross_entropy, *arguments)
    with pytest.raises(nnflow.Refusal, match="are masked: leave out"):
        nnflow.training_map(nn.Linear(3, 3), cross_entropy, np.eye(3), labels, test=(inputs, labels))


def test_a_masked_result_is_refused() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Masked(nnflow.Analysis):
        steps: int = 1

        def __call__(self, ensemble: Any) -> Any:
            hidden = np.ma.masked_greater(ensemble.states[:, 0], -1.0)
            return {"last": ("member", hidden), "escaped": ("member", ensemble.escaped)}

    with pytest.raises(TypeError, match="variable 'last' is masked: fill it"):
        nnflow.run(Masked(), nnflow.maps["logistic"]())


@pytest.mark.parametrize(
    ("made", "dtype"), [(torch.float32, None), (torch.float64, torch.float32), (torch.complex128, None)]
)
def test_a_rule_of_another_precision_is_refused(made: torch.dtype, dtype: Any) -> None:
    map = nnflow.TensorMap(lambda x, p, t: (0.5 * x).to(made), dtype=dtype)
    with pytest.raises(nnflow.Refusal, match=f"returns {made} in a map of"):
        nnflow.Ensemble.grid(map).advance(1)
    whole = nnflow.TensorMap(lambda x, p, t: x > 0.5, check=False)
    assert nnflow.Ensemble.grid(whole, states=[[0.7]]).advance(1).states.item() == 1.0


def test_a_complex_observable_is_refused() -> None:
    map = nnflow.TensorMap(lambda x, p, t: 0.5 * x, observables={"o": lambda x, p, t: torch.fft.fft(x)[0]})
    with pytest.raises(nnflow.Refusal, match="an observable of .* is complex"):
        nnflow.Ensemble.grid(map).orbit(1, observe="o")


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Any, targets: Any) -> Any:
        return mse_loss(self.scale * outputs, targets)


def test_a_loss_that_would_learn_itself_is_refused() -> None:
    loss, data = Scaled(), (np.eye(3), np.eye(3))
    with pytest.raises(nnflow.Refusal, match=r"the loss has parameters of its own \(scale\)"):
        nnflow.training_map(nn.Linear(3, 3), loss, *data)
    assert nnflow.training_map(nn.Linear(3, 3), loss.requires_grad_(False), *data).dim == 12


def test_checkpoints_of_numpy_arrays() -> None:
    map = nnflow.training_map(nn.Linear(3, 3), mse_loss, np.eye(3), np.eye(3))
    weights = {name: value.detach().numpy() for name, value in nn.Linear(3, 3).named_parameters()}
    np.testing.assert_array_equal(map.state_of(weights), np.concatenate([w.ravel() for w in weights.values()]))
    with pytest.raises(nnflow.Refusal, match="weights of dtype complex64: give real numbers"):
        map.state_of({name: value + 0j for name, value in weights.items()})
