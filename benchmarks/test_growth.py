"""How time and memory grow with members, steps, width, depth, weights and tangent vectors: tables and a picture.

On log-log paper each curve should be a straight line of slope 1. Where one bends, the table says why. These reasons
were found by experiment, on a processor with 48 kB, 1 MB and 32 MB of cache (on one with 32 kB and 512 kB, a unit or a
layer costs more from smaller networks on):

- A call of a verb costs the same whatever it does: one step of one Hénon member takes as long as ten.
- Members of a small map go side by side from 24 on: 24 Hénon members take less time than 23.
- Of a step of a compiled perceptron, a part does not depend on its width: one hidden unit shows how large it is.
- Where the values of a layer no longer fit a cache, a unit or a weight costs more: with fewer samples, which fit, the
  rise was gone. 10⁶ weights are themselves too many for the second-level cache.
- A step on tensors costs most of a millisecond before any arithmetic: however small the network.
- Re-orthonormalising a frame of 83 vectors takes four times as long as one of 41: what it saves to do so each hundredth
  step, and not each step. Where it is rare, a step is straight in k.
- An orbit that takes long is made in blocks of about 0.15 s, which write into the same records: it needs no others.

Time: the fastest of five, after a warm call; each timing repeats the call for 20 ms or more. The verb itself is timed,
in the calling thread, torch on one thread. Memory: a new process for each curve, and there the highest resident memory
during a call, less what was resident before it; a first call, which loads what is needed, does not count. Read from
Linux's /proc; elsewhere these tests are skipped.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tables import Report, seconds
from timing import timed

from nnflow import Ensemble, maps, training_map
from nnflow.data import iris_split
from nnflow.tensor.members import ROOM

pytestmark = pytest.mark.usefixtures("one_core")
RESULTS = Path(__file__).with_name("results")
SAMPLES, INPUTS, CLASSES = 64, 8, 4
DEEP = 32  # units of each layer where depth grows
HENONS = 10_000  # members where the memory of steps is measured
PANELS = {  # (quantity, what grows) -> label of the vertical axis, in the order of the picture
    ("time", "members"): "seconds per call",
    ("time", "steps"): "seconds per call",
    ("time", "hidden units"): "seconds per step",
    ("time", "hidden layers"): "seconds per step",
    ("time", "weights"): "seconds per step",
    ("time", "tangent vectors"): "seconds per step",
    ("memory", "members"): "extra bytes of a call",
    ("memory", "steps"): "extra bytes of a call",
    ("memory", "weights"): "extra bytes of a call",
}
PAGE = 4096
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.5"

Call = Callable[[], Any]


# ----------------------------------------------------------------------------------------------------- what is called


def advancing(name: str, members: int, steps: int) -> Call:
    """The verb `advance` on members of a registered map."""
    ensemble = Ensemble.grid(maps[name](), inits=members)
    return lambda: ensemble.advance(steps)


def recording(name: str, members: int, steps: int) -> Call:
    """The verb `orbit`, every coordinate of every step recorded."""
    ensemble = Ensemble.grid(maps[name](), inits=members)
    return lambda: ensemble.orbit(steps)


def tensors(members: int) -> Call:
    """One step of members of the Iris network on tensors."""
    from torch import nn

    data, module = iris_split(0), nn.Sequential(nn.Linear(4, 10), nn.Sigmoid(), nn.Linear(10, 3))
    settings: dict[str, Any] = {"backend": "tensor", "scale": 1.0}
    map = training_map(module, nn.functional.cross_entropy, data.inputs, data.targets, **settings)
    ensemble = Ensemble.grid(map, inits=members)
    return lambda: ensemble.advance(1)


def perceptron(hidden: Sequence[int], backend: str) -> Ensemble:
    """One tanh network under gradient descent on random data, all samples in each step."""
    from torch import nn

    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((SAMPLES, INPUTS)), np.arange(SAMPLES) % CLASSES
    layers = [part for a, b in pairwise((INPUTS, *hidden)) for part in (nn.Linear(a, b), nn.Tanh())]
    module = nn.Sequential(*layers, nn.Linear(hidden[-1], CLASSES))
    settings: dict[str, Any] = {"backend": backend, "eta": 0.01}
    return Ensemble.grid(training_map(module, nn.functional.cross_entropy, inputs, labels, **settings), inits=1)


def training(units: int, backend: str) -> Call:
    """One step of a network of two hidden layers."""
    ensemble = perceptron((units, units), backend)
    return lambda: ensemble.advance(1)


MEMORY: dict[str, Callable[[int], Call]] = {
    "Iris": lambda members: advancing("iris", members, 1),
    "Hénon": lambda members: advancing("henon", members, 1),
    "Iris on tensors": tensors,
    "advance": lambda steps: advancing("henon", HENONS, steps),
    "orbit": lambda steps: recording("henon", HENONS, steps),
    "compiled": lambda units: training(units, "compiled"),
    "tensor": lambda units: training(units, "tensor"),
}


# ---------------------------------------------------------------------------------------------------------- measuring


def seconds_of(call: Call) -> float:
    """The fastest of five timings, each of enough calls to last 20 ms, after one that warms up."""
    call()
    inner = int(0.02 / min(timed(call) for _ in range(3))) + 1
    return min(timed(lambda: [call() for _ in range(inner)]) for _ in range(5)) / inner


def step_of(ensemble: Ensemble) -> float:
    """Seconds per step, of so many steps a call that the call itself does not count."""
    steps = int(0.02 / seconds_of(lambda: ensemble.advance(1))) + 1
    return seconds_of(lambda: ensemble.advance(steps)) / steps


def carrying(k: int, every: int, steps: int = 200) -> float:
    """Seconds per step of `tangent_orbit` with k vectors on one Iris member."""
    ensemble = Ensemble.grid(maps["iris"](), inits=1).with_frame(k)
    return seconds_of(lambda: ensemble.tangent_orbit(steps, every)) / steps


def weights(units: int) -> int:
    """The weights of a network of two hidden layers."""
    return sum((a + 1) * b for a, b in pairwise((INPUTS, units, units, CLASSES)))


def resident(kind: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at the most so far (VmHWM)."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def rise(call: Call) -> int:
    """How far the memory of this process rises during a call; its result is kept till then."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system: to use it again counts
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is what it is now
    before = resident("VmRSS")
    kept = call()
    after = resident("VmHWM")
    del kept
    return after - before


def extra_here(call: Call) -> float:
    """The median rise of three calls, after one that loads what is needed; at least a page."""
    call()
    return float(max(np.median([rise(call) for _ in range(3)]), PAGE))


def extra(name: str, sizes: Sequence[int]) -> list[float]:
    """The same in a new process, where what arrays give back is not kept, and nothing is rounded up to huge pages."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "NUMPY_MADVISE_HUGEPAGE": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, name, *map(str, sizes)]
    done = subprocess.run(command, env={**os.environ, **settings}, check=True, stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


# ------------------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Curve:
    """Seconds or bytes (`quantity` "time" or "memory") of something, against the sizes of what grows."""

    quantity: str
    grows: str
    name: str
    sizes: Sequence[int]
    values: Sequence[float]

    @property
    def slope(self) -> float:
        """Of the line through the upper half of the sizes, on log-log paper."""
        x, y = np.log(self.sizes), np.log(self.values)
        upper = min(int(np.searchsorted(x, (x[0] + x[-1]) / 2 - 1e-9)), len(x) - 2)
        return float(np.polyfit(x[upper:], y[upper:], 1)[0])

    @property
    def each(self) -> float:
        """Seconds or bytes per unit of size, at the largest."""
        return self.values[-1] / self.sizes[-1]

    def cells(self, bends: str) -> list[str]:
        """As a line of its table."""
        written = seconds if self.quantity == "time" else megabytes
        sizes, values = " … ".join(map(count, self.sizes[:: len(self.sizes) - 1])), (self.values[0], self.values[-1])
        return [self.grows, self.name, sizes, " … ".join(map(written, values)), f"{self.slope:.2f}", bends]


def count(n: int) -> str:
    """A whole number, its digits in groups of three."""
    return f"{n:,}".replace(",", " ")


def megabytes(size: float) -> str:
    """Bytes, as MB."""
    return f"{size / 1e6:.3g} MB"


@dataclass
class Growth:
    """The curves of a run, which go into a table at once and into a picture at the end."""

    report: Report
    curves: list[Curve] = field(default_factory=list)

    def add(self, curve: Curve, bends: str) -> None:
        """Keep a curve; `bends`: where it is no straight line, and why."""
        self.curves.append(curve)
        head = ["against", "of", "from … to", curve.quantity, "slope", "where it bends, and why"]
        self.report.add(
            f"How {curve.quantity} grows (slope: log-log, upper half of the range)", head, curve.cells(bends)
        )

    @property
    def complete(self) -> bool:
        """Whether there is something for every panel."""
        return {(curve.quantity, curve.grows) for curve in self.curves} == set(PANELS)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """One panel for each quantity and each thing that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), layout="constrained")
    for (panel, label), axes in zip(PANELS.items(), figure.subplots(3, 3).flat, strict=True):
        shown = [curve for curve in curves if (curve.quantity, curve.grows) == panel]
        draw_panel(axes, shown, label)
    figure.get_layout_engine().set(wspace=0.05, hspace=0.05)
    figure.supxlabel("dashed: slope 1", fontsize=10, color=GREY)
    figure.savefig(path, dpi=150)


def draw_panel(axes: Any, curves: Sequence[Curve], label: str) -> None:
    """Curves with a line of slope 1 through the end of the first."""
    for curve, colour, marker in zip(curves, (BLUE, ORANGE, GREEN), "os^", strict=False):
        axes.loglog(curve.sizes, curve.values, marker + "-", color=colour, markersize=4, label=curve.name)
    low, high = axes.get_ylim()
    sizes = np.array(curves[0].sizes, dtype=float)
    axes.loglog(sizes, curves[0].each * sizes, "--", color=GREY, linewidth=1, zorder=0)
    axes.set(xlabel=curves[0].grows, ylabel=label, ylim=(low, high))
    if sizes[-1] < 10_000:
        axes.set_xticks(curves[0].sizes, [str(n) for n in curves[0].sizes])
        axes.minorticks_off()
    axes.set_title(" ", fontsize=10)  # room for the names
    place = {"loc": "lower left", "bbox_to_anchor": (-0.04, 0.98), "ncols": 3, "handlelength": 1.2, "columnspacing": 1}
    axes.legend(frameon=False, fontsize=9, borderaxespad=0, **place).set_in_layout(False)
    axes.spines[["top", "right"]].set_visible(False)


# ---------------------------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def growth(found: Report) -> Iterator[Growth]:
    """Where curves go; when all are there, the picture is drawn."""
    collected = Growth(found)
    yield collected
    if collected.complete:
        draw(collected.curves, RESULTS / "growth.png")


@pytest.fixture(scope="module")
def call_cost() -> float:
    """What a call costs that has nearly nothing to do: one step of one Hénon member."""
    return seconds_of(advancing("henon", 1, 1))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch in the calling thread alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def straight(curve: Curve) -> bool:
    """Whether a curve has slope 1, as far as a shared machine can tell."""
    return 0.7 < curve.slope < 1.3


def test_members(growth: Growth, call_cost: float, quick: bool) -> None:
    sizes = (1, 100, 10_000) if quick else (1, 10, 100, 1000, 10_000, 100_000)
    iris = Curve("time", "members", "Iris, 1 step", sizes, [seconds_of(advancing("iris", n, 1)) for n in sizes])
    fixed = f"a call costs {seconds(call_cost)} whatever it does, as much as "
    growth.add(iris, f"{fixed}{call_cost / iris.each:.0f} members")
    sizes = (1, 1000, 100_000) if quick else (1, 23, 24, 100, 1000, 10_000, 100_000)
    times = {n: seconds_of(advancing("henon", n, 1000)) for n in {*sizes, 23, 24}}
    henon = Curve("time", "members", "Hénon, 1000 steps", sizes, [times[n] for n in sizes])
    lanes = f"23 members one after the other take {seconds(times[23])}, 24 side by side {seconds(times[24])}"
    growth.add(henon, f"{fixed}{call_cost / henon.each:.0f} members; {lanes}")
    assert straight(iris)
    assert straight(henon)


def test_steps(growth: Growth, call_cost: float, quick: bool) -> None:
    for name, title, largest in (("iris", "one Iris member", 4 if quick else 5), ("henon", "one Hénon member", 6)):
        sizes = [10**n for n in ((largest - 4, largest - 2, largest) if quick else range(1, largest + 1))]
        curve = Curve("time", "steps", title, sizes, [seconds_of(advancing(name, 1, n)) for n in sizes])
        growth.add(curve, f"a call costs {seconds(call_cost)}, as much as {call_cost / curve.each:.0f} steps")
        assert straight(curve)


@pytest.mark.whole
def test_width(growth: Growth) -> None:
    sizes = (1, 32, 128, 512, 2048)
    times = [step_of(perceptron((units,), "compiled")) for units in sizes]
    curve = Curve("time", "hidden units", "one hidden layer, compiled", sizes, times)
    each = ", ".join(f"{seconds(t / n)} at {count(n)}" for t, n in zip(times[1:], sizes[1:], strict=True))
    growth.add(curve, f"{seconds(times[0])} with 1 unit: data and softmax, whatever the width; a unit {each}")
    assert straight(curve)


@pytest.mark.whole
def test_depth(growth: Growth) -> None:
    sizes = (1, 2, 4, 8, 16)
    times = [step_of(perceptron((DEEP,) * layers, "compiled")) for layers in sizes]
    curve = Curve("time", "hidden layers", f"{DEEP} units each, compiled", sizes, times)
    early, late = (np.diff(times) / np.diff(sizes))[[0, -1]]
    first = f"the first layer has {INPUTS} inputs, not {DEEP}: with the outputs {seconds(times[0])}"
    growth.add(curve, f"{first}; one more {seconds(early)} in the beginning, {seconds(late)} at the end")
    assert 0.5 < late / early < 2


@pytest.mark.whole
def test_weights(growth: Growth, one_thread: None) -> None:
    units = (5, 32, 96, 310, 993)
    sizes = [weights(n) for n in units]
    compiled, tensor = (
        Curve("time", "weights", name, sizes, [step_of(perceptron((n, n), name)) for n in units])
        for name in ("compiled", "tensor")
    )
    each = [seconds(t / n) for t, n in zip(compiled.values, sizes, strict=True)]
    more = ", ".join(f"{t} at {count(n)}" for t, n in zip(each[1:], sizes[1:], strict=True))
    growth.add(compiled, f"a weight {each[0]} at {sizes[0]} (data and softmax); {more}")
    growth.add(tensor, f"{seconds(tensor.values[0])} go into the handling of tensors, however small")
    assert straight(compiled)
    assert tensor.values[-1] < tensor.values[0] * sizes[-1] / sizes[0], "more weights share what is fixed"


def test_tangent_vectors(growth: Growth, quick: bool) -> None:
    sizes = (1, 41, 83) if quick else (1, 4, 16, 41, 83)
    often, seldom = (
        Curve("time", "tangent vectors", title, sizes, [carrying(k, every) for k in sizes])
        for title, every in (("Iris, every = 1", 1), ("Iris, every = 10", 10))
    )
    made = (often.values[-1] - seldom.values[-1]) / 0.9
    growth.add(often, f"to make {sizes[-1]} vectors orthonormal, which grows as k², takes {seconds(made)} of the step")
    more = (seldom.values[-1] - seldom.values[0]) / (sizes[-1] - sizes[0])
    shared = f"the step and what the vectors share take {seconds(seldom.values[0] - more)}, each vector {seconds(more)}"
    growth.add(seldom, shared)
    assert often.values[-1] < sizes[-1] * often.values[0], "vectors share the activations of the network"
    assert straight(seldom)


@pytest.fixture
def memory_of(pool: ThreadPoolExecutor) -> Callable[..., list[Curve]]:
    """The curves of some works, each measured in a process of its own, as many at a time as there are cores."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the memory of a call is read from Linux's /proc")

    def measure(grows: str, works: dict[str, Sequence[int]], size: Callable[[int], int] = int) -> list[Curve]:
        taken = pool.map(extra, works, works.values())
        return [
            Curve("memory", grows, name, [size(n) for n in works[name]], values)
            for name, values in zip(works, taken, strict=True)
        ]

    return measure


@pytest.mark.whole
def test_memory_of_members(growth: Growth, memory_of: Callable[..., list[Curve]]) -> None:
    works = {"Iris": (1000, 10_000, 100_000), "Hénon": (10_000, 100_000, 1_000_000)}
    for curve, dim in zip(memory_of("members", works), (83, 2), strict=True):
        growth.add(curve, f"straight: {curve.each:.0f} bytes a member, {8 * dim} of them its new state")
        assert straight(curve)
    (curve,) = memory_of("members", {"Iris on tensors": (1000, 10_000, 100_000)})
    growth.add(curve, f"as many members at a time as make {megabytes(ROOM)} on their way: then only states are added")
    assert curve.values[-1] < ROOM + 8 * 83 * 4 * curve.sizes[-1]


@pytest.mark.whole
def test_memory_of_steps(growth: Growth, memory_of: Callable[..., list[Curve]]) -> None:
    sizes = (1, 10, 100, 1000)
    orbit, advance = memory_of("steps", {"orbit": sizes, "advance": sizes})
    ratio = orbit.each / (16 * HENONS)
    states = f"the states themselves, {megabytes(advance.values[0])}"
    growth.add(orbit, f"{states}; {ratio:.1f} times the records at the end")
    growth.add(advance, "flat: nothing is kept")
    assert max(advance.values) < 2 * min(advance.values)
    assert 0.95 < ratio < 1.2


@pytest.mark.whole
def test_memory_of_weights(growth: Growth, memory_of: Callable[..., list[Curve]]) -> None:
    for curve in memory_of("weights", dict.fromkeys(("compiled", "tensor"), (96, 310, 993)), weights):
        values = f"at few weights mostly the values of the units for {SAMPLES} samples"
        growth.add(curve, f"{curve.each:.0f} bytes a weight at the end; {values}")
        assert curve.each < 100, "no more than a dozen copies: nothing of the size of a Hessian"


if __name__ == "__main__":  # a process that measures its own memory: the name of a work, and its sizes
    for given in sys.argv[2:]:
        print(extra_here(MEMORY[sys.argv[1]](int(given))))
