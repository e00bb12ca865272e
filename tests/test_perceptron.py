"""The compiled network against torch's automatic differentiation, against numpy, and against what is known exactly."""

import dataclasses
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from numba import njit

from nnflow.data.order import Order
from nnflow.systems.perceptron.batches import blocks_of
from nnflow.systems.perceptron.network import Kernels, Perceptron

LAYERS = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "identity": torch.nn.Identity}


@dataclasses.dataclass(frozen=True)
class Case:
    sizes: tuple[int, ...]
    activation: str | tuple[str, ...]
    loss: str
    samples: int
    output: str = "identity"


CASES = {
    "iris": Case((4, 10, 3), "sigmoid", "cross_entropy", 120),
    "softmax regression": Case((5, 3), (), "cross_entropy", 9),
    "two blocks": Case((3, 6, 5, 7, 4), ("tanh", "softplus", "relu"), "cross_entropy", 300),
    "squared error": Case((3, 9, 5, 6, 2), ("sigmoid", "identity", "tanh"), "mse", 40, "sigmoid"),
    "bent outputs": Case((3, 4, 3), "tanh", "cross_entropy", 17, "softplus"),
}
WATCHED = ("two blocks", "squared error")


@cache
def network(name: str) -> Perceptron:
    case = CASES[name]
    rng = np.random.default_rng(len(name))
    inputs, outputs = case.sizes[0], case.sizes[-1]
    classes = case.loss == "cross_entropy"
    draw = (lambda n: rng.integers(0, outputs, n)) if classes else (lambda n: rng.normal(size=(n, outputs)))
    n = case.samples
    data = rng.normal(size=(n, inputs)), draw(n), rng.normal(size=(30, inputs)), draw(30)
    return Perceptron(case.sizes, case.activation, case.loss, *data, output_activation=case.output)


@cache
def compiled(name: str) -> Kernels:
    return network(name).kernels()


def watching(name: str) -> dict[str, Any]:
    """All observables, by name."""
    made = compiled(name)
    return {key: partial(_of, f, made.data) for key, f in {**made.observables, **made.watched}.items()}


def _of(observable: Any, data: Any, w: np.ndarray) -> float:
    return observable(w, data)


def weights(name: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=network(name).dim)


def gradient(name: str, w: np.ndarray) -> tuple[float, np.ndarray]:
    g = np.full_like(w, 7.0)
    compiled(name).gradient(w, 0, compiled(name).data, g)
    return watching(name)["loss"](w), g


def products(name: str, w: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    g, out = np.full_like(w, 7.0), np.full_like(vectors, 7.0)
    compiled(name).gradient_and_products(w, 0, compiled(name).data, g, vectors, out)
    np.testing.assert_allclose(g, gradient(name, w)[1], rtol=1e-13, atol=1e-15)
    return out


def reference(p: Perceptron):
    """The same loss of the flat weights, by torch: its own modules, its own order of the parameters."""
    layers: list[torch.nn.Module] = []
    for i, name in enumerate(p.activations):
        layers.append(torch.nn.Linear(p.sizes[i], p.sizes[i + 1], dtype=torch.float64))
        layers.append(torch.nn.Softplus(threshold=1e3) if name == "softplus" else LAYERS[name]())
    module = torch.nn.Sequential(*layers)
    criterion = torch.nn.CrossEntropyLoss() if p.loss == "cross_entropy" else torch.nn.MSELoss()
    inputs, targets = torch.tensor(p.inputs), torch.tensor(p.targets)
    shapes = [(name, q.shape) for name, q in module.named_parameters()]

    def loss(w: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(w, [shape.numel() for _, shape in shapes])
        named = {name: piece.view(shape) for (name, shape), piece in zip(shapes, pieces, strict=True)}
        return criterion(torch.func.functional_call(module, named, (inputs,)), targets)

    return loss


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_hessian_against_torch(name):
    loss = reference(network(name))
    w = weights(name)
    point = torch.tensor(w, requires_grad=True)
    value = loss(point)
    (exact,) = torch.autograd.grad(value, point)
    found, g = gradient(name, w)
    assert found == pytest.approx(value.item(), rel=1e-13)
    np.testing.assert_allclose(g, exact.numpy(), rtol=0, atol=1e-12 * np.abs(exact.numpy()).max())

    hessian = torch.autograd.functional.hessian(loss, torch.tensor(w)).numpy()
    scale = 1e-12 * np.abs(hessian).max()
    own = products(name, w, np.eye(w.size))
    np.testing.assert_allclose(own, hessian, rtol=0, atol=scale)
    np.testing.assert_allclose(own, own.T, rtol=0, atol=scale)


@pytest.mark.parametrize("name", CASES)
def test_hessian_products_against_differences_of_the_gradient(name):
    w, v = weights(name, 1), weights(name, 2)[None]
    exact = products(name, w, v)[0]

    def error(h: float) -> float:
        difference = gradient(name, w + h * v[0])[1] - gradient(name, w - h * v[0])[1]
        return float(np.abs(difference / (2 * h) - exact).max())

    if "relu" in network(name).activations:  # kinks, and steps that would cross them
        assert error(1e-7) < 1e-6 * np.abs(exact).max()
    else:
        assert 3.5 < error(2e-3) / error(1e-3) < 4.5  # of second order


@pytest.mark.parametrize("name", ["iris", "two blocks"])
def test_one_vector_and_many_agree_bit_for_bit(name):
    w = weights(name)
    vectors = np.random.default_rng(3).normal(size=(6, w.size))
    many = products(name, w, vectors)
    for j in range(6):
        assert np.array_equal(products(name, w, vectors[j : j + 1])[0], many[j])
    assert products(name, w, vectors[:0]).shape == (0, w.size)
    assert np.array_equal(gradient(name, w)[1], gradient(name, w)[1])


def test_the_kernels_can_be_called_from_compiled_code():
    step, data = compiled("iris").gradient, compiled("iris").data

    @njit
    def descend(w, data, steps):
        g = np.empty_like(w)
        for _ in range(steps):
            step(w, 0, data, g)
            w -= 0.1 * g
        return w

    first, last = (watching("iris")["loss"](descend(weights("iris"), data, steps)) for steps in (1, 200))
    assert last < first


# ----------------------------------------------------------------------------------------------- what is known exactly


@pytest.mark.parametrize("name", ["iris", "softmax regression", "two blocks"])
def test_a_constant_added_to_all_logits_changes_nothing(name):
    *_, fed, classes = network(name).sizes
    w = weights(name)
    neutral = np.zeros((fed + 1, w.size))
    for j in range(fed):
        neutral[j, w.size - classes * (fed + 1) + j : w.size - classes : fed] = 1.0
    neutral[fed, -classes:] = 1.0
    loss, g = gradient(name, w)
    assert np.abs(neutral @ g).max() < 1e-15
    assert np.abs(products(name, w, neutral)).max() < 1e-15
    for u in neutral:
        assert gradient(name, w + 3.0 * u)[0] == pytest.approx(loss, rel=1e-13)


def test_huge_logits_do_not_overflow():
    w = weights("softmax regression") * 1e200
    loss, g = gradient("softmax regression", w)
    p = network("softmax regression")
    z = p.inputs @ w[:15].reshape(3, 5).T + w[15:]
    assert loss == pytest.approx(np.mean(z.max(1) - z[np.arange(9), p.targets]), rel=1e-13)
    assert np.isfinite(g).all()
    assert np.isfinite(products("softmax regression", w, np.eye(18))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", WATCHED)
def test_a_weight_that_is_not_finite_gives_nan_everywhere(name, value):
    for place in range(0, network(name).dim, 11):
        w = weights(name)
        w[place] = value
        loss, g = gradient(name, w)
        assert np.isnan(loss)
        assert np.isnan(g).all()
        assert np.isnan(products(name, w, np.eye(w.size)[:2])).all()
        assert all(np.isnan(watch(w)) for watch in watching(name).values())


def test_a_vector_that_is_not_finite_spoils_only_its_own_product():
    w = weights("iris")
    vectors = np.random.default_rng(3).normal(size=(3, w.size))
    clean = products("iris", w, vectors)
    vectors[1, 5] = np.nan
    spoilt = products("iris", w, vectors)
    assert np.isnan(spoilt[1]).all()
    assert np.array_equal(spoilt[[0, 2]], clean[[0, 2]])


# --------------------------------------------------------------------------------------------------------- observables


def forward(p: Perceptron, w: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    """Outputs of every layer, plainly."""
    functions = {"sigmoid": scipy.special.expit, "tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}
    functions |= {"softplus": lambda z: np.logaddexp(0, z), "identity": lambda z: z}
    found = []
    for i, name in enumerate(p.activations):
        n, m = p.sizes[i : i + 2]
        matrix, bias, w = w[: n * m].reshape(m, n), w[n * m : n * m + m], w[n * m + m :]
        x = functions[name](x @ matrix.T + bias)
        found.append(x)
    return found


def plain_loss(p: Perceptron, out: np.ndarray, targets: np.ndarray) -> float:
    if p.loss == "mse":
        return float(np.mean((out - targets) ** 2))
    return float(np.mean(np.logaddexp.reduce(out, axis=1) - out[np.arange(len(out)), targets]))


@pytest.mark.parametrize("name", WATCHED)
def test_observables_against_numpy(name):
    p, watch = network(name), watching(name)
    for scale in (1.0, 5.0, 20.0):
        w = weights(name) * scale
        for kind, x, y in (("", p.inputs, p.targets), ("test_", p.test_inputs, p.test_targets)):
            out = forward(p, w, x)[-1]
            assert watch[f"{kind}loss"](w) == pytest.approx(plain_loss(p, out, y), rel=1e-12)
            if p.loss == "cross_entropy":
                assert watch[f"{kind}accuracy"](w) == pytest.approx(np.mean(out.argmax(1) == y), rel=1e-14)
        assert watch["l1"](w) == pytest.approx(np.abs(w).sum(), rel=1e-14)
        assert watch["l2"](w) == pytest.approx(np.linalg.norm(w), rel=1e-14)
        loss, g = gradient(name, w)
        assert watch["loss"](w) == loss
        assert watch["gradient_norm"](w) == pytest.approx(np.linalg.norm(g), rel=1e-13)


@pytest.mark.parametrize("name", WATCHED)
def test_held_units_against_numpy(name):
    p, watch = network(name), watching(name)
    floors = {"sigmoid": 0.01, "tanh": -0.99}
    counts = []
    for seed in range(20):
        w = weights(name, seed) * np.where(np.arange(p.dim) < p.sizes[0] * p.sizes[1], 1.0, 8.0)
        hidden = [(a, h) for a, h in zip(p.activations[:-1], forward(p, w, p.inputs)[:-1], strict=True) if a in floors]
        on = sum(int((h > 0.99).all(0).sum()) for _, h in hidden)
        off = sum(int((h < floors[a]).all(0).sum()) for a, h in hidden)
        assert watch["stuck_on"](w) == on
        assert watch["saturated"](w) == on + off
        counts.append((on, off))
    assert np.ptp(counts, axis=0).min() > 0  # the cases differ: the comparison means something


def test_observables_are_those_that_make_sense():
    everywhere = {"loss", "l1", "l2", "gradient_norm", "output_range", "hidden_square"}
    bounded_classes = {"accuracy", "test_loss", "test_accuracy", "stuck_on", "saturated"}
    outputs = {"output[0]", "output[1]", "output[2]"}
    assert set(watching("iris")) == everywhere | bounded_classes | outputs
    relu = Perceptron((2, 3, 1), "relu", "mse", np.ones((4, 2)), np.ones((4, 1)))
    assert {*relu.kernels().observables, *relu.kernels().watched} == everywhere | {"output[0]"}


# -------------------------------------------------------------------------------------------------------------- misuse

X, LABELS, VALUES = np.ones((6, 4)), np.array([0, 1, 2, 0, 1, 2]), np.ones((6, 3))
NAN = np.where(np.arange(24).reshape(6, 4) == 3, np.nan, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": (4,)}, "at least two layer sizes"),
        ({"sizes": (4, 0, 3)}, r"\(4, 0, 3\)"),
        ({"activation": "swish"}, "'swish': choose among identity, sigmoid"),
        ({"output_activation": "softmax"}, "'softmax': choose among"),
        ({"activation": ("tanh", "tanh")}, "2 names.*1 hidden layer"),
        ({"loss": "hinge"}, "'hinge': choose one of cross_entropy, mse"),
        ({"inputs": X[:, :3]}, r"inputs have shape \(6, 3\): give at least one sample of 4 features"),
        ({"inputs": X[0]}, r"shape \(4,\)"),
        ({"inputs": X[:0], "targets": LABELS[:0]}, r"shape \(0, 4\): give at least one sample"),
        ({"inputs": NAN}, "inputs are not finite in 1 of 24 entries"),
        ({"targets": LABELS + 1}, "from 1 to 3: number the 3 classes from 0 to 2"),
        ({"targets": LABELS - 1}, "from -1 to 1"),
        ({"targets": LABELS[:5]}, r"shape \(5,\).*6 integer labels"),
        ({"targets": LABELS.astype(float)}, "float64.*6 integer labels"),
        ({"targets": VALUES}, "6 integer labels"),
        ({"loss": "mse"}, r"targets have shape \(6,\).*\(6, 3\)"),
        ({"loss": "mse", "targets": VALUES * np.inf}, "targets are not finite in 18 of 18"),
        ({"test_inputs": X}, "both test_inputs and test_targets"),
        ({"test_inputs": X, "test_targets": LABELS + 1}, "test_targets run from 1 to 3"),
        ({"test_inputs": NAN, "test_targets": LABELS}, "test_inputs are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    good = {"sizes": (4, 5, 3), "activation": "tanh", "loss": "cross_entropy", "inputs": X, "targets": LABELS}
    Perceptron(**good)
    with pytest.raises(ValueError, match=message) as error:
        Perceptron(**(good | change))
    assert "\n" not in str(error.value)


def test_the_data_are_copied():
    x = X.copy()
    p = Perceptron((4, 3), (), "cross_entropy", x, LABELS.astype(np.uint8))
    x[:] = np.nan
    assert np.isfinite(p.inputs).all()
    assert p.dim == 15


@pytest.mark.parametrize("n", [1, 7, 8, 25, 120, 255, 256, 257, 513, 10_241])
def test_blocks_hold_every_sample_once(n):
    x = np.arange(n, dtype=np.float64)[:, None]
    data = blocks_of(x, x, 1, "mse", Order(len(x)))
    real = data.weights > 0
    assert np.array_equal(data.inputs[:, 0][real], x[:, 0])
    assert np.array_equal(real.sum(1), data.counts)
    assert data.counts.min() > 0
    assert data.weights.sum() == pytest.approx(2)
    assert data.weights.shape[1] <= 256


@pytest.mark.parametrize("settings", [("cross_entropy", None, 7), ("cross_entropy", 5, 7), ("mse", 5, 300)])
def test_a_batch_is_the_loss_of_its_rows(settings):
    """In order and shuffled, with a smaller last batch, in one block and in two: against torch on the same rows."""
    loss, shuffle, batch = settings
    rng = np.random.default_rng(4)
    n = 2 * batch + batch // 2
    x, y = rng.normal(size=(n, 3)), rng.integers(0, 2, n) if loss == "cross_entropy" else rng.normal(size=(n, 2))
    p = Perceptron((3, 2), (), loss, x, y, batch=batch, shuffle=shuffle)
    kernels, w, v, g, hv = p.kernels(), rng.normal(size=8), rng.normal(size=(1, 8)), np.empty(8), np.empty((1, 8))
    for t in (0, 1, 2, 4, 5):
        rows = p.order.rows(t)
        evaluate = reference(dataclasses.replace(p, inputs=x[rows], targets=y[rows], batch=None, shuffle=None))
        kernels.gradient_and_products(w, t, kernels.data, g, v, hv)
        at = torch.tensor(w, requires_grad=True)
        exact = evaluate(at)
        (slope,) = torch.autograd.grad(exact, at, create_graph=True)
        (bent,) = torch.autograd.grad(slope @ torch.tensor(v[0]), at)
        np.testing.assert_allclose(g, slope.detach().numpy(), rtol=0, atol=1e-14)
        np.testing.assert_allclose(hv[0], bent.numpy(), rtol=0, atol=1e-14)
