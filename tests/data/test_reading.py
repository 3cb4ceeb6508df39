"""Pictures of files: formats, orientations, depths, sizes and damage."""

import io
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from mendiff.data import opening, pixels
from mendiff.data.masks import read_mask
from mendiff.data.pixels import as_stored, as_upright
from mendiff.data.reading import Reading, brightest, image_size, read_header, read_image
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
    exif[opening.ORIENTATION_TAG] = orientation
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
    exif[opening.ORIENTATION_TAG] = orientation
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
    exif[opening.ORIENTATION_TAG] = orientation
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
    assert np.array_equal(read_image(path, Reading(12)), expected)
    assert read_image(path).max() <= 16
    assert read_header(path).deep
    assert brightest(path) == 4095
    with pytest.raises(InputError, match=rf"{name}: .*0 to 1023, got \d+ to 4095; give its bit depth"):
        read_image(path, Reading(10))


def test_files_that_say_their_depth_and_files_of_8_bits_ask_for_none(tmp_path):
    (tmp_path / "said.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    Image.fromarray(SMOOTH).save(tmp_path / "plain.png")

    assert read_image(tmp_path / "said.pgm")[0, :, 0].tolist() == [0, 255]
    assert np.array_equal(read_image(tmp_path / "said.pgm", Reading(12)), read_image(tmp_path / "said.pgm"))
    assert np.array_equal(read_image(tmp_path / "plain.png", Reading(12)), SMOOTH)
    assert not read_header(tmp_path / "said.pgm").deep
    assert not read_header(tmp_path / "plain.png").deep


@pytest.mark.parametrize("bits", [1, 7, 32, -1])
def test_a_depth_that_no_image_has_is_refused(tmp_path, bits):
    with pytest.raises(InputError, match=r"bit_depth: expected 8 to 31"):
        read_image(tmp_path / "a.png", Reading(bits))


def test_sixteen_bit_colour_with_alpha_shows_white_where_it_is_transparent(tmp_path):
    values = np.full((2, 2, 4), 1000, np.uint16)
    values[..., 3] = [[0, 65535], [65535, 0]]
    cv2.imwrite(str(tmp_path / "a.png"), values)

    assert read_image(tmp_path / "a.png", Reading(12))[..., 0].tolist() == [[255, 62], [62, 255]]


COLOUR = np.random.default_rng(1).integers(0, 256, (8, 9, 3))
COLOUR.flat[:2] = 0, 255
UNIT = COLOUR / 255
CHANNELS = {"photometric": "minisblack", "planarconfig": "contig"}


@pytest.mark.parametrize(
    ("values", "options", "bit_depth"),
    [
        (UNIT.astype(np.float32), {"photometric": "rgb"}, 0),
        (UNIT.astype(np.float64), {"photometric": "rgb", "compression": "zlib"}, 0),
        (UNIT.astype(np.float32).transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, 0),
        (COLOUR.astype(np.float32), {"photometric": "rgb"}, 8),
        (COLOUR.astype(np.float32) * (4095 / 255), {"photometric": "rgb"}, 12),
        (COLOUR.astype(np.uint8), CHANNELS, 0),
        (COLOUR.astype(np.uint16), {"photometric": "rgb"}, 8),
        (257 * COLOUR.astype(np.uint32), {"photometric": "rgb"}, 0),
    ],
    ids=["float32", "float64", "planar", "float to 255", "float to 4095", "channels", "8 in 16", "uint32"],
)
def test_a_colour_tiff_of_any_type_becomes_the_picture_it_was_made_from(tmp_path, values, options, bit_depth):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, extratags=[(274, "H", 1, 6, True)], **options)

    assert np.array_equal(read_image(path, Reading(bit_depth)), np.rot90(COLOUR, -1))
    assert image_size(path) == (9, 8)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_a_grey_float_tiff_of_any_precision_is_read(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", UNIT[..., 0].astype(kind))

    wrong = read_image(tmp_path / "a.tif")[..., 0].astype(int) - COLOUR[..., 0]
    assert np.abs(wrong).max() <= (kind == np.float16)
    assert not read_header(tmp_path / "a.tif").deep


def test_floats_beyond_one_are_refused_with_the_option_that_allows_them(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", COLOUR[..., 0].astype(np.float32))

    with pytest.raises(InputError, match=r"must lie in \[0, 1\], got 0 to \d+; .*--bit-depth 8 for 0 to 255"):
        read_image(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif", Reading(8))[..., 0], COLOUR[..., 0])
    tifffile.imwrite(tmp_path / "a.tif", 2 * COLOUR[..., 0].astype(np.float32))
    with pytest.raises(InputError, match=r"must lie in 0 to 255, got 0 to \d+"):
        read_image(tmp_path / "a.tif", Reading(8))


@pytest.mark.parametrize(
    ("channels", "kind", "photometric"),
    [
        *[(5, np.uint8, "rgb"), (6, np.uint8, "minisblack"), (6, np.uint16, "minisblack")],
        *[(4, np.uint8, "minisblack"), (2, np.uint16, "minisblack"), (8, np.float32, "minisblack")],
    ],
)
def test_pictures_of_several_lights_are_refused_and_never_cut_to_three(tmp_path, channels, kind, photometric):
    values = np.zeros((8, 9, channels), kind)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=photometric, planarconfig="contig")

    with pytest.raises(InputError, match=rf"a\.tif: expected a grey or RGB image, got {channels} channels"):
        read_image(tmp_path / "a.tif")
    assert image_size(tmp_path / "a.tif") == (8, 9)


def test_damaged_tiffs_are_refused_in_one_sentence(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", UNIT.astype(np.float32), photometric="rgb")
    data = (tmp_path / "a.tif").read_bytes()
    for end in (4, 8, 100, len(data) - 50):
        (tmp_path / "a.tif").write_bytes(data[:end])
        with pytest.raises(InputError, match=r"a\.tif: "):
            read_image(tmp_path / "a.tif")


def test_deep_colour_is_converted_in_bands(tmp_path):
    values = np.zeros((1500, 2000, 3), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    tracemalloc.start()
    try:
        picture = read_image(tmp_path / "a.tif", Reading(12))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # The 16-bit values, the picture, and the picture upright.
    assert peak < values.nbytes + 2.1 * picture.nbytes + 60 * pixels.BAND_PIXELS


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
    exif[opening.ORIENTATION_TAG] = orientation
    kind = "jpg" if mode == "CMYK" else "png"
    Image.new(mode, (3000, 2500)).save(tmp_path / f"a.{kind}", exif=exif)
    tracemalloc.start()  # sees NumPy's arrays and bytes; Pillow's own image is beside them
    try:
        picture = read_image(tmp_path / f"a.{kind}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < picture.nbytes * 1.1 + 30 * pixels.BAND_PIXELS


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
