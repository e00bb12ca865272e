"""The settings of torch under which a map works, whatever its caller has set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import numpy as np
import torch
from torch.func import jvp

from nnflow.locks import one_at_a_time


@contextmanager
def everyday() -> Iterator[None]:
    """Torch without the modes that a caller may have set around us: inference, and number types chosen by autocast."""
    if not torch.is_inference_mode_enabled() and not any(map(torch.is_autocast_enabled, _AUTOCAST)):
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Torch with so many threads within an operation, which change the last bits of a product of matrices."""
    if (before := torch.get_num_threads()) == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_AUTOCAST = ("cpu", "cuda")


@contextmanager
def forward_mode() -> Iterator[None]:
    """One forward-mode derivative at a time: torch counts their levels for the whole process, not for each thread."""
    with one_at_a_time():
        _load_forward_rules()
        yield


@cache
def _load_forward_rules() -> None:
    """Let torch load its rules of forward-mode differentiation, once, without its warnings about its own torch.jit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


@contextmanager
def seeded(seed: int | None, t: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers as a function of (seed, t), for all that happens inside; without a seed, nothing."""
    if seed is None:
        yield
        return
    with drawing_apart(device):
        torch.manual_seed(int(np.random.SeedSequence([seed, t]).generate_state(1, np.uint64)[0] >> 1))
        yield


@contextmanager
def drawing_apart(*devices: torch.device) -> Iterator[None]:
    """Torch's random numbers for this thread alone, and as they were afterwards."""
    with one_at_a_time(), torch.random.fork_rng(devices=[each for each in devices if each.type != "cpu"]):
        yield
