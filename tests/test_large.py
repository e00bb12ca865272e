"""A network of a million weights: four tangent vectors in float32, data in microbatches, under 4 GiB."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, resource
import numpy as np, torch, nnflow
from torch import nn

rng = np.random.default_rng(0)
inputs, labels = rng.normal(size=(1000, 784)), rng.integers(0, 10, 1000)
torch.manual_seed(0)
layers = nn.Linear(784, 1024), nn.Tanh(), nn.Linear(1024, 200), nn.Tanh(), nn.Linear(200, 10)
settings = {"dtype": torch.float32, "microbatch": 250, "eta": 0.5}
map = nnflow.training_map(nn.Sequential(*layers), nn.functional.cross_entropy, inputs, labels, **settings)
found = nnflow.run("lyapunov_spectrum", map, k=4, steps=2, transient=1)
print(json.dumps({
    "weights": map.dim, "exponent": found.exponent.values.tolist(), "resolution": found.attrs["resolution"],
    "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process's memory is asked of the system")
def test_a_million_weights_fit_into_four_gibibytes() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["weights"] == 1_010_850
    assert found["gibibytes"] < 4
    assert found["resolution"] == 2.0**-23
    assert len(found["exponent"]) == 4
    assert all(abs(value) < 0.1 for value in found["exponent"])  # near 0: a random direction of a million is flat
