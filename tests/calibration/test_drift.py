"""Tests for drift: false alarms with and without defects, power, ties, and what can be watched."""

import math
import random
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.calibration.drift import LIMIT, change_point, find_drift

RUNS, LENGTH = 100, 100
THRESHOLD = 2.3  # exceeded by one normal score of a hundred


def alarms(make, defects=0.05, runs=RUNS):
    """Number of runs with an alarm; `make` draws (calibration, scores) from a random number generator."""
    found = (find_drift(*make(random.Random(seed)), THRESHOLD, defects, seed) for seed in range(runs))
    return sum(one.alarm is not None for one in found)


def normal(rng, count, shift=0.0):
    return [rng.gauss(shift, 1) for _ in range(count)]


@pytest.mark.parametrize("known", [2, 12, 100])
def test_without_drift_there_is_a_false_alarm_in_at_most_one_run_of_a_hundred(known):
    assert alarms(lambda rng: (normal(rng, known), normal(rng, LENGTH))) <= RUNS / 100


@pytest.mark.parametrize("defect", [1.5, 9.0])
def test_a_share_of_defects_is_no_drift_whatever_their_scores(defect):
    def make(rng):
        scores = [defect if rng.random() < 0.05 else score for score in normal(rng, LENGTH)]
        return normal(rng, 50), scores

    assert alarms(make) <= RUNS / 100


def test_scores_of_few_values_are_no_drift():
    def make(rng):
        return [rng.choice([1.0, 2.0]) for _ in range(30)], [rng.choice([1.0, 2.0]) for _ in range(LENGTH)]

    assert alarms(make) <= RUNS / 100


@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_a_shift_is_found_soon_and_its_begin_is_named(shift):
    late, misplaced = 0, 0
    for seed in range(10):
        rng = random.Random(seed)
        scores = normal(rng, 100) + normal(rng, 40, shift)
        found = find_drift(normal(rng, 50), scores, THRESHOLD, seed=seed)
        assert found.direction in ("higher" if shift > 0 else "lower", "")
        late += found.alarm is None
        misplaced += found.since is None or abs(found.since - 100) > 3
    assert late == 0
    assert misplaced <= 1


def test_a_shift_from_the_first_image_on_is_found_by_both_tests():
    for seed in range(10):
        rng = random.Random(seed)
        found = find_drift(normal(rng, 30), normal(rng, 50, 3.0), THRESHOLD)
        assert found.since <= 1
        assert found.direction == "higher"
        assert found.uniformity < 1e-6


@pytest.mark.parametrize(("shift", "spread"), [(2.0, 1.0), (-2.0, 1.0), (0.0, 5.0)])
def test_the_begin_of_a_change_is_estimated_within_some_images(shift, spread):
    errors = []
    for seed in range(30):
        rng = random.Random(seed)
        scores = normal(rng, 24) + [shift + spread * score for score in normal(rng, 20)]
        errors.append(change_point(normal(rng, 24), scores) - 24)
    assert abs(statistics.median(errors)) <= 1
    assert statistics.fmean(map(abs, errors)) <= 3


def test_the_begin_of_a_change_is_the_split_of_highest_likelihood():
    rng = random.Random(0)
    known, scores = normal(rng, 6), normal(rng, 9) + normal(rng, 8, 3.0)
    normals = torch.special.ndtri((torch.tensor([*known, *scores]).argsort().argsort() + 0.5) / 23)

    def likelihood(split):
        before, after = normals[: 6 + split], normals[6 + split :]
        return -float(((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum())

    assert change_point(known, scores) == max(range(len(scores)), key=likelihood)


def test_equal_scores_have_no_change():
    assert change_point([1.0, 1.0], [1.0, 1.0, 1.0]) == 0


def test_a_change_of_spread_alone_is_found_where_there_are_no_defects():
    rng = random.Random(0)
    scores = normal(rng, 50) + [4 * score for score in normal(rng, 100)]
    assert find_drift(normal(rng, 200), scores, THRESHOLD, defects=0.0).alarm is not None


def test_the_distance_of_equal_distributions_is_rarely_significant_even_with_defects():
    small = 0
    for seed in range(RUNS):
        rng = random.Random(seed)
        scores = [9.0 if rng.random() < 0.05 else score for score in normal(rng, LENGTH)]
        small += find_drift(normal(rng, 40), scores, THRESHOLD).uniformity < 0.05
    assert small <= 0.05 * RUNS


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.lists(st.floats(-5, 5), min_size=2, max_size=20)
)
def test_the_past_does_not_depend_on_what_comes(known, scores):
    whole, part = find_drift(known, scores, 1.0), find_drift(known, scores[:-1], 1.0)
    assert whole.log_capital[:-1] == part.log_capital
    assert whole.p_values[:-1] == part.p_values
    assert all(0 < p <= 1 for p in whole.p_values)
    assert all(math.isfinite(value) for value in whole.log_capital)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.lists(st.floats(-5, 5), min_size=1, max_size=20)
)
def test_only_the_order_of_scores_matters(known, scores):
    def scaled(values):
        return [8 * value for value in values]  # exact, so that equal scores stay equal

    one, other = find_drift(known, scores, 1.0), find_drift(scaled(known), scaled(scores), 8.0)
    assert one.log_capital == other.log_capital


def test_a_drift_without_an_end_does_not_overflow():
    found = find_drift([0.0, 1.0], [100.0 + number for number in range(1000)], 2.0)
    assert math.isfinite(found.log_capital[-1])
    assert found.log_capital[-1] > math.log(LIMIT)
