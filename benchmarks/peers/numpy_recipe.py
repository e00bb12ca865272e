"""numpy: the 0–1 test as its authors write it down."""

from __future__ import annotations

import numpy as np


def growth_rates(series: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """K_c as Gottwald and Melbourne (2009, doi:10.1137/080718851) write it down: a loop over c, a loop over n."""
    longest = series.size // 10
    windows = series.size - longest
    n = np.arange(1, longest + 1)
    rates = np.empty(frequencies.size)
    for i, c in enumerate(frequencies):
        phase = c * np.arange(1, series.size + 1)
        p, q = np.zeros((2, series.size + 1))  # the walk starts at the origin
        p[1:], q[1:] = np.cumsum(series * np.cos(phase)), np.cumsum(series * np.sin(phase))
        displacement = np.empty(longest)
        for k in n:
            displacement[k - 1] = np.mean(
                (p[k : k + windows] - p[:windows]) ** 2 + (q[k : k + windows] - q[:windows]) ** 2
            )
        displacement -= series.mean() ** 2 * (1 - np.cos(n * c)) / (1 - np.cos(c))
        rates[i] = np.corrcoef(n, displacement)[0, 1]
    return rates
