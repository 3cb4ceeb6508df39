"""Keys of pictures: equal for equal pixels, whatever the file."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from mendiff.data.image_keys import top_key, whole_key
from mendiff.data.reading import read_image
from mendiff.errors import InputError


def noise(height=40, width=30, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def saved(path: Path, pixels, mode=None, **options) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def palette_with_a_transparent_entry(path):
    image = Image.fromarray(noise()).quantize(16)
    image.save(path, transparency=3)


def sixteen_bits(path):
    Image.fromarray(noise(channels=1).astype(np.uint16) * 257).save(path)


def turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise()).save(path, exif=exif)


def turned_behind_the_pixels(path):
    turned(path)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    path.write_bytes(data.replace(chunk, b"").replace(data[-12:], chunk + data[-12:]))


WRITERS = {
    "rgb.png": lambda path: saved(path, noise()),
    "grey.png": lambda path: saved(path, noise(channels=1)),
    "alpha.png": lambda path: saved(path, noise(channels=4)),
    "palette.png": palette_with_a_transparent_entry,
    "bits.png": lambda path: saved(path, noise(), "1"),
    "key.png": lambda path: saved(path, noise(channels=1) // 64, transparency=2),
    "deep.png": sixteen_bits,
    "turned.png": turned,
    "behind.png": turned_behind_the_pixels,
    "low.png": lambda path: saved(path, noise(3)),
    "rgb.jpg": lambda path: saved(path, noise()),
    "grey.jpg": lambda path: saved(path, noise(channels=1)),
    "four.jpg": lambda path: saved(path, noise(), "CMYK"),
    "turned.jpg": turned,
    "rgb.bmp": lambda path: saved(path, noise()),
    "rgb.tif": lambda path: saved(path, noise()),
    "deep.tif": sixteen_bits,
    "alpha.webp": lambda path: saved(path, noise(channels=4), lossless=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_picture_has_the_keys_of_a_plain_file_with_its_pixels(tmp_path, name):
    WRITERS[name](tmp_path / name)
    plain = saved(tmp_path / "plain.bmp", read_image(tmp_path / name))

    assert top_key(tmp_path / name) == top_key(plain)
    assert whole_key(tmp_path / name) == whole_key(plain)


@given(
    pixels=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 20),
    level=st.integers(0, 9),
    row=st.integers(0, 39),
)
def test_one_changed_level_changes_the_key_of_the_whole_however_it_is_written(
    tmp_path_factory, pixels, height, width, level, row
):
    folder = tmp_path_factory.mktemp("pictures")
    picture = noise(height, width, seed=pixels)
    other = picture.copy()
    other[row % height, width // 2, 1] ^= 1
    one, same, changed = (folder / f"{name}.png" for name in ("one", "same", "changed"))
    saved(one, picture, compress_level=level)
    saved(same, picture, compress_level=9 - level)
    saved(changed, other, compress_level=level)

    assert (top_key(one), whole_key(one)) == (top_key(same), whole_key(same))
    assert whole_key(one) != whole_key(changed)
    if row % height < 16:
        assert top_key(one) != top_key(changed)


def test_equal_bytes_of_another_shape_are_another_picture(tmp_path):
    flat = np.full((20, 40, 3), 7, np.uint8)
    one, other = saved(tmp_path / "1.png", flat), saved(tmp_path / "2.png", flat.reshape(40, 20, 3))

    assert top_key(one) != top_key(other)
    assert whole_key(one) != whole_key(other)


def test_an_interlaced_picture_has_the_key_of_its_pixels(tmp_path):
    """Adam7 by hand, since Pillow only reads it: seven small pictures without filters."""
    picture = noise(channels=1) % 5  # so dark that a row taken for another's still has a filter's number
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    rows = [b"\0" + row.tobytes() for y, x, dy, dx in passes for row in picture[y::dy, x::dx]]
    height, width = picture.shape
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 1])
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(8)
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")):
        PngImagePlugin.putchunk(file, name, data)
    (tmp_path / "interlaced.png").write_bytes(file.getvalue())

    assert top_key(tmp_path / "interlaced.png") == top_key(saved(tmp_path / "plain.png", picture))


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_file_that_is_cut_is_seen_although_its_top_may_be_whole(tmp_path, ending, share):
    path = saved(tmp_path / f"a.{ending}", noise(200, 200))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])

    with pytest.raises(InputError, match=rf"a\.{ending}: "):
        top_key(path)


def test_a_flipped_bit_far_down_in_a_png_is_seen(tmp_path):
    path = saved(tmp_path / "a.png", noise(200, 200))
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)

    with pytest.raises(InputError, match=r"a\.png: the image is truncated or damaged"):
        top_key(path)
    with pytest.raises(InputError, match=r"a\.png: the image is truncated or damaged"):
        read_image(path)


def test_only_the_top_of_a_png_is_inflated(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", noise(200, 200))
    heights = []
    load = PngImagePlugin.PngImageFile.load_prepare
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile,
        "load_prepare",
        lambda image: (heights.append(image.size[1]), load(image)),
    )

    top_key(path)

    assert heights == [16]
