import json
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mendiff.calibration import Calibration, upper_bound
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


@given(st.lists(positive, min_size=2, max_size=20), rates, st.floats(0.01, 100))
def test_threshold_of_positive_scores_scales_with_them(scores, rate, factor):
    assume(max(scores) < 1e6 * min(scores))
    scaled = upper_bound([factor * score for score in scores], rate)
    assert scaled == pytest.approx(factor * upper_bound(scores, rate), rel=1e-6)


@given(st.lists(any_sign, min_size=2, max_size=20), rates, any_sign)
def test_threshold_of_other_scores_shifts_with_them(scores, rate, shift):
    assume(min(scores) <= 0 and min(scores) + shift <= 0)
    shifted = upper_bound([score + shift for score in scores], rate)
    assert shifted == pytest.approx(upper_bound(scores, rate) + shift, abs=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_new_good_images_exceed_the_threshold_about_as_often_as_asked(rng, rate, logarithmic):
    alarms = []
    for _ in range(300):
        values = torch.randn(120, generator=rng, dtype=torch.float64)
        values = values.exp() if logarithmic else values
        limit = upper_bound(values[:20].tolist(), rate)
        alarms.append(float((values[20:] > limit).double().mean()))
    # Normal quantiles of twenty images are a little short of a prediction bound's, which are Student's.
    assert 0.7 * rate < sum(alarms) / len(alarms) < 1.3 * rate + 0.01


def test_limit_is_a_prediction_bound_of_the_normal_fit():
    assert upper_bound([-1.0, 1.0], 0.5) == pytest.approx(0)
    z = 1.6448536269514722
    assert upper_bound([-1.0, 1.0], 0.05) == pytest.approx(z * math.sqrt(2) * math.sqrt(1.5))
    assert upper_bound([math.exp(-1), math.e], 0.05) == pytest.approx(math.exp(z * math.sqrt(3)))


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
