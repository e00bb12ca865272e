"""lyapax: Lyapunov exponents of Iris under gradient descent, its tangent vectors by JAX's forward mode."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
from jax_training import descent
from lyapax import lyapunov_spectrum

ETA = 5.0


def step(w: Any) -> Any:
    return descent(w, ETA)


def exponents(state: np.ndarray, steps: int, k: int) -> np.ndarray:
    """As its manual shows: a plain call, which traces its loop anew each time."""
    return np.asarray(lyapunov_spectrum(step, state, 1.0, steps, k=k).exponents)


@cache
def compiled(steps: int, k: int) -> Any:
    return jax.jit(lambda w: lyapunov_spectrum(step, w, 1.0, steps, k=k).exponents)


def exponents_jit(state: np.ndarray, steps: int, k: int) -> np.ndarray:
    """The same under a `jit` of the user's own, kept from call to call."""
    return np.asarray(compiled(steps, k)(state))
