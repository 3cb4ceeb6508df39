"""Depth, size and orientation of images, and the right side of masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mendiff.data.checks import check_data
from mendiff.data.dataset import open_data, read_data
from mendiff.data.reading import Reading
from mendiff.data.samples import Use
from mendiff.errors import InputError


def found(root: Path, kind: str, **use):
    """(hard, sentence) of the findings of a kind."""
    categories, _ = read_data(root)
    return [(one.hard, one.sentence) for one in check_data(categories, use=Use(**use)) if one.kind == kind]


def save(path: Path, values: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


# ---- depth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "asked"), [(10, 10), (11, 12), (12, 12), (14, 14)])
@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint16), ("a.tif", np.uint16), ("b.tif", np.int32)])
def test_fewer_bits_in_sixteen_are_told_with_the_brightest_value(tmp_path, bits, asked, name, dtype):
    top = 2**bits - 2
    save(tmp_path / f"set/{name}", np.array([[0, top]], dtype))
    save(tmp_path / "set/dim.png", np.array([[0, 3]], np.uint16))

    ((hard, sentence),) = found(tmp_path / "set", "dark")
    assert not hard
    assert f"2 images of 16 bits have a maximum of {top} of 65535" in sentence
    assert sentence.endswith(f"fit with --bit-depth {asked}.")
    assert found(tmp_path / "set", "dark", reading=Reading(asked)) == []


def test_one_bright_image_shows_that_the_dark_ones_are_dark(tmp_path):
    save(tmp_path / "set/a.png", np.array([[0, 60000]], np.uint16))
    save(tmp_path / "set/b.png", np.array([[0, 100]], np.uint16))
    save(tmp_path / "set/c.png", np.array([[0, 9]], np.uint8))

    assert found(tmp_path / "set", "dark") == []


def test_images_that_the_depth_does_not_hold_can_not_be_read(tmp_path):
    save(tmp_path / "set/a.png", np.array([[0, 1000]], np.uint16))
    save(tmp_path / "set/b.png", np.array([[0, 5000]], np.uint16))

    ((hard, sentence),) = found(tmp_path / "set", "unreadable", reading=Reading(12))
    assert not hard
    assert "b.png: expected values of 12 bits, 0 to 4095, got 5000; increase --bit-depth." in sentence


# ---- size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "side", "words"),
    [
        (
            (2000, 500),
            0,
            "become 320x320: 6.2 times smaller in width and 1.6 times in height, so details below about 7",
        ),
        ((500, 2000), 0, "become 320x320: 1.6 times smaller in width and 6.2 times in height"),
        ((1400, 1400), 320, "4.4 times smaller"),
        ((700, 300), 320, "2.2 times smaller in width and 0.9 times in height"),
        ((3, 2), 0, "become 64x64: 21 times larger"),
        ((1, 1), 64, "64 times larger"),
        ((60, 60), 256, "4 times larger"),
    ],
)
def test_images_that_are_made_much_smaller_or_larger_are_told_with_sizes(tmp_path, put, size, side, words):
    put(tmp_path / "set/a.png", size=size)

    ((hard, sentence),) = found(tmp_path / "set", "size", image_size=side)
    assert not hard
    assert f"all images, such as a.png of {size[0]}x{size[1]} pixels, " in sentence
    assert words in sentence
    assert "--image-size" in sentence


@pytest.mark.parametrize(
    ("size", "side"),
    [((900, 900), 320), ((1280, 960), 320), ((64, 64), 256), ((600, 300), 320), ((200, 90), 320)],
)
def test_usual_sizes_are_not_told(tmp_path, put, size, side):
    put(tmp_path / "set/a.png", size=size)

    assert found(tmp_path / "set", "size", image_size=side) == []


def test_the_sentence_names_tiles_that_fit_and_tiles_lose_nothing(tmp_path, put):
    put(tmp_path / "set/a.png", size=(2000, 200))
    ((_, sentence),) = found(tmp_path / "set", "size", image_size=320)
    assert "cut images into tiles with --tile 192, which keeps details" in sentence
    ((_, sentence),) = found(tmp_path / "set", "size", image_size=320, resize="letterbox")
    assert "become 320x32: 6.2 times smaller in width and 6.2 times in height" in sentence
    assert found(tmp_path / "set", "size", image_size=320, tile=320) == []


def test_sizes_are_counted_and_not_told_where_nobody_knows_the_models(tmp_path, put):
    put(tmp_path / "set/a.png", size=(40, 40))
    put(tmp_path / "set/b.png", size=(900, 700))

    ((_, sentence),) = found(tmp_path / "set", "size", image_size=64)
    assert "1 of 2 images, such as b.png of 900x700 pixels, become 64x64" in sentence
    assert found(tmp_path / "set", "size") == []


# ---- masks -------------------------------------------------------------------------------------------


def marked(share: float) -> np.ndarray:
    mask = np.zeros((10, 12), np.uint8)
    mask.reshape(-1)[: round(120 * share)] = 255
    return mask


def test_masks_that_all_mark_most_of_their_image_are_refused_as_inverted(tmp_path, mvtec):
    plate = mvtec(tmp_path / "plate")
    for mask in plate.glob("ground_truth/*/*.png"):
        save(mask, marked(0.9))

    ((hard, sentence),) = found(plate, "inverted mask")
    assert hard
    assert "all 4 masks of plate mark more than half of their image, such as " in sentence
    assert "(90%); expected white defects, so invert them, or list the folders in a YAML" in sentence


@pytest.mark.parametrize("shares", [[0.9, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]])
def test_some_wide_masks_or_masks_of_whole_images_get_a_word(tmp_path, mvtec, shares):
    plate = mvtec(tmp_path / "plate")
    for mask, share in zip(sorted(plate.glob("ground_truth/*/*.png")), shares, strict=True):
        save(mask, marked(share))

    ((hard, sentence),) = found(plate, "inverted mask")
    assert not hard
    assert f"{sum(share > 0.5 for share in shares)} of 4 masks of plate mark more than half" in sentence


# ---- orientation -------------------------------------------------------------------------------------


def turned(orientation: int) -> dict[str, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_mask_of_the_unturned_pixels_is_refused_naming_the_orientation(tmp_path, mvtec, orientation, kind):
    plate = mvtec(tmp_path / "plate", ("bent",))
    noise = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    (plate / "test/bent/000.png").unlink()
    save(plate / f"test/bent/000.{kind}", noise, **turned(orientation))

    with pytest.raises(
        InputError,
        match=rf"10x12, got 12x10; .*stored pixels of 000\.{kind}.*EXIF orientation {orientation}",
    ):
        open_data(plate)


@pytest.mark.parametrize(
    ("orientation", "side", "told"), [(6, 10, 1), (3, 12, 1), (2, 12, 1), (1, 10, 0), (6, 12, 0)]
)
def test_a_mask_that_fits_either_way_gets_a_word(tmp_path, mvtec, orientation, side, told):
    plate = mvtec(tmp_path / "plate", ("bent",))
    noise = np.random.default_rng(0).integers(0, 256, (10, side, 3), dtype=np.uint8)
    save(plate / "test/bent/000.png", noise, **turned(orientation))
    shape = (10, side) if orientation < 5 else (side, 10)
    mask = np.zeros(shape, np.uint8)
    mask[2:4, 3:5] = 255
    save(plate / "ground_truth/bent/000_mask.png", mask)

    findings = found(plate, "orientation")
    assert len(findings) == told
    if told:
        hard, sentence = findings[0]
        assert not hard
        assert f"000.png (orientation {orientation}); make sure" in sentence


def test_a_mask_that_is_turned_as_its_photo_is_gets_no_word(tmp_path, mvtec):
    plate = mvtec(tmp_path / "plate", ("bent",))
    noise = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    mask = np.zeros((10, 10), np.uint8)
    mask[2:4, 3:5] = 255
    save(plate / "test/bent/000.png", noise, **turned(6))
    save(plate / "ground_truth/bent/000_mask.png", mask, **turned(6))

    assert found(plate, "orientation") == []
