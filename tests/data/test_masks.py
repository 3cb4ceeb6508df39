"""Masks as people draw, resize and store them."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mendiff.data.masks import read_mask


def disk(radius: float = 7.0, side: int = 96) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.hypot(y - side * 0.4, x - side * 0.55) < radius


def drawn(region: np.ndarray) -> Image.Image:
    return Image.fromarray(region.astype(np.uint8) * 255)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("radius", [2, 4, 7, 20])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_does_not_make_a_mask_grow_even_when_it_was_turned_into_png(tmp_path, radius, quality):
    region = disk(radius)
    for mode in ("L", "RGB"):
        drawn(region).convert(mode).save(tmp_path / "a.jpg", quality=quality)
        Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")

        assert overlap(read_mask(tmp_path / "a.jpg"), region) > 0.95
        assert overlap(read_mask(tmp_path / "a.png"), region) > 0.95


@pytest.mark.parametrize("blur", [0.7, 1.0, 2.0, 4.0])
def test_soft_edges_end_where_they_are_half(tmp_path, blur):
    region = disk(20)
    drawn(region).filter(ImageFilter.GaussianBlur(blur)).save(tmp_path / "a.png")

    mask = read_mask(tmp_path / "a.png")

    assert overlap(mask, region) > 0.9
    assert mask.sum() < 1.1 * region.sum()


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.3])
@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.BOX])
def test_resizing_does_not_make_a_mask_grow(tmp_path, factor, how):
    side = int(96 * factor)
    drawn(disk(20)).resize((side, side), how).save(tmp_path / "a.png")

    assert read_mask(tmp_path / "a.png").mean() == pytest.approx(disk(20).mean(), rel=0.1)


def test_classes_of_any_grey_all_count(tmp_path):
    values = np.zeros((60, 60), np.uint8)
    values[5:20, 5:20], values[5:20, 20:40], values[30:50, 10:12] = 80, 160, 100
    values[30:50, 30:50] = 255
    Image.fromarray(values).save(tmp_path / "a.png")

    assert np.array_equal(read_mask(tmp_path / "a.png"), values > 0)


def test_ink_in_the_alpha_channel_alone_is_the_mask(tmp_path):
    region = disk()
    layers = np.zeros((*region.shape, 4), np.uint8)
    layers[..., 3] = region * 255
    Image.fromarray(layers).save(tmp_path / "black.png")
    layers[..., :3] = 255
    Image.fromarray(layers).save(tmp_path / "white.png")
    Image.fromarray(np.stack([region * np.uint8(0), region.astype(np.uint8) * 255], axis=2), "LA").save(
        tmp_path / "grey.png"
    )

    for name in ("black", "white", "grey"):
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), region), name


def test_soft_ink_in_the_alpha_channel_ends_where_it_is_half(tmp_path):
    region = disk(20)
    layers = np.zeros((*region.shape, 4), np.uint8)
    layers[..., 3] = np.asarray(drawn(region).filter(ImageFilter.GaussianBlur(2)))
    for colour in (0, 255):
        layers[..., :3] = colour
        Image.fromarray(layers).save(tmp_path / "a.png")

        assert overlap(read_mask(tmp_path / "a.png"), region) > 0.95


def test_a_mask_without_ink_is_empty_whatever_its_kind(tmp_path):
    opaque = np.zeros((9, 9, 4), np.uint8)
    opaque[..., 3] = 255
    for array in (opaque, opaque * 0, opaque[..., 0], opaque[..., :3]):
        Image.fromarray(array).save(tmp_path / "a.png")

        assert not read_mask(tmp_path / "a.png").any()


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_a_gif_is_a_mask_as_a_png_is(tmp_path, mode):
    drawn(disk()).convert(mode).save(tmp_path / "a.gif")

    assert np.array_equal(read_mask(tmp_path / "a.gif"), disk())


def test_a_palette_of_greys_holds_levels_and_one_of_colours_classes(tmp_path):
    soft = np.asarray(drawn(disk(20)).filter(ImageFilter.GaussianBlur(2)))
    greys = Image.fromarray(soft)
    greys.putpalette([level for grey in range(256) for level in (grey, grey, grey)])
    colours = Image.fromarray((disk(20) * np.uint8(3)).astype(np.uint8))
    colours.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 1])
    greys.save(tmp_path / "greys.png")
    colours.save(tmp_path / "colours.png")

    assert overlap(read_mask(tmp_path / "greys.png"), disk(20)) > 0.95
    assert np.array_equal(read_mask(tmp_path / "colours.png"), disk(20))
