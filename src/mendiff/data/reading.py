"""Reads image files of any format, depth and size as pictures: upright (H,W,3) uint8 RGB arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mendiff.data.high_depth import (
    declared_top,
    deep_colour,
    is_deep_colour,
    read_tiff,
    read_tiff_header,
    sixteen_bits,
)
from mendiff.data.opening import (
    ARRAY,
    ORIENTATION_TAG,
    SWAPS_SIDES,
    UnknownTiffError,
    legal,
    opened,
    orientation_of,
    stored_size,
)
from mendiff.data.pixels import AS_STORED, Picture, Reading, scale_of, to_picture
from mendiff.data.stacks import array_stack, chosen, is_stack, read_stack
from mendiff.errors import InputError

__all__ = [
    "AS_STORED",
    "Header",
    "Picture",
    "Reading",
    "brightest",
    "further_frames",
    "image_size",
    "is_image",
    "read_header",
    "read_image",
    "to_rgb",
]

DARK_BITS = 14
"""16-bit images whose maximum needs at most this many bits probably have a lower bit depth."""


@dataclass(frozen=True)
class Header:
    """Header of an image file.

    Attributes:
        size: (H, W), upright.
        orientation: EXIF's, 1 to 8; 1 is upright as stored.
        deep: whether values have more than 8 bits and the file does not declare fewer than 16 bits.
    """

    size: tuple[int, int]
    orientation: int
    deep: bool


def read_image(path: str | Path, reading: Reading = AS_STORED) -> Picture:
    """Read an image as (H,W,3) uint8 RGB, upright by its EXIF orientation.

    Transparency is composited on white. 16-bit values are scaled by their full range (65535 -> 255; files
    that declare 9 to 15 bits by that depth), independent of the content. Float files must have values in
    [0,1], or up to the stated bit depth. Of several frames the first is read, unless channels are chosen.
    Raises InputError, naming the file, if it is missing, truncated, damaged, larger than
    `MENDIFF_MAX_MEGAPIXELS` (default 500), or has an unknown value range, more than 4 channels of which none
    are chosen, or not those that are chosen.

    Args:
        path: of the file.
        reading: bit depth and channels.
    """
    path = Path(path)
    if is_stack(path, reading.channels):
        return _stack_picture(path, reading)
    try:
        with opened(path) as image:
            orientation, declared = orientation_of(image, path), declared_top(image)
            deep = is_deep_colour(image)  # unknown after decoding
            scale, mode = scale_of(reading.bit_depth, declared), image.mode
            image.load()
            if reading.bit_depth and deep and not declared:
                image.close()  # frees its pixels
                picture = deep_colour(sixteen_bits(path), orientation, scale, path)
            else:
                # Pillow rotates a TIFF while loading it, and no other format.
                picture = to_picture(image, 1 if image.format == "TIFF" else orientation, scale, path)
            return _with_channels(picture, mode, reading, path)
    except UnknownTiffError:
        found = read_tiff(path)
        return deep_colour(found.values, found.header.orientation, scale_of(reading.bit_depth), path)


def _stack_picture(path: Path, reading: Reading) -> Picture:
    found = read_stack(path, reading.channels)
    return deep_colour(found.values, found.orientation, scale_of(reading.bit_depth, found.declared), path)


def _with_channels(picture: Picture, mode: str, reading: Reading, source: str | Path) -> Picture:
    """The chosen channels of a picture that Pillow decoded from a mode; a grey one has a single channel."""
    if not reading.channels:
        return picture
    grey = mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16")
    values = chosen(picture[..., :1] if grey else picture, reading.channels, source)
    return np.ascontiguousarray(np.broadcast_to(values, picture.shape))


def to_rgb(image: Image.Image, source: str | Path, reading: Reading = AS_STORED) -> Picture:
    """Convert an open Pillow image to (H,W,3) uint8 RGB, as `read_image`; `source` names it in errors."""
    orientation = legal(image.getexif().get(ORIENTATION_TAG, 1))
    scale = scale_of(reading.bit_depth, declared_top(image))
    return _with_channels(to_picture(image, orientation, scale, source), image.mode, reading, source)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (H, W) of an upright image from its header; errors as in read_header."""
    return read_header(path).size


def read_header(path: str | Path) -> Header:
    """Read the header of an image file; raises InputError, naming the file, if it can't be read."""
    path = Path(path)
    if path.suffix.lower() == ARRAY:
        values = array_stack(path).values
        return Header(values.shape[:2], 1, values.dtype.kind in "iu" and values.dtype.itemsize > 1)
    try:
        with opened(path, header=True) as image:
            orientation = orientation_of(image, path)
            width, height = stored_size(image)
            deep = (is_deep_colour(image) or image.mode.startswith("I")) and not declared_top(image)
    except UnknownTiffError:
        found = read_tiff_header(path)
        (height, width), orientation, deep = found.size, found.orientation, found.deep
    size = (width, height) if orientation in SWAPS_SIDES else (height, width)
    return Header(size, orientation, deep)


def brightest(path: str | Path, reading: Reading = AS_STORED) -> int:
    """The highest value in an image of more than 8 bits, as stored; of its chosen channels."""
    path = Path(path)
    if is_stack(path, reading.channels):
        return int(read_stack(path, reading.channels).values.max())
    try:
        with opened(path) as image:
            deep = is_deep_colour(image)
            image.load()  # raises an error for damaged files
            return int((sixteen_bits(path)[..., :3] if deep else np.asarray(image)).max())
    except UnknownTiffError:
        return int(read_tiff(path).values[..., :3].max())


def further_frames(path: Path) -> int:
    """Number of frames of a file that `read_image` ignores; 0 if the file can't be read."""
    try:
        with opened(path, header=True) as image:
            # Further frames of a JPEG (MPO) are previews or stereo images.
            return 0 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1) - 1
    except InputError:
        return 0


def is_image(path: Path) -> bool:
    """Whether a file has the header of an image, whatever its name."""
    try:
        read_header(path)
    except InputError:
        return False
    return True
