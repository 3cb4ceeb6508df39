"""Pictures of files: formats, orientations, depths, sizes and damage."""

import io
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from mendiff.data import reading
from mendiff.data.masks import read_mask
from mendiff.data.reading import as_stored, as_upright, brightest, image_size, read_header, read_image
from mendiff.errors import InputError

SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[:32, :48], 9), axis=-1).astype(np.uint8) * 5
FORMATS = {
    "png": {},
    "jpeg": {"quality": 95},
    "tiff": {},
    "webp": {"lossless": True},
    **({"avif": {"quality": 95}} if features.check("avif") else {}),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", FORMATS)
def test_the_size_in_the_header_is_that_of_the_picture_in_every_format_and_orientation(
    tmp_path, kind, orientation
):
    exif = Image.Exif()
    exif[reading.ORIENTATION_TAG] = orientation
    stored = np.ascontiguousarray(as_stored(SMOOTH, orientation))
    path = tmp_path / f"a.{kind}"
    Image.fromarray(stored).save(path, kind, exif=exif, **FORMATS[kind])

    picture = read_image(path)

    assert picture.shape == SMOOTH.shape
    assert np.abs(picture.astype(int) - SMOOTH).mean() < 8
    assert image_size(path) == SMOOTH.shape[:2]
    assert read_header(path).orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_turned_tiff_of_any_mode_keeps_its_pixels(tmp_path, mode, orientation, compression):
    """Pillow would map some of them into memory with rows of the wrong length."""
    upright = SMOOTH[..., :1] > 100 if mode == "1" else SMOOTH[..., :1]
    upright = np.repeat(upright, 3, axis=2) if mode in ("RGBA", "CMYK") else upright[..., 0]
    stored = np.ascontiguousarray(as_stored(upright, orientation))
    image = Image.fromarray(stored.astype(np.uint16) * 257 if mode == "I;16" else stored)
    image = image if mode in ("I;16", "1") else image.convert(mode)
    exif = Image.Exif()
    exif[reading.ORIENTATION_TAG] = orientation
    image.save(tmp_path / "a.tif", compression=compression, exif=exif)

    expected = (
        np.repeat(SMOOTH[..., :1], 3, axis=2) if mode != "1" else (SMOOTH[..., :1] > 100) * np.uint8(255)
    )
    assert np.abs(read_image(tmp_path / "a.tif").astype(int) - expected).max() <= 1
    assert image_size(tmp_path / "a.tif") == SMOOTH.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_as_upright_undoes_as_stored(orientation):
    assert np.array_equal(as_upright(as_stored(SMOOTH, orientation), orientation), SMOOTH)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_mask_is_turned_as_its_image_is(tmp_path, kind, orientation):
    upright = np.zeros((12, 20), bool)
    upright[2:5, 3:11] = True
    exif = Image.Exif()
    exif[reading.ORIENTATION_TAG] = orientation
    stored = np.ascontiguousarray(as_stored(upright, orientation))
    Image.fromarray(stored.astype(np.uint8) * 255).save(tmp_path / f"a.{kind}", exif=exif)

    assert np.array_equal(read_mask(tmp_path / f"a.{kind}"), upright)


def save_deep(path: Path, values: np.ndarray) -> Path:
    """(H,W) or (H,W,3) uint16 or int32 values as they are."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if values.ndim == 3 else "minisblack")
    else:
        cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)
    return path


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("grey.png", (8, 9), np.uint16),
        ("grey.tif", (8, 9), np.uint16),
        ("grey.pgm", (8, 9), np.uint16),
        ("wide.tif", (8, 9), np.int32),
        ("colour.png", (8, 9, 3), np.uint16),
        ("colour.tif", (8, 9, 3), np.uint16),
        ("colour.ppm", (8, 9, 3), np.uint16),
    ],
)
def test_twelve_bits_in_sixteen_are_scaled_by_twelve_where_that_is_said(tmp_path, name, shape, dtype):
    values = np.random.default_rng(0).integers(0, 4096, shape).astype(dtype)
    values.flat[0] = 4095
    path = save_deep(tmp_path / name, values)

    expected = np.rint(values * (255 / 4095)).astype(int)
    expected = np.repeat(expected[..., None], 3, axis=2) if expected.ndim == 2 else expected
    assert np.array_equal(read_image(path, bit_depth=12), expected)
    assert read_image(path).max() <= 16
    assert read_header(path).deep
    assert brightest(path) == 4095
    with pytest.raises(InputError, match=rf"{name}: .*0 to 1023, got \d+ to 4095; give its bit depth"):
        read_image(path, bit_depth=10)


def test_files_that_say_their_depth_and_files_of_8_bits_ask_for_none(tmp_path):
    (tmp_path / "said.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    Image.fromarray(SMOOTH).save(tmp_path / "plain.png")

    assert read_image(tmp_path / "said.pgm")[0, :, 0].tolist() == [0, 255]
    assert np.array_equal(read_image(tmp_path / "said.pgm", 12), read_image(tmp_path / "said.pgm"))
    assert np.array_equal(read_image(tmp_path / "plain.png", 12), SMOOTH)
    assert not read_header(tmp_path / "said.pgm").deep
    assert not read_header(tmp_path / "plain.png").deep


@pytest.mark.parametrize("bits", [1, 8, 32, -1])
def test_a_depth_that_no_image_has_is_refused(tmp_path, bits):
    with pytest.raises(InputError, match=r"bit_depth: expected 9 to 31"):
        read_image(tmp_path / "a.png", bits)


def test_sixteen_bit_colour_with_alpha_shows_white_where_it_is_transparent(tmp_path):
    values = np.full((2, 2, 4), 1000, np.uint16)
    values[..., 3] = [[0, 65535], [65535, 0]]
    cv2.imwrite(str(tmp_path / "a.png"), values)

    assert read_image(tmp_path / "a.png", 12)[..., 0].tolist() == [[255, 62], [62, 255]]


# ---- limits ------------------------------------------------------------------------------------------


def test_images_above_pillows_limit_are_read_without_a_word(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")

    assert np.array_equal(read_image(tmp_path / "a.png"), SMOOTH)
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 10  # Pillow's own readers keep theirs


@pytest.mark.parametrize("read", [read_image, image_size, read_mask])
def test_an_image_above_our_limit_is_named_with_its_size_and_how_to_allow_it(tmp_path, monkeypatch, read):
    Image.new("L", (2000, 1000)).save(tmp_path / "a.png")
    monkeypatch.setenv("MENDIFF_MAX_MEGAPIXELS", "1.5")

    with pytest.raises(
        InputError,
        match=r"a\.png: expected an image of at most 1\.5 megapixels, got 2000x1000 .*MENDIFF_MAX",
    ):
        read(tmp_path / "a.png")
    monkeypatch.setenv("MENDIFF_MAX_MEGAPIXELS", "2")
    read(tmp_path / "a.png")
    monkeypatch.setenv("MENDIFF_MAX_MEGAPIXELS", "many")
    with pytest.raises(
        InputError, match=r"MENDIFF_MAX_MEGAPIXELS: expected a number of megapixels, got 'many'"
    ):
        read(tmp_path / "a.png")


def test_the_limit_is_checked_before_pixels_are_decoded(tmp_path, monkeypatch):
    Image.new("L", (2000, 1000)).save(tmp_path / "a.png")
    monkeypatch.setenv("MENDIFF_MAX_MEGAPIXELS", "1")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)  # decoding would fail

    with pytest.raises(InputError, match="expected an image of at most"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "1", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reading_holds_one_copy_beside_the_decoded_image(tmp_path, mode, orientation):
    exif = Image.Exif()
    exif[reading.ORIENTATION_TAG] = orientation
    kind = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (3000, 2500)).save(tmp_path / f"a.{kind}", exif=exif)
    tracemalloc.start()  # sees NumPy's arrays and bytes; Pillow's own image is beside them
    try:
        picture = read_image(tmp_path / f"a.{kind}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < picture.nbytes * 1.1 + 30 * reading.BAND_PIXELS


# ---- damage ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("name", ["a.avif", "a.png", "a.jpg"])
def test_a_damaged_avif_under_any_name_is_named(tmp_path, name):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "AVIF")
    data = bytearray(buffer.getvalue())
    data[-30:] = bytes(30)  # of the pixels, so that the header is whole
    (tmp_path / name).write_bytes(data)

    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=rf"{name}: the image is truncated or damaged"):
            read(tmp_path / name)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, ZeroDivisionError, RecursionError, TypeError])
def test_whatever_a_decoder_raises_becomes_a_sentence_that_names_the_file(tmp_path, monkeypatch, kind):
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")

    def fail(*_):
        raise kind("lost\nmy way")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(
        InputError, match=r"a\.png: the image is truncated or damaged \(lost my way\); replace"
    ):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", [MemoryError, KeyboardInterrupt])
def test_what_is_not_the_files_fault_is_not_blamed_on_it(tmp_path, monkeypatch, kind):
    Image.fromarray(SMOOTH).save(tmp_path / "a.png")

    def fail(*_):
        raise kind

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(kind):
        read_image(tmp_path / "a.png")


def test_a_file_that_would_start_another_program_is_no_image(tmp_path):
    Image.fromarray(SMOOTH).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")

    with pytest.raises(InputError, match="not an image that can be read"):
        read_image(tmp_path / "a.png")
