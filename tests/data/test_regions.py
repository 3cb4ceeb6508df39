"""Regions of an anomaly map above a threshold."""

import numpy as np
import pytest
import torch

from mendiff.data.bands import Enlarged
from mendiff.data.regions import MOST, find_regions, threshold_mask


def regions(heat, threshold=0.5):
    """Of a map at its own size."""
    height, width = heat.shape
    enlarged = Enlarged(torch.tensor(heat, dtype=torch.float32)[None], height, width)
    return find_regions(threshold_mask(enlarged, threshold, height, width), enlarged)


def polygon_area(points):
    x, y = np.reshape(points, (-1, 2)).T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


@pytest.fixture
def heat():
    """A wide block of 0.7, and a high one of 0.9, in a map of 0.1."""
    heat = np.full((40, 60), 0.1)
    heat[5:10, 20:50] = 0.7
    heat[20:38, 4:8] = 0.9
    return heat


def test_every_connected_region_has_its_box_area_and_highest_value(heat):
    high, wide = regions(heat)
    assert (high.box, high.area) == ((4, 20, 4, 18), 72)
    assert (wide.box, wide.area) == ((20, 5, 30, 5), 150)
    assert high.score == pytest.approx(0.9)
    assert wide.score == pytest.approx(0.7)


def test_a_polygon_goes_through_the_centres_of_the_rim(heat):
    for region in regions(heat):
        x, y, width, height = region.box
        points = np.reshape(region.polygon, (-1, 2))
        assert (points.min(0) == [x + 0.5, y + 0.5]).all()
        assert (points.max(0) == [x + width - 0.5, y + height - 0.5]).all()
        assert polygon_area(region.polygon) == (width - 1) * (height - 1)


@pytest.mark.parametrize("pixels", [[(3, 4)], [(3, 4), (3, 5), (3, 6)]])
def test_a_region_without_an_inside_has_the_polygon_of_its_box(pixels):
    heat = np.zeros((8, 12))
    for pixel in pixels:
        heat[pixel] = 1.0
    (region,) = regions(heat)
    assert region.area == len(pixels) == polygon_area(region.polygon)


def test_diagonal_neighbours_are_one_region_and_holes_do_not_count():
    heat = np.zeros((12, 12))
    heat[2, 2] = heat[3, 3] = 1.0
    heat[5:10, 5:10] = 1.0
    heat[7, 7] = 0.0
    areas = sorted(region.area for region in regions(heat))
    assert areas == [2, 24]


def test_nothing_is_above_the_threshold_of_an_even_map():
    assert regions(np.full((20, 30), 0.4)) == []
    assert regions(np.full((20, 30), 0.4), threshold=float("nan")) == []


def test_the_regions_with_the_highest_values_are_listed():
    heat = np.zeros((60, 60))
    heat[::3, ::3] = np.linspace(0.6, 1, 400).reshape(20, 20)
    found = regions(heat)
    assert len(found) == MOST
    assert found[0].score == pytest.approx(1.0)
    assert found[-1].score == pytest.approx(np.linspace(0.6, 1, 400)[-MOST])


def test_a_mask_is_the_map_above_the_threshold_at_the_size_of_the_picture():
    small = torch.zeros(1, 4, 4)
    small[0, 1:3, 1:3] = 1.0
    enlarged = Enlarged(small, 400, 800)
    expected = torch.nn.functional.interpolate(small[None], (400, 800), mode="bilinear")[0, 0] > 0.5
    assert (threshold_mask(enlarged, 0.5, 400, 800) == expected.numpy()).all()
