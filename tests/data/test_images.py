import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mendiff.data import image_files, images, masks, reading
from mendiff.errors import InputError


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---- finding -----------------------------------------------------------------------------------------


def test_images_are_found_in_sub_folders_in_any_case_sorted_and_without_hidden_ones(tmp_path: Path) -> None:
    kept = ["a.PNG", "b/c.jpg", "b/d.JPEG", "e.webp", "f.tiff", "g.tif", "h.bmp"]
    others = [".hidden.png", ".thumbs/x.png", "notes.txt", "b/._c.jpg"]
    for name in kept + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()

    assert image_files.find_images(tmp_path) == sorted(tmp_path / name for name in kept)


def test_a_dot_in_a_parent_folder_hides_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ".data" / "good"
    folder.mkdir(parents=True)
    (folder / "a.png").touch()

    assert image_files.find_images(folder) == [folder / "a.png"]


def test_a_single_file_gives_itself(tmp_path: Path) -> None:
    file = tmp_path / "image.raw"
    file.touch()

    assert image_files.find_images(file) == [file]


@pytest.mark.parametrize(("name", "reason"), [("", "no images found"), ("absent", "no such file or folder")])
def test_nothing_to_find_is_an_input_error(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        image_files.find_images(tmp_path / name)


# ---- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_rgb_is_read_as_it_was_written(tmp_path: Path, photo: np.ndarray, kind: str) -> None:
    (tmp_path / "x").write_bytes(encoded(Image.fromarray(photo), kind))

    np.testing.assert_array_equal(reading.read_image(tmp_path / "x"), photo)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB"])
def test_every_mode_becomes_three_channels_of_8_bits(tmp_path: Path, photo: np.ndarray, mode: str) -> None:
    rgb = Image.fromarray(
        np.repeat(photo[:, :, :1] // 255 * 255, 3, axis=2)
    )  # black and white survive every mode
    rgb.putpixel((0, 0), (255, 255, 255))
    if mode == "LAB":
        lightness = np.asarray(rgb.convert("L"))
        neutral = np.full_like(lightness, 128)
        image = Image.merge("LAB", [Image.fromarray(band) for band in (lightness, neutral, neutral)])
    else:
        image = rgb.convert(mode)
    kind = "PNG" if mode in ("1", "L", "P") else "TIFF"
    (tmp_path / "x").write_bytes(encoded(image, kind))

    read = reading.read_image(tmp_path / "x")

    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.astype(int), np.asarray(rgb).astype(int), atol=2)


def test_transparency_shows_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [(200, 100, 0, 255), (200, 100, 0, 0), (0, 0, 0, 51)]
    (tmp_path / "x").write_bytes(encoded(Image.fromarray(rgba), "PNG"))

    assert reading.read_image(tmp_path / "x").tolist() == [[[200, 100, 0], [255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_and_palette_with_a_transparent_colour_show_white_too(tmp_path: Path) -> None:
    grey = np.array([[[10, 255], [10, 0]]], dtype=np.uint8)
    (tmp_path / "la.png").write_bytes(encoded(Image.fromarray(grey, "LA"), "PNG"))
    palette = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    palette.putpalette([10, 10, 10, 99, 0, 0])
    (tmp_path / "p.png").write_bytes(encoded(palette, "PNG", transparency=1))

    for name in ("la.png", "p.png"):
        assert reading.read_image(tmp_path / name).tolist() == [[[10, 10, 10], [255, 255, 255]]]


def sixteen_bit_files(values: np.ndarray) -> dict[str, bytes]:
    little = Image.fromarray(values)
    return {
        "png": encoded(little, "PNG"),
        "tiff": encoded(little, "TIFF"),
        "tiff_big_endian": encoded(
            Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes()), "TIFF"
        ),
        "tiff_32_bit": encoded(Image.fromarray(values.astype(np.int32)), "TIFF"),
    }


@pytest.mark.parametrize("kind", sixteen_bit_files(np.zeros((1, 1), dtype=np.uint16)))
def test_sixteen_bits_are_scaled_by_their_full_range(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    (tmp_path / "x").write_bytes(sixteen_bit_files(values)[kind])

    assert reading.read_image(tmp_path / "x")[..., 1].tolist() == [[0, 0, 1, 1, 128, 255]]


def test_a_dark_sixteen_bit_image_stays_dark(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encoded(Image.fromarray(np.full((2, 2), 4095, dtype=np.uint16)), "PNG"))

    assert reading.read_image(tmp_path / "x").max() == 16


def twelve_bit_tiff(packed: bytes, width: int) -> bytes:
    """A grey one-row TIFF of 12 bits per sample, two samples in three bytes."""
    tags = {256: width, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<2sHI", b"II", 42, 8 + len(packed))
    return header + packed + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def test_a_tiff_that_declares_twelve_bits_is_scaled_by_them(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(twelve_bit_tiff(bytes.fromhex("000fff"), 2))

    assert reading.read_image(tmp_path / "x.tif")[..., 0].tolist() == [[0, 255]]


def test_values_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(encoded(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "TIFF"))

    with pytest.raises(InputError, match=r"x\.tif.*0 to 65535, got 0 to 70000"):
        reading.read_image(tmp_path / "x.tif")


def test_a_float_image_in_the_unit_range_is_read_and_another_refused(tmp_path: Path) -> None:
    for name, values in (("unit", [[0.0, 0.5, 1.0]]), ("wide", [[0.0, 300.0]]), ("nan", [[0.0, np.nan]])):
        (tmp_path / name).write_bytes(encoded(Image.fromarray(np.array(values, dtype=np.float32)), "TIFF"))

    assert reading.read_image(tmp_path / "unit")[0, :, 0].tolist() == [0, 128, 255]
    for name in ("wide", "nan"):
        with pytest.raises(InputError, match=rf"{name}: a float image must lie in \[0, 1\]"):
            reading.read_image(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path: Path, photo: np.ndarray, orientation: int) -> None:
    stored = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: np.rot90(photo, 1),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(photo, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif))

    np.testing.assert_array_equal(reading.read_image(tmp_path / "x.png"), photo)
    assert reading.image_size(tmp_path / "x.png") == photo.shape[:2]


def test_the_size_of_a_png_comes_from_its_header_even_where_exif_lies_behind_the_pixels(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("plain", {}), ("turned", {"exif": exif})):
        (tmp_path / f"{name}.png").write_bytes(encoded(Image.fromarray(photo), "PNG", **options))
    data = (tmp_path / "turned.png").read_bytes()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    (tmp_path / "behind.png").write_bytes(data.replace(chunk, b"").replace(data[-12:], chunk + data[-12:]))

    assert reading.image_size(tmp_path / "behind.png") == (32, 24)
    assert reading.read_image(tmp_path / "behind.png").shape[:2] == (32, 24)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", None)  # decoding would fail
    assert reading.image_size(tmp_path / "turned.png") == (32, 24)
    assert reading.image_size(tmp_path / "plain.png") == (24, 32)


FORMATS = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "webp": ("WEBP", {"lossless": True}),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of broken tags before it fails
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(share=st.floats(0.0, 0.98))
def test_a_truncated_file_is_an_input_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, name: str, share: float
) -> None:
    kind, options = FORMATS[name]
    whole = encoded(
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 32, 3), dtype=np.uint8)),
        kind,
        **options,
    )
    path = tmp_path_factory.mktemp("cut") / f"cut.{name}"
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(InputError, match=rf"cut\.{name}"):
        reading.read_image(path)


@pytest.mark.parametrize("read", [reading.read_image, masks.read_mask, reading.image_size])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        ("folder", "got a folder"),
    ],
)
def test_what_is_no_image_is_named_with_the_reason(
    tmp_path: Path, read: object, content: bytes | str | None, reason: str
) -> None:
    path = tmp_path / "it.png"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)

    with pytest.raises(InputError, match=rf"it\.png: .*{reason}"):
        read(path)


# ---- masks -------------------------------------------------------------------------------------------


def mask_files() -> dict[str, Image.Image]:
    """Three regions of eight pixels each: not anomalous, and anomalous with a low and with a high value."""

    def regions(values: list) -> np.ndarray:
        return np.repeat(np.repeat(np.array([values], dtype=np.uint8), 8, axis=0), 8, axis=1)

    grey = regions([0, 1, 255])
    ids = Image.fromarray(regions([0, 1, 2]))
    black_palette = ids.copy()
    black_palette.putpalette([0, 0, 0] * 3)
    white_first = Image.fromarray(regions([1, 0, 2]))
    white_first.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])
    return {
        "grey": Image.fromarray(grey),
        "bilevel": Image.fromarray(grey > 0),
        "class ids": ids,
        "class ids up to 40": Image.fromarray(regions([0, 2, 40])),
        "sixteen bit": Image.fromarray(grey.astype(np.uint16)),
        "colour": Image.fromarray(np.stack([grey * 0, grey * 0, grey], axis=2)),
        "class ids without colours": black_palette,
        "palette that starts with white": white_first.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        "alpha": Image.fromarray(regions([(255, 255, 255, 0), (255, 0, 0, 255), (0, 0, 7, 1)])),
    }


@pytest.mark.parametrize("name", mask_files())
def test_anything_above_zero_in_a_mask_is_anomalous(tmp_path: Path, name: str) -> None:
    (tmp_path / "mask.png").write_bytes(encoded(mask_files()[name], "PNG"))

    mask = masks.read_mask(tmp_path / "mask.png")

    assert mask.dtype == np.bool_
    assert mask[:, ::8].tolist() == [[False, True, True]] * 8
    assert (mask == np.repeat([[False, True, True]], 8, axis=1)).all()


# ---- tensors -----------------------------------------------------------------------------------------


def test_to_picture_undoes_to_tensor(photo: np.ndarray) -> None:
    tensor = images.to_tensor(photo)

    assert tensor.shape == (3, 24, 32)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(images.to_picture(tensor), photo)


def test_resize_is_antialiased_and_the_same_for_pictures_and_tensors(photo: np.ndarray) -> None:
    small = images.resize(photo, 8)

    assert small.shape == (3, 8, 8)
    assert torch.equal(small, images.resize(images.to_tensor(photo), 8))
    by_pillow = np.asarray(Image.fromarray(photo).resize((8, 8), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(images.to_picture(small).astype(int), by_pillow.astype(int), atol=1)


def test_resize_keeps_an_image_that_has_the_size(photo: np.ndarray) -> None:
    square = photo[:, :24]

    assert torch.equal(images.resize(square, 24), images.to_tensor(square))


def test_a_resized_mask_stays_aligned_with_its_image() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 15:45] = True
    picture = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)

    small = images.resize_mask(mask, 20)

    assert small.dtype == torch.bool
    assert torch.equal(small, images.resize(picture, 20)[:1] > 0.5)


def test_a_resized_mask_keeps_the_share_of_a_thin_slanted_crack() -> None:
    mask = np.zeros((400, 400), dtype=bool)
    at = np.arange(400)
    mask[at, (at * 0.61).astype(int)] = True

    small = images.resize_mask(mask, 80)

    assert small.float().mean().item() == pytest.approx(mask.mean(), rel=0.3)
    by_area = F.interpolate(torch.from_numpy(mask).float()[None, None], size=(80, 80), mode="area") >= 0.5
    assert not by_area.any()


# ---- writing -----------------------------------------------------------------------------------------


def test_a_saved_png_reads_back(tmp_path: Path, photo: np.ndarray) -> None:
    mask = photo[..., 0] > 127
    images.save_png(photo, tmp_path / "photo.png")
    images.save_png(mask, tmp_path / "mask.png")

    np.testing.assert_array_equal(reading.read_image(tmp_path / "photo.png"), photo)
    np.testing.assert_array_equal(masks.read_mask(tmp_path / "mask.png"), mask)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.bin").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(images.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        images.write_bytes(tmp_path / "x.bin", b"new")

    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    assert (tmp_path / "x.bin").read_bytes() == b"old"


# ---- drawing -----------------------------------------------------------------------------------------


def lightness(picture: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB."""
    srgb = picture / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def test_lightness_rises_evenly_with_heat() -> None:
    steps = np.diff(lightness(images.colour_heat(np.linspace(0, 1, 15)[None]))[0])

    assert steps.min() > 0.5 * steps.mean()
    assert steps.max() < 1.6 * steps.mean()


def test_heat_is_half_at_the_threshold_and_stays_in_the_unit_range() -> None:
    heat = images.normalise_heat(np.array([[-1.0, 1.0, 3.0, 5.0, 99.0]]), threshold=3.0, floor=1.0)

    assert heat.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]


def test_heat_of_a_threshold_at_the_floor_is_finite() -> None:
    heat = images.normalise_heat(np.array([[0.0, 1.0]]), threshold=0.0)

    assert heat.tolist() == [[0.0, 1.0]]


def test_an_overlay_leaves_the_picture_where_there_is_no_heat_and_marks_it_where_there_is(
    photo: np.ndarray,
) -> None:
    heat = np.zeros((24, 32))
    heat[5:9, 5:9] = 0.5

    drawn = images.overlay(photo, heat)

    np.testing.assert_array_equal(drawn[heat == 0], photo[heat == 0])
    assert (drawn[heat > 0] != photo[heat > 0]).any(axis=1).all()


def test_a_contour_covers_nothing_of_its_region_and_surrounds_it(photo: np.ndarray) -> None:
    mask = np.zeros((24, 32), dtype=bool)
    mask[8:14, 10:20] = True

    drawn = images.draw_contour(photo, mask, colour=(1, 2, 3))

    np.testing.assert_array_equal(drawn[mask], photo[mask])
    line = (drawn == (1, 2, 3)).all(axis=2)
    ring = np.zeros_like(mask)
    ring[7:15, 9:21] = True
    np.testing.assert_array_equal(line, ring & ~mask)


def test_drawings_of_another_size_are_refused(photo: np.ndarray) -> None:
    with pytest.raises(InputError, match="heat map must have its image's size"):
        images.overlay(photo, np.zeros((3, 3)))
    with pytest.raises(InputError, match="mask must have its image's size"):
        images.draw_contour(photo, np.zeros((3, 3), dtype=bool))


def test_an_image_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "locked.png"
    Image.new("RGB", (8, 8)).save(path)

    def locked(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(images.Image, "open", locked)
    for read in (reading.read_image, reading.image_size):
        with pytest.raises(InputError, match=r"locked\.png: the image is not readable \(permission denied\)"):
            read(path)


def test_the_boundary_of_an_area_is_a_faint_line_inside_of_it():
    area = np.zeros((40, 60), bool)
    area[10:30, 20:50] = True
    line = images.boundary(area)
    assert line[10, 20:50].all()
    assert not line[11:29, 21:49].any()
    assert not line[~area].any()
    drawn = images.faint_line(np.full((40, 60, 3), 100, np.uint8), line)
    assert drawn[10, 30].tolist() == [50, 165, 155]
    assert (drawn[~line] == 100).all()
