import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mendiff.data.images import colour_heat
from mendiff.report.strips import (
    BAR,
    GROUND,
    Explanation,
    Scale,
    compared,
    describe,
    draw_explanations,
)
from mendiff.types import Detection, Panel, Trace

GREY = np.full((40, 60, 3), 120, dtype=np.uint8)
RED = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 8, 8)


def way(panels, score=1.0, size=32):
    found = Detection(
        torch.tensor([score]), torch.zeros(1, 1, size, size), torch.zeros(1, 3, size, size), torch.tensor([0])
    )
    return Explanation("GLAD, preset tiny, model m", "good: score 1", Trace(found, panels), 2.0, (1.0, 0.5))


def stages(count, caption="estimate"):
    return [Panel(f"t = {t}", caption, RED, t) for t in range(count)]


def where(strip, colour):
    """The (left, top, width, height) of every picture of one colour, row by row."""
    same = (strip == np.array(colour)).all(2)
    starts = same & ~np.roll(same, 1, 0) & ~np.roll(same, 1, 1)
    found = []
    for top, left in zip(*starts.nonzero(), strict=True):
        width = int(np.argmin(same[top, left:])) or same.shape[1] - left
        height = int(np.argmin(same[top:, left])) or same.shape[0] - top
        found.append((int(left), int(top), width, height))
    return found


def test_pictures_stand_in_a_grid_and_have_the_images_proportions() -> None:
    both = [one for t in range(3) for one in (Panel(f"t = {t}", "a", RED), Panel(f"t = {t}", "b", RED))]
    places = where(draw_explanations(GREY, [way(both)], 90), (255, 0, 0))
    assert [(width, height) for *_, width, height in places] == [(90, 60)] * 6
    lefts, tops = sorted({left for left, *_ in places}), sorted({top for _, top, *_ in places})
    assert [(left, top) for left, top, *_ in places] == [(left, top) for top in tops for left in lefts]
    assert len(set(np.diff(lefts))) == 1


def test_rows_stay_on_one_level_whatever_stands_below_their_pictures() -> None:
    told = Panel("t = 1", "b", RED, note="stops here, with so many words that they take several lines")
    panels = [Panel("t = 0", "a", RED), Panel("t = 0", "b", RED), Panel("t = 1", "a", RED), told]
    places = where(draw_explanations(GREY, [way(panels)], 90), (255, 0, 0))
    assert len({top for _, top, *_ in places}) == 2


@given(st.integers(1, 40), st.integers(64, 300))
def test_long_ways_go_on_below_and_stay_within_the_width(count: int, side: int) -> None:
    strip = draw_explanations(GREY, [way(stages(count))], side, width=1200)
    # Four columns stand side by side whatever their width.
    assert strip.shape[1] <= max(1200, 4 * (side + 20) + 20)
    assert len(where(strip, (255, 0, 0))) == count


def test_models_stand_one_under_another_in_one_picture_each_with_its_own_columns() -> None:
    alone, other = (draw_explanations(GREY, [way(stages(count))], 80) for count in (2, 5))
    both = draw_explanations(GREY, [way(stages(2)), way(stages(5))], 80)
    assert both.shape == (alone.shape[0] + other.shape[0], other.shape[1], 3)
    assert np.array_equal(both[: alone.shape[0], : alone.shape[1]], alone)
    titled = draw_explanations(GREY, [way(stages(2))], 80, "part.png")
    assert np.array_equal(titled[-alone.shape[0] + 1 :], alone[1:])  # below a line


def test_the_true_defect_is_shown_where_it_is_known_and_there_is_one() -> None:
    mask = np.zeros((10, 15), dtype=bool)
    plain = draw_explanations(GREY, [way(stages(1))], 80)
    assert np.array_equal(draw_explanations(GREY, [way(stages(1))], 80, mask=mask), plain)
    mask[2:5, 3:8] = True
    marked = draw_explanations(GREY, [way(stages(1))], 80, mask=mask)
    assert (marked == np.array([0, 230, 210])).all(2).any()


def test_a_map_is_drawn_in_the_colours_of_the_scale_below_it() -> None:
    ramp = torch.linspace(0, 4, 80).expand(1, 80, 80)
    square = np.full((80, 80, 3), 120, np.uint8)
    strip = draw_explanations(square, [way([Panel("t = 1", "map", ramp, span=(0.0, 4.0))])], 80).astype(int)
    colours = colour_heat(np.linspace(0, 1, 80)[None])[0].astype(int)
    lefts = range(strip.shape[1] - 80)
    alike = [[np.abs(row[left : left + 80] - colours).max() <= 2 for left in lefts] for row in strip]
    assert np.count_nonzero(alike) == 80 + BAR  # the map and its scale
    assert np.count_nonzero(np.any(alike, axis=0)) == 1  # which stand one under another


def test_half_colour_lies_in_the_middle_of_a_scale() -> None:
    heat = Scale(1.0, 3.0).heat(np.array([[0.0, 1.0, 2.0, 3.0, 9.0]]))
    np.testing.assert_allclose(heat, [[0, 0, 0.5, 1, 1]], atol=1e-6)
    assert np.isfinite(Scale(0.0, 0.0).heat(np.zeros((1, 2)))).all()


@pytest.mark.parametrize(
    ("score", "limit", "words"), [(0.5, None, "0.5"), (0.5, 0.25, "0.5 > 0.25"), (0.25, 0.25, "0.25 ≤ 0.25")]
)
def test_a_score_says_how_it_stands_to_its_limit(score, limit, words) -> None:
    assert compared(score, limit) == words


def test_words_stand_out_on_their_ground() -> None:
    strip = draw_explanations(GREY, [way(stages(2))], 160, "part.png")
    assert tuple(strip[0, 0]) == tuple(bytes.fromhex(GROUND[1:]))
    assert (strip.max(2) < 60).sum() > 200  # dark ink


def test_a_panel_is_told_without_its_pixels() -> None:
    stop = Panel("t = 7", "stop map", torch.zeros(1, 4, 4), 7, 0.5, 0.4, (0.0, 0.8), "stops")
    assert describe(stop) == {
        "stage": "t = 7",
        "caption": "stop map",
        "t": 7,
        "score": 0.5,
        "limit": 0.4,
        "span": [0.0, 0.8],
        "note": "stops",
    }
    assert describe(Panel("t = 7", "estimate", RED, 7))["span"] is None
