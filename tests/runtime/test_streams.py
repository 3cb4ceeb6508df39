"""Calls at the same time."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.runtime.streams import in_order


@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_results_have_the_order_of_the_items(items, streams):
    assert list(in_order(lambda one: -one, items, streams)) == [-one for one in items]


@pytest.mark.parametrize("streams", [1, 3])
def test_items_are_taken_when_a_stream_is_free(streams):
    taken = []
    results = in_order(lambda one: one, (taken.append(one) or one for one in range(100)), streams)
    for number in range(5):
        assert next(results) == number
        assert len(taken) <= number + 1 + 2 * streams
    results.close()
    assert len(taken) < 20


def test_calls_are_made_at_the_same_time():
    together = threading.Barrier(3, timeout=20)
    assert list(in_order(lambda _: together.wait() >= 0, range(3), 3)) == [True] * 3


def test_an_error_is_raised_at_its_place_and_ends_the_calls():
    called = []

    def fails(number):
        called.append(number)
        time.sleep(0.01)
        if number == 2:
            raise ValueError("two")
        return number

    results, seen = in_order(fails, range(1000), 2), []
    with pytest.raises(ValueError, match="two"):
        seen.extend(results)
    assert seen == [0, 1]
    assert len(called) < 20
