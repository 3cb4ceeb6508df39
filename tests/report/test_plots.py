import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendiff.report.contents import CategoryReport
from mendiff.report.plots import (
    BINS,
    CURVES,
    MOST_STEPS,
    operating_point,
    percent,
    plots,
    score_axis,
)
from mendiff.report.svg import plot


def drawn(category: CategoryReport) -> dict[str, ElementTree.Element]:
    """The plots of a category by their titles."""
    return {figure.title: ElementTree.fromstring(figure.svg) for figure in plots(category, "p")}


def hints(svg: ElementTree.Element) -> list[str]:
    """What shows where the pointer rests on a bar."""
    return [title.text for group in svg.iter("g") for title in group.findall("title")]


def texts(svg: ElementTree.Element) -> list[str]:
    return [element.text for element in svg.iter("text")]


def test_a_plot_speaks_the_pages_colours_and_font_and_reaches_nothing_outside(category) -> None:
    for figure in plots(category, "p"):
        assert figure.svg.startswith("<svg ")
        assert "var(--accent)" in figure.svg or "var(--good)" in figure.svg
        for foreign in ("#0", "font-family", "<style", "xmlns", "<metadata", "http"):
            assert foreign not in figure.svg
        assert not re.search(r"(stroke|fill): #", figure.svg)
        svg = ElementTree.fromstring(figure.svg)
        assert svg.get("viewBox")
        assert svg.get("width") is None
        for element in svg.iter():
            assert element.get("id", "p-").startswith("p-")


def test_words_in_a_plot_are_text(category) -> None:
    all_plots = drawn(category)

    assert {"false alarms", "defects found", "threshold"} <= set(texts(all_plots["ROC, images"]))
    assert {"score", "images", "threshold 0.5", "good", "defective"} <= set(texts(all_plots["Scores"]))


def test_each_curve_runs_through_its_points(category) -> None:
    with plot("p", "t", "d") as other:
        other.axes.set(xlim=(0, 1), ylim=(0, 1))
        corners = other.axes.transData.transform([(0, 0), (1, 1)])
    (left, bottom), (right, top) = corners
    svg = drawn(category)["ROC, images"]

    lines = [path.get("d") for path in svg.iter("path") if "var(--accent)" in path.get("style", "")]
    wanted = [(left + x * (right - left), y) for x, y in category.curves["image_roc"]]
    found = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", lines[-1])]
    assert [x for x, _ in found] == pytest.approx([x for x, _ in wanted], abs=0.01)
    heights = [250 - bottom - y * (top - bottom) for _, y in category.curves["image_roc"]]
    assert [y for _, y in found] == pytest.approx(heights, abs=0.01)


def test_only_curves_that_are_defined_are_drawn(category) -> None:
    some = replace(category, curves={"pro": category.curves["pro"], "image_roc": []})

    assert set(drawn(some)) == {"Scores", "PRO, regions", "Stop steps"}
    assert set(drawn(category)) == {wording.title for wording in CURVES.values()} | {"Scores", "Stop steps"}


def test_the_threshold_is_marked_where_it_lies_on_curves_of_images(category) -> None:
    assert operating_point(category, "image_roc") == (0.5, pytest.approx(1 / 3))
    assert operating_point(category, "image_pr") == (pytest.approx(1 / 3), 0.5)
    assert operating_point(category, "pixel_roc") is None
    good = [image for image in category.images if image.label == "good"]
    assert operating_point(replace(category, images=good), "image_roc") is None


def test_the_bars_count_every_image_by_group(category) -> None:
    told = hints(drawn(category)["Scores"])

    counts = {"good": 0, "defective": 0}
    for hint in told:
        count, group = re.match(r"(\d+) (good|defective), score", hint).groups()
        counts[group] += int(count)
    assert counts == {"good": 2, "defective": 3}


def test_stop_steps_are_counted_where_they_differ(category) -> None:
    assert hints(drawn(category)["Stop steps"]) == [
        "1 good, step 300",
        "1 good, step 500",
        "1 defective, step 300",
    ]
    alike = [replace(image, stop_step=300) for image in category.images]
    assert "Stop steps" not in drawn(replace(category, images=alike))


def test_many_stop_steps_share_bars(category, row) -> None:
    images = [row(f"{step}", "good", 0.1, stop_step=step) for step in range(0, 1000, 10)]

    told = hints(drawn(replace(category, images=images))["Stop steps"])

    assert len(told) == MOST_STEPS
    assert sum(int(hint.split()[0]) for hint in told) == len(images)


SCORES = st.lists(st.floats(-1e6, 1e6) | st.floats(1e-6, 1e9), min_size=1, max_size=20)


@given(SCORES, st.floats(-1e6, 1e6))
def test_every_score_and_the_threshold_lie_on_the_axis_in_their_order(scores, threshold) -> None:
    axis = score_axis(scores, threshold)

    shown = sorted([*scores, threshold])
    places = [axis.place(score) for score in shown]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    assert axis.low <= shown[0]
    assert shown[-1] <= axis.high
    edges = axis.edges()
    assert len(edges) == BINS + 1
    counts = np.histogram(scores, bins=edges)[0]
    assert counts.sum() == len(scores)


def test_the_axis_is_logarithmic_where_a_few_scores_are_far_off() -> None:
    assert score_axis([1.0, 1.1, 1.2, 900.0], 1.3).logarithmic
    assert not score_axis([1.0, 1.1, 1.2, 9.0], 1.3).logarithmic
    assert not score_axis([-1.0, 1.1, 1.2, 900.0], 1.3).logarithmic


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0"), (1, "100"), (0.5, "50"), (0.075, "7.5"), (0.992, "99.2"), (0.004, "0.4")]
)
def test_a_share_is_told_in_percent(share, words) -> None:
    assert percent(share) == f"{words}\N{NO-BREAK SPACE}%"


def test_the_users_own_settings_of_matplotlib_change_nothing_and_stay(category) -> None:
    import matplotlib

    before = [figure.svg for figure in plots(category, "p")]
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert [figure.svg for figure in plots(category, "p")] == before
        assert matplotlib.rcParams["font.size"] == 30
