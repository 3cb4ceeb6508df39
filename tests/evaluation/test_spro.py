"""Saturated per-region overlap."""

import numpy as np
import pytest
import torch

from mendiff.evaluation.metrics import image_and_pixel_metrics
from mendiff.evaluation.spro import Region, au_spro


def drawn(seed=0, images=4, side=48):
    """Maps, masks of one connected region per image, and these as regions; higher on defects."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, 1, side, side), bool)
    for mask in masks[1:]:  # the first image is good
        y, x = rng.integers(2, side - 14, 2)
        mask[0, y : y + rng.integers(3, 12), x : x + rng.integers(3, 12)] = True
    maps = torch.tensor(rng.normal(0, 1, masks.shape) + 1.5 * masks, dtype=torch.float32)
    return maps, torch.tensor(masks), [torch.tensor(mask[0]) for mask in masks]


@pytest.mark.parametrize("seed", range(5))
def test_without_saturation_it_is_the_per_region_overlap(seed):
    maps, masks, regions = drawn(seed)
    found = au_spro(maps, masks, [Region(index, regions[index], 1.0) for index in (1, 2, 3)])
    labels = masks.flatten(1).any(1)
    expected = image_and_pixel_metrics(maps.amax((1, 2, 3)), labels, maps, masks)["aupro_005"]
    assert found == pytest.approx(expected, abs=2e-3)


def test_a_defect_counts_as_found_at_its_share_of_pixels():
    maps = torch.zeros(1, 1, 10, 10)
    mask = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    mask[..., :2, :5] = True  # ten pixels, four of them above all good ones
    maps[..., 0, :4] = 1
    values = [au_spro(maps, mask, [Region(0, mask[0, 0], share)]) for share in (0.2, 0.4, 0.8, 1.0)]
    # All good pixels are equal: the curve rises evenly from the overlap above them to 1.
    start = np.array([1, 1, 0.5, 0.4])
    assert np.allclose(values, start + (1 - start) * 0.05 / 2)


def test_parts_of_a_mask_are_regions_of_their_own_and_empty_ones_are_left_out():
    maps, masks, regions = drawn()
    whole = au_spro(maps, masks, [Region(1, regions[1], 1.0)])
    empty = Region(2, torch.zeros_like(regions[2]), 1.0)
    assert au_spro(maps, masks, [Region(1, regions[1], 1.0), empty]) == whole
    assert au_spro(maps, masks, [empty]) is None
    assert au_spro(maps, torch.ones_like(masks), [Region(1, regions[1], 1.0)]) is None
