"""What holds for every scan, drawn at random: order, chunking, units of time, symmetry."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from nnflow_plugins.growth.lyapunov_spectrum import kaplan_yorke

import nnflow

SCANS = st.lists(st.floats(2.5, 4.0), min_size=1, max_size=7)
SETTINGS = settings(max_examples=25, deadline=None)


@SETTINGS
@given(SCANS, st.integers(1, 4), st.integers(0, 99), st.integers(1, 30))
def test_no_result_depends_on_the_chunk(r: list[float], inits: int, seed: int, chunk: int) -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=inits, seed=seed, r=np.array(r))
    whole = nnflow.run("lyapunov_spectrum", scan, steps=40, transient=10, chunk=len(scan))
    assert nnflow.run("lyapunov_spectrum", scan, steps=40, transient=10, chunk=chunk).equals(whole)


@SETTINGS
@given(SCANS, st.integers(0, 99))
def test_the_order_of_a_scan_is_the_order_of_its_results(r: list[float], seed: int) -> None:
    forward = nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2, seed=seed, r=np.array(r))
    backward = nnflow.Ensemble.grid(nnflow.maps["logistic"](), inits=2, seed=seed, r=np.array(r[::-1]))
    found, turned = (nnflow.run("orbit_diagram", e, steps=9, transient=3).value.values for e in (forward, backward))
    np.testing.assert_array_equal(found, turned[::-1])


@SETTINGS
@given(st.floats(0.5, 4.0), st.floats(0.01, 0.99), st.integers(1, 40), st.integers(1, 40))
def test_steps_add_up(r: float, x: float, first: int, second: int) -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["logistic"](), states=[[x]], r=r)
    one, other = scan.advance(first).advance(second), scan.advance(first + second)
    assert (one.states == other.states).all()
    assert one.t == other.t == first + second


@SETTINGS
@given(st.floats(0.8, 1.4), st.floats(0.05, 0.3), st.integers(1, 3))
def test_the_henon_exponents_add_up_to_the_logarithm_of_the_area_factor(a: float, b: float, every: int) -> None:
    scan = nnflow.Ensemble.grid(nnflow.maps["henon"](), states=[[0.1, 0.1]], a=a, b=b)
    dataset = nnflow.run("lyapunov_spectrum", scan, steps=300 * every, transient=0, every=every)
    if dataset.escaped < 0:
        np.testing.assert_allclose(dataset.exponent.sum(), np.log(b), atol=1e-9)


@SETTINGS
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_the_kaplan_yorke_dimension_lies_between_0_and_dim(exponents: list[float]) -> None:
    spectrum = np.sort(exponents)[::-1]
    dimension = float(kaplan_yorke(spectrum))
    assert 0 <= dimension <= len(spectrum)
    np.testing.assert_allclose(kaplan_yorke(2 * spectrum), dimension, rtol=1e-9)  # the unit of time does not matter
