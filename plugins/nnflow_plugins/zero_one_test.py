"""`nnflow_plugins.zero_one_test`, the public address of the 0–1 test; it stands in `signals/zero_one_test.py`."""

from nnflow_plugins.signals.zero_one_test import (
    DRIFT_THRESHOLD,
    ZeroOneTest,
    displacements,
    drift,
    drift_batch,
    growth_rates,
    zero_one,
    zero_one_batch,
)

__all__ = [
    "DRIFT_THRESHOLD",
    "ZeroOneTest",
    "displacements",
    "drift",
    "drift_batch",
    "growth_rates",
    "zero_one",
    "zero_one_batch",
]
