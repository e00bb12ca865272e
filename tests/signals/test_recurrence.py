"""Recurrence measures against matrices worked by hand, exact facts, and a slow implementation that keeps the matrix."""

import math
import subprocess
import sys
from itertools import groupby, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnflow_plugins.signals.recurrence import (
    MEASURES,
    embed,
    lines_of_matrix,
    measures_of_matrix,
    recurrence_matrix,
    recurrence_measures,
    threshold_of_rate,
)

import nnflow

mpl.use("Agg")

# worked by hand: 33 points in diagonal lines of 1 … 5 points, 11, 7, 1, 0 and 1 of them
CROSS = np.zeros((10, 11), dtype=bool)
for _row, _column in [
    *[(1, 1), (2, 2), (3, 2), (6, 2), (7, 2), (8, 2), (6, 3), (7, 3), (10, 3), (2, 4), (4, 4)],
    *[(1, 5), (2, 5), (3, 5), (5, 5), (9, 5), (10, 5), (2, 6), (3, 6), (6, 6), (7, 6), (10, 6)],
    *[(3, 7), (8, 7), (4, 8), (1, 9), (5, 9), (7, 9), (9, 9), (9, 10), (10, 10), (3, 11), (7, 11)],
]:
    CROSS[_row - 1, _column - 1] = True

SHORT = [0.1, 0.5, 1.3, 0.7, 0.8, 1.4, 1.6, 1.2, 0.4, 1.1, 0.8, 0.2, 1.3]


def logistic(samples, r=4.0, x=0.3):
    orbit = np.empty(samples)
    for i in range(samples):
        orbit[i] = x
        x = r * x * (1 - x)
    return orbit


# -- the slow implementation ---------------------------------------------------------------------------------------


def slow_matrix(series, threshold, embedding, delay, norm):
    distance = {
        "euclidean": math.dist,
        "manhattan": lambda x, y: sum(abs(a - b) for a, b in zip(x, y, strict=True)),
        "maximum": lambda x, y: max(abs(a - b) for a, b in zip(x, y, strict=True)),
    }[norm]
    rows = np.reshape(series, (len(series), -1)).tolist()
    count = len(rows) - (embedding - 1) * delay
    points = [[v for lag in range(embedding) for v in rows[i + lag * delay]] for i in range(count)]
    return [[distance(x, y) <= threshold for y in points] for x in points]


def runs(cells):
    """(value, begin, length) of every run of equal values."""
    found, begin = [], 0
    for value, group in groupby(cells):
        length = len(list(group))
        found.append((value, begin, length))
        begin += length
    return found


def slow_measures(matrix, theiler=1, min_diagonal=2, min_vertical=2):
    rows, columns = len(matrix), len(matrix[0])
    looked_at = [matrix[i][j] for i in range(rows) for j in range(columns) if abs(i - j) >= theiler]
    diagonal, vertical, white, time = [], [], [], []
    for k in range(1 - rows, columns):
        if abs(k) >= theiler:
            cells = [matrix[i][i + k] for i in range(rows) if 0 <= i + k < columns]
            diagonal += [length for value, _, length in runs(cells) if value]
    for j in range(columns):
        column = runs([matrix[i][j] if abs(i - j) >= theiler else None for i in range(rows)])
        vertical += [length for value, _, length in column if value]
        white += [length for value, _, length in column if value is False]
        for window, segment in groupby(column, key=lambda run: run[0] is None):
            starts = [begin for value, begin, _ in segment if value]
            time += [] if window else [b - a for a, b in pairwise(starts)]
    nan = math.nan
    share, mean, longest, entropy = slow_statistics(diagonal, min_diagonal)
    laminarity, trapping, tallest, vertical_entropy = slow_statistics(vertical, min_vertical)
    values = [sum(looked_at) / len(looked_at), share, mean, longest, entropy]
    values += [laminarity, trapping, tallest, vertical_entropy, *slow_statistics(white, min_vertical)[1:]]
    return dict(zip(MEASURES, [*values, sum(time) / len(time) if time else nan], strict=True))


def slow_statistics(lengths, least):
    long = [length for length in lengths if length >= least]
    if not long:
        return (0.0 if lengths else math.nan), math.nan, 0.0, math.nan
    p = [long.count(length) / len(long) for length in set(long)]
    return sum(long) / sum(lengths), sum(long) / len(long), max(long), -sum(q * math.log(q) for q in p)


def agree(measures, expected):
    assert list(measures) == list(MEASURES)
    assert all(type(value) is float for value in measures.values())
    assert measures == pytest.approx(expected, rel=1e-12, abs=1e-14, nan_ok=True)


# whole numbers, so that distances are exact and often equal to the threshold
@settings(max_examples=150, deadline=None)
@given(
    series=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=14, max_size=40),
    channels=st.integers(1, 2),
    threshold=st.integers(0, 6),
    embedding=st.integers(1, 3),
    delay=st.integers(1, 3),
    norm=st.sampled_from(["euclidean", "manhattan", "maximum"]),
    theiler=st.integers(0, 5),
    minima=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_the_kernels_agree_with_the_whole_matrix(series, channels, threshold, embedding, delay, norm, theiler, minima):
    values = np.array(series, dtype=float)[:, :channels]
    expected = slow_matrix(values, threshold, embedding, delay, norm)
    matrix = recurrence_matrix(values, threshold, embedding=embedding, delay=delay, norm=norm)
    assert matrix.dtype == bool
    assert matrix.tolist() == expected
    measures = recurrence_measures(values, threshold, None, theiler, *minima, embedding, delay, norm)
    agree(measures, slow_measures(expected, theiler, *minima))
    assert measures_of_matrix(matrix, theiler, *minima) == pytest.approx(measures, rel=0, abs=0, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    density=st.floats(0, 1),
    seed=st.integers(0, 10**6),
    theiler=st.integers(0, 2),
)
def test_any_matrix_agrees(shape, density, seed, theiler):
    matrix = np.random.default_rng(seed).random(shape) < density
    if all(abs(i - j) < theiler for i, j in np.ndindex(shape)):
        with pytest.raises(ValueError, match="no cells outside the Theiler window"):
            measures_of_matrix(matrix, theiler)
    else:
        agree(measures_of_matrix(matrix, theiler), slow_measures(matrix.tolist(), theiler))


def test_long_random_series_agrees():
    series = np.random.default_rng(1).normal(size=(300, 2)).cumsum(axis=0)
    matrix = slow_matrix(series, 3.0, 2, 4, "euclidean")
    measures = recurrence_measures(series, 3.0, theiler=7, min_diagonal=3, embedding=2, delay=4)
    agree(measures, slow_measures(matrix, 7, 3, 2))
    assert measures["max_vertical"] > 10


# -- worked by hand ------------------------------------------------------------------------------------------------


def test_cross_matrix_worked_by_hand():
    lines = lines_of_matrix(CROSS)
    assert lines.diagonal[1:].tolist() == [11, 7, 1, 0, 1, 0, 0, 0, 0, 0, 0]
    assert lines.vertical[1:].tolist() == [15, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    measures = measures_of_matrix(CROSS)
    exact = {"recurrence_rate": 33 / 110, "determinism": 22 / 33, "mean_diagonal": 22 / 9, "max_diagonal": 5.0}
    exact |= {"laminarity": 18 / 33, "trapping_time": 18 / 8, "max_vertical": 3.0}
    assert {name: measures[name] for name in exact} == pytest.approx(exact, rel=1e-15)
    assert measures["diagonal_entropy"] == pytest.approx(0.684, abs=5e-4)
    assert measures_of_matrix(CROSS.astype(int) * 7) == measures


def test_short_series_worked_by_hand():
    options = {"threshold": 0.65, "embedding": 2, "delay": 2}
    without, whole = recurrence_measures(SHORT, **options), recurrence_measures(SHORT, theiler=0, **options)
    diagonal = {"determinism": 0.411765, "mean_diagonal": 2.333333, "max_diagonal": 3.0, "diagonal_entropy": 0.636514}
    others = {"recurrence_rate": 0.371901, "laminarity": 0.4, "trapping_time": 2.571429, "max_vertical": 4.0}
    others |= {"vertical_entropy": 0.955700, "mean_white": 2.538462, "max_white": 6.0, "white_entropy": 0.839796}
    assert {name: without[name] for name in diagonal} == pytest.approx(diagonal, abs=5e-7)
    assert {name: whole[name] for name in others} == pytest.approx(others, abs=5e-7)
    assert without["recurrence_rate"] == pytest.approx((45 - 11) / (121 - 11), rel=1e-15)


@pytest.mark.parametrize(("period", "samples"), [(2, 100), (3, 101), (5, 100), (7, 100)])
def test_periodic_series(period, samples):
    measures = recurrence_measures(np.arange(samples) % period, 0.5)
    assert measures["determinism"] == 1.0
    assert measures["laminarity"] == 0.0
    assert measures["max_diagonal"] == samples - period
    assert measures["mean_recurrence_time"] == period


def test_periodic_series_with_a_lone_corner_point():
    measures = recurrence_measures(np.arange(101) % 5, 0.5)
    points = sum(101 - k for k in range(5, 101, 5))
    assert measures["determinism"] == pytest.approx(1 - 1 / points, rel=1e-15)


def test_constant_series():
    n = 50
    measures = recurrence_measures(np.full(n, 0.1), 0.0)
    assert measures["recurrence_rate"] == 1.0
    assert measures["determinism"] == measures["laminarity"] == pytest.approx(1 - 2 / (n * (n - 1)), rel=1e-15)
    whole = recurrence_measures(np.full(n, 0.1), 0.0, theiler=0)
    assert whole["determinism"] == pytest.approx(1 - 2 / n**2, rel=1e-15)
    assert whole["laminarity"] == 1.0
    assert (whole["max_diagonal"], whole["trapping_time"], whole["vertical_entropy"]) == (n, n, 0.0)


def test_nothing_recurs():
    measures = recurrence_measures(np.arange(20), 0.5)
    zero = {"recurrence_rate", "max_diagonal", "max_vertical"}
    assert {name for name, value in measures.items() if value == 0.0} == zero
    assert {name for name, value in measures.items() if math.isnan(value)} == set(MEASURES) - zero - {
        "mean_white",
        "max_white",
        "white_entropy",
    }
    assert measures["max_white"] == 19.0


def test_the_threshold_itself_recurs():
    series = [0.0, 1.0, 2.0, 3.0]
    assert recurrence_measures(series, 1.0)["recurrence_rate"] == 6 / 12
    assert recurrence_measures(series, np.nextafter(1.0, 0.0))["recurrence_rate"] == 0.0


def test_the_norms_differ_as_they_should():
    points = [[0.0, 0.0], [3.0, 4.0]]
    for norm, distance in {"maximum": 4.0, "euclidean": 5.0, "manhattan": 7.0}.items():
        assert recurrence_matrix(points, distance, norm=norm).all()
        assert not recurrence_matrix(points, distance - 1e-9, norm=norm)[0, 1]


def test_embedding():
    assert embed([0, 1, 2, 3, 4], 3, 2).tolist() == [[0.0, 2.0, 4.0]]
    assert embed([[0, 10], [1, 11], [2, 12]], 2, 1).tolist() == [[0.0, 10.0, 1.0, 11.0], [1.0, 11.0, 2.0, 12.0]]


def test_defaults_of_a_matrix_are_those_of_its_series():
    series = logistic(200)
    measures = recurrence_measures(series, 0.1, embedding=2)
    assert measures_of_matrix(recurrence_matrix(series, 0.1, embedding=2)) == measures
    assert measures_of_matrix(recurrence_matrix(series, 0.1, embedding=2), theiler=0) != measures
    by_rate = recurrence_measures(series, rate=0.1, norm="maximum")
    assert measures_of_matrix(recurrence_matrix(series, rate=0.1, norm="maximum")) == by_rate


# -- the rate ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["euclidean", "manhattan", "maximum"])
@pytest.mark.parametrize(("embedding", "theiler"), [(1, 0), (1, 1), (3, 10)])
@pytest.mark.parametrize("rate", [0.02, 0.3, 1.0])
def test_the_rate_is_met_to_one_distance(norm, embedding, theiler, rate):
    series = logistic(200)
    measures = recurrence_measures(series, rate=rate, theiler=theiler, embedding=embedding, delay=2, norm=norm)
    points = 200 - 2 * (embedding - 1)
    cells = sum(abs(i - j) >= theiler for i, j in np.ndindex(points, points))
    shared = embedding if norm == "maximum" else 1  # so many pairs have the largest difference, and so the distance
    assert measures["recurrence_rate"] * cells == pytest.approx(rate * cells, abs=shared + 1e-6)


def test_equal_distances_recur_together():
    series = np.arange(100) % 4  # distances 0 … 3; with 0 alone 24 % recur, with 0 and 1 62 %
    assert recurrence_measures(series, rate=0.01)["recurrence_rate"] == pytest.approx(24 / 99)
    assert recurrence_measures(series, rate=0.40)["recurrence_rate"] == pytest.approx(24 / 99)
    assert recurrence_measures(series, rate=0.55)["recurrence_rate"] > 0.6
    assert threshold_of_rate(series, 0.01) < 1.0


@pytest.mark.parametrize(("level", "unit"), [(3e4, 0.01), (1e6, 0.1), (101325.0, 0.01), (1e5, 1e-3), (2e4, 1e-2)])
def test_equal_distances_recur_together_at_any_level(level, unit):
    """Values are rounded at their own level, so that equal distances of a price or a pressure differ a little."""
    k = np.random.default_rng(0).integers(0, 20, 300)
    for series, whole in ((level + unit * k, k), (level + unit * k.cumsum(), k.cumsum())):
        for rate in (0.1, 0.3):
            raised, exact = recurrence_measures(series, rate=rate), recurrence_measures(whole, rate=rate)
            assert raised == pytest.approx(exact, rel=1e-12, nan_ok=True)


def test_converged_series_has_a_threshold_of_its_own_scale():
    series = np.concatenate([0.5 ** np.arange(40), np.zeros(100)])
    assert threshold_of_rate(series, 0.3) < 1e-9
    assert threshold_of_rate(np.full(30, 2.0), 0.3) == 0.0


# -- misuse is an exception, failure a value -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_series_that_is_not_finite_gives_nan(bad):
    series = logistic(60)
    series[50] = bad
    for options in ({"threshold": 0.1}, {"rate": 0.1}, {"threshold": 0.1, "embedding": 3, "theiler": 0}):
        measures = recurrence_measures(series, **options)
        assert list(measures) == list(MEASURES)
        assert all(math.isnan(value) for value in measures.values())
    assert math.isnan(threshold_of_rate(series, 0.1))
    matrix = recurrence_matrix(series, 0.1)
    assert not matrix[50].any()
    assert matrix[:50, :50].tolist() == recurrence_matrix(series[:50], 0.1).tolist()
    assert not recurrence_matrix(series, rate=0.1).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of them"),
        ({"threshold": 0.1, "rate": 0.1}, "threshold = 0.1, rate = 0.1: give exactly one"),
        ({"threshold": -0.1}, "threshold = -0.1: give 0 or more"),
        ({"threshold": math.nan}, "threshold = nan"),
        ({"rate": 0.0}, "rate = 0.0: give a share"),
        ({"rate": 1.5}, "rate = 1.5: give a share"),
        ({"threshold": 0.1, "theiler": -1}, "theiler = -1: give 0 or more"),
        ({"threshold": 0.1, "theiler": 20}, "the series gives 20 points: with theiler = 20 give 21 or more"),
        ({"threshold": 0.1, "min_diagonal": 0}, "min_diagonal = 0: give 1 or more"),
        ({"threshold": 0.1, "min_vertical": 0}, "min_vertical = 0: give 1 or more"),
        ({"threshold": 0.1, "embedding": 0}, "embedding = 0: give 1 or more"),
        ({"threshold": 0.1, "delay": 0}, "delay = 0: give 1 or more"),
        ({"threshold": 0.1, "embedding": 3, "delay": 10}, "20 samples are too few for 3 delay coordinates, 10"),
        ({"threshold": 0.1, "norm": "l0"}, "norm = 'l0': give one of max, l1, l2, maximum, manhattan, euclidean"),
    ],
)
def test_misuse(options, message):
    with pytest.raises(ValueError, match=message):
        recurrence_measures(np.zeros(20), **options)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"the series must have the shape \(time,\) or \(time, channel\)"):
        recurrence_measures(np.zeros((2, 20, 1)), 0.1)
    with pytest.raises(ValueError, match=r"the matrix must have the shape \(row, column\), not \(5,\)"):
        measures_of_matrix(np.zeros(5))
    with pytest.raises(ValueError, match="no cells outside the Theiler window, theiler = 5"):
        measures_of_matrix(np.zeros((5, 5)), theiler=5)


PEAK = """
import resource, numpy as np
from nnflow_plugins.signals.recurrence import recurrence_measures
series = np.random.default_rng(0).random((20_000, 1))
recurrence_measures(series[:100], rate=0.1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recurrence_measures(series, 0.01)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_grows_with_n_not_with_its_square():
    """A matrix of bytes would take 390 000 KiB. A process of its own has not seen a higher peak before."""
    run = subprocess.run([sys.executable, "-P", "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 20_000


# -- the analysis --------------------------------------------------------------------------------------------------


def test_defaults_on_a_map():
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]])
    result = nnflow.run("recurrence", ensemble, steps=300)
    records, _ = ensemble.advance(1000).orbit(300)
    expected = recurrence_measures(records[0], rate=0.05)
    assert {name: float(result[name]) for name in MEASURES} == expected
    assert float(result["recurrence_rate"]) == pytest.approx(0.05, abs=1e-4)
    assert float(result["threshold"]) == threshold_of_rate(records[0], 0.05)
    assert set(result.data_vars) == {*MEASURES, "threshold", "put_to_rest", "escaped"}
    assert "|i - j| < theiler" in result["determinism"].attrs["convention"]
    assert nnflow.run("recurrence", nnflow.maps["logistic"](), steps=300)["determinism"].dims == ()


def test_scan_tells_periodic_from_chaotic_and_escaped():
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3], [0.4]], r=[3.5, 4.0, 5.0])
    result = nnflow.run("recurrence", ensemble, threshold=1e-3, steps=400)
    assert result["determinism"].dims == ("r", "init")
    assert result["mean_recurrence_time"].values[0].tolist() == [4.0, 4.0]
    assert (result["laminarity"].values[0] == 0.0).all()
    assert (result["determinism"].values[1] < 0.95).all()
    for name in MEASURES:
        assert np.isnan(result[name].values[2]).all()
    assert (result["escaped"].values[2] >= 0).all()
    assert result.identical(nnflow.run("recurrence", ensemble, threshold=1e-3, steps=400, chunk=1))


def test_recording():
    series = np.random.default_rng(0).normal(size=(2, 150, 2))
    result = nnflow.run(
        "recurrence", nnflow.Recording(series, ["loss", "norm"]), observable="norm", rate=0.2, embedding=2
    )
    for i in range(2):
        expected = recurrence_measures(series[i, :, 1], rate=0.2, embedding=2)
        assert {name: float(result[name][i]) for name in MEASURES} == expected


def test_matrix_on_request():
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[0.3]], r=[3.9, 5.0])
    result = nnflow.run("recurrence", ensemble, steps=300, every=3, embedding=2, threshold=0.1, matrix=True)
    records, _ = ensemble.advance(1000).orbit(300, 3)
    assert result["matrix"].dims == ("r", "i", "j")
    assert result["matrix"].dtype == np.int8
    assert np.array_equal(result["matrix"].values[0], recurrence_matrix(records[0], 0.1, embedding=2))
    assert not result["matrix"].values[1].any()
    assert result["i"].values.tolist() == result["j"].values.tolist() == list(range(0, 297, 3))
    with pytest.raises(ValueError, match="2 matrices of 20000 x 20000 cells are too much"):
        nnflow.run("recurrence", ensemble, steps=20_000, matrix=True, chunk=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.1, "rate": 0.1}, "give exactly one"),
        ({"steps": 301, "every": 2}, "steps must be a multiple of every"),
        ({"steps": 10, "theiler": 10}, "10 points are left; with theiler = 10 at least 11"),
        ({"steps": 10, "embedding": 5, "delay": 3}, "-2 points are left"),
        ({"norm": "l0"}, "norm = 'l0'"),
        ({"min_diagonal": 0}, "min_diagonal = 0"),
    ],
)
def test_misuse_of_the_analysis(options, message):
    with pytest.raises(ValueError, match=message):
        nnflow.run("recurrence", nnflow.maps["logistic"](), **options)


def test_pictures():
    ensemble = nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2, r=[3.5, 3.9, 4.0])
    scan = nnflow.plot(nnflow.run("recurrence", ensemble, steps=200)).axes[0]
    assert [text.get_text() for text in scan.get_legend().get_texts()] == [
        "recurrence_rate",
        "determinism",
        "laminarity",
    ]
    assert scan.get_xlabel() == "r"
    kept = nnflow.run("recurrence", ensemble, steps=200, every=2, matrix=True)
    image = nnflow.plot(kept).axes[0].images[0]
    assert np.array_equal(image.get_array(), kept["matrix"].values[0, 0])
    assert image.get_extent() == [-1.0, 199.0, -1.0, 199.0]
    mpl.pyplot.close("all")


@pytest.mark.parametrize("start", [0.0, 0.05, 0.7])
@pytest.mark.parametrize("turn", [0.1, 0.2, 0.3])
def test_a_threshold_does_not_part_distances_that_rounding_tells_apart(start: float, turn: float) -> None:
    """A rotation: its distances are multiples of 0.1, to rounding. The rate may be of whole multiples only."""
    angles = (start + turn * np.arange(300)) % 1.0
    threshold = threshold_of_rate(angles, 0.1, turn=1.0)
    steps = np.rint(10 * turn) * np.arange(300) % 10
    apart = np.abs(steps[:, None] - steps)
    apart = np.minimum(apart, 10 - apart)
    known = [(apart <= n).sum() - 300 for n in range(6)]
    rate = recurrence_measures(angles, threshold=threshold, turn=1.0)["recurrence_rate"] * (300 * 299)
    assert round(rate) == min(known, key=lambda count: abs(count - 0.1 * 300 * 299))


class Angles(nnflow.Map):
    """Two angles of different turns, and a number."""

    def step(self, x, p, t):
        return np.add(x, [0.3, 1.1, 0.0]) % [1.0, 2 * np.pi, 5.0] * [1.0, 1.0, 0.99]


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("embedding", [1, 2])
def test_several_angles_are_measured_the_shorter_way_round_each(norm, embedding):
    """They were put on circles, whose chords are shorter: a channel that never moves changed the answer."""
    made = Angles(dim=3, coordinates=("a", "b", "c"), periods={"a": 1.0, "b": 2 * np.pi})
    settings = {"steps": 80, "transient": 0, "embedding": embedding, "norm": norm, "matrix": True}
    start = nnflow.Ensemble.grid(made, states=[[0.1, 0.2, 4.0]])
    found = nnflow.run("recurrence", start, observable=("a", "b", "c"), threshold=1.2, **settings)
    x = start.orbit(80)[0][0]
    x = np.hstack([x[lag : len(x) - embedding + 1 + lag] for lag in range(embedding)])
    turns = np.tile([1.0, 2 * np.pi, np.inf], embedding)
    apart = np.abs(x[:, None] - x)
    apart = np.where(np.isfinite(turns), np.minimum(apart, np.abs(turns - apart)), apart)
    distance = {"l1": apart.sum(axis=2), "l2": np.sqrt((apart**2).sum(axis=2)), "max": apart.max(axis=2)}[norm]
    np.testing.assert_array_equal(found["matrix"], distance <= 1.2)


def test_a_channel_that_never_moves_changes_nothing():
    made = Angles(dim=3, coordinates=("a", "b", "c"), periods={"a": 1.0, "b": 2 * np.pi})
    start = nnflow.Ensemble.grid(made, states=[[0.0, 0.5, 0.0]])
    for observable in ("a", ("a",), ("a", "c")):
        found = nnflow.run("recurrence", start, observable=observable, threshold=0.28, steps=3, transient=0)
        assert found["recurrence_rate"] == 0.0
    with pytest.raises(nnflow.Refusal, match="of 2 channels, one each"):
        recurrence_measures(np.zeros((30, 2)), threshold=0.1, turn=[1.0, None, 2.0])
