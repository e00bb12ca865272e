"""Every kernel against longdouble or plain numpy; the functions also where floating point ends."""

from collections.abc import Callable

import numba
import numpy as np
import pytest

from nnflow.systems.perceptron import rows

EPS = np.finfo(np.float64).eps


def over(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    """The function over a contiguous row, as the kernels use it."""

    @numba.njit
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    def mapped(x):
        y = np.empty(len(x))
        loop(np.ascontiguousarray(x, dtype=np.float64), y)
        return y

    return mapped


exp, sigmoid, tanh, softplus = (over(f) for f in (rows.exp, rows.sigmoid, rows.tanh, rows.softplus))


@rows.kernel
def remainder(a: float, b: float, c: float) -> float:
    return a * b - c


FUSED = remainder(1 + EPS, 1 + EPS, 1 + 2 * EPS) != 0.0  # does this processor have fused multiply-adds?
EXP_BOUND = 1.0 if FUSED else 2.0


def ulps(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units of the last place of the exact value."""
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float64))))


def points(low: float, high: float, n: int = 400_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    tiny = rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-300, 0, n)
    x = np.concatenate([np.linspace(low, high, n), rng.uniform(low, high, n), rng.normal(size=n), tiny])
    return x[(x >= low) & (x <= high)]


def wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.longdouble)


def test_longdouble_is_wider_than_float64():
    assert np.finfo(np.longdouble).nmant > 60


def test_exp_is_within_one_ulp():
    x = points(-708.0, 709.78)
    assert ulps(exp(x), np.exp(wide(x))) < EXP_BOUND


def test_exp_near_zero_and_at_the_breaks_of_its_reduction():
    k = np.arange(-1021, 1024) * np.log(2) + np.log(2) / 2
    x = np.concatenate([k, np.nextafter(k, np.inf), np.nextafter(k, -np.inf)])
    x = x[(x > -708) & (x < 709.78)]
    assert ulps(exp(x), np.exp(wide(x))) < EXP_BOUND
    np.testing.assert_array_equal(exp(np.array([0.0, -0.0, 1e-300, -1e-300])), 1.0)


def test_exp_where_floating_point_ends():
    largest = np.log(np.finfo(np.float64).max)
    np.testing.assert_array_equal(exp(np.array([709.79, 710.0, 800.0, 1e300, np.inf])), np.inf)
    np.testing.assert_array_equal(exp(np.array([-708.06, -745.0, -800.0, -1e300, -np.inf])), 0.0)
    assert np.isfinite(exp(np.array([largest]))).all()
    between = np.linspace(-745.2, -708.0, 10_001)  # results below the normal numbers are flushed
    assert np.abs(exp(between) - np.exp(wide(between))).max() < 3.4e-308


@pytest.mark.parametrize("function", [exp, sigmoid, tanh, softplus])
def test_nan_stays_nan_wherever_it_stands_in_a_row(function):
    for place in range(11):
        x = np.zeros(11)
        x[place] = np.nan
        assert np.isnan(function(x)).tolist() == [i == place for i in range(11)]


def test_sigmoid_is_accurate_in_both_tails():
    x = points(-708.0, 800.0)
    assert ulps(sigmoid(x), 1 / (1 + np.exp(-wide(x)))) < 3.0
    np.testing.assert_array_equal(sigmoid(np.array([-np.inf, -1e4, 0.0, 1e4, np.inf])), [0, 0, 0.5, 1, 1])


def test_tanh_is_accurate_also_near_zero():
    x = points(-30.0, 30.0)
    assert ulps(tanh(x), np.tanh(wide(x))) < 4.0
    np.testing.assert_array_equal(tanh(np.array([-np.inf, -1e300, 0.0, 1e300, np.inf])), [-1, -1, 0, 1, 1])


def test_softplus_is_accurate_in_both_tails():
    x = points(-708.0, 800.0)
    exact = np.maximum(wide(x), 0) + np.log1p(np.exp(-np.abs(wide(x))))
    assert ulps(softplus(x), exact) < 4.0
    np.testing.assert_array_equal(softplus(np.array([-np.inf, -800.0, 1e300, np.inf])), [0, 0, 1e300, np.inf])


def test_log1p_unit():
    u = points(0.0, 1.0)
    assert ulps(over(rows.log1p_unit)(u[u > 0]), np.log1p(wide(u[u > 0]))) < 3.0
    assert over(rows.log1p_unit)(np.zeros(1))[0] == 0.0


# --------------------------------------------------------------------------------------------------------- sheets


@pytest.fixture(params=[8, 32, 37])
def sheet(request) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(30, request.param))


def test_a_sheet_begins_on_a_cache_line():
    @numba.njit
    def address(height, length):
        t = rows.new_sheet(height, length)
        return t.ctypes.data, t.shape

    for height in range(1, 20):
        start, shape = address(height, 8)
        assert start % 64 == 0
        assert shape == (height, 8)


@pytest.mark.parametrize(
    ("kernel", "function", "slope"),
    [
        (rows.sigmoid_rows, lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
        (rows.tanh_rows, np.tanh, lambda z: 1 / np.cosh(z) ** 2),
        (rows.softplus_rows, lambda z: np.log1p(np.exp(z)), lambda z: 1 / (1 + np.exp(-z))),
        (rows.relu_rows, lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    ],
)
def test_activations_and_their_slopes(sheet, kernel, function, slope):
    t = sheet.copy()
    kernel(t, 3, 4, 10)
    np.testing.assert_allclose(t[3:7], function(sheet[3:7]), rtol=10 * EPS)
    np.testing.assert_allclose(t[13:17], slope(sheet[3:7]), rtol=40 * EPS, atol=4 * EPS)
    untouched = np.r_[0:3, 7:13, 17:30]
    np.testing.assert_array_equal(t[untouched], sheet[untouched])


def test_relu_keeps_nan_and_has_slope_zero_at_zero():
    t = np.array([[np.nan, 0.0, -np.inf, np.inf, 2.0]] * 2)
    rows.relu_rows(t, 0, 1, 1)
    np.testing.assert_array_equal(t, [[np.nan, 0, 0, np.inf, 2], [0, 0, 0, 1, 1]])


@pytest.mark.parametrize("count", range(1, 10))
def test_combine_is_a_matrix_times_rows(sheet, count):
    w = np.random.default_rng(2).normal(size=5 + 3 * count)
    for matrix, steps in ((w[5:].reshape(3, count), (count, 1)), (w[5:].reshape(count, 3).T, (1, 3))):
        t = sheet.copy()
        rows.combine(t, 20, 3, 2, count, w, 5, *steps)
        np.testing.assert_allclose(t[20:23], sheet[20:23] + matrix @ sheet[2 : 2 + count], atol=40 * EPS)
        np.testing.assert_array_equal(np.delete(t, range(20, 23), 0), np.delete(sheet, range(20, 23), 0))


@pytest.mark.parametrize("count", range(1, 10))
def test_dots_is_the_product_with_a_transpose(sheet, count):
    g = np.ones(5 + 3 * count)
    rows.dots(sheet, 20, 3, 2, count, g, 5, -1)
    exact = 1 + sheet[20:23] @ sheet[2 : 2 + count].T
    np.testing.assert_allclose(g[5:].reshape(3, count), exact, atol=200 * EPS)
    np.testing.assert_array_equal(g[:5], 1.0)
    rows.dots(sheet, 20, 3, 2, count, g, 5, 1)
    np.testing.assert_allclose(g[1:4], 1 + sheet[20:23].sum(1), atol=100 * EPS)
    np.testing.assert_array_equal(g[[0, 4]], 1.0)


def test_the_simple_kernels(sheet):
    t = sheet.copy()
    rows.copy_rows(t, 1, 2, 11)
    rows.multiply_rows(t, 3, 2, 13)
    rows.add_products(t, 5, 2, 15, 17)
    expected = sheet.copy()
    expected[1:3] = sheet[11:13]
    expected[3:5] *= sheet[13:15]
    expected[5:7] += sheet[15:17] * sheet[17:19]
    np.testing.assert_allclose(t, expected, rtol=4 * EPS, atol=4 * EPS)


def test_softmax_does_not_overflow():
    t = np.zeros((12, 8))
    t[0, :3], t[1, :3], t[2, :3] = [1e300, 0.0, 1.0], [-1e300, 0.0, 2.0], [1e300, 0.0, 3.0]
    rows.exponentials(t, 4, 3, 0, 8, 9)
    e = np.exp([-2.0, -1.0, 0.0])
    np.testing.assert_array_equal(t[8, :3], [1e300, 0, 3])
    np.testing.assert_allclose(t[9, :3], [2, 3, e.sum()], rtol=4 * EPS)
    t[10] = 0.5
    rows.softmax_less_target(t, 4, 3, 9, 10, 1, np.full((3, 8), 0.25))
    softmax = np.c_[[0.5, 0, 0.5], [1 / 3] * 3, e / e.sum()]
    np.testing.assert_allclose(t[4:7, :3], softmax, rtol=4 * EPS)
    np.testing.assert_allclose(t[1:4, :3], 0.5 * softmax - 0.25, atol=4 * EPS)


def test_softmax_derivative_against_the_formula(sheet):
    t = sheet.copy()
    rows.exponentials(t, 10, 3, 0, 25, 26)
    t[10:13] /= t[26]
    rows.softmax_derivative(t, 20, 3, 5, 10, 28, 29)
    p = np.exp(sheet[:3]) / np.exp(sheet[:3]).sum(0)
    mean = (p * sheet[5:8]).sum(0)
    np.testing.assert_allclose(t[20:23], sheet[28] * p * (sheet[5:8] - mean), atol=20 * EPS)


@pytest.mark.parametrize("count", [1, 8, 31, 32, 33, 64, 100])
def test_log_sum_counts_only_the_first(count):
    t = np.random.default_rng(3).uniform(1, 1e9, size=(2, 104))
    np.testing.assert_allclose(rows.log_sum(t, 1, count), np.log(t[1, :count]).sum(), rtol=20 * EPS)
    t[1, 0] = np.nan
    assert np.isnan(rows.log_sum(t, 1, count))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_unless_finite(value):
    w = np.random.default_rng(4).uniform(1e300, 1.7e308, size=83)  # finite, though their sum is not
    assert rows.nan_unless_finite(w) == 0.0
    for place in (0, 40, 82):
        broken = w.copy()
        broken[place] = value
        assert np.isnan(rows.nan_unless_finite(broken))
