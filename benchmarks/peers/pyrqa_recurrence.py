"""PyRQA: recurrence quantification by OpenCL, on whatever device a driver offers."""

from __future__ import annotations

import numpy as np
from pyrqa.analysis_type import Classic
from pyrqa.computation import RQAComputation
from pyrqa.metric import EuclideanMetric
from pyrqa.neighbourhood import FixedRadius
from pyrqa.opencl import OpenCL
from pyrqa.settings import Settings
from pyrqa.time_series import TimeSeries

DEVICE = OpenCL(platform_id=0, device_ids=(0,))  # a processor too, by a driver such as pocl; an error without any


def measures(series: np.ndarray, threshold: float) -> dict[str, float]:
    settings = Settings(
        TimeSeries(series, embedding_dimension=1, time_delay=1),
        analysis_type=Classic,
        neighbourhood=FixedRadius(threshold),
        similarity_measure=EuclideanMetric,
        theiler_corrector=1,
    )
    result = RQAComputation.create(settings, verbose=False, opencl=DEVICE).run()
    return {"RR": float(result.recurrence_rate), "DET": float(result.determinism), "LAM": float(result.laminarity)}
