"""GLAD's choice of the timesteps that are checked for a stop."""

from hypothesis import given
from hypothesis import strategies as st

from mendiff.methods.glad_ahead import next_check


def search(scores, distances, limits):
    """(number of the first score above its threshold among the checked ones, numbers of the checks)."""
    known = {}
    while (number := next_check(known, distances, limits)) is not None:
        known[number] = scores[number]
    over = [number for number, score in sorted(known.items()) if score > limits[number]]
    return (over[0] if over else None), list(known)


def first_over(scores, limits):
    return next((n for n, pair in enumerate(zip(scores, limits, strict=True)) if pair[0] > pair[1]), None)


levels = st.floats(0.0, 10.0, allow_subnormal=False)


@given(st.lists(st.tuples(levels, levels, levels), min_size=1, max_size=20))
def test_a_reported_stop_was_checked_and_no_step_is_checked_twice(rows):
    scores, distances, limits = map(list, zip(*rows, strict=True))
    found, checks = search(scores, distances, limits)
    assert len(checks) == len(set(checks)) <= len(rows)
    if found is not None:
        assert scores[found] > limits[found]
        assert found >= first_over(scores, limits)


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.001, 10)), min_size=2, max_size=20),
    st.floats(0.01, 100),
    st.data(),
)
def test_the_first_score_above_its_threshold_is_found_where_the_factor_varies_little(rows, factor, data):
    distances, limits = map(list, zip(*rows, strict=True))
    errors = data.draw(st.lists(st.floats(0.85, 1.2), min_size=len(rows), max_size=len(rows)))
    scores = [factor * pair[0] * pair[1] for pair in zip(distances, errors, strict=True)]
    assert search(scores, distances, limits)[0] == first_over(scores, limits)


def test_two_checks_suffice_where_all_scores_are_far_below_their_thresholds():
    distances = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    scores = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert search(scores, distances, [0.001, 1.0, 1.0, 1.0, 1.0, 1.0]) == (None, [1, 5])


def test_without_latent_distances_every_step_is_checked_in_order():
    found, checks = search([0.0, 0.2, 0.5, 0.9], [0.0] * 4, [1.0, 1.0, 1.0, 0.8])
    assert found == 3
    assert sorted(checks) == [0, 1, 2, 3] or checks == [1, 3]
