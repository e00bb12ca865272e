"""What is done to a series: recurrence measures beside pyunicorn, the 0–1 test beside numpy by the book."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nnflow_plugins.recurrence import recurrence_measures
from nnflow_plugins.zero_one_test import growth_rates, zero_one

from nnflow import Ensemble, maps

THRESHOLD = 0.05
METRICS = {"maximum": "supremum", "euclidean": "euclidean"}  # our name: theirs


def henon_orbit(samples: int) -> np.ndarray:
    """A piece of the attractor, `(time, coordinate)`, in numbers that float32 holds too: pyunicorn rounds to it."""
    start = Ensemble.grid(maps["henon"](), states=[[0.1, 0.1]]).advance(1000)
    return start.orbit(samples)[0][0].astype(np.float32).astype(np.float64)


def ours(series: np.ndarray, norm: str = "maximum", theiler: int = 1) -> dict[str, float]:
    return recurrence_measures(series, threshold=THRESHOLD, theiler=theiler, norm=norm)


@pytest.mark.parametrize(
    ("coordinates", "norm", "target"),
    [
        (1, "maximum", 10.0),
        pytest.param(2, "maximum", None, marks=pytest.mark.whole),
        pytest.param(2, "euclidean", None, marks=pytest.mark.whole),
    ],
)
def test_recurrence_measures(duel: Any, peer: Any, coordinates: int, norm: str, target: float | None) -> None:
    theirs = peer("pyunicorn_recurrence")
    series = henon_orbit(5000)[:, :coordinates].copy()
    arguments = {"series": series, "threshold": THRESHOLD, "metric": METRICS[norm]}

    summary, whole = theirs("measures", **arguments), ours(series, norm, theiler=0)
    assert 0.01 < whole["recurrence_rate"] < 0.1
    np.testing.assert_allclose(whole["recurrence_rate"], summary["RR"], rtol=1e-9)
    np.testing.assert_allclose(whole["laminarity"], summary["LAM"], rtol=1e-9)
    found = ours(series, norm)  # pyunicorn leaves the identity line out of the diagonals only
    np.testing.assert_allclose(found["determinism"], summary["DET"], rtol=1e-9)
    np.testing.assert_allclose(found["mean_diagonal"], summary["L"], rtol=1e-9)
    duel(
        f"recurrence measures, N = 5000, {'scalar' if coordinates == 1 else f'{coordinates} coordinates, {norm}'}",
        lambda: ours(series, norm),
        "pyunicorn rqa_summary",
        lambda: theirs.seconds("measures", **arguments),
        target=target,
    )


@pytest.mark.whole
@pytest.mark.parametrize(
    ("peer_name", "title", "samples"),
    [("pyrqa_recurrence", "PyRQA on the processor", 5000), ("neurokit2_recurrence", "NeuroKit2 complexity_rqa", 1000)],
)
def test_recurrence_rate(duel: Any, peer: Any, peer_name: str, title: str, samples: int) -> None:
    """Both agree on the recurrence rate, up to the identity line; of other measures their conventions differ."""
    theirs = peer(peer_name)
    series = henon_orbit(samples)[:, 0].copy()
    summary = theirs("measures", series=series, threshold=THRESHOLD)
    rates = [ours(series, theiler=window)["recurrence_rate"] for window in (0, 1)]
    assert np.abs(np.array(rates) - summary["RR"]).min() < 1e-3 * rates[0]
    duel(
        f"recurrence measures, N = {samples}, scalar",
        lambda: ours(series),
        title,
        lambda: theirs.seconds("measures", series=series, threshold=THRESHOLD),
    )


def test_zero_one(duel: Any, peer: Any) -> None:
    theirs = peer("numpy_recipe")
    series = henon_orbit(10_000)[:, 0]
    series = series - series.mean()  # the 2009 recipe takes the mean's share away afterwards, ours at the outset
    frequencies = np.linspace(np.pi / 5, 4 * np.pi / 5, 100)
    few = frequencies[::10]
    expected = theirs("growth_rates", series=series, frequencies=few)
    np.testing.assert_allclose(growth_rates(series, few), expected, atol=1e-9)
    duel(
        "0–1 test, N = 10⁴, 100 frequencies",
        lambda: zero_one(series, frequencies),
        "numpy, the 2009 recipe (10 frequencies, × 10)",
        lambda: theirs.seconds("growth_rates", series=series, frequencies=few),
        scale=10.0,
        target=10.0,
    )
