"""Training on an accelerator: checked against the processor, then timed beside it and beside torch by hand.

    python benchmarks/gpu.py                      # on the first CUDA device
    python benchmarks/gpu.py --device cpu --tiny  # what can be tried without one

Each case is the same network many times over, gradient descent in float64. First a few members take a few steps on the
device and on the processor, and have to agree to rounding. Then three things are timed, in members × steps a second:
nnflow on the device, nnflow on all cores of the processor with fewer members, and torch by hand on the device: one
`torch.func.vmap` of the gradient, members in slices that fit. The table is printed, and written with the device's name
to benchmarks/results/gpu.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

import nnflow

RATE, ROUNDING = 0.1, 1e-9
RESULTS = Path(__file__).parent / "results"


class Case(NamedTuple):
    """A network many times over."""

    sizes: tuple[int, ...]
    rows: int
    members: int
    on_cores: int  # members on the processor
    slice: int  # members of torch by hand at a time
    steps: int
    least: float | None = None  # how many times the processor's speed is asked for

    @property
    def name(self) -> str:
        return f"{self.members} x {'-'.join(map(str, self.sizes))}, {self.rows} rows"


CASES = (
    Case((4, 10, 3), 120, 100_000, 2_000, 20_000, 40),
    Case((64, 64, 10), 1200, 10_000, 16, 500, 6, least=30.0),
    Case((784, 900, 300, 10), 256, 1, 1, 1, 40),
)
TINY = (Case((4, 10, 3), 12, 9, 4, 4, 3), Case((8, 6, 3), 20, 5, 2, 2, 3))


def made(case: Case, device: str) -> tuple[nnflow.Map, tuple[nn.Module, Tensor, Tensor]]:
    """The map on a device, and what it is made of."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    layers = [part for a, b in pairwise(case.sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    module = nn.Sequential(*layers[:-1]).double()
    x, y = rng.normal(size=(case.rows, case.sizes[0])), rng.integers(0, case.sizes[-1], case.rows)
    map = nnflow.training_map(module, cross_entropy, x, y, backend="tensor", device=device, eta=RATE)
    return map, (module.to(device), torch.tensor(x, device=device), torch.tensor(y, device=device))


def by_hand(module: nn.Module, x: Tensor, y: Tensor, slice: int) -> Callable[[Tensor, int], Tensor]:
    """Steps of gradient descent of many members, as one would write them with torch.func."""
    shapes = {name: p.shape for name, p in module.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def loss(w: Tensor) -> Tensor:
        parts = zip(shapes.items(), w.split(sizes), strict=True)
        return cross_entropy(functional_call(module, {name: part.view(shape) for (name, shape), part in parts}, x), y)

    step = vmap(grad(loss))

    @torch.no_grad()
    def descend(w: Tensor, steps: int) -> Tensor:
        w = w.clone()
        for _ in range(steps):
            for part in w.split(slice):
                part -= RATE * step(part)
        return w

    return descend


def rate(function: Callable[[], Any], work: int, device: str, rounds: int) -> float:
    """Members × steps a second: the fastest of some rounds after one that is not counted."""
    best = float("inf")
    for i in range(rounds + 1):
        began = time.perf_counter()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began) if i else best
    return work / best


def compare(case: Case, device: str) -> float:
    """The largest difference of the device from the processor, after a few steps and with a tangent vector."""
    few = min(case.members, 3)
    ours, theirs = (nnflow.Ensemble.grid(made(case, each)[0], inits=few).with_frame(1) for each in (device, "cpu"))
    (stretches, end), (known, last) = ours.tangent_orbit(5), theirs.tangent_orbit(5)
    apart = [end.states - last.states, end.frames - last.frames, stretches.log_stretches - known.log_stretches]
    worst = max(float(np.abs(each).max()) for each in apart)
    if not worst <= ROUNDING:
        raise SystemExit(f"{case.name}: {device} and the processor are {worst:.2g} apart: nothing is timed")
    return worst


def measure(case: Case, device: str, rounds: int) -> list[str]:
    """A row of the table."""
    apart = compare(case, device)
    map, parts = made(case, device)
    start = nnflow.Ensemble.grid(map, inits=case.members).advance(30)  # until its steps are replayed
    ours = rate(lambda: start.advance(case.steps), case.members * case.steps, device, rounds)
    beside = nnflow.Ensemble.grid(made(case, "cpu")[0], inits=case.on_cores).advance(30)
    cores = rate(lambda: beside.advance(case.steps), case.on_cores * case.steps, "cpu", rounds)
    descend, w = by_hand(*parts, case.slice), torch.tensor(start.states, device=device)
    hand = rate(lambda: descend(w, case.steps), case.members * case.steps, device, rounds)
    np.testing.assert_allclose(descend(w, 3).cpu(), start.advance(3).states, rtol=0, atol=ROUNDING)
    asked = "-" if case.least is None else f">= {case.least:g}x: {'met' if ours >= case.least * cores else 'missed'}"
    numbers = [f"{ours:.3g}", f"{cores:.3g}", f"{ours / cores:.1f}x", f"{hand:.3g}", f"{ours / hand:.2f}x"]
    return [case.name, f"{apart:.1g}", *numbers, asked]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="torch's name of the device (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="a few members, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each, of which the fastest counts")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of gpu.md")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device: --device cpu --tiny tries the script without one")
    named = "the processor" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    head = [
        "case",
        "apart",
        "nnflow there",
        f"{os.cpu_count()} cores",
        "ratio",
        "torch by hand there",
        "ratio",
        "asked",
    ]
    rows = [measure(case, options.device, options.rounds) for case in (TINY if options.tiny else CASES)]
    lines = [f"{named}, torch {torch.__version__}; members × steps a second, float64", ""]
    lines += [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    print("\n".join(lines))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
