"""Small fully connected networks, compiled: loss, gradient, Hessian-vector products, and what one watches in training.

The whole pass runs on one *sheet* (see ``rows``): scratch with one row per unit and one column per sample, small enough
for the first-level cache. Many samples are cut into blocks, one after the other on the same sheet. Its rows are

    top, total            scratch of the softmax        slope        f'(z) of every unit
    weight                of every sample               delta        dL/dz, on its way dL/da
    p                     softmax probabilities         bend         dL/da f''(z)
    a                     the inputs, then every unit   rz, ra, rd   derivatives of z, a and delta along a vector

and from a to rd every region of units has the same order: a unit's row in one region is its row in another plus a
multiple of the number of units, the `gap`. Hessian-vector products are the derivative of the gradient along v
(Pearlmutter 1994, "Fast exact multiplication by the Hessian"): a, slope, delta and bend are computed once for all v.

Weights are flat in torch's order (``parameters_to_vector`` of Linear, activation, Linear, …): W1 by rows (out, in), b1,
W2, b2, …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nnflow.compiled import Component
from nnflow.data.order import Order
from nnflow.names import Refusal
from nnflow.systems.perceptron.batches import Batch, blocks_of, in_order, shuffled
from nnflow.systems.perceptron.costs import Gradient, Job, P, cost_of
from nnflow.systems.perceptron.gradients import gradient_of, products_of
from nnflow.systems.perceptron.observables import (
    Observable,
    gradient_norm_of,
    l1,
    l2,
    loss_of,
    predictions_of,
    watch_of,
    watched,
)
from nnflow.systems.perceptron.passes import ACTIVATIONS, Passes, gradient_passes, passes_along
from nnflow.typing import Array
from nnflow.values import shares

LIMITS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}  # of the bounded ones
LOSSES = ("cross_entropy", "mse")
TRAIN, WHOLE, TEST, PROBE = range(4)  # the data sets


class Kernels(NamedTuple):
    """Compiled functions of the flat weights w (dim,), for Python and for other compiled code.

    Each takes `data`, the tuples of `Data` for training, for observables, of the test rows and of the probe (empty
    where there are none): no data are compiled in. gradient(w, t, data, g) writes dL/dw of the batch of step t into
    g (dim,). gradient_and_products(w, t, data, g, V, out) also writes H V[j] into out[j], for V and out (k, dim); a row
    does not depend on the others. observables, watched: name -> f(w, data) -> float, over all samples.
    predictions(w, data, out) writes the outputs for the probe rows, if there are any, row after row.

    Where an entry of w is not finite, everything is NaN; where one of V[j] is not, out[j] is.

    Observables: loss, test_loss, l1, l2 (norms of w), gradient_norm (Euclidean). Component, in one pass: accuracy,
    test_accuracy (share of samples whose largest output is the label's, of "mse" that of the largest target, where
    those are shares of classes; the first of equals counts); over the training samples output[c] (the mean of output
    c), output_range (the largest range of an output) and hidden_square (the mean of Σ h² over the units h of the last
    hidden layer; of the inputs, if there is none). With sigmoid or tanh, over all their hidden units in all layers:
    stuck_on, how many stay above their upper limit less 0.01 for every training input, and saturated, how many do or
    stay below their lower limit plus 0.01.
    """

    gradient: Gradient
    gradient_and_products: Callable[[Array, int, Any, Array, Array, Array], None]
    observables: dict[str, Observable]
    watched: dict[str, Component]
    predictions: Callable[[Array, Any, Array], None] | None
    data: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Perceptron:
    """A fully connected network, its loss and its data: mean over all training samples, one full batch.

    "softplus" is ln(1 + e^x) everywhere; torch's is x beyond its threshold of 20, a difference below 2.1e-9.

    Args:
        sizes: Units of every layer, inputs first: (4, 10, 3). Any depth; two numbers are a linear model.
        activation: Of the hidden layers, one name or one a layer: "sigmoid", "tanh", "relu", "softplus", "identity".
        loss: "cross_entropy" (of the softmax of the outputs, log-sum-exp form, mean over samples) or "mse" (mean over
            samples and outputs, as ``torch.nn.MSELoss``).
        inputs: ``(n, sizes[0])``.
        targets: For "cross_entropy" integer labels ``(n,)``, for "mse" values ``(n, sizes[-1])``.
        test_inputs: The same, only watched.
        test_targets: The same, only watched.
        output_activation: Applied before the loss; "identity" unless a module ends with one.
        batch: Samples that each step sees (see `Order`); all of them by default.
        shuffle: The seed of their order (see `Order`).
        probe: Inputs whose outputs are observables.

    Raises:
        Refusal: (a ValueError) for anything that does not fit together.
    """

    sizes: tuple[int, ...]
    activation: str | tuple[str, ...]
    loss: str
    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    test_inputs: npt.NDArray[Any] | None = None
    test_targets: npt.NDArray[Any] | None = None
    output_activation: str = "identity"
    batch: int | None = None
    shuffle: int | None = None
    probe: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        sizes = tuple(int(n) for n in self.sizes)
        if len(sizes) < 2 or min(sizes) < 1:
            raise Refusal(f"sizes = {self.sizes}: give at least two layer sizes, inputs first, each 1 or more")
        object.__setattr__(self, "sizes", sizes)
        if self.loss not in LOSSES:
            raise Refusal(f"loss = {self.loss!r}: choose one of {', '.join(LOSSES)}")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise Refusal(f"activation = {name!r}: choose among {', '.join(ACTIVATIONS)}")
        if len(self.activations) != len(sizes) - 1:
            raise Refusal(
                f"activation has {len(self.activations) - 1} names: give one name, or one for each of the "
                f"{len(sizes) - 2} hidden layers of sizes = {sizes}"
            )
        self._check("", self.inputs, self.targets)
        if (self.test_inputs is None) != (self.test_targets is None):
            raise Refusal("test data are incomplete: give both test_inputs and test_targets, or neither")
        if self.probe is not None:
            object.__setattr__(self, "probe", self._rows("probe", self.probe))
        if self.test_inputs is not None and self.test_targets is not None:
            self._check("test_", self.test_inputs, self.test_targets)

    def _check(self, kind: str, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> None:
        """Check one data set and keep a copy: float64 inputs and values, int64 labels."""
        x, y = self._rows(f"{kind}inputs", inputs), np.array(targets)
        check = _check_values if self.loss == "mse" else _check_labels
        object.__setattr__(self, f"{kind}inputs", x)
        object.__setattr__(self, f"{kind}targets", check(f"{kind}targets", y, len(x), self.sizes[-1]))

    def _rows(self, name: str, inputs: npt.NDArray[Any]) -> Array:
        x = np.array(inputs, dtype=np.float64, order="C")
        if x.ndim != 2 or x.shape[1] != self.sizes[0] or len(x) == 0:
            raise Refusal(f"{name} have shape {x.shape}: give at least one sample of {self.sizes[0]} features")
        if not np.isfinite(x).all():
            raise Refusal(f"{name} are not finite in {np.sum(~np.isfinite(x))} of {x.size} entries: clean them")
        return x

    @property
    def activations(self) -> tuple[str, ...]:
        """Of every layer after the inputs, the output layer's last."""
        hidden = (self.activation,) * (len(self.sizes) - 2) if isinstance(self.activation, str) else self.activation
        return (*hidden, self.output_activation)

    @property
    def dim(self) -> int:
        """Number of weights, biases included."""
        return sum(outputs * (inputs + 1) for inputs, outputs in pairwise(self.sizes))

    @property
    def order(self) -> Order:
        """Which samples each step sees."""
        return Order(len(self.inputs), self.batch, self.shuffle)

    def kernels(self) -> Kernels:
        """Build the compiled functions; each compiles at its first call."""
        passes = gradient_passes(self.sizes, self._codes, P + self.sizes[-1])
        train = self._task(TRAIN, passes, in_order if self.order.shuffle is None else shuffled(self.loss))
        whole, tests, probe = (self._task(place, passes, in_order) for place in (WHOLE, TEST, PROBE))
        along = passes_along(self.sizes, self._codes, train.first)
        observables: dict[str, Observable] = {"loss": loss_of(whole)}
        observables |= {} if self.test_inputs is None else {"test_loss": loss_of(tests)}
        observables |= {"l1": l1, "l2": l2, "gradient_norm": gradient_norm_of(gradient_of(whole))}
        predictions = None if self.probe is None else predictions_of(probe, self.sizes[-1])
        made = products_of(train, along), observables, self._watched(whole, tests), predictions
        return Kernels(gradient_of(train), *made, self._data())

    def _data(self) -> tuple[Any, ...]:
        """The data sets, at TRAIN, WHOLE, TEST and PROBE; of the probe the targets are 0."""
        whole = self._blocks(self.inputs, self.targets)
        train = whole if self.order.batches == 1 else self._blocks(self.inputs, self.targets, self.order)
        test: tuple[Any, ...] = ()
        if self.test_inputs is not None and self.test_targets is not None:
            test = self._blocks(self.test_inputs, self.test_targets)
        if self.probe is None:
            return train, whole, test, ()
        shape = (len(self.probe), self.sizes[-1]) if self.loss == "mse" else (len(self.probe),)
        return train, whole, test, self._blocks(self.probe, np.zeros(shape, dtype=np.int64))

    def _blocks(
        self, inputs: npt.NDArray[Any], targets: npt.NDArray[Any], order: Order | None = None
    ) -> tuple[Any, ...]:
        return tuple(blocks_of(inputs, targets, self.sizes[-1], self.loss, order or Order(len(inputs))))

    @property
    def _codes(self) -> tuple[int, ...]:
        return tuple(ACTIVATIONS.index(name) for name in self.activations)

    def _task(self, place: int, passes: Passes, batch: Batch) -> Job:
        units, outputs = sum(self.sizes[1:]), self.sizes[-1]
        first = P + outputs
        cost = cost_of(self.sizes[0], outputs, self.loss, first, first + sum(self.sizes[:-1]), units)
        return Job(place, batch, passes, cost, first, self.sizes[0], units, first + self.sizes[0] + 3 * units)

    def _watched(self, train: Job, tests: Job) -> dict[str, Component]:
        """What makes sense to watch: of the test data only the accuracy, stuck units if they have limits."""
        names = np.repeat(self.activations[:-1], self.sizes[1:-1]).tolist()
        low, high = np.array([LIMITS.get(name, (-np.inf, np.inf)) for name in names]).reshape(-1, 2).T.copy()
        left_out = set() if any(name in LIMITS for name in names) else {"stuck_on", "saturated"}
        tables = {"accuracy": self.targets, "test_accuracy": self.test_targets}
        left_out |= {name for name, y in tables.items() if self.loss == "mse" and y is not None and not shares(y)}
        found = self._entries(train, low + 0.01, high - 0.01)
        if self.test_inputs is not None:
            found["test_accuracy"] = self._entries(tests, np.empty(0), np.empty(0))["accuracy"]
        return {name: entry for name, entry in found.items() if name not in left_out}

    def _entries(self, task: Job, floor: Array, ceiling: Array) -> dict[str, Component]:
        names = watched(self.sizes[-1])
        function = watch_of(task, self.sizes[-1], self.sizes[-2], floor, ceiling)
        return {name: Component(function, i, len(names)) for i, name in enumerate(names)}


def _check_values(name: str, y: npt.NDArray[Any], samples: int, outputs: int) -> npt.NDArray[Any]:
    if y.shape != (samples, outputs):
        raise Refusal(f"{name} have shape {y.shape}: with the loss mse, give ({samples}, {outputs})")
    values = y.astype(np.float64)
    if not np.isfinite(values).all():
        raise Refusal(f"{name} are not finite in {np.sum(~np.isfinite(values))} of {y.size} entries: clean them")
    return values


def _check_labels(name: str, y: npt.NDArray[Any], samples: int, outputs: int) -> npt.NDArray[Any]:
    if y.shape != (samples,) or y.dtype.kind not in "iu":
        raise Refusal(f"{name} are {y.dtype} of shape {y.shape}: with cross_entropy, give {samples} integer labels")
    if y.min() < 0 or y.max() >= outputs:
        raise Refusal(f"{name} run from {y.min()} to {y.max()}: number the {outputs} classes from 0 to {outputs - 1}")
    return y.astype(np.int64)
