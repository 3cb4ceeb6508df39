import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.errors import InputError, check_range

numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers, numbers)
def test_a_number_is_refused_exactly_where_it_lies_outside(low, high, value):
    low, high = sorted((low, high))
    if low <= value <= high:
        check_range("share", value, low, high)
    else:
        with pytest.raises(InputError, match=r"share: expected .* to .*, got"):
            check_range("share", value, low, high)


@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_without_an_upper_end_the_sentence_names_the_lower_one(value):
    with pytest.raises(InputError, match=f"^steps: expected at least 1, got {value}.$"):
        check_range("steps", value, 1)
    check_range("steps", math.inf, 1)
