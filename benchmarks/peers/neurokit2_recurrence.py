"""NeuroKit2: recurrence quantification of a signal."""

from __future__ import annotations

import neurokit2
import numpy as np


def measures(series: np.ndarray, threshold: float) -> dict[str, float]:
    table, _ = neurokit2.complexity_rqa(series, dimension=1, delay=1, tolerance=threshold)
    names = {"RR": "RecurrenceRate", "DET": "Determinism", "LAM": "Laminarity"}
    return {ours: float(table[name].iloc[0]) for ours, name in names.items()}
