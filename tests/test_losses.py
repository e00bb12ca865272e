"""Compiled losses: each operation against torch, maps against tensors and against kernels written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jacfwd, jacrev

import nnflow
from nnflow.exchange import numba_mapping
from nnflow.systems.optimisers.table import OPTIMISERS
from nnflow.systems.tapes import loops
from nnflow.systems.tapes.graph import written
from nnflow.systems.tapes.writer import MOST, Unwritable
from nnflow.tensor.modes import forward_mode
from nnflow.typing import Array

Loss = Callable[[Tensor], Tensor]
RNG = np.random.default_rng(0)
A, X = torch.tensor(RNG.normal(size=(3, 3))), torch.tensor(RNG.normal(size=(5, 3)))
CLASSES, THIRDS = torch.tensor([0, 1, 2, 0, 1]), torch.full((3,), 1 / 3, dtype=torch.float64)


def rosenbrock(w: Tensor) -> Tensor:
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2  # type: ignore[no-any-return]


def bumpy(w: Tensor) -> Tensor:
    return torch.sin(w[0] * w[1]) + torch.logsumexp(w, 0) + (w[2] - w[0]) ** 4 / 8


def in_place(w: Tensor) -> Tensor:
    out = torch.zeros_like(w)
    out[0] = w[1] * w[2]
    out[1:] = w[:2]
    return out.pow(2).sum()


def derivatives(loss: Loss, n: int = 3) -> Callable[[Array], tuple[Array, Array]]:
    """The gradient and the Hessian of a loss as a function of w, from its tape."""
    (tape,) = written(grad(loss), torch.tensor(RNG.normal(size=n)))

    def found(w: Array) -> tuple[Array, Array]:
        g, H = np.empty(n), np.empty((n, n))
        loops.run_with_slopes(w, 0, (tuple(tape),), g, np.eye(n), H)
        return g, H.T

    return found


OPERATIONS: dict[str, Loss] = {
    "add, sub, alpha": lambda w: torch.add(w, w**2, alpha=0.3).sum() + torch.sub(w, w**3, alpha=2).sum(),
    "div": lambda w: (w[0] / w[1] + 3 / w[2] - w[1] / 7) ** 2,
    "addcmul, addcdiv": lambda w: torch.addcmul(w, w, w, value=0.1).sum() + torch.addcdiv(w, w, w**2 + 1).sum(),
    "powers": lambda w: sum((w**n).sum() / n for n in (1, 2, 3, 4, 5, 8, 9, -1, -2, -3)),
    "roots": lambda w: (w.abs() ** 0.5 + w.abs() ** -0.5 + w.abs() ** 2.5 + w.abs().sqrt() + w.abs().rsqrt()).sum(),
    "pow": lambda w: (2.0**w).sum() + (w.abs() ** w).sum() + w.exp2().sum(),
    "abs, sign": lambda w: (w.abs() * w + w.sign() * w**3 + w.sgn()).sum(),
    "exp, log": lambda w: (w.exp() + w.expm1() ** 2 + (w**2 + 0.1).log() * w.abs().log1p()).sum(),
    "log2, log10": lambda w: ((w**2 + 0.1).log2() * (w**2 + 0.1).log10()).sum(),
    "angles": lambda w: (w.sin() * w.cos() + w.tan() + w.atan() ** 2).sum(),
    "arcs": lambda w: ((w / 9).asin() ** 2 + (w / 9).acos() ** 2 + w.asinh() ** 2).sum(),
    "hyperbolic": lambda w: (w.sinh() * w.cosh() + w.tanh() ** 2 + (w / 9).atanh() ** 2).sum(),
    "acosh": lambda w: (w**2 + 1.5).acosh().pow(2).sum(),
    "erf": lambda w: (w.erf() ** 2 + w.erfc() ** 2).sum(),
    "sigmoid": lambda w: (w.sigmoid() ** 2).sum(),
    "atan2": lambda w: torch.atan2(w[0], w[1]) ** 2,
    "remainders": lambda w: (w % 0.7).pow(2).sum() + torch.fmod(w, 0.3).pow(2).sum() + (w % w[0] * w).sum()
    + (w * torch.div(w, 0.3, rounding_mode="floor") + w * torch.div(w, 0.3, rounding_mode="trunc")).sum(),
    "steps": lambda w: (w.floor() * w + w.ceil() * w**2 + w.round() * w**3 + w.trunc() * w + w.frac() ** 2).sum(),
    "maximum": lambda w: torch.maximum(w[0], w[1]) ** 2 + torch.minimum(w[1] ** 2, w[2]) ** 2,
    "clamp": lambda w: (w.clamp(-0.5, 0.7) ** 2).sum() + (w.clamp(min=0.1) * w.clamp(max=w[0])).sum(),
    "where": lambda w: torch.where((w > 0) & (w < 1) | ~(w >= -1), w**3, torch.where(w != w[0], w, w**2)).sum(),
    "masked": lambda w: w.masked_fill(w <= 0.1, 0.3).pow(2).sum() + torch.nan_to_num(w / 3).pow(2).sum(),
    "kinks": lambda w: (F.relu(w) ** 2 + F.leaky_relu(w) * w + F.relu6(w) * w + F.hardtanh(w) ** 2).sum(),
    "softplus": lambda w: (F.softplus(w) + F.silu(w) + F.mish(w) + F.logsigmoid(w)).sum(),
    "elu": lambda w: (F.elu(w) + F.selu(w) + F.celu(w) + F.hardswish(w) + F.softsign(w)).sum(),
    "gelu": lambda w: (F.gelu(w) + F.gelu(w, approximate="tanh")).sum(),
    "sums": lambda w: w.mean() ** 2 + w.sum() ** 3 + w.prod() + (A * w).sum(0).pow(2).mean(0, keepdim=True).sum(),
    "extremes": lambda w: w.max() ** 2 + w.amin() ** 2 + (A * w).amax(1).pow(2).sum() + w.min() ** 3,
    "variance": lambda w: w.var() + w.std() + (A * w).var(0, correction=0).pow(2).sum() + w.std(correction=0),
    "norms": lambda w: w.norm() + w.norm(1) ** 2 + w.norm(3) + w.norm(math.inf) ** 2 + F.normalize(w, dim=0)[0],
    "running": lambda w: w.cumsum(0).pow(2).sum() + w.cumprod(0).sum() + w.diff().pow(2).sum(),
    "logsumexp": lambda w: torch.logsumexp(w, 0) ** 2 + torch.logaddexp(w[0], w[1]),
    "softmax": lambda w: F.softmax(w, 0)[0] ** 2 + F.log_softmax(A * w, 1).pow(2).sum(),
    "dot, mv": lambda w: w @ w * (w @ A @ w) + torch.dot(w, A @ w) ** 2 + (X @ w).pow(2).sum(),
    "mm, bmm": lambda w: (w[:, None] @ w[None] @ A).pow(2).sum() + torch.einsum("i,ij,jk,k->", w, A, A, w),
    "outer": lambda w: (torch.outer(w, w) + A).trace() ** 2 + torch.linalg.cross(w, w.flip(0)).pow(2).sum(),
    "views": lambda w: w.view(1, 3).T.expand(3, 2).permute(1, 0).reshape(-1).roll(1)[1:4].pow(3).prod(),
    "indices": lambda w: w[torch.tensor([0, 0, 2])].prod() + w.index_select(0, torch.tensor([1])).pow(2).sum(),
    "gathers": lambda w: torch.gather(A * w, 1, CLASSES[:3, None]).pow(3).sum() + w.gather(0, CLASSES).prod(),
    "stacks": lambda w: torch.stack([w[0] * w[1], w[2]]).pow(3).sum() + torch.cat([w, 2 * w])[1:4].exp().sum(),
    "fills": lambda w: F.pad(w, (1, 2), value=0.5).pow(3).cumsum(0).sum() + torch.diag(w).tril().pow(2).sum(),
    "in place": in_place,
    "whole numbers": lambda w: (torch.arange(3) * w**3).sum() + (w * (w > 0).sum()).sum(),
    "float32 constants": lambda w: (torch.tensor([1.0, 0.1, 5.0]) * w**4).sum(),
    "cross entropy": lambda w: F.cross_entropy(X * w, CLASSES) + F.nll_loss(F.log_softmax(X * w, 1), CLASSES),
    "logistic": lambda w: F.binary_cross_entropy_with_logits(X @ w, torch.ones(5, dtype=torch.float64)),
    "smooth L1": lambda w: F.smooth_l1_loss(w, THIRDS) + F.mse_loss(w, THIRDS) + F.l1_loss(w**2, THIRDS),
    "divergence": lambda w: F.kl_div(F.log_softmax(w, 0), THIRDS, reduction="sum"),
    "layer norm": lambda w: F.layer_norm(w, (3,)).pow(3).sum(),
    "cosine": lambda w: F.cosine_similarity(w, w.exp(), dim=0),
    "lerp, xlogy": lambda w: torch.lerp(w[0], w[1], 0.3) ** 2 + torch.xlogy(w.abs(), w.abs()).sum(),
    "sinc": lambda w: torch.sinc(w).sum(),
    "detached": lambda w: (w.detach() ** 2 * 0 + w**2).sum(),
    "constant": lambda w: w.sum(),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_and_its_derivatives_are_those_of_torch(name: str) -> None:
    """To rounding: sums have another order, and some formulas another form."""
    loss = OPERATIONS[name]
    found = derivatives(loss)
    for w in np.random.default_rng(1).normal(size=(4, 3)):
        g, H = found(w)
        known = grad(loss)(torch.tensor(w)).detach().numpy()
        np.testing.assert_allclose(g, known, rtol=1e-11, atol=1e-11 * np.abs(known).max())
        bent = jacrev(grad(loss))(torch.tensor(w)).detach().numpy()
        np.testing.assert_allclose(H, bent, rtol=1e-10, atol=1e-10 * np.abs(bent).max())


def test_a_huber_loss_has_derivatives_that_torch_has_not() -> None:
    """Torch cannot differentiate its gradient at all; differences of it can be told."""
    loss = lambda w: F.huber_loss(X @ w, torch.ones(5, dtype=torch.float64), delta=0.8)  # noqa: E731
    w, h = np.array([0.3, -0.8, 1.1]), 1e-6
    found = derivatives(loss)
    g, H = found(w)
    np.testing.assert_allclose(g, grad(loss)(torch.tensor(w)).numpy(), rtol=1e-14)
    moved = [(found(w + h * e)[0] - found(w - h * e)[0]) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(H, np.array(moved).T, atol=1e-9)


ODD = [0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan, 1e200, -1e200, 1e-200, 710.0, -750.0]
AT_ODD: dict[str, Loss] = {
    name: OPERATIONS[name]
    for name in ("abs, sign", "maximum", "clamp", "where", "masked", "kinks", "extremes", "exp, log", "sigmoid",
                 "softplus", "elu", "roots", "steps", "logsumexp", "atan2", "erf", "hyperbolic")
}  # fmt: skip


@pytest.mark.parametrize("name", AT_ODD)
def test_nan_and_infinity_go_through_as_in_torch(name: str) -> None:
    """Also 0 at a kink, and numbers whose exponentials are none."""
    loss = AT_ODD[name]
    found = derivatives(loss)
    for value in ODD:
        for w in (np.array([value, 0.3, -0.4]), np.array([0.2, value, value])):
            g, _ = found(w)
            known = grad(loss)(torch.tensor(w)).detach().numpy()
            np.testing.assert_allclose(g, known, rtol=1e-11, err_msg=f"{w}")


def masked(w: Tensor) -> Tensor:
    out = w * w
    out[w > 0] = 1.0
    return out


AT_KINKS: dict[str, tuple[Loss, list[float]]] = {
    "a norm of 0, clamped": (lambda w: (w / w.norm().clamp_min(1e-3)).sum() ** 2 + w.pow(2).sum(), [0.0, 0.0, 0.0]),
    "normalize": (lambda w: F.normalize(w, dim=0).pow(3).sum() + w.pow(2).sum(), [0.0, 0.0, 0.0]),
    "cosine": (lambda w: F.cosine_similarity(w[:2], torch.stack([w[2], w[2] + 1]), dim=0), [0.0, 0.0, 1.0]),
    "norm of order 3": (lambda w: w.norm(p=3) ** 4 + w.pow(2).sum(), [0.0, 0.0, 0.0]),
    "deviation": (lambda w: w.std() ** 4 + w.pow(2).sum(), [0.5, 0.5, 0.5]),
    "three are largest": (lambda w: w.amax() ** 2, [1.0, 1.0, 1.0]),
    "three are smallest": (lambda w: -(torch.cat([w, w[:1] + 1]).amin() ** 3), [1.0, 1.0, 1.0]),
    "the largest of all": (lambda w: w.max() ** 2 + w.min() ** 2, [1.0, 1.0, 1.0]),
    "two of three": (lambda w: w.amax() ** 2 + w.amin() ** 3, [1.0, 2.0, 2.0]),
}  # fmt: skip


@pytest.mark.parametrize("name", AT_KINKS)
def test_derivatives_at_kinks_are_those_of_torchs_forward_mode(name: str) -> None:
    """A norm of 0 had NaN, and of three that are largest one weighed more than the others."""
    loss, at = AT_KINKS[name]
    g, H = derivatives(loss)(np.array(at))
    w = torch.tensor(at, dtype=torch.float64)
    np.testing.assert_allclose(g, grad(loss)(w).numpy(), rtol=1e-12, atol=1e-12)
    with forward_mode():
        bent = jacfwd(grad(loss))(w).numpy()
    np.testing.assert_allclose(H, bent, rtol=1e-11, atol=1e-11 * np.abs(bent).max())


REFUSED: dict[str, tuple[Loss, str]] = {
    "sort": (lambda w: (w.sort()[0] * torch.arange(3)).sum(), "aten.sort.default has no compiled form"),
    "median": (lambda w: w.median() ** 2, "aten.median.default has no compiled form"),
    "max with places": (lambda w: w.max(0)[0] ** 2, "aten.max.dim has no compiled form"),
    "inverse": (lambda w: torch.linalg.inv(torch.outer(w, w) + A).sum(), "aten.linalg_inv_ex.default has no compiled"),
    "determinant": (lambda w: torch.linalg.det(torch.outer(w, w) + A), "aten._linalg_det.default has no compiled form"),
    "convolution": (lambda w: F.conv1d(w.view(1, 1, 3), A[:1, None, :2]).pow(2).sum(), "aten.convolution.default"),
    "Fourier": (lambda w: torch.fft.fft(w).abs().sum(), "aten._fft_r2c.default has no compiled form"),
    "float32": (lambda w: w.float().pow(2).sum().double(), "makes float32, and float64 is compiled"),
    "whole": (lambda w: (w.long() * w).sum(), "makes int64, and float64 is compiled"),
    "a mask": (lambda w: w[w > 0].sum() ** 2, "the size of what .* depends on the numbers"),
    "a view of its own strides": (lambda w: (w * 2).as_strided((2,), (2,)).pow(2).sum(), "has no compiled form"),
    "filled": (lambda w: (w * 1).fill_(w[0]).sum() ** 2 + masked(w).sum(), "has no compiled form|takes its places"),
    "a masked write": (lambda w: masked(w).sum() ** 2, "takes its places from w"),
    "branch": (lambda w: (w * w).sum() if w[0] < 0.5 else w.sum(), "cannot be traced: .*data-dependent|get value out"),
    "random": (lambda w: (w * torch.rand(3)).sum(), "aten.rand.default draws random numbers"),
    "many": (lambda w: sum(((w * k).sin() ** 2).sum() for k in range(1500)), f"and {MOST} at most|more than {MOST}"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_scalar_form_is_refused_by_its_name(name: str) -> None:
    loss, message = REFUSED[name]
    with pytest.raises(Unwritable, match=message):
        written(grad(loss), torch.tensor([0.3, 0.2, -0.1], dtype=torch.float64))


def test_what_is_equal_is_written_once_and_what_is_unused_left_out() -> None:
    w = torch.tensor([0.3, 0.2], dtype=torch.float64)
    (tape,) = written(lambda w: torch.stack([w[0] * w[1], w[1] * w[0], (w.exp() * 0 + w)[0], w[0]]), w)
    assert len(tape.code) == 4  # w0 w1; and of exp(w0) · 0 + w0 an exponential, a product and a sum
    assert tape.out[0] == tape.out[1]


# ---------------------------------------------------------------------------------------------------------- the maps

MOMENTUM, ADAM = {"eta": 1e-4, "beta": 0.8}, {"eta": 0.02, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}
VALUES: dict[str, dict[str, float]] = {
    "gd": {"eta": 1e-4}, "heavy_ball": MOMENTUM, "nesterov": MOMENTUM, "adam": ADAM, "adamw": ADAM,
    "rmsprop": {"eta": 0.01, "beta2": 0.9, "epsilon": 1e-3},
}  # fmt: skip


def falling(t: int) -> float:
    return 1.0 / (1.0 + 0.1 * t)


@pytest.mark.parametrize("schedule", [None, falling])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_fifty_steps_with_their_tangents_are_those_on_tensors(optimizer: str, schedule: Any) -> None:
    """All six optimizers, weight decay and schedules included; observables, curvature and preconditioner, too."""
    settings = {**VALUES[optimizer], "weight_decay": 0.1, "schedule": schedule}
    maps = [nnflow.gradient_map(rosenbrock, 2, optimizer, backend=kind, **settings) for kind in ("compiled", "tensor")]
    assert [map.backend for map in maps] == ["compiled", "tensor"]
    ours, theirs = (nnflow.Ensemble.grid(map, inits=3, seed=5).with_frame(2) for map in maps)
    (a, one), (b, other) = ours.tangent_orbit(50), theirs.tangent_orbit(50)
    np.testing.assert_allclose(one.states, other.states, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(a.log_stretches, b.log_stretches, atol=1e-9)
    np.testing.assert_allclose(one.frames, other.frames, atol=1e-9)
    (a, _), (b, _) = (each.orbit(20, observe=["loss", "gradient_norm", "w1"]) for each in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=1e-9)
    v, p = np.random.default_rng(2).normal(size=(3, 2, 2)), ours.parameters
    np.testing.assert_allclose(
        maps[0].curvature(ours.states, p, 0, v), maps[1].curvature(ours.states, p, 0, v).numpy(), rtol=1e-11
    )


@pytest.mark.parametrize("name", ["cubic_descent", "double_well_descent"])
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_a_loss_is_what_was_written_by_hand(name: str, optimizer: str) -> None:
    losses = {
        "cubic_descent": lambda w: (w**2 / 2 - w**3 / 3).sum(),
        "double_well_descent": lambda w: ((w**2 - 1) ** 2 / 4).sum(),
    }
    hand = nnflow.maps[name](optimizer, eta=0.05, weight_decay=0.01)
    map = nnflow.gradient_map(losses[name], 1, optimizer, eta=0.05, weight_decay=0.01, backend="compiled")
    states = np.hstack([[[0.2], [0.9]], np.zeros((2, map.memory))])
    ours, theirs = (nnflow.Ensemble.grid(m, states=states).with_frame(1).tangent_orbit(200) for m in (map, hand))
    np.testing.assert_allclose(ours[0].log_stretches, theirs[0].log_stretches, atol=1e-11)
    np.testing.assert_allclose(ours[1].states, theirs[1].states, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_the_tangent_is_the_derivative_of_the_maps_own_step(optimizer: str) -> None:
    map = nnflow.gradient_map(bumpy, 3, optimizer, backend="compiled", **VALUES[optimizer])
    rng = np.random.default_rng(2)
    x, p = rng.normal(size=(4, map.dim)), np.tile(list(map.parameters.values()), (4, 1))
    x[:, 3:] = np.abs(x[:, 3:])  # a mean of squares is no less than 0
    v = rng.normal(size=(4, 1, map.dim))
    ahead, behind = (map.step(x + h * v[:, 0], p, 0) for h in (1e-5, -1e-5))
    exact = map.tangent(x, p, 0, v)[:, 0]
    np.testing.assert_allclose((ahead - behind) / 2e-5, exact, atol=1e-8 * np.abs(exact).max())


def test_what_torch_cuts_off_is_in_the_derivative_of_what_is_iterated() -> None:
    """(w · w.detach()).sum() makes w' = (1 − η) w: λ = ln ¾, which on tensors is refused."""
    cut = lambda w: (w * w.detach()).sum()  # noqa: E731
    map = nnflow.gradient_map(cut, 1, eta=0.25)
    assert nnflow.run("lyapunov_spectrum", map, steps=10).exponent.item() == pytest.approx(math.log(0.75), abs=1e-12)
    with pytest.raises(nnflow.Refusal, match=r"w changes by|curvature of w is .* differences"):
        nnflow.gradient_map(cut, 1, eta=0.25, backend="tensor")


def test_losses_share_their_machine_code_and_keep_their_numbers() -> None:
    """What is compiled for one loss of two weights is there for the next one."""
    one, other = (nnflow.gradient_map(lambda w, h=h: h * (w**2).sum() / 2, 2, eta=0.5) for h in (1.0, 3.0))
    assert one.functions == other.functions
    for map, factor in ((one, 0.5), (other, -0.5)):
        after = nnflow.Ensemble.grid(map, states=[[1.0, 2.0]]).advance(1).states
        np.testing.assert_array_equal(after, [[factor, 2 * factor]])


def test_a_map_means_what_its_loss_meant_when_it_was_made() -> None:
    """Names that are bound anew, and tensors that are written to, belong to the next map."""
    scale = {"now": 1.0}
    matrix = torch.eye(2, dtype=torch.float64)
    map = nnflow.gradient_map(lambda w: scale["now"] * (w @ matrix @ w) / 2, 2, eta=0.5)
    scale["now"] = 100.0
    matrix.zero_()
    after = nnflow.Ensemble.grid(map, states=[[1.0, 2.0]]).advance(1)
    np.testing.assert_array_equal(after.states, [[0.5, 1.0]])


def test_a_loss_that_gives_another_gradient_each_time_is_refused() -> None:
    calls: list[int] = []

    def counting(w: Tensor) -> Tensor:
        calls.append(0)
        return (w * w).sum() * len(calls)

    for backend in ("auto", "compiled"):
        with pytest.raises(nnflow.Refusal, match="when it is asked again: let it depend on w alone"):
            nnflow.gradient_map(counting, 2, backend=backend)


def test_a_number_that_torch_took_from_the_first_state_is_found() -> None:
    """A tensor that leaves torch on its way is a constant of the trace."""
    loss = lambda w: (w * w).sum() * (1 + torch.from_numpy(w.detach().clone().numpy()).sum() ** 2)  # noqa: E731
    with pytest.raises(nnflow.Refusal, match="other numbers than torch|cannot be traced|fails"):
        nnflow.gradient_map(loss, 2, backend="compiled")


def test_which_backend_it_is_and_why_is_said() -> None:
    """By the map and in results."""
    sorting = lambda w: (w.sort()[0] * torch.arange(2)).sum() + (w**2).sum()  # noqa: E731
    by_tensors, compiled = (nnflow.gradient_map(loss, 2, eta=0.01) for loss in (sorting, rosenbrock))
    assert (by_tensors.backend, compiled.backend) == ("tensor", "compiled")
    assert by_tensors.structure["backend_reason"] == "aten.sort.default has no compiled form"
    for map in (by_tensors, compiled):
        structure = nnflow.run("lyapunov_spectrum", map, k=1, steps=3, transient=0).attrs["structure"]
        assert f'"backend": "{map.backend}"' in structure


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (rosenbrock, {"backend": "numba"}, "unknown backend 'numba'.*Known: auto, compiled, tensor"),
        (rosenbrock, {"backend": "compiled", "dtype": torch.float32}, "float64 on the CPU is compiled"),
        (REFUSED["sort"][0], {"backend": "compiled"}, "backend = 'compiled': aten.sort.default .*backend='tensor'"),
    ],
)
def test_what_cannot_be_compiled_is_refused_where_it_was_asked_for(loss: Any, settings: Any, message: str) -> None:
    with pytest.raises(nnflow.Refusal, match=message) as error:
        nnflow.gradient_map(loss, 3, **settings)
    assert "\n" not in str(error.value)


def test_thirty_two_weights_are_compiled() -> None:
    """A matrix of 32 × 32 is 1024 products, twice."""
    q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(32, 32)))
    h = np.linspace(0.1, 3.0, 32)
    matrix = torch.tensor(q * h @ q.T)
    map = nnflow.gradient_map(lambda w: w @ matrix @ w / 2, 32, eta=0.5)
    assert map.backend == "compiled"
    found = nnflow.run("lyapunov_spectrum", map, k=32, steps=20, transient=400).exponent.values
    np.testing.assert_allclose(found, np.sort(np.log(np.abs(1 - 0.5 * h)))[::-1], atol=1e-6)


def test_a_member_that_escapes_is_one_on_both_backends() -> None:
    maps = [nnflow.gradient_map(lambda w: (w**4).sum(), 1, eta=0.1, backend=kind) for kind in ("compiled", "tensor")]
    ends = [nnflow.Ensemble.grid(map, states=[[0.2], [5.0], [1e100]]).advance(30) for map in maps]
    assert ends[0].escaped.tolist() == ends[1].escaped.tolist()
    assert ends[0].escaped[1] > 0


def test_a_compiled_loss_is_handed_out_to_numba() -> None:
    map = nnflow.gradient_map(rosenbrock, 2, "heavy_ball", eta=1e-3, backend="compiled")
    mapping, jacobian = numba_mapping(map)
    x, p = np.array([0.3, 0.2, 0.1, -0.1]), np.array(list(map.parameters.values()))
    np.testing.assert_array_equal(mapping(x, p), nnflow.Ensemble.grid(map, states=[x]).advance(1).states[0])
    np.testing.assert_allclose(jacobian(x, p).T, map.tangent(x[None], p[None], 0, np.eye(4)[None])[0], rtol=1e-14)
