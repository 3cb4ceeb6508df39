import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.calibration import Calibration
from mendiff.evaluation.operating import at_threshold, by_type, decisions, recall_at_rate


def test_every_label_has_a_row_good_first() -> None:
    rows = by_type([0.1, 0.9, 0.8, 0.2, 0.5], ["good", "good", "scratch", "hole", "scratch"], 0.5)

    assert [row["type"] for row in rows] == ["good", "hole", "scratch"]
    assert rows[0] == {"type": "good", "images": 2, "flagged": 1, "share": 0.5, "mean_score": 0.5}
    assert rows[1] == {"type": "hole", "images": 1, "flagged": 0, "share": 0.0, "mean_score": 0.2}
    # A score at the threshold is not above it.
    assert rows[2] == {"type": "scratch", "images": 2, "flagged": 1, "share": 0.5, "mean_score": 0.65}


def test_without_images_there_is_no_row() -> None:
    assert by_type([], [], 1.0) == []


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.sampled_from(["good", "a", "b"])), min_size=1),
    st.floats(-1e6, 1e6),
)
def test_rows_add_up_to_all_images(images: list[tuple[float, str]], threshold: float) -> None:
    scores, labels = zip(*images, strict=True)

    rows = by_type(scores, labels, threshold)

    assert sum(row["images"] for row in rows) == len(images)
    assert sum(row["flagged"] for row in rows) == sum(score > threshold for score in scores)
    total = sum(row["mean_score"] * row["images"] for row in rows)
    assert total == pytest.approx(sum(scores), abs=1e-3)


def test_shares_at_a_threshold_are_by_their_definitions() -> None:
    found = at_threshold([0.1, 0.9, 0.8, 0.2, 0.7], ["good", "good", "scratch", "hole", "scratch"], 0.5)

    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["false_alarm_rate"] == 0.5
    assert found["threshold"] == 0.5
    assert [row["type"] for row in found["types"]] == ["good", "hole", "scratch"]


def test_a_share_of_nothing_is_none() -> None:
    found = at_threshold([0.1], ["good"], 0.5)

    assert (found["precision"], found["recall"], found["false_alarm_rate"]) == (None, None, 0.0)


SOME = ["good"] * 4 + ["scratch"] * 2


def test_recall_at_a_rate_allows_that_share_of_good_images_above_the_threshold() -> None:
    scores = [0.1, 0.2, 0.3, 0.6, 0.5, 0.9]

    assert recall_at_rate(scores, SOME, 0.24) == 0.5  # no good image may exceed it: threshold 0.6
    assert recall_at_rate(scores, SOME, 0.25) == 1.0  # one may: threshold 0.3
    assert recall_at_rate(scores[:4], SOME[:4], 0.25) is None
    assert recall_at_rate(scores[4:], SOME[4:], 0.25) is None


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1), st.lists(st.floats(-1e3, 1e3), min_size=1), st.floats(0, 0.99)
)
def test_recall_at_a_rate_keeps_the_rate(good: list[float], bad: list[float], rate: float) -> None:
    labels = ["good"] * len(good) + ["scratch"] * len(bad)

    found = recall_at_rate([*good, *bad], labels, rate)

    best = max(
        sum(score > limit for score in bad) / len(bad)
        for limit in good
        if sum(score > limit for score in good) <= rate * len(good)
    )
    assert found == best


def test_decisions_follow_the_calibration_at_each_rate() -> None:
    calibration = Calibration(tuple(range(1, 20)))  # 19 scores: 5 % is the highest, 10 % the second highest

    found = decisions([18.5, 30.0, 18.5, 19.5], ["good", "good", "hole", "hole"], calibration)

    assert found["rates"] == [0.01, 0.05, 0.1]
    assert [cut["recall"] for cut in found["at_thresholds"][1:]] == [0.5, 1.0]
    assert [cut["false_alarm_rate"] for cut in found["at_thresholds"][1:]] == [0.5, 1.0]
    assert decisions([1.0, 2.0], ["good", "hole"])["at_thresholds"] == []
