"""The data of the `iris` map for a peer: from the file that BENCHMARK_IRIS names, so that a peer needs no nnflow."""

from __future__ import annotations

import os

import numpy as np

_saved = np.load(os.environ["BENCHMARK_IRIS"])
INPUTS, LABELS = _saved["inputs"], _saved["labels"]
HOT = np.eye(3)[LABELS]
