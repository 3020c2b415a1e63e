"""The order of the records: tables as they always were, and permutations that are computed."""

import numpy as np
import pytest

from unified_fm.data import order

FIRST = 2**24 + 1  # the first number of records whose order is no table


def test_orders_of_few_records_are_what_they_were():
    """Runs, caches and results of before rest on them."""
    visits = order.Order(10, seed=3, shuffle=True)
    assert [visits.index(k) for k in range(20)] == [
        *(9, 5, 6, 4, 1, 8, 3, 0, 7, 2),
        *(4, 9, 5, 1, 8, 6, 3, 0, 7, 2),
    ]
    assert visits.form == {}
    assert order.Order(FIRST - 1, seed=3, shuffle=True).form == {}


def test_computed_orders_stay_what_they_are():
    visits = order.Order(FIRST, seed=3, shuffle=True)
    assert [visits.index(k) for k in (0, 1, FIRST - 1, FIRST)] == [
        *(11168411, 2274499, 539512, 11469122)
    ]
    assert visits.form == {"order": "feistel64"}
    assert order.Order(FIRST, seed=3, shuffle=False).form == {}


@pytest.mark.parametrize("records", [1, 2, 3, 5, 16, 17, 100, 9973])
def test_a_computed_order_meets_every_record_once(records):
    visits = order.Order(records, seed=5, shuffle=True, table=False)
    epochs = [[visits.index(records * e + k) for k in range(records)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(records))
    assert records < 16 or epochs[0] != epochs[1]


@pytest.mark.parametrize("records", [FIRST, 10**8, 10**9 + 7])
def test_consecutive_epochs_do_not_resemble_each_other(records):
    """At most 0.005; half a million places tell a correlation to within 0.0014."""
    places = np.linspace(0, records - 1, 500_000).astype(np.uint64)
    shape = order.sides(records)
    epochs = [order.feistel(places, order.round_keys(3, e), shape) for e in (0, 1, 2)]
    visits = order.Order(records, seed=3, shuffle=True)
    for k in (0, 7, 499_999):  # what is looked at here is the order that a stream has
        if epochs[1][k] < records:
            assert visits.index(records + int(places[k])) == epochs[1][k]
    neighbours = np.roll(epochs[0], 1)
    found = np.corrcoef(np.array([places, *epochs, neighbours], float))
    assert np.abs(found - np.eye(5)).max() < 0.005
    spread = np.histogram(epochs[0], 64, (0, records))[0]
    assert spread.std() < 1.5 * spread.mean() ** 0.5


def test_the_square_is_hardly_larger_than_the_records():
    for records in (1, 2, 10, FIRST, 10**9 + 7):
        height, width = order.sides(records)
        assert records <= height * width <= records + height
