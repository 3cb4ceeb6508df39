"""Good images in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mendiff.anomalib_models import Glad, GoodImages, GoodTiles, train
from mendiff.anomalib_models.images import check_geometry
from mendiff.data.geometry import Geometry
from mendiff.data.images import resize, save_png
from mendiff.errors import InputError
from tests.parts import CONFIG, pictures


@pytest.mark.parametrize("room", [0, 2**20])
def test_kept_images_equal_read_ones(tmp_path, room):
    large = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    save_png(large, tmp_path / "large.png")
    images = GoodImages([tmp_path / "large.png", *pictures(1)], 32, room)
    for _ in range(2):
        assert torch.equal(images[0].image, resize(large, 32))
        assert torch.equal(images[1].image, resize(pictures(1)[0], 32))
    assert images[0].image_path == str(tmp_path / "large.png")


def test_tiles_of_an_image_share_its_identity_and_memory_limits_their_number(tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    save_png(large, tmp_path / "large.png")
    geometry = Geometry(32, tile=32)
    tiles = GoodTiles([tmp_path / "large.png", large[:32, :32]], geometry)
    prepared = geometry.prepare(large)
    assert len(tiles) == len(geometry.windows(prepared)) + 1
    assert {one.seed for one in tiles.identities[:-1]} == {geometry.seed(prepared)}
    assert [one.part for one in tiles.identities] == [*range(len(tiles) - 1), 0]
    assert torch.equal(tiles[len(tiles) - 1].image, resize(large[:32, :32], 32))
    assert tiles.source(0) == tmp_path / "large.png"
    few = GoodTiles([tmp_path / "large.png", large[:32, :32]], geometry, room=6 * 3 * 32**2)
    assert [isinstance(few.source(at), Path) for at in range(len(few))] == [True] * 3 + [False]


def test_stretched_images_are_refused_for_a_model_of_tiles(tmp_path):
    model = Glad(replace(CONFIG, tile=CONFIG.image_size, upright="never"))
    with pytest.raises(InputError, match="expected resize='stretch' and tile=0 for images that are resized"):
        train(model, GoodImages(pictures(8), CONFIG.image_size), workdir=tmp_path)


def test_channels_are_refused_for_images_that_anomalib_reads():
    with pytest.raises(InputError, match="config: expected no channels for images that the data set reads"):
        check_geometry(pictures(2), replace(CONFIG, channels=(0, 2, 5)))
