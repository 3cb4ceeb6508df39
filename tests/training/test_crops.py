"""Random crops of training images."""

import pytest
import torch

from mendiff.training.crops import random_crops


def numbered(height, width):
    """Pictures whose values tell where every pixel came from."""
    return torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width).expand(50, 3, -1, -1)


def test_crops_are_regions_of_their_image_on_the_grid(rng):
    crops = random_crops(numbered(40, 24), 16, 4, rng)
    assert crops.shape == (50, 3, 16, 16)
    down, right = crops[:, 0, 0, 0] // 24, crops[:, 0, 0, 0] % 24
    assert set(down.tolist()) == {0, 4, 8, 12, 16, 20, 24}
    assert set(right.tolist()) == {0, 4, 8}
    offsets = torch.arange(16.0)[:, None] * 24 + torch.arange(16.0)
    assert torch.equal(crops, (crops[:, :1, :1, :1] + offsets).expand(-1, 3, -1, -1))


@pytest.mark.parametrize("side", [0, 32, 100])
def test_small_images_are_not_cropped(side, rng):
    image = numbered(32, 32)
    assert random_crops(image, side, 4, rng) is image


def test_crops_are_repeatable_and_do_not_use_the_global_rng(global_rng_untouched):
    image = numbered(32, 32)
    with global_rng_untouched():
        first, again, other = (
            random_crops(image, 8, 1, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
        )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
