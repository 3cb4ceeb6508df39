"""The inspected area of images."""

import numpy as np
import pytest
from PIL import Image

from mendiff.data.inspected import InspectedArea
from mendiff.errors import InputError


def mask(path, rows, columns, size=(40, 60)):
    drawn = np.zeros(size, np.uint8)
    drawn[rows, columns] = 255
    Image.fromarray(drawn).save(path)
    return path


def test_the_region_is_inspected_except_what_is_ignored(tmp_path):
    region = mask(tmp_path / "region.png", slice(0, 20), slice(None))
    ignore = mask(tmp_path / "ignore.png", slice(None), slice(0, 30), (80, 120))  # of another size
    both = InspectedArea.read(region, ignore).mask
    assert both[:20, 15:].all()
    assert both.sum() == 20 * 45
    assert InspectedArea.read(region, None).mask.sum() == 20 * 60
    assert InspectedArea.read(None, ignore).mask.sum() == 80 * 90
    assert InspectedArea.read(None, None) is None


def test_an_area_is_scaled_to_the_image(tmp_path):
    area = InspectedArea.read(mask(tmp_path / "region.png", slice(0, 20), slice(0, 30)), None)
    small = area.at(8, 12)
    assert small.shape == (1, 8, 12)
    assert small[0, :4, :6].all()
    assert small.sum() == 24
    assert area.at(40, 60).sum() == 600


@pytest.mark.parametrize(
    ("region", "ignore"),
    [
        ((slice(0), slice(0)), None),
        (None, (slice(None), slice(None))),
        ((slice(9), slice(9)), (slice(12), slice(12))),
    ],
)
def test_masks_that_leave_nothing_are_refused(tmp_path, region, ignore):
    places = [
        None if one is None else mask(tmp_path / f"{name}.png", *one)
        for name, one in (("region", region), ("ignore", ignore))
    ]
    with pytest.raises(InputError, match=r"leaves a part of the image to inspect, got none; draw"):
        InspectedArea.read(*places)


def test_an_image_of_another_aspect_ratio_is_refused(tmp_path):
    area = InspectedArea.read(mask(tmp_path / "region.png", slice(0, 9), slice(None)), None)
    area.check(400, 600, "a.png")
    with pytest.raises(InputError, match=r"region: expected a mask with the aspect ratio of a.png, 60x60"):
        area.check(60, 60, "a.png")


def test_an_area_too_small_for_the_model_is_refused(tmp_path):
    area = InspectedArea.read(mask(tmp_path / "region.png", slice(1, 2), slice(1, 2)), None)
    with pytest.raises(InputError, match=r"visible at 6x4 pixels"):
        area.at(4, 6)
