import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.errors import InputError, check_choice, check_choices, check_range

numbers = st.floats(-1e6, 1e6)


@dataclass(frozen=True)
class Paint:
    coats: int = 1
    finish: Literal["", "matt", "gloss"] = ""


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


@pytest.mark.parametrize("value", ["wet", "Matt", None, ["matt"]])
def test_a_value_that_its_literal_type_does_not_list_is_refused_with_those_it_lists(value):
    sentence = r"^paint\.finish: expected one of '', matt, gloss, got "
    with pytest.raises(InputError, match=sentence):
        check_choices(Paint(finish=value), "paint.")


@pytest.mark.parametrize("finish", ["", "matt", "gloss"])
def test_every_listed_value_is_taken_and_other_fields_are_left_alone(finish):
    check_choices(Paint(coats="many", finish=finish))


def test_an_unknown_name_is_refused_with_those_allowed():
    with pytest.raises(InputError, match=r"^--layout: expected one of auto, visa, got 'mvtek'\.$"):
        check_choice("--layout", "mvtek", ("auto", "visa"))
