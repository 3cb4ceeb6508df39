"""Good images in memory."""

import numpy as np
import pytest
import torch

from mendiff.anomalib_models import GoodImages
from mendiff.data.images import resize, save_png
from tests.parts import pictures


@pytest.mark.parametrize("room", [0, 2**20])
def test_kept_images_equal_read_ones(tmp_path, room):
    large = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    save_png(large, tmp_path / "large.png")
    images = GoodImages([tmp_path / "large.png", *pictures(1)], 32, room)
    for _ in range(2):
        assert torch.equal(images[0].image, resize(large, 32))
        assert torch.equal(images[1].image, resize(pictures(1)[0], 32))
    assert images[0].image_path == str(tmp_path / "large.png")
