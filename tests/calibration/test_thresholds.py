import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from mendiff.calibration import Calibration, are_lower, fewest_scores, find_outliers, upper_bound
from mendiff.errors import InputError

positive = st.floats(1e-3, 1e3)
any_sign = st.floats(-1e3, 1e3)
rates = st.floats(1e-4, 0.5)


@given(st.lists(st.integers(0, 6), min_size=3, max_size=30))
def test_at_most_alpha_of_exchangeable_images_have_a_p_value_of_alpha(scores):
    # Each in turn is the new image and the others are the good ones: the conformal guarantee, ties included.
    p_values = [
        Calibration(tuple(map(float, scores[:i] + scores[i + 1 :]))).p_value(score)
        for i, score in enumerate(scores)
    ]
    n = len(scores)
    for k in range(1, n + 1):
        assert sum(p <= k / n + 1e-12 for p in p_values) <= k


@given(st.lists(any_sign, min_size=2, max_size=20), any_sign, any_sign)
def test_p_values_fall_with_the_score_and_never_reach_zero(scores, one, other):
    calibration = Calibration(tuple(scores))
    low, high = min(one, other), max(one, other)
    assert 1 / (len(scores) + 1) <= calibration.p_value(high) <= calibration.p_value(low) <= 1


def test_p_values_count_the_image_itself():
    calibration = Calibration((1.0, 2.0, 3.0, 4.0))
    assert [calibration.p_value(score) for score in (5.0, 4.0, 2.5, 0.0)] == [0.2, 0.4, 0.6, 1.0]


@given(
    st.lists(positive, min_size=2, max_size=20) | st.lists(any_sign, min_size=2, max_size=20), rates, rates
)
def test_threshold_rises_as_the_false_alarm_rate_falls(scores, one, other):
    strict = Calibration(tuple(scores), false_alarm_rate=min(one, other)).threshold
    lax = Calibration(tuple(scores), false_alarm_rate=max(one, other)).threshold
    assert math.isfinite(strict)
    assert strict >= lax - 1e-9 * abs(lax)


def rounding(*numbers):
    """What float64 may lose of limits of such scores, whose factors reach thousands."""
    return 1e-9 * max(map(abs, numbers))


@given(st.lists(any_sign, min_size=2, max_size=20), st.floats(0.001, 0.5), any_sign, st.floats(0.01, 100))
def test_threshold_moves_and_scales_with_the_scores(scores, rate, shift, factor):
    assume(max(scores) - min(scores) > 1e-6 or max(scores) == min(scores))
    limit = upper_bound(scores, rate)
    moved = upper_bound([factor * score + shift for score in scores], rate)
    # Scores close together lose digits when they are moved; a limit is at most thousands of deviations away.
    lost = 1e-12 * (abs(shift) + factor * max(map(abs, scores))) * 1e4
    assert moved == pytest.approx(factor * limit + shift, abs=max(lost, rounding(factor * limit, shift)))


# By how much at most a limit moves for every unit that one of so many scores moves.
SLOPE = {2: 60, 3: 200, 5: 60, 6: 60, 15: 60, 40: 60}


@pytest.mark.parametrize("count", list(SLOPE))
def test_threshold_is_continuous_in_every_score(count, rng):
    scores = torch.randn(count, generator=rng, dtype=torch.float64).exp().tolist()
    # From far below zero, where logarithms would end, to where the score stands out and beyond.
    walk = [-40 + 0.05 * step for step in range(2400)]
    limits = [upper_bound([*scores[1:], score], 0.01) for score in walk]
    steps = [abs(after - before) for before, after in itertools.pairwise(limits)]
    assert max(steps) < 0.05 * SLOPE[count]


def alarms_of(draw, survival, count, fits=500, rate=0.01):
    """Mean share of fresh good scores above the threshold, over fits to `count` good scores."""
    rng = np.random.default_rng(count)
    limits = [upper_bound(draw(rng, count).tolist(), rate) for _ in range(fits)]
    return float(np.mean(survival(np.array(limits))))


@pytest.mark.parametrize("count", [4, 6, 8, 12, 15, 40, 64])
def test_one_of_a_hundred_fresh_good_parts_is_flagged_however_few_the_scores(count):
    share = alarms_of(lambda rng, n: rng.normal(5, 2, n), stats.norm(5, 2).sf, count)
    assert 0.007 < share < 0.013


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.2])
def test_other_rates_are_kept_as_well(rate):
    share = alarms_of(lambda rng, n: rng.normal(0, 1, n), stats.norm.sf, 12, rate=rate)
    assert 0.6 * rate < share < 1.4 * rate


@pytest.mark.parametrize(
    ("one", "most"),
    [
        (stats.lognorm(0.25), 0.025),
        (stats.lognorm(0.5), 0.04),
        (stats.gamma(2), 0.04),
        (stats.gumbel_r(), 0.035),
        (stats.t(5), 0.025),
    ],
    ids=["log-normal 0.25", "log-normal 0.5", "gamma 2", "Gumbel", "Student's t"],
)
@pytest.mark.parametrize("count", [6, 15, 64])
def test_longer_tails_cost_some_false_alarms_and_fewer_the_more_scores_there_are(one, most, count):
    share = alarms_of(lambda rng, n: one.rvs(n, random_state=rng), one.sf, count, fits=300)
    assert 0.004 < share < (0.025 if count == 64 else most)


@pytest.mark.parametrize(
    ("count", "odd"), [(4, 300), (6, 30), (8, 30), (15, 30), (40, 30), (4, 1e6), (40, 1e6)]
)
def test_one_defect_among_good_scores_does_not_lift_the_threshold_above_itself(count, odd):
    rng = np.random.default_rng(count)
    good = rng.lognormal(0, 0.3, count - 1).tolist()
    assert upper_bound([*good, odd], 0.01) == pytest.approx(upper_bound(good, 0.01))
    assert find_outliers([odd, *good]) == [0]


def test_one_part_that_looks_all_too_good_does_not_lift_the_threshold():
    good = np.random.default_rng(0).normal(10, 1, 14).tolist()
    assert upper_bound([*good, -1000.0], 0.01) == pytest.approx(upper_bound(good, 0.01))
    assert find_outliers([*good, -1000.0]) == []


def test_several_defects_among_many_scores_stand_out_the_highest_first():
    good = np.random.default_rng(1).normal(0, 1, 60).tolist()
    assert find_outliers([*good, 30.0, 40.0, 35.0]) == [61, 62, 60]


def test_sound_scores_seldom_stand_out():
    rng = np.random.default_rng(2)
    for count in (6, 15, 40):
        told = [bool(find_outliers(rng.normal(0, 1, count).tolist())) for _ in range(300)]
        assert sum(told) <= 6


@pytest.mark.parametrize("count", [2, 3])
def test_of_two_or_three_scores_none_stands_out(count):
    assert find_outliers([0.0] * (count - 1) + [1e6]) == []


@pytest.mark.parametrize(
    ("count", "rate", "place"), [(99, 0.01, 1), (98, 0.01, None), (100, 0.05, 5), (19, 0.05, 1), (50, 0.1, 5)]
)
def test_scores_that_support_the_rate_have_their_conformal_quantile_as_limit(count, rate, place):
    scores = np.random.default_rng(count).normal(3, 1, count)
    highest = np.sort(scores)[::-1]
    if place is None:
        assert upper_bound(scores.tolist(), rate) >= highest[0]
    else:
        assert upper_bound(scores.tolist(), rate) == pytest.approx(highest[place - 1])
    assert (fewest_scores(rate) <= count) == (place is not None)


@pytest.mark.parametrize("one", [stats.norm(), stats.lognorm(0.5), stats.gumbel_r(), stats.uniform()])
@pytest.mark.parametrize(("count", "rate"), [(50, 0.02), (100, 0.01), (100, 0.05), (200, 0.1)])
def test_a_conformal_quantile_keeps_the_rate_for_every_distribution(one, count, rate):
    share = alarms_of(lambda rng, n: one.rvs(n, random_state=rng), one.sf, count, fits=400, rate=rate)
    # The share of one fit is Beta distributed with mean k / (n + 1); four standard errors of the mean.
    exceeded = math.floor((count + 1) * rate + 1e-9)
    expected = exceeded / (count + 1)
    error = math.sqrt(expected * (1 - expected) / (count + 2) / 400)
    assert expected <= rate
    assert share == pytest.approx(expected, abs=4 * error + 0.001)  # an outlier in one of a hundred sets


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.15])
@pytest.mark.parametrize("scores", [(-1.0, 1.0), (1.0, 2.0, 3.0), (0.0, 1.0, 5.0, 6.0)])
def test_limit_of_scores_without_skew_is_students_prediction_limit(scores, rate):
    n = len(scores)
    assert n < fewest_scores(rate)
    factor = stats.t.isf(rate, n - 1) * math.sqrt(1 + 1 / n)
    expected = np.mean(scores) + factor * np.std(scores, ddof=1)
    assert upper_bound(scores, rate) == pytest.approx(expected)


def test_limit_of_scores_that_are_surely_skewed_is_pearsons():
    one = stats.gamma(4)  # skewness 1
    scores = one.ppf((np.arange(2000) + 0.5) / 2000).tolist()
    assert upper_bound(scores, 0.01) == pytest.approx(one.isf(0.01), rel=0.01)


def test_equal_scores_are_their_own_limit():
    assert upper_bound([0.0, 0.0, 0.0], 0.01) == 0.0
    assert upper_bound([2.5, 2.5], 0.01) == pytest.approx(2.5)


def test_rates_too_small_for_one_minus_themselves_still_have_a_limit():
    assert math.isfinite(upper_bound([-1.0, 1.0], 1e-18))


@given(
    st.lists(any_sign, min_size=2, max_size=10),
    st.lists(any_sign, min_size=2, max_size=10) | st.just([]),
    rates,
)
def test_json_gives_the_same_back(scores, pixel_scores, rate):
    calibration = Calibration(tuple(scores), tuple(pixel_scores), rate)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


def test_scores_of_images_left_out_of_the_statistics_stay_marked_and_give_no_guarantee():
    calibration = Calibration(tuple(map(float, range(30))), false_alarm_rate=0.05, left_out=20)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    assert calibration.held_back == 10
    assert calibration.worth == (
        "from 10 held-back images and 20 training images that were left out of the statistics, as the "
        "quantile that a share of 5 % exceeds."
    )
    former = {key: value for key, value in calibration.to_dict().items() if key != "left_out"}
    assert Calibration.from_dict(former).left_out == 0
    with pytest.raises(InputError, match="left_out: expected a number of the 2 scores, got 3"):
        Calibration((1.0, 2.0), left_out=3)


def test_lower_scores_are_recognised_by_their_ranks():
    high = [float(score) for score in range(10, 20)]
    assert are_lower([score - 8 for score in high], high)
    assert not are_lower(high, high)
    assert not are_lower([score + 8 for score in high], high)
    assert not are_lower([1.0], [2.0])  # too few to tell


def test_scores_of_images_that_were_trained_on_stay_marked():
    calibration = Calibration((1.0, 2.0), (3.0, 4.0), seen=1)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))).seen == 1
    former = {key: value for key, value in calibration.to_dict().items() if key != "seen"}
    assert Calibration.from_dict(former).seen == 0


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (
            Calibration((1.0, 2.0), seen=1),
            "from 2 good images, 1 of which are training images: the false-alarm rate of 1 %",
        ),
        (Calibration((1.0, 2.0, 3.0)), "from 3 held-back images: the false-alarm rate of 1 % is a guess"),
        (
            Calibration((1.0,) * 6),
            "from 6 held-back images: the false-alarm rate of 1 % is extrapolated and may be several times "
            "as high; about 99 images are needed to measure it.",
        ),
        (Calibration((1.0,) * 30), "the false-alarm rate of 1 % is extrapolated; about 99 images"),
        (
            Calibration((1.0,) * 64, (), 0.001),
            "the false-alarm rate of 0.1 % is extrapolated; about 999 images are needed to measure it.",
        ),
        (
            Calibration((1.0,) * 64, (), 0.05),
            "64 held-back images, as a conformal quantile: a further good part exceeds it with a probability "
            "of at most 5 %.",
        ),
        (Calibration((1.0, 1.1, 1.2, 1.0, 9.0)), "5 held-back images, not counting 1 outlier:"),
    ],
)
def test_a_threshold_says_what_it_is_worth(calibration, words):
    assert words in calibration.worth


def test_pixel_threshold_comes_from_pixel_scores():
    calibration = Calibration((1.0, 2.0), (10.0, 11.0, 12.0), 0.05)
    assert calibration.pixel_threshold == upper_bound((10.0, 11.0, 12.0), 0.05)
    assert math.isnan(Calibration((1.0, 2.0)).pixel_threshold)


@pytest.mark.parametrize("scores", [(), (1.0,)])
def test_too_few_scores_are_refused(scores):
    with pytest.raises(InputError, match=f"at least 2 good images, got {len(scores)}"):
        Calibration(scores)
    with pytest.raises(InputError, match=f"at least 2 good images that were held back, got {len(scores)}"):
        upper_bound(scores, 0.01)


@pytest.mark.parametrize("seen", [-1, 3])
def test_more_scores_of_seen_images_than_scores_are_refused(seen):
    with pytest.raises(InputError, match="seen: expected a number of the 2 scores"):
        Calibration((1.0, 2.0), seen=seen)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(InputError, match="finite scores"):
        Calibration((1.0, bad))
    with pytest.raises(InputError, match="finite scores"):
        Calibration((1.0, 2.0), (bad,))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(InputError, match="share between 0 and 1"):
        Calibration((1.0, 2.0), false_alarm_rate=rate)


GOOD = {"scores": [1.0, 2.0], "pixel_scores": [3.0, 4.0], "false_alarm_rate": 0.01}


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": None},
        {"scores": 3},
        {"scores": ["a", "b"]},
        {"scores": [1.0, None]},
        {"pixel_scores": [[1.0]]},
        {"false_alarm_rate": "often"},
        {"false_alarm_rate": None},
    ],
)
def test_damaged_data_is_refused(damage):
    with pytest.raises(InputError, match="expected numbers as scores"):
        Calibration.from_dict(GOOD | damage)


@pytest.mark.parametrize("key", list(GOOD))
def test_missing_data_is_refused(key):
    with pytest.raises(InputError, match="expected numbers as scores"):
        Calibration.from_dict({name: value for name, value in GOOD.items() if name != key})
