"""Which rows a step sees: each epoch all of them, in the order of the data or in one that the seed draws."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from nnflow.data.order import Order, permutation


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.data(), st.integers(0, 5), st.integers(0, 2**40))
def test_each_epoch_sees_each_row_once(samples: int, data: st.DataObject, epoch: int, seed: int) -> None:
    batch = data.draw(st.integers(1, samples))
    order = Order(samples, batch, seed if batch < samples else None)
    seen = [order.rows(epoch * order.batches + i) for i in range(order.batches)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(samples))
    assert all(len(rows) == batch for rows in seen[:-1])


def test_without_a_seed_rows_come_in_order_and_the_epoch_repeats() -> None:
    order = Order(7, 3)
    assert order.batches == 3
    assert [order.rows(t).tolist() for t in range(4)] == [[0, 1, 2], [3, 4, 5], [6], [0, 1, 2]]
    assert Order(7).rows(12).tolist() == list(range(7))


def test_an_order_belongs_to_seed_and_epoch() -> None:
    same = permutation(50, 3, 8)
    assert np.array_equal(permutation(50, 3, 8), same)
    assert not np.array_equal(permutation(50, 3, 9), same)
    assert not np.array_equal(permutation(50, 4, 8), same)


def test_all_orders_are_equally_likely() -> None:
    """24 orders of 4 rows over 12 000 epochs, by the chi-squared test; and no memory from one epoch to the next."""
    drawn = [tuple(permutation(4, 11, epoch).tolist()) for epoch in range(12_000)]
    assert chisquare(list(Counter(drawn).values())).pvalue > 1e-3
    assert len(Counter(drawn)) == len(list(permutations(range(4))))
    pairs = Counter((a[0], b[0]) for a, b in pairwise(drawn))
    assert chisquare(list(pairs.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0), "batch = 0: give 1 to 10 samples"),
        ((10, 11), "batch = 11: give 1 to 10 samples"),
        ((10, True), "batch = True"),
        ((10, 5, -1), "shuffle = -1: give the seed"),
        ((10, 5, True), "shuffle = True: give the seed"),
        ((10, None, 3), "all samples are one batch"),
    ],
)
def test_what_is_no_order_is_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(*arguments)
