"""A training map is compared with torch when it is made: what torch.func does not follow is right, or refused."""

from __future__ import annotations

import copy
import types
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nnflow
from nnflow.systems.training import witness
from nnflow.systems.training.compiled import CompiledTraining

RNG = np.random.default_rng(0)
X, LABELS, VALUES = RNG.normal(size=(12, 4)), RNG.integers(0, 3, 12), RNG.normal(size=(12, 3))


def small() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def drawing(module: nn.Module, noise: Any) -> nn.Module:
    """A module that draws random numbers if there is a seed of them, and drops next to nothing."""
    return module if noise is None else nn.Sequential(nn.Dropout(1e-16), module)


class Odd(nn.Module):
    """A linear layer, and what is done with it."""

    def __init__(self, odd: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.odd = nn.Linear(4, 3), odd
        for name, part in parts.items():
            setattr(self, name, part)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self, x)


def train(module: nn.Module, loss: Any = F.cross_entropy, targets: Any = LABELS, **settings: Any) -> Any:
    return nnflow.training_map(module, loss, X, targets, **settings)


def torch_steps(module: nn.Module, loss: Any, steps: int = 3, targets: Any = LABELS) -> Any:
    """The weights after some steps of torch's own SGD on the module itself."""
    sgd = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(steps):
        sgd.zero_grad()
        loss(module(torch.tensor(X)), torch.tensor(targets)).backward()
        sgd.step()
    return nn.utils.parameters_to_vector(module.parameters()).detach().numpy()


def trains_as_torch(module: nn.Module, **settings: Any) -> Any:
    map = train(module, eta=0.1, **settings)
    after = nnflow.Ensemble.grid(map).advance(3).states[0]
    np.testing.assert_allclose(after, torch_steps(module, F.cross_entropy), rtol=0, atol=1e-13)
    return map


# --------------------------------------------------------------------------------------- the derivative of the values


def test_the_derivative_of_a_tensor_map_is_that_of_its_values() -> None:
    """Forward mode stops at detach: the exponent was .0004 where the values have ln 2.

    The same kind: .data, detach_, a wrong jvp, a straight-through estimator; all of them compute one function and
    differentiate another. Kinks are none of it.
    """
    cut = {
        "detach": lambda x, p, t: 4 * x * (1 - x.detach()),
        "data": lambda x, p, t: 4 * x * (1 - x.detach().clone()),
        "straight through": lambda x, p, t: x + (4 * x * (1 - x) - x).detach(),
    }
    for rule in cut.values():
        map = nnflow.TensorMap(rule, dim=1)
        with pytest.raises(nnflow.Refusal, match=r"tangent of .* is not the derivative of its rule: .*detach"):
            nnflow.run("lyapunov_spectrum", map, steps=10, transient=0)
        unchecked = nnflow.TensorMap(rule, dim=1, check=False)
        found = nnflow.run("lyapunov_spectrum", unchecked, steps=10, transient=0)
        assert '"check": false' in found.attrs["structure"]
    good = nnflow.TensorMap(lambda x, p, t: 4 * x * (1 - x), dim=1)
    found = nnflow.run("lyapunov_spectrum", good, steps=400, transient=100)
    assert found.exponent.item() == pytest.approx(np.log(2), abs=0.05)


KINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu at 0": lambda x: torch.relu(x - x.round()),
    "abs": torch.abs,
    "tent": lambda x: 1.9 * torch.minimum(x, 1 - x),
    "jump": lambda x: (3 * x) % 1.0,
    "max": lambda x: x.max() * x,
    "constant": lambda x: 0 * x,
}


@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_kinks_and_jumps_are_no_fault(name: str, dtype: Any, size: float) -> None:
    map = nnflow.TensorMap(lambda x, p, t: size * KINKS[name](x / size), dim=3, dtype=dtype)
    for state in ([0.0, 0.5, 1.0], [0.3, -0.2, 0.7], [0.0, 0.0, 1e-3]):
        fresh = nnflow.TensorMap(map.rule, dim=3, dtype=dtype)
        nnflow.Ensemble.grid(fresh, states=[np.multiply(size, state)]).with_frame(2).tangent_orbit(2)


def test_a_gradient_map_that_torch_cannot_differentiate_forward_is_refused_on_tensors() -> None:
    """(w · w.detach()).sum() makes w' = (1 − η) w: λ = ln ¾, and not 0. Compiled, it is (tests/test_losses.py)."""
    with pytest.raises(nnflow.Refusal, match=r"w changes by|curvature of w is .* differences"):
        nnflow.gradient_map(lambda w: (w * w.detach()).sum(), 1, eta=0.25, backend="tensor")
    whole = nnflow.gradient_map(lambda w: 0.5 * (w * w).sum(), 1, eta=0.25)
    found = nnflow.run("lyapunov_spectrum", whole, steps=10, transient=0)
    assert found.exponent.item() == pytest.approx(np.log(0.75), abs=1e-12)


# ------------------------------------------------------------------------------------- what the map's copy cannot see


def stored() -> nn.Module:
    module = Odd(lambda m, x: x @ m.ws["w"].T + m.l.bias)
    module.ws = {"w": module.l.weight}
    return module


def penalised(module: nn.Module, weight: float, cut: bool = False) -> Any:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        squares = [((q.detach() if cut else q) ** 2).sum() for q in module.parameters()]
        return F.cross_entropy(outputs, y) + weight * sum(squares)

    return loss


def closed_over() -> nn.Module:
    module = small()
    inner = module.forward
    module.forward = lambda x: 2 * inner(x)
    return module


MODULE = small()
UNSEEN = {
    "a penalty": (lambda: MODULE, penalised(MODULE, 0.5), "0.weight.*read by another way"),
    "a small one": (lambda: MODULE, penalised(MODULE, 1e-12), "0.weight.*read by another way"),
    "a detached one": (lambda: MODULE, penalised(MODULE, 1e-3, cut=True), "0.weight.*read by another way"),
    "a stored reference": (stored, F.cross_entropy, "l.weight: read by another way"),
    "a closure": (closed_over, F.cross_entropy, "0.weight.*read by another way|depend on 0.weight"),
    "a closure over a layer": (
        lambda: Odd(lambda m, x: m.l(MODULE[2](MODULE[1](MODULE[0](x))) @ torch.ones(3, 4).double())),
        penalised(MODULE, 0.0), "0.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(UNSEEN)[:5])
def test_parameters_that_are_read_behind_the_maps_back_are_refused(name: str) -> None:
    """A penalty on module.parameters() had no gradient, a stored reference kept the initial weights for ever.

    The same kind: closures over the module, layers in lists and dicts, weights of any size in the loss, detached or
    not; all of them touch the memory of the user's parameters, or of the copy's, which the map never does.
    """
    make, loss, message = UNSEEN[name]
    with pytest.raises(nnflow.Refusal, match=message) as error:
        train(make(), loss)
    assert "\n" not in str(error.value)


def test_a_penalty_in_forward_counts() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.l(x) + (m.l.weight**2).sum(dim=1)

    trains_as_torch(Odd(forward))


def masked() -> nn.Module:
    module = small()
    module[0].weight.register_hook(lambda g: g * 0)
    return module


def idle_clip() -> nn.Module:
    module = small()
    module[0].weight.register_hook(lambda g: g.clamp(-1e3, 1e3))
    return module


def accumulating() -> nn.Module:
    module = small()
    module[2].bias.register_post_accumulate_grad_hook(lambda p: None)
    return module


def reversing() -> nn.Module:
    module = small()
    module[1].register_full_backward_hook(lambda part, into, out: (into[0] / 2,))
    return module


def accumulator() -> nn.Module:
    module = small()
    held = module[0].weight.expand_as(module[0].weight).grad_fn.next_functions[0][0]
    held.register_prehook(lambda grads: (grads[0] / 2,))
    module.held = [held]
    return module


@pytest.mark.parametrize("make", [masked, idle_clip, accumulating, reversing])
def test_hooks_on_gradients_are_refused(make: Any) -> None:
    """A mask by `register_hook` was ignored. The same kind: clipping that is idle at first, hooks after accumulation,
    full backward hooks of modules."""
    with pytest.raises(nnflow.Refusal, match=r"has a hook on its gradient|torch cannot batch it"):
        train(make())


def test_hooks_inside_forward_are_followed() -> None:
    def clipped(m: Any, x: Tensor) -> Tensor:
        z = m.l(x)
        if z.requires_grad:
            z.register_hook(lambda g: g.clamp(-0.02, 0.02))
        return z

    trains_as_torch(Odd(clipped))


# ------------------------------------------------------------------------------------------------- patched on the spot


def patched_whole(module: nn.Module) -> None:
    module.forward = types.MethodType(lambda self, x: 2 * nn.Sequential.forward(self, x), module)


def patched_part(module: nn.Module) -> None:
    module[1].forward = types.MethodType(lambda self, x: x.sin(), module[1])


def hooked_part(module: nn.Module) -> None:
    module[1].register_forward_pre_hook(lambda part, inputs: (2 * inputs[0],))


@pytest.mark.parametrize("patch", [patched_whole, patched_part, hooked_part])
def test_a_patched_forward_is_what_is_trained(patch: Any) -> None:
    """The compiled backend took the layers and ignored the patch: loss .740 for .871.

    The same kind: patched parts, hooks, subclasses of Sequential, a patched class, a loss module that is patched; a
    patch after the map was made does not reach it.
    """
    module = small()
    patch(module)
    map = trains_as_torch(copy.deepcopy(module))
    assert not isinstance(map, CompiledTraining)
    with pytest.raises(nnflow.Refusal, match=r"backend = 'compiled'"):
        train(module, backend="compiled")


def test_a_patched_class_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Tanh, "forward", lambda self, x: x.sin())
    assert not isinstance(trains_as_torch(small()), CompiledTraining)


class Doubled(nn.Sequential):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


def test_a_call_of_its_own_is_not_compiled() -> None:
    map = train(Doubled(*small()))
    own = F.cross_entropy(Doubled(*small())(torch.tensor(X)), torch.tensor(LABELS)).item()
    assert not isinstance(map, CompiledTraining)
    assert nnflow.Ensemble.grid(map).orbit(1, observe="loss")[0].item() == pytest.approx(own, rel=1e-13)


def test_a_patched_loss_is_what_is_trained() -> None:
    loss = nn.CrossEntropyLoss()
    loss.forward = types.MethodType(lambda self, o, y: 3 * F.cross_entropy(o, y), loss)
    map = train(small(), loss)
    own = loss(small()(torch.tensor(X)), torch.tensor(LABELS)).item()
    assert nnflow.Ensemble.grid(map).orbit(1, observe="loss")[0].item() == pytest.approx(own, rel=1e-13)


def test_a_patch_that_comes_later_does_not_reach_the_map() -> None:
    module = Odd(lambda m, x: m.l(x))
    map = train(module)
    before = nnflow.Ensemble.grid(map).advance(2).states
    module.odd = lambda m, x: 5 * m.l(x)
    module.l.register_forward_hook(lambda part, inputs, out: out * 7)
    assert np.array_equal(nnflow.Ensemble.grid(map).advance(2).states, before)


# -------------------------------------------------------------------------------------------------------- number types


def test_complex_buffers_stay_complex() -> None:
    """The imaginary part was dropped: loss .577 for .562. Complex parameters are refused: a state is real."""
    wave = torch.tensor([1 + 1j, 2 - 1j, 1j])
    module = Odd(lambda m, x: (m.l(x) * m.wave).abs())
    module.register_buffer("wave", wave)
    own = F.cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).item()
    map = train(module)
    assert nnflow.Ensemble.grid(map).orbit(1, observe="loss")[0].item() == pytest.approx(own, rel=1e-7)
    assert module.wave.dtype == torch.complex64
    single = train(module.float(), dtype=torch.float32)
    assert nnflow.Ensemble.grid(single).orbit(1, observe="loss")[0].item() == pytest.approx(own, rel=1e-6)
    module.w = nn.Parameter(wave)
    with pytest.raises(nnflow.Refusal, match="parameter w is complex"):
        train(module)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_number_types_too_coarse_are_refused(dtype: Any) -> None:
    """bfloat16 was taken, and crashed later. Modules and data in it are converted."""
    for make in (lambda: train(small(), dtype=dtype), lambda: nnflow.TensorMap(lambda x, p, t: x, dtype=dtype)):
        with pytest.raises(nnflow.Refusal, match=r"dtype = torch.*: states are held in torch.float32 or torch.float64"):
            make()
    if dtype is torch.bfloat16:
        module = small().to(dtype)
        map = nnflow.training_map(module, F.cross_entropy, torch.tensor(X).to(dtype), LABELS)
        assert map.state_of(module).tolist() == [float(v) for p in module.parameters() for v in p.detach().ravel()]


def test_a_loss_of_another_number_type_is_refused() -> None:
    with pytest.raises(nnflow.Refusal, match=r"the loss is of torch.float32, the map works in torch.float64"):
        train(Odd(lambda m, x: m.l(x).float()))


# --------------------------------------------------------------------------------------------------- sums and means


@pytest.mark.parametrize("noise", [None, 1])
def test_only_a_mean_can_be_cut_with_batches_too(noise: Any) -> None:
    """Loss 9.19 for 36.78: with a batch, nobody looked whether the loss was a mean.

    The same kind: with noise; test data; weights of classes, whose mean is another one in each piece.
    """
    net = drawing(small(), noise)
    with pytest.raises(nnflow.Refusal, match=r"microbatch = 2: the loss of all samples is .* that is a mean"):
        train(net, nn.MSELoss(reduction="sum"), VALUES, batch=5, microbatch=2, noise=noise)
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0]))
    with pytest.raises(nnflow.Refusal, match="microbatch = 3"):
        train(net, weighted, batch=6, shuffle=1, microbatch=3, noise=noise)
    with pytest.raises(nnflow.Refusal, match="microbatch = 3"):  # however small the loss
        train(net, lambda o, y: 1e-10 * F.mse_loss(o, y, reduction="sum"), VALUES, microbatch=3, noise=noise)
    whole = train(small(), nn.MSELoss(reduction="sum"), VALUES, batch=5)
    outputs = small()(torch.tensor(X))
    expected = [F.mse_loss(outputs[:n], torch.tensor(VALUES[:n]), reduction="sum").item() for n in (12, 5)]
    found = nnflow.Ensemble.grid(whole).orbit(1, observe=["loss", "batch_loss"])[0]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-13)


def scaled_back(z: Tensor) -> Tensor:
    if z.requires_grad:
        z.register_hook(lambda g: g / g.norm())
    return z


IGNORED = np.where(np.arange(12) == 5, -100, LABELS)
TWICE = np.tile(X, (2, 1)), np.concatenate([LABELS, IGNORED])
HEAVY = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0]))
SORTED: dict[str, Any] = {"targets": np.sort(LABELS)}
UNCUT: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any]]] = {
    "ignored labels": (nn.Identity, F.cross_entropy, {"targets": IGNORED, "batch": 4}),
    "in batches alone": (nn.Identity, F.cross_entropy, {"targets": IGNORED, "batch": 3}),
    "shuffled": (nn.Identity, F.cross_entropy, {"targets": IGNORED, "batch": 3, "shuffle": 1}),
    "of test data": (nn.Identity, F.cross_entropy, {"test": (X, IGNORED)}),
    "of more test data": (nn.Identity, F.cross_entropy, {"test": TWICE, "microbatch": 12}),
    "weights of classes": (nn.Identity, HEAVY, SORTED),
    "with noise": (lambda: nn.Dropout(0.1), HEAVY, {**SORTED, "noise": 0}),
    "statistics of the batch": (lambda: nn.BatchNorm1d(4, track_running_stats=False), F.cross_entropy, {}),
    "and with noise": (
        lambda: drawing(nn.BatchNorm1d(4, track_running_stats=False), 1), F.cross_entropy, {"noise": 1},
    ),
    "a gradient of norm 1": (lambda: Odd(lambda m, x: scaled_back(m.l(x))), F.cross_entropy, {}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", UNCUT)
def test_a_head_of_zeros_hides_no_pieces(name: str, dtype: Any) -> None:
    """At a head of zeros every row has the loss ln C, so any pieces agree: steps and observables were silently wrong.

    The same kind: with noise, statistics of a batch, test data alone, a gradient that is normed in each piece; a
    test table longer than the training data.
    """
    body, loss, settings = UNCUT[name]
    torch.manual_seed(0)
    first = body()
    module = first if isinstance(first, Odd) else nn.Sequential(first, zero(nn.Linear(4, 3)))
    with pytest.raises(nnflow.Refusal, match=r"microbatch = \d+: the .* is .*: only a loss that is a mean"):
        train(module.to(dtype), loss, **{"microbatch": 2, "dtype": dtype, **settings})


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", [{}, {"batch": 5}, {"batch": 5, "shuffle": 1}, {"noise": 3, "batch": 8}])
def test_true_means_are_cut(settings: dict[str, Any], dtype: Any) -> None:
    """Also of a trained network, whose loss is a small difference of large numbers, and of losses of any size."""
    for make in (small, saturated, lambda: zero(small())):
        for loss in (F.cross_entropy, lambda o, y: 1e-9 * F.cross_entropy(o, y, reduction="none").mean()):
            module = drawing(copy.deepcopy(make()).to(dtype), settings.get("noise"))
            train(module, loss, microbatch=2, dtype=dtype, test=(X[:7], LABELS[:7]), **settings)


def test_more_test_data_than_training_data_are_one_piece() -> None:
    """Without a word of microbatches they were cut to the length of the training data."""
    labels = np.where(np.arange(12) < 5, -100, LABELS)
    map = nnflow.training_map(small(), F.cross_entropy, X[:4], LABELS[:4], test=(X, labels), backend="tensor")
    whole = F.cross_entropy(small()(torch.tensor(X)), torch.tensor(labels)).item()
    assert nnflow.Ensemble.grid(map).orbit(1, observe="test_loss")[0].item() == pytest.approx(whole, rel=1e-13)


# ------------------------------------------------------------------------------------------------------- torch's modes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_callers_modes_change_nothing(mode: Any, dtype: Any) -> None:
    """Under no_grad "the loss does not depend on weight". The same kind: inference_mode, autocast, also while it runs,
    and modules that were made under them."""
    expected = train(small(), dtype=dtype, backend="tensor")
    frames = nnflow.Ensemble.grid(expected).with_frame(2).tangent_orbit(3)[0].log_stretches
    with mode():
        map = train(small(), dtype=dtype, backend="tensor")
        inside = nnflow.Ensemble.grid(map).with_frame(2).tangent_orbit(3)[0].log_stretches
        bowl = nnflow.gradient_map(lambda w: (w**4).sum(), 2)
        watched = nnflow.Ensemble.grid(bowl).orbit(2, observe=["loss", "gradient_norm"])[0]
        sharp = map.curvature(map.start[None], np.ones((1, 2)), 0, np.ones((1, 1, map.dim)))
    assert np.array_equal(inside, frames)
    assert np.array_equal(nnflow.Ensemble.grid(map).with_frame(2).tangent_orbit(3)[0].log_stretches, frames)
    assert np.isfinite(watched).all()
    assert torch.isfinite(sharp).all()


# ---------------------------------------------------------------------------------------------------- custom functions


class Square(torch.autograd.Function):
    generate_vmap_rule = True
    factor = 2.0

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * g


class Right(Square):
    @staticmethod
    def jvp(ctx: Any, v: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * v


class Wrong(Square):
    @staticmethod
    def jvp(ctx: Any, v: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * v


def test_functions_with_derivatives_of_their_own() -> None:
    trains_as_torch(Odd(lambda m, x: Right.apply(m.l(x))))
    for kind, message in ((Square, "must implement the jvp"), (Wrong, r"curvature of l\..* differences")):
        with pytest.raises(nnflow.Refusal, match=message):
            train(Odd(lambda m, x, kind=kind: kind.apply(m.l(x))))


def test_detached_statistics_are_refused_and_no_grad_is_followed() -> None:
    def scaled(m: Any, x: Tensor, cut: bool) -> Tensor:
        z = m.l(x)
        with torch.no_grad():
            size = z.std()
        return z / (z.detach().std() if cut else size)

    with pytest.raises(nnflow.Refusal, match=r"curvature of l\.(weight|bias) is .* by differences of the map's own"):
        train(Odd(lambda m, x: scaled(m, x, True)))
    map = train(Odd(lambda m, x: scaled(m, x, False)), eta=0.1)
    x, v = map.start[None], RNG.normal(size=(1, 1, map.dim))
    p = np.array([[0.1, 0.0]])
    steps = [map.to_numpy(map.step(x + h * v[0], p, 0)) for h in (1e-6, -1e-6)]
    moved = map.to_numpy(map.tangent(x, p, 0, v))[:, 0]
    np.testing.assert_allclose((steps[0] - steps[1]) / 2e-6, moved, atol=1e-7 * np.abs(moved).max())


# ------------------------------------------------------------------------------------------ parameters among themselves


class Pair(nn.Module):
    def __init__(self, tie: Callable[[Any], None]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.double()
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())


def tied(pair: Any) -> None:
    pair.b.weight = pair.a.weight


def overlaid(pair: Any) -> None:
    pair.b.weight.data = pair.a.weight.data


def test_tied_parameters_train_as_one_and_overlaid_ones_are_refused() -> None:
    map = trains_as_torch(Pair(tied))
    assert map.dim == 16 + 4 + 4 + 15
    with pytest.raises(nnflow.Refusal, match="parameters a.weight and b.weight share their memory"):
        train(Pair(overlaid))


def test_parametrizations_are_followed() -> None:
    orthogonal = torch.nn.utils.parametrizations.orthogonal
    torch.manual_seed(0)
    trains_as_torch(nn.Sequential(orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)).double())


def test_a_count_of_calls_is_refused() -> None:
    def counting(m: Any, x: Tensor) -> Tensor:
        m.calls = getattr(m, "calls", 0) + 1
        return m.l(x) / m.calls

    with pytest.raises(nnflow.Refusal, match=r"gradient of l\.|the loss is another one each time"):
        train(Odd(counting))


@pytest.mark.parametrize("kind", [torch.jit.script, nn.DataParallel])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_modules_whose_parameters_cannot_be_replaced_are_refused(kind: Any) -> None:
    with pytest.raises(nnflow.Refusal, match="parameters torch cannot replace"):
        train(kind(small()))


# ------------------------------------------------------------------------------------------- where there is no loss


class Bound(nn.Module):
    """A linear layer, and a parameter that cannot have any value."""

    def __init__(self, odd: Callable[[Tensor, Tensor], Tensor], value: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.l, self.odd = nn.Linear(4, 3), odd
        self.v = nn.Parameter(torch.as_tensor(value, dtype=torch.float64))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.l(x), self.v)


def density(z: Tensor, v: Tensor) -> Tensor:
    return z - torch.distributions.MultivariateNormal(z.new_zeros(3), v, validate_args=False).log_prob(z)[:, None]


PLUS = 2 * np.eye(3)
BOUND: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Any]] = {
    "cholesky": (lambda z, v: z @ torch.linalg.cholesky(v), PLUS),
    "upper cholesky": (lambda z, v: z @ torch.linalg.cholesky(v, upper=True), PLUS),
    "eigenvalues": (lambda z, v: z * torch.linalg.eigvalsh(v), PLUS + np.diag([0.0, 1.0, 3.0])),
    "inverse": (lambda z, v: z @ torch.linalg.inv(v), PLUS),
    "log": (lambda z, v: z + v.log().sum(), [1.0, 2.0, 3.0, 4.0, 5.0]),
    "log, one small": (lambda z, v: z * v.log().sum(), [1.0, 2.0, 3.0, 1e-4]),
    "sqrt": (lambda z, v: z * v.sqrt(), [1.0, 2.0, 3.0]),
    "acos": (lambda z, v: z * v.acos(), [0.5, -0.2, 0.9]),
    "density": (density, PLUS),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", BOUND)
def test_far_weights_without_a_loss_are_no_fault(name: str, dtype: Any) -> None:
    """A Cholesky raised LinAlgError at the far weights; a logarithm was NaN there, which left no room for rounding."""
    map = train(Bound(*BOUND[name]), F.mse_loss, VALUES, dtype=dtype, eta=1e-4)
    start = nnflow.Ensemble.grid(map)
    assert np.isfinite(start.advance(2).states).all()
    lost = np.concatenate([map.start[None], -map.start[None]])
    ends = nnflow.Ensemble.grid(map, states=lost).advance(1)
    assert np.isfinite(ends.states[0]).all()  # whatever becomes of the other one


def test_a_loss_that_is_another_one_without_gradients_is_refused() -> None:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs, y) + (0 if outputs.requires_grad else 5)

    with pytest.raises(nnflow.Refusal, match=r"the loss of the module itself is .*, of the map "):
        train(small(), loss, VALUES)


# --------------------------------------------------------------------------------------------- the check, and its price


def test_what_a_module_keeps_is_left_as_it_was() -> None:
    """A list that forward appends to kept one entry. The same kind: dicts, sets, what is inside, arrays."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.seen.append(1)
        m.by["x"].append(2)
        m.marks.add(3)
        m.queue.append(4)
        m.table += 1
        return m.l(x)

    kept: dict[str, Any] = {
        "seen": [], "by": {"x": [0]}, "marks": set(), "queue": deque([1, 2], maxlen=2),
        "table": np.zeros(2),
    }  # fmt: skip
    module = Odd(forward, **kept)
    train(module)
    assert (module.seen, module.by, module.marks, list(module.queue)) == ([], {"x": [0]}, set(), [1, 2])
    assert module.seen is kept["seen"]
    assert module.table.sum() == 0


def test_the_users_module_is_left_as_it_was() -> None:
    """Parameters, gradients, buffers, attributes, mode, hooks and torch's random numbers."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.last = m.l(x)
        return m.last + m.shift + F.dropout(x[:, :3], 0.1, m.training)

    module = Odd(forward)
    module.register_buffer("shift", torch.ones(3).double())
    calls: list[int] = []
    module.l.register_forward_hook(lambda part, inputs, out: calls.append(1))
    module.l.weight.grad = torch.ones_like(module.l.weight)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(2)
    torch.manual_seed(4)
    train(module, noise=3)
    assert torch.equal(torch.rand(2), expected)
    assert "last" not in vars(module)
    assert calls  # it was called
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(module.l.weight.grad, torch.ones_like(module.l.weight))
    assert module.l.bias.grad is None
    assert module.training
    assert len(module.l._forward_hooks) == 1


@cache
def saturated() -> nn.Module:
    """Trained until the loss is 1e-6: a small difference of large numbers."""
    module = small()
    adam = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(1500):
        adam.zero_grad()
        F.cross_entropy(module(torch.tensor(X)), torch.tensor(LABELS)).backward()
        adam.step()
    return module


def zero(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def deep(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    layers = [part for _ in range(12) for part in (nn.Linear(16, 16), kind())]
    return nn.Sequential(nn.Linear(4, 16), kind(), *layers, nn.Linear(16, 3))


GOOD: dict[str, Callable[[], nn.Module]] = {
    "trained": saturated,
    "all zero": lambda: zero(small()),
    "dead ReLU": lambda: zero(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))),
    **{f"deep {kind.__name__}": partial(deep, kind) for kind in (nn.ReLU, nn.GELU, nn.Hardtanh, nn.Hardswish)},
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_good_modules_pass(name: str, optimizer: str) -> None:
    """In both number types of the map, from a module of either."""
    module = GOOD[name]()
    for own, dtype in ((torch.float64, None), (torch.float32, None), (torch.float64, torch.float32)):
        train(copy.deepcopy(module).to(own), optimizer=optimizer, dtype=dtype, backend="tensor")


def test_check_false_goes_without_and_says_so() -> None:
    module = small()
    map = train(module, penalised(module, 0.5), check=False)
    assert map.structure["check"] is False
    found = nnflow.run("lyapunov_spectrum", map, steps=5, transient=0)
    assert '"check": false' in found.attrs["structure"]
    assert "check" not in train(small()).structure
    assert train(small(), check=False).structure["check"] is False
    assert nnflow.gradient_map(lambda w: (w * w.detach()).sum(), 1, check=False).structure["check"] is False


@pytest.mark.slow
def test_a_compiled_map_that_is_off_the_tensor_backend_is_refused() -> None:
    """Each loop at its first use: here the peer is made to be wrong."""
    map = train(small())
    assert isinstance(map, CompiledTraining)
    assert map.peer is not None
    start = nnflow.Ensemble.grid(map)
    verbs: list[Callable[[nnflow.Ensemble], Any]] = [
        lambda e: e.advance(1), lambda e: e.orbit(1), lambda e: e.with_frame(2).tangent_orbit(1),
        lambda e: e.separation_orbit(e.states[:, None], 1), lambda e: e.curvature(np.ones((1, 1, map.weights))),
    ]  # fmt: skip
    for verb in verbs:
        verb(start)
    right = map.peer
    for wrong, of in {"after": verbs[:4], "moved": verbs[2:3], "bent": verbs[4:]}.items():
        map.__dict__.update(peer=right._replace(**{wrong: getattr(right, wrong) + 1e-6}), _seen=set())
        for verb in of:  # what is compiled stays
            with pytest.raises(nnflow.Refusal, match="of the compiled network is .* off that of the tensor backend"):
                verb(start)


def test_a_compiled_map_is_compared_where_something_moves() -> None:
    """At t = 0 a schedule may begin with 0; and the map of all data has a peer of its own."""
    for schedule, first in ((lambda t: min(1.0, t / 10), 1), (None, 0), (lambda t: float(t >= 7), 7)):
        map = train(small(), schedule=schedule, batch=6)
        for each in (map, map.whole()):
            peer = each.peer
            assert peer is not None
            assert peer.t == first
            assert min(np.abs(peer.after - peer.x[0]).max(), np.abs(peer.moved - peer.v).max()) > 1e-3
    assert map.whole().peer.after.tolist() != map.peer.after.tolist()


def test_a_map_that_begins_with_no_steps_is_compared_as_it_goes_on() -> None:
    """With a rate of 0, no step and no tangent showed what the map would do."""

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            return out * out.detach().sigmoid()

    for schedule in (None, lambda t: min(1.0, t / 10)):
        with pytest.raises(nnflow.Refusal, match="by differences of the map's own"):
            train(Detached(), schedule=schedule)


def test_no_number_is_not_taken_for_one() -> None:
    """A gradient that one of the two does not have was compared with that of the other as if it were 0."""
    task: Any = SimpleNamespace(parameter_at=lambda i: f"w[{i}]", averages=())
    none, some = np.array([1.0, np.nan]), np.array([1.0, 2.0])
    room: Any = witness.Slope(1e-9, np.float64(1e-9), np.float64(0.0))  # type: ignore[arg-type]
    for ours, theirs in ((none, some), (some, none)):
        with pytest.raises(nnflow.Refusal, match=r"the gradient of w\[1\]"):
            witness._compare(task, witness.Slope(1.0, ours), witness.Slope(1.0, theirs), room)
    with pytest.raises(nnflow.Refusal, match="the loss of the module itself"):
        witness._compare(task, witness.Slope(np.nan, some), witness.Slope(1.0, some), room)
    same = np.array([np.inf, np.nan])
    witness._compare(task, witness.Slope(1.0, same), witness.Slope(1.0, same.copy()), room)
