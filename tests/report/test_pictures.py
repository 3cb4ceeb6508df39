import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mendiff.report.pictures import LARGE, SMALL, make_pictures, thumbnail_side, thumbnail_size

GREY = np.full((64, 64, 3), 120, dtype=np.uint8)


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_few_images_are_large_and_thousands_small() -> None:
    assert [thumbnail_side(count) for count in (0, 1, 200)] == [LARGE] * 3
    assert thumbnail_side(2000) == thumbnail_side(100_000) == SMALL
    assert SMALL < thumbnail_side(300) < LARGE


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(16, 400))
def test_a_small_picture_keeps_the_proportions(height: int, width: int, side: int) -> None:
    shown_width, shown_height = thumbnail_size(height, width, side)

    assert max(shown_width, shown_height) == side
    assert min(shown_width, shown_height) >= 1
    assert abs(shown_height * width - shown_width * height) <= max(width, height)


def test_all_pictures_have_the_size_asked_for() -> None:
    made = make_pictures(GREY, GREY[:16, :16], np.zeros((8, 8)), np.eye(64, dtype=bool), (40, 24))

    for data in (made.input, made.reconstruction, made.heat, made.contour):
        assert decode(data).shape[:2] == (24, 40)
    assert made.size == (40, 24)


def test_heat_is_laid_over_the_input() -> None:
    heat = np.zeros((64, 64))
    heat[:, 32:] = 0.5

    made = make_pictures(GREY, GREY, heat, None, (64, 64))

    drawn, plain = decode(made.heat).astype(int), decode(made.input).astype(int)
    assert np.abs(drawn[:, :28] - plain[:, :28]).max() < 8
    assert (drawn[:, 40:, 0] - drawn[:, 40:, 2]).min() > 40


def test_the_outline_runs_around_the_mask_and_is_clear_elsewhere() -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True

    contour = decode(make_pictures(GREY, GREY, np.zeros((8, 8)), mask, (64, 64)).contour)

    alpha = contour[..., 3]
    assert alpha[19, 30] == alpha[30, 40] == 255
    assert not alpha[20:40, 20:40].any()
    assert not alpha[:16].any()


@pytest.mark.parametrize("mask", [None, np.zeros((64, 64), dtype=bool)])
def test_without_a_marked_defect_there_is_no_outline(mask: np.ndarray | None) -> None:
    assert make_pictures(GREY, GREY, np.zeros((8, 8)), mask, (64, 64)).contour is None


@given(st.integers(0, 1023), st.integers(0, 1023))
def test_a_defect_of_one_pixel_is_still_outlined_in_a_small_picture(y: int, x: int) -> None:
    mask = np.zeros((1024, 1024), dtype=bool)
    mask[y, x] = True

    contour = decode(make_pictures(GREY, GREY, np.zeros((8, 8)), mask, (64, 64)).contour)

    lines = np.argwhere(contour[..., 3] == 255)
    assert len(lines)
    assert np.abs(lines - [y / 16, x / 16]).max() < 3
