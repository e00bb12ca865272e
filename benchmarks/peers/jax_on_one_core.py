"""The networks of `jax_modules` in a process that keeps to one core."""

from __future__ import annotations

import os

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before JAX starts its threads

from jax_modules import step, tangent  # noqa: E402

__all__ = ["step", "tangent"]
