"""Images of several lights: channels of TIFF and NPY files, and of images in memory."""

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mendiff.data.arrays import as_picture
from mendiff.data.image_files import find_images, left_out
from mendiff.data.images import save_png
from mendiff.data.reading import Reading, brightest, image_size, read_header, read_image
from mendiff.errors import InputError

LIGHTS = np.random.default_rng(0).integers(0, 256, (12, 15, 6), dtype=np.uint8)
LIGHTS.flat[:2] = 0, 255
PLANES = LIGHTS.transpose(2, 0, 1)
CHOSEN = Reading(channels=(0, 2, 5))
EXPECTED = LIGHTS[..., [0, 2, 5]]


def tiff(path, values, **options):
    tifffile.imwrite(path, values, photometric="minisblack", **options)
    return path


def pages(path, planes):
    with tifffile.TiffWriter(path) as file:
        for plane in planes:
            file.write(plane, contiguous=False)
    return path


def pillow(path, planes):
    first, *others = map(Image.fromarray, planes)
    first.save(path, save_all=True, append_images=others)
    return path


def numbers(path, values):
    np.save(path, values)
    return path


FILES = {
    "samples": lambda folder: tiff(folder / "a.tif", LIGHTS, planarconfig="contig"),
    "planes": lambda folder: tiff(folder / "a.tif", PLANES, planarconfig="separate"),
    "pages": lambda folder: pages(folder / "a.tif", PLANES),
    "pages by Pillow": lambda folder: pillow(folder / "a.tif", PLANES),
    "ImageJ": lambda folder: tiff(folder / "a.tif", PLANES, imagej=True, metadata={"axes": "CYX"}),
    "big": lambda folder: tiff(folder / "a.tif", LIGHTS, bigtiff=True, planarconfig="contig"),
    "16 bits": lambda folder: tiff(folder / "a.tif", 257 * LIGHTS.astype(np.uint16), planarconfig="contig"),
    "floats": lambda folder: tiff(folder / "a.tif", (LIGHTS / 255).astype(np.float32), planarconfig="contig"),
    "array": lambda folder: numbers(folder / "a.npy", LIGHTS),
    "array of planes": lambda folder: numbers(folder / "a.npy", PLANES),
    "array of 16 bits": lambda folder: numbers(folder / "a.npy", 257 * LIGHTS.astype(np.uint16)),
    "array of floats": lambda folder: numbers(folder / "a.npy", LIGHTS / 255),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_chosen_channels_of_a_file_become_the_picture(kind, tmp_path):
    path = FILES[kind](tmp_path)
    assert np.array_equal(read_image(path, CHOSEN), EXPECTED)
    assert np.array_equal(read_image(path, Reading(channels=(3,))), LIGHTS[..., [3, 3, 3]])
    assert image_size(path) == (12, 15)


@pytest.mark.parametrize("kind", FILES)
def test_a_channel_that_a_file_lacks_is_named(kind, tmp_path):
    path = FILES[kind](tmp_path)
    with pytest.raises(
        InputError, match=rf"{path.name}: expected channel 6, counted from 0, got an image of 6 channels"
    ):
        read_image(path, Reading(channels=(0, 1, 6)))


def test_bit_depth_and_orientation_hold_for_channels_too(tmp_path):
    turned = [(274, "H", 1, 6, True)]
    path = tiff(tmp_path / "a.tif", LIGHTS.astype(np.uint16) * 16, planarconfig="contig", extratags=turned)
    reading = Reading(12, (0, 2, 5))
    expected = np.rot90(np.rint(EXPECTED * (16 * 255 / 4095)).astype(np.uint8), -1)
    assert np.array_equal(read_image(path, reading), expected)
    assert read_header(path).deep
    assert brightest(path, reading) == 16 * int(EXPECTED.max())


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_colours_of_other_formats_are_their_channels(name, tmp_path):
    Image.fromarray(EXPECTED).save(
        tmp_path / name, quality=95, **{"lossless": True} if "webp" in name else {}
    )
    plain = read_image(tmp_path / name)
    assert np.array_equal(read_image(tmp_path / name, Reading(channels=(2, 1, 0))), plain[..., ::-1])
    with pytest.raises(InputError, match="expected channel 3, counted from 0, got an image of 3 channels"):
        read_image(tmp_path / name, Reading(channels=(3,)))


def test_a_grey_image_has_a_single_channel(tmp_path):
    save_png(LIGHTS[..., 0], tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", Reading(channels=(0,))), LIGHTS[..., [0, 0, 0]])
    with pytest.raises(InputError, match="expected channel 1, counted from 0, got an image of 1 channel;"):
        read_image(tmp_path / "a.png", Reading(channels=(0, 1, 0)))


def test_images_in_memory_are_read_as_their_files():
    assert np.array_equal(as_picture(LIGHTS, CHOSEN), EXPECTED)
    assert np.array_equal(as_picture(LIGHTS / 255, CHOSEN), EXPECTED)
    swapped = as_picture(Image.fromarray(EXPECTED), Reading(channels=(2, 1, 0)))
    assert np.array_equal(swapped, EXPECTED[..., ::-1])
    assert np.array_equal(as_picture(EXPECTED, CHOSEN), EXPECTED)  # as read_image returns it
    with pytest.raises(InputError, match="image: expected channel 5, counted from 0, got an image of 4"):
        as_picture(LIGHTS[..., :4], CHOSEN)
    ready = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_picture(ready, CHOSEN), ready)


@pytest.mark.parametrize("channels", [(0, 1), (0, 1, 2, 3), (-1,)])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(InputError, match="channels: expected the numbers of one or three channels, counted"):
        Reading(channels=channels)


def test_arrays_are_images_only_in_folders_without_others(tmp_path):
    array = numbers(tmp_path / "a.npy", LIGHTS)
    assert find_images(tmp_path) == [array]
    assert left_out(tmp_path) == []
    save_png(EXPECTED, tmp_path / "b.png")
    assert find_images(tmp_path) == [tmp_path / "b.png"]
    assert left_out(tmp_path) == [(array, "type .npy")]


def test_an_array_of_grey_or_colours_needs_no_channels(tmp_path):
    assert np.array_equal(read_image(numbers(tmp_path / "a.npy", EXPECTED)), EXPECTED)
    grey = read_image(numbers(tmp_path / "b.npy", LIGHTS[..., 0]))
    assert np.array_equal(grey, LIGHTS[..., [0, 0, 0]])
    with pytest.raises(InputError, match="expected a grey or RGB image, got 6 channels; choose up to three"):
        read_image(numbers(tmp_path / "c.npy", LIGHTS))


@pytest.mark.parametrize(
    "values", [np.zeros((2, 3, 4, 5)), np.zeros((0, 4)), np.zeros((4, 4), complex), np.array(["a"])]
)
def test_arrays_that_are_no_images_are_refused(values, tmp_path):
    with pytest.raises(InputError, match=r"a\.npy: expected an array \(H,W\), \(H,W,C\) or \(C,H,W\) of"):
        read_image(numbers(tmp_path / "a.npy", values))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"words", b"\x80\x04]q\x00."])
def test_damaged_arrays_are_refused_in_one_sentence(content, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npy: not an NPY file that can be read; replace or remove it\."):
        read_image(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"b\.npy: no such file"):
        read_image(tmp_path / "b.npy")
