"""What is done to a series: recurrence measures beside pyunicorn, the 0–1 test beside numpy by the book."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nnflow_plugins.recurrence import recurrence_measures
from nnflow_plugins.zero_one_test import growth_rates, zero_one

from nnflow import Ensemble, maps

pytestmark = pytest.mark.filterwarnings("ignore")  # the peer's own

THRESHOLD = 0.05
METRICS = {"maximum": "supremum", "euclidean": "euclidean"}  # our name: theirs


def henon_orbit(samples: int) -> np.ndarray:
    """A piece of the attractor, `(time, coordinate)`, in numbers that float32 holds too: pyunicorn rounds to it."""
    start = Ensemble.grid(maps["henon"](), states=[[0.1, 0.1]]).advance(1000)
    return start.orbit(samples)[0][0].astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    ("coordinates", "norm", "target"), [(1, "maximum", 10.0), (2, "maximum", None), (2, "euclidean", None)]
)
def test_recurrence_measures(duel: Any, coordinates: int, norm: str, target: float | None) -> None:
    timeseries = pytest.importorskip("pyunicorn.timeseries", reason="pyunicorn is not installed")
    series = henon_orbit(5000)[:, :coordinates].copy()

    def ours(theiler: int = 1) -> dict[str, float]:
        return recurrence_measures(series, threshold=THRESHOLD, theiler=theiler, norm=norm)

    def theirs() -> dict[str, float]:
        """RR, DET, L and LAM: fewer measures than ours, which count the white lines and the recurrence times too."""
        plot = timeseries.RecurrencePlot(series, threshold=THRESHOLD, metric=METRICS[norm], silence_level=2)
        return plot.rqa_summary()

    summary, whole = theirs(), ours(theiler=0)  # pyunicorn leaves the identity line out of the diagonals only
    assert 0.01 < whole["recurrence_rate"] < 0.1
    np.testing.assert_allclose(whole["recurrence_rate"], summary["RR"], rtol=1e-9)
    np.testing.assert_allclose(whole["laminarity"], summary["LAM"], rtol=1e-9)
    np.testing.assert_allclose(ours()["determinism"], summary["DET"], rtol=1e-9)
    np.testing.assert_allclose(ours()["mean_diagonal"], summary["L"], rtol=1e-9)
    shape = "scalar" if coordinates == 1 else f"{coordinates} coordinates, {norm}"
    duel(f"recurrence measures, N = 5000, {shape}", ours, "pyunicorn rqa_summary", theirs, target=target)


def growth_by_definition(series: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
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


def test_zero_one(duel: Any) -> None:
    series = henon_orbit(10_000)[:, 0]
    series = series - series.mean()  # the 2009 recipe takes the mean's share away afterwards, ours at the outset
    frequencies = np.linspace(np.pi / 5, 4 * np.pi / 5, 100)
    every = slice(None, None, 10)

    def theirs() -> float:
        return float(np.median(growth_by_definition(series, frequencies[every])))

    np.testing.assert_allclose(
        growth_rates(series, frequencies)[every], growth_by_definition(series, frequencies[every]), atol=1e-9
    )
    duel(
        "0–1 test, N = 10⁴, 100 frequencies",
        lambda: zero_one(series, frequencies),
        "numpy, the 2009 recipe (10 frequencies, × 10)",
        theirs,
        scale=10.0,
        target=10.0,
    )
