"""Images of any size as square network inputs, and maps of these as maps of the images."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from mendiff.data.geometry import Blend, Geometry, Windows, on_canvas
from mendiff.data.images import resize, to_tensor
from mendiff.data.squares import Squares

SIDE = 32


def squares(overlap):
    return Squares(SIDE, letterbox=True, overlap=overlap)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("geometry", "size", "expected"),
    [
        (Geometry(SIDE), (40, 200), (32, 32)),
        (Geometry(SIDE, letterbox=True), (40, 200), (6, 32)),
        (Geometry(SIDE, letterbox=True), (200, 40), (32, 6)),
        (Geometry(SIDE, letterbox=True), (10, 10), (32, 32)),
        (Geometry(SIDE, letterbox=True), (1, 1000), (1, 32)),
        (Geometry(SIDE, tile=32), (40, 200), (40, 200)),
        (Geometry(SIDE, tile=64), (40, 200), (20, 100)),
    ],
)
def test_working_sizes(geometry, size, expected):
    assert geometry.size(*size) == expected
    assert geometry.prepare(picture(*size)).shape == (3, *expected)


def test_stretched_images_are_those_of_resize():
    given = picture(40, 50)
    geometry = Geometry(SIDE)
    assert torch.equal(geometry.prepare(given), resize(given, SIDE))
    assert torch.equal(geometry.whole(given), resize(given, SIDE))
    assert torch.equal(geometry.prepare(to_tensor(given)), resize(to_tensor(given), SIDE))


def test_a_letterboxed_image_lies_at_the_top_left_and_its_last_pixels_are_repeated():
    canvas = Geometry(SIDE, letterbox=True).whole(picture(24, 64))
    assert canvas.shape == (3, SIDE, SIDE)
    assert torch.equal(canvas[:, :12], resize(picture(24, 64), (12, 32)))
    assert torch.equal(canvas[:, 12:], canvas[:, 11:12].expand(3, 20, SIDE))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.75])
@pytest.mark.parametrize("size", [(32, 32), (33, 100), (20, 90), (75, 31), (8, 8), (64, 64)])
def test_windows_of_a_picture_blend_to_the_picture(size, overlap):
    image = to_tensor(picture(*size))
    windows = Windows(image, squares(overlap))
    blend = Blend(windows)
    for index, window in enumerate(windows):
        assert window.shape == (3, SIDE, SIDE)
        blend.add(index, window)
    torch.testing.assert_close(blend.result(), image, rtol=0, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_neighbouring_windows_share_at_least_the_overlap(overlap):
    for length in range(SIDE, 4 * SIDE):
        places = Windows(torch.zeros(3, length, SIDE), squares(overlap)).places
        rows = [row for row, _ in places]
        assert (rows[0], rows[-1]) == (0, length - SIDE)
        assert all(0 < after - before <= SIDE * (1 - overlap) for before, after in pairwise(rows))


def test_tiles_fade_into_each_other_without_a_seam():
    windows = Windows(torch.zeros(3, SIDE, 100), squares(0.5))
    blend = Blend(windows)
    for index in range(len(windows)):
        blend.add(index, torch.full((1, SIDE, SIDE), float(index % 2)))
    steps = blend.result().diff(dim=2).abs()
    assert float(blend.result().max()) > 0.9
    assert float(steps.max()) < 0.15  # without blending it would be 1


def test_tiles_of_bytes_equal_tiles_of_floats():
    given = picture(50, 70)
    geometry = Geometry(SIDE, tile=SIDE)
    small, large = geometry.prepare(given), geometry.prepare(to_tensor(given))
    assert (small.dtype, large.dtype) == (torch.uint8, torch.float32)
    for one, other in zip(geometry.windows(small), geometry.windows(large), strict=True):
        assert torch.equal(one, other)
    assert geometry.seed(small) == geometry.seed(large)


def test_some_windows_are_distinct_and_depend_on_the_image_alone():
    geometry = Geometry(SIDE, tile=SIDE)
    first, second = (geometry.prepare(picture(100, 100, seed)) for seed in (1, 2))
    chosen = [index for index, _ in geometry.some(first, 5)]
    assert len(set(chosen)) == 5
    assert chosen == [index for index, _ in geometry.some(first, 5)]
    assert chosen != [index for index, _ in geometry.some(second, 5)]
    assert len(list(geometry.some(first, 1000))) == len(geometry.windows(first))
    assert geometry.sample([first, second], 3).shape == (6, 3, SIDE, SIDE)


def test_the_window_around_a_pixel_has_it_nearest_to_its_centre():
    windows = Windows(torch.zeros(3, 64, 64), squares(0.0))
    assert [windows.around(at) for at in ((0, 0), (5, 60), (60, 5), (40, 40))] == [0, 1, 2, 3]
    assert windows.box(3) == (32, 32, 64, 64)
    assert Windows(torch.zeros(3, 10, 20), squares(0.25)).box(0) == (0, 0, 10, 20)


def test_parts_of_different_sizes_share_a_canvas():
    small, large = torch.ones(1, 2, 3), torch.ones(1, 4, 1)
    canvas = on_canvas([small, large])
    assert canvas.shape == (2, 1, 4, 3)
    assert canvas.sum((1, 2, 3)).tolist() == [6, 4]
    assert on_canvas([small > 0, large > 0]).dtype == torch.bool
