"""Calls of a map as machine code: their operations are traced, and compiled by torch's Inductor, or recorded by CUDA.

*From the first call on.* A compiled call rounds otherwise than the function that it was made from, and chaos amplifies
that. So there is no call before which it is not compiled, and no other way when it fails: what cannot be traced or
compiled is refused. The same input has the same bits, whatever was called before.

*Compared with the function.* The first calls are made by the function, too. Where sums are added in another order, each
of their terms is off by a few units of its last place; so a result may be off by what the function itself changes when
all its arguments move by many more, and by as many of its own (`_room`). What is further off is refused.

*One thread, one folder.* Inductor is told to write loops for one thread, and to time nothing, so that no bit depends on
their number or on the day. Its files stand beside nnflow's own machine code, under the processor that they are for.

On a CUDA device the replay is recorded as one CUDA graph instead, which saves what its many small calls cost.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from nnflow.internals import tree_flatten, tree_unflatten
from nnflow.locks import Lock, one_at_a_time
from nnflow.names import Refusal
from nnflow.tensor.graph import Function, tensors_in, traced
from nnflow.tensor.trace import TRIALS, Calls, Drawing, owned

MOVED = 2.0**10  # units of the last place by which arguments are moved: sums of a million terms are off by less
CHOICES = {
    "cpp.threads": 1,
    "compile_threads": 1,
    "max_autotune": False,  # it would time
    "max_autotune_gemm": False,
    "fallback_random": True,  # torch's own numbers
    "cpp_cache_precompile_headers": False,  # they would go into the folder for temporary files, whatever it is told
}


def compiler(device: torch.device, noise: int | None) -> str:
    """What will compile a map on this device, in words.

    Args:
        device: Of the map.
        noise: The seed of what its rule draws.

    Returns:
        Its name and version.

    Raises:
        Refusal: where there is none.
    """
    if device.type == "cuda":
        if noise is not None:
            raise Refusal(f"compile = True, noise = {noise}: on CUDA a step is recorded with its draws: leave one out")
        return f"CUDA graphs, torch {torch.__version__}"
    if device.type != "cpu":
        raise Refusal(f"compile = True, device = {device.type!r}: only maps on cpu and cuda are compiled")
    named = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(named) is None:
        raise Refusal(
            f"compile = True: there is no C++ compiler {named!r} here: install one (Debian: apt install g++; macOS: "
            "xcode-select --install), set CXX to one, or leave compile=True out"
        )
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        raise Refusal(
            f"compile = True: there is no Python.h in {headers}: install Python's headers (Debian: apt install "
            "python3-dev), or leave compile=True out"
        )
    return f"inductor {torch.__version__}"


class _Kind:
    """What is known of the calls of one kind: with arguments of the same shapes."""

    def __init__(self) -> None:
        self.code: Function | None = None
        self.agreed = 0
        self.lock = Lock()


class Compiled(Calls[_Kind]):
    """The compiled calls of one map."""

    def __init__(self, name: str) -> None:
        super().__init__(name, _Kind)

    def call(self, kind: Hashable, drawing: Drawing, function: Function, *arguments: Any) -> Any:
        """The same to rounding, by machine code. Raises Refusal if that cannot be had, or gives other numbers."""
        flat = list(tensors_in(arguments))
        known = self.known(kind, flat)
        if known.code is None:
            with known.lock():
                known.code = known.code or self._made(kind, drawing, function, arguments)
        with drawing():
            out = known.code(*flat)
        if known.agreed < TRIALS:
            self._compare(kind, drawing, function, arguments, out)
            known.agreed += 1
        return out

    def _made(self, kind: Hashable, drawing: Drawing, function: Function, arguments: tuple[Any, ...]) -> Function:
        flat = [each.clone() for each in tensors_in(arguments)]
        try:
            with drawing():
                graph = traced(function, True, *arguments)
            with drawing():
                return _recorded(graph, flat) if flat[0].is_cuda else _by_inductor(graph, flat)
        except Exception as error:  # whatever it is: there is no other way
            reason = f"{type(error).__name__}: {error}".strip().splitlines()
            raise Refusal(
                f"the {kind} of {self.name!r} cannot be compiled: make the map without compile=True ({reason[0]})"
            ) from error

    def _compare(
        self, kind: Hashable, drawing: Drawing, function: Function, arguments: tuple[Any, ...], found: Any
    ) -> None:
        """Refuse results that are further from those of the function than rounding can bring them."""
        with drawing():
            known = function(*arguments)
        with drawing():
            moved = function(*_moved(arguments))
        for one, other, beside in zip(*(tensors_in((each,)) for each in (found, known, moved)), strict=True):
            excess = _excess(one, other, beside)
            if bool((excess > 0).any()):
                worst = int(excess.argmax())
                raise Refusal(
                    f"the compiled {kind} of {self.name!r} gives {float(one.flatten()[worst]):.17g} in place of "
                    f"{float(other.flatten()[worst]):.17g}, which is no rounding: make the map without compile=True"
                )


def _moved(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments, each number moved by `MOVED` units of its last place. Signs stay, but a row of zeros moves up."""
    flat, form = tree_flatten(arguments)
    draws = torch.Generator().manual_seed(0)

    def beside(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            return x
        by = MOVED * torch.finfo(x.dtype).eps
        sign = (2 * torch.randint(2, x.shape, generator=draws) - 1).to(x)
        empty = ~(x != 0).any(dim=-1, keepdim=True) if x.ndim else x == 0
        return torch.where(empty, by, x * (1 + by * sign))

    return tuple(tree_unflatten(list(map(beside, flat)), form))


def _excess(found: Tensor, known: Tensor, moved: Tensor) -> Tensor:
    """By how much each number is further off than rounding can bring it; infinite where one alone is finite."""
    if found.shape != known.shape or found.dtype != known.dtype:
        return torch.full_like(known, torch.inf)
    finite = torch.isfinite(known)
    off, size, change = ((a - b).abs().where(finite, 0.0) for a, b in ((found, known), (known, 0.0), (moved, known)))
    by = MOVED * torch.finfo(known.dtype).eps
    room = by * size.amax(dim=-1, keepdim=True) + change.nan_to_num(0.0, 0.0).amax(dim=-1, keepdim=True)
    return torch.where(torch.isfinite(found) == finite, off - room, torch.inf)


def _by_inductor(graph: GraphModule, flat: list[Tensor]) -> Function:
    """The machine code of a graph."""
    with one_at_a_time(), _folder(_kept_in()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nnflow.internals import compile_fx  # takes seconds

        code: Any = compile_fx(graph, list(flat), config_patches=CHOICES)
        code(*flat)  # what it does at its first call is done in this folder, too
    return lambda *given: owned(code(*given), given)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Let Inductor keep its files here: it asks the environment."""
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(path)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def _kept_in() -> Path:
    """Where Inductor's files are: beside nnflow's own, one folder for each processor, or one that ends with us."""
    from llvmlite import binding

    from nnflow.machine import cache_directory

    folder = cache_directory()
    if folder is None:
        return _for_now()
    features = binding.get_host_cpu_features().flatten()
    processor = f"{binding.get_host_cpu_name()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
    return folder / f"inductor-{torch.__version__}-{processor}"


@cache
def _for_now() -> Path:
    _temporary.append(tempfile.TemporaryDirectory(prefix="nnflow-"))
    return Path(_temporary[0].name)


_temporary: list[tempfile.TemporaryDirectory[str]] = []


def _recorded(graph: GraphModule, flat: list[Tensor]) -> Function:
    """A graph as a CUDA graph: its arguments are copied into place, its results out of it."""
    code: Callable[..., Any] = graph.forward
    beside = torch.cuda.Stream(flat[0].device)  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream(flat[0].device))
    with torch.cuda.stream(beside):
        for _ in range(3):  # libraries choose their kernels and take their memory before it is recorded
            code(*flat)
    torch.cuda.current_stream(flat[0].device).wait_stream(beside)
    record, lock = torch.cuda.CUDAGraph(), threading.Lock()
    with torch.cuda.graph(record):
        held = code(*flat)

    def call(*given: Tensor) -> Any:
        with lock:
            for place, each in zip(flat, given, strict=True):
                place.copy_(each)
            record.replay()
            return tuple(each.clone() for each in held) if isinstance(held, tuple) else held.clone()

    return call
