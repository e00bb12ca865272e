"""Distance to the limit: how fast one core could do what our verbs do, and how fast a kernel written by hand does it.

Small kernels find the ceilings of one core. A verb's work has a least time: that of its arithmetic at those ceilings
(floating-point operations and exponentials added up), of its bytes, or of its longest chain of dependent operations,
whichever is longest. The fraction is this least time over the measured one. For both, the fastest round counts: what
else the machine does can only slow them down.

The second table puts the verbs beside the kernels of `reference`, in turn, and holds them to `PROMISE` times their
time on long runs. All verbs run in the calling thread.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pytest
import reference
from nnflow_plugins.recurrence import recurrence_measures
from nnflow_plugins.zero_one_test import zero_one
from numba import njit
from tables import Report, digits, seconds
from timing import timed

from nnflow import Ensemble, maps
from nnflow.data import iris_split
from nnflow.systems.perceptron.rows import exp

Array = np.ndarray
PROMISE = 1.5  # a general verb takes at most this multiple of a hand-written kernel's time
CEILINGS, FRACTIONS, BY_HAND = (
    "Ceilings of one core",
    "Distance to the limit, one thread, per step",
    "General verbs beside hand-written kernels, one thread, per step",
)
MEMBERS, TAME = 512, 0.1  # at the tame learning rate rounding errors do not grow

# ---------------------------------------------------------------------------------------------------------- ceilings

CHAINED = 8  # multiply-adds on each number while it is in a register; more of them, and too few chains overlap

pytestmark = pytest.mark.usefixtures("one_core")


@njit(error_model="numpy", fastmath={"contract"})
def multiply_add(x: Array, out: Array, factor: float, term: float, times: int) -> None:
    for _ in range(times):
        for i in range(x.size):
            value = x[i]
            for _ in range(CHAINED):
                value = value * factor + term
            out[i] = value


@njit(error_model="numpy", fastmath={"reassoc", "nsz"})
def total(x: Array, times: int) -> float:
    largest = 0.0
    for _ in range(times):
        found = 0.0
        for i in range(x.size):
            found += x[i]
        largest = max(largest, found)  # or the repetitions would be left out
    return largest


@njit(error_model="numpy")
def exponentials(x: Array, out: Array, times: int) -> None:
    for _ in range(times):
        for i in range(x.size):
            out[i] = exp(x[i])


class Ceilings(NamedTuple):
    """What one core can do in a second, and the seconds of one step of a chain that nothing overlaps."""

    flops: float
    l1: float
    l2: float
    memory: float
    exponentials: float
    latency: float


def fastest(function: Callable[[], object], rounds: int) -> float:
    """The shortest time of several rounds, after one that warms up."""
    function()
    return min(timed(function) for _ in range(rounds))


def bandwidth(size: int, rounds: int) -> float:
    """Bytes a second of a sum over an array of `size` bytes."""
    x = reference.aligned(size // 8)
    x[:] = 1.0  # zeros that were never written are one page of memory, again and again
    times = max(1, 2**28 // size)
    return x.nbytes * times / fastest(lambda: total(x, times), rounds)


@pytest.fixture(scope="module")
def ceilings(quick: bool, found: Report) -> Ceilings:
    """Measure them, and write them down."""
    rounds, times, steps = (7 if quick else 25), 20_000, 10**6
    x, out = reference.aligned(256), reference.aligned(256)
    row, result = reference.aligned(1000), reference.aligned(1000)
    row[:] = np.linspace(-5.0, 5.0, row.size)
    made = Ceilings(
        2 * CHAINED * x.size * times / fastest(lambda: multiply_add(x, out, 0.5, 1.0, times), rounds),
        *(bandwidth(size, rounds) for size in (2**14, 2**19, 2**28)),
        row.size * 5000 / fastest(lambda: exponentials(row, result, 5000), rounds),
        fastest(lambda: reference.logistic_chain(0.3, 3.9, steps), rounds) / steps,
    )
    head = ["flops (multiply-adds, float64)", "L1", "L2", "memory", "exponentials", "logistic step, one orbit"]
    cells = [
        f"{made.flops / 1e9:.0f} Gflop/s",
        *(f"{speed / 1e9:.0f} GB/s" for speed in (made.l1, made.l2, made.memory)),
        seconds(1 / made.exponentials),
        seconds(made.latency),
    ]
    found.add(CEILINGS, head, cells)
    return made


def test_ceilings(ceilings: Ceilings) -> None:
    """Caches are faster the nearer they are, and nothing is slower than the plainest processor."""
    assert ceilings.l1 > 0.8 * ceilings.l2 > 0.8 * ceilings.memory > 1e9
    assert ceilings.flops > 1e9
    assert 1e-10 < ceilings.latency < 1e-8


# --------------------------------------------------------------------------------------------------- necessary work


class Need(NamedTuple):
    """What one step cannot do without."""

    flops: float  # of one number: an addition, a multiplication, a comparison, a root or a division
    exponentials: float = 0.0  # and logarithms
    bytes: float = 0.0  # read or written, at the least from and to L1
    chain: float = 0.0  # of one orbit: pairs of dependent operations, as many as a logistic step has

    def least(self, ceilings: Ceilings) -> float:
        """The seconds they take at the ceilings."""
        arithmetic = self.flops / ceilings.flops + self.exponentials / ceilings.exponentials
        return max(arithmetic, self.bytes / ceilings.l1, self.chain * ceilings.latency)


class Work(NamedTuple):
    """A verb, how many steps a call of it takes, and what they need."""

    name: str
    call: Callable[[], object]
    steps: int
    need: Need
    between: str  # what stands between


SAMPLES, FEATURES, HIDDEN, CLASSES = 120, 4, 10, 3
FIRST, SECOND = HIDDEN * FEATURES, CLASSES * HIDDEN  # weights of the two layers
UNITS = HIDDEN + CLASSES
DIM = FIRST + SECOND + UNITS
EXPONENTIALS = SAMPLES * UNITS
DATA = 8 * (SAMPLES * (FEATURES + 1) + 2 * DIM)  # bytes: features, labels, weights in and out
GRADIENT = 2 * DIM + SAMPLES * (
    2 * (FIRST + SECOND)  # forward
    + 5 * HIDDEN  # 1 / (1 + e), and a (1 − a) times what comes back
    + 12  # softmax less target: the largest logit, three differences, their sum, its inverse, products, differences
    + 2 * SECOND  # back through the second layer
    + 2 * (FIRST + SECOND)  # sums over samples, of weights …
    + UNITS  # … and biases
)
PRODUCT = 2 * DIM + SAMPLES * (
    2 * (FIRST + 2 * SECOND)  # the derivatives of the units along a vector …
    + HIDDEN  # … of the activations …
    + 11  # … and of the errors
    + 4 * SECOND  # back through the second layer: weights and vector
    + 3 * HIDDEN
    + 2 * (FIRST + 2 * SECOND)  # sums over samples
    + UNITS
)


def iris(members: int) -> Ensemble:
    return Ensemble.grid(maps["iris"](), inits=members, eta=TAME)


def logistic_members() -> Ensemble:
    return Ensemble.grid(maps["logistic"](), states=[[0.3]], r=np.linspace(3.5, 4.0, MEMBERS))


def henon_members() -> Ensemble:
    return Ensemble.grid(maps["henon"](), states=[[0.1, 0.1]], a=np.linspace(1.0, 1.4, MEMBERS))


def henon_orbit() -> Ensemble:
    return Ensemble.grid(maps["henon"](), states=[[0.1, 0.1]]).advance(1000)


def small_maps(part: int) -> list[Work]:
    """The logistic and the Hénon map; all runs are shorter by the factor `part`."""
    many, one = logistic_members(), Ensemble.grid(maps["logistic"](), states=[[0.3]])
    henon, framed = henon_members(), henon_orbit().with_frame(2)
    short, long = 20_000 // part, 1_000_000 // part
    lanes = "loads and stores of states and parameters, every second step"
    return [
        Work(f"logistic advance, {MEMBERS} members", lambda: many.advance(short), MEMBERS * short, Need(3), lanes),
        Work(
            "logistic advance, one member",
            lambda: one.advance(long),
            long,
            Need(3, chain=1),
            "whether the state is finite is asked at each step",
        ),
        Work(f"Hénon advance, {MEMBERS} members", lambda: henon.advance(short), MEMBERS * short, Need(5), lanes),
        Work(
            "Hénon tangent_orbit, k = 2, one member",
            lambda: framed.tangent_orbit(long),
            long,
            Need(30, exponentials=2, bytes=16, chain=2),  # chain: the state's own, a x x subtracted and y added
            "lengths wait for a root and a division at each step, and the logarithms are calls of a library",
        ),
    ]


def networks(part: int) -> list[Work]:
    """The Iris network; all runs are shorter by the factor `part`."""
    many, one = iris(MEMBERS), iris(1)
    short, long, frames = 80 // part, 20_000 // part, 400 // part
    step = Need(GRADIENT, EXPONENTIALS, DATA)
    vector, frame = one.with_frame(1), one.with_frame(DIM)
    passes = "each pass stores its rows and the next one loads them"
    return [
        Work(f"Iris advance, {MEMBERS} members", lambda: many.advance(short), MEMBERS * short, step, passes),
        Work(
            "Iris orbit with its loss, one member",
            lambda: one.orbit(long, observe="loss"),
            long,
            Need(GRADIENT + 3 * SAMPLES, EXPONENTIALS + SAMPLES / 32, DATA + 8),
            "the loss runs the forward pass once more, exponentials included",
        ),
        Work(
            "Iris tangent_orbit, k = 1, one member",
            lambda: vector.tangent_orbit(long // 4),
            long // 4,
            Need(GRADIENT + PRODUCT + 5 * DIM, EXPONENTIALS + 1, DATA + 16 * DIM),
            "passes whose rows are stored and loaded again, with scratch made anew at each step",
        ),
        Work(
            f"Iris tangent_orbit, k = {DIM}, one member",
            lambda: frame.tangent_orbit(frames),
            frames,
            Need(GRADIENT + DIM * PRODUCT + 2 * DIM**3, EXPONENTIALS + DIM, DATA + 16 * DIM**2),
            "products with the Hessian, whose passes each store their rows and load them again",
        ),
    ]


def series(part: int) -> list[Work]:
    """Measures of a series: the recurrence plot has N²/2 pairs, the 0–1 test N/10 displacements a frequency."""
    points, samples, frequencies = 5000, 10_000, 100
    x = henon_orbit().orbit(samples)[0][0, :, 0].copy()
    pairs = points * (points - 1) // 2
    walk = 37 * samples // 10 * frequencies  # three rotations, the growth, and the correlation of the sums
    transforms = 3 * 2.5 * samples * np.log2(samples)
    return [
        Work(
            f"recurrence measures, N = {points}, a pair",
            lambda: recurrence_measures(x[:points], threshold=0.05),
            pairs,
            Need(2, bytes=8 * points / pairs),
            "each pair is compared three times, in a diagonal and two columns, and line ends are sought cell by cell",
        ),
        Work(
            f"0–1 test, N = {samples}, {frequencies} frequencies, a call",
            lambda: zero_one(x, frequencies),
            1,
            Need(walk + transforms, bytes=8 * samples),
            "the walk stores and loads its sums at each step",
        ),
    ]


def number(count: float) -> str:
    """Three digits, with a unit where it is large."""
    size, unit = next(each for each in ((1e6, "M"), (1e3, "k"), (0.0, "")) if count >= each[0])
    return f"{count / (size or 1.0):.3g}{unit}" if count else "–"


@pytest.mark.parametrize("works", [small_maps, pytest.param(networks, marks=pytest.mark.whole), series])
def test_fraction(ceilings: Ceilings, found: Report, quick: bool, works: Callable[[int], list[Work]]) -> None:
    """No verb is faster than its arithmetic at the ceilings: if one were, the arithmetic would be counted wrong."""
    head = ["work", "flops", "exp", "bytes", "chain", "least", "measured", "fraction", "what stands between"]
    for work in works(4 if quick else 1):
        taken = fastest(work.call, 3 if quick else 9) / work.steps
        least = work.need.least(ceilings)
        counts = [number(count) for count in work.need]
        found.add(
            FRACTIONS, head, [work.name, *counts, seconds(least), seconds(taken), f"{least / taken:.1%}", work.between]
        )
        assert 0 < least < 1.1 * taken, work.name


# ------------------------------------------------------------------------------------------------------- by hand


class Duel(NamedTuple):
    """A verb and the kernel written for it by hand; both return what they computed."""

    work: str
    steps: int
    ours: Callable[[], Array]
    by_hand: Callable[[], Array]
    tolerance: float = 0.0  # of a number near 1


def side_by_side(name: str, ensemble: Ensemble, kernel: Callable[..., None], steps: int = 20_000) -> Duel:
    """All members of a small map."""

    def by_hand() -> Array:
        states = ensemble.states.copy()
        kernel(states, ensemble.parameters, steps)
        return states

    work = f"{name} advance, {MEMBERS} members"
    return Duel(work, MEMBERS * steps, lambda: ensemble.advance(steps).states, by_hand)


def logistic() -> Duel:
    return side_by_side("logistic", logistic_members(), reference.logistic)


def logistic_orbit(length: int = 10**6) -> Duel:
    ensemble, work = Ensemble.grid(maps["logistic"](), states=[[0.3]], r=3.9), "logistic advance, one member"
    by_hand = lambda: np.array([[reference.logistic_chain(0.3, 3.9, length)]])  # noqa: E731
    return Duel(work, length, lambda: ensemble.advance(length).states, by_hand)


def henon() -> Duel:
    return side_by_side("Hénon", henon_members(), reference.henon)


def henon_tangent(length: int = 200_000) -> Duel:
    ensemble = henon_orbit().with_frame(2)

    def by_hand() -> Array:
        stretches = np.empty((length, 2))
        reference.henon_tangent(ensemble.states[0], 1.4, 0.3, ensemble.frame[0], stretches)
        return stretches

    ours = lambda: ensemble.tangent_orbit(length)[0].log_stretches[0]  # noqa: E731
    return Duel("Hénon tangent_orbit, k = 2, one member", length, ours, by_hand, 1e-9)


def iris_descent(epochs: int = 5) -> Duel:
    ensemble, data = iris(MEMBERS), iris_split(0)
    sheet = reference.new_sheet(data.inputs, data.targets)

    def by_hand() -> Array:
        states = ensemble.states.copy()
        reference.descend(states, TAME, epochs, sheet)
        return states

    work = f"Iris advance, {MEMBERS} members"
    return Duel(work, MEMBERS * epochs, lambda: ensemble.advance(epochs).states, by_hand, 1e-9)


def iris_tangent(epochs: int = 1000) -> Duel:
    ensemble, data = iris(1).with_frame(1), iris_split(0)
    sheet = reference.new_sheet(data.inputs, data.targets)

    def by_hand() -> Array:
        stretches = np.empty(epochs)
        reference.descend_with_tangent(ensemble.states[0].copy(), TAME, ensemble.frame[0, 0].copy(), stretches, sheet)
        return stretches

    ours = lambda: ensemble.tangent_orbit(epochs)[0].log_stretches[0, :, 0]  # noqa: E731
    return Duel("Iris tangent_orbit, k = 1, one member", epochs, ours, by_hand, 1e-9)


def fastest_of_both(duel: Duel, spell: float) -> Array:
    """The fastest round of ours and of the other, in turn, each of some 10 ms, for so many seconds.

    Whatever else runs on the machine slows down most what uses most of the cache: both should have a quiet moment.
    """
    found, began = np.full(2, np.inf), perf_counter()
    while perf_counter() - began < spell:
        found = np.minimum(found, (timed(duel.ours), timed(duel.by_hand)))
    return found


NETWORKS = [pytest.param(make, marks=pytest.mark.whole) for make in (iris_descent, iris_tangent)]


@pytest.mark.parametrize("make", [logistic, logistic_orbit, henon, henon_tangent, *NETWORKS])
def test_beside_hand_written(found: Report, quick: bool, make: Callable[[], Duel]) -> None:
    """The same numbers first, then the times; the row is written down before it is judged."""
    duel = make()
    assert np.isfinite(duel.by_hand()).all()
    np.testing.assert_allclose(duel.ours(), duel.by_hand(), rtol=duel.tolerance, atol=duel.tolerance)
    ours, by_hand = fastest_of_both(duel, 1 if quick else 10) / duel.steps
    ratio = float(ours / by_hand)
    row = [duel.work, seconds(ours), seconds(by_hand), f"{digits(ratio)}×"]
    found.add(BY_HAND, ["work", "verb", "by hand", "ratio"], row)
    assert ratio <= PROMISE, f"{duel.work}: {ratio:.2f} times the hand-written kernel, {PROMISE} are promised"
