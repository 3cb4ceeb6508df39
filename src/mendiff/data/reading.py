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
    ORIENTATION_TAG,
    SWAPS_SIDES,
    UnknownTiffError,
    legal,
    opened,
    orientation_of,
    stored_size,
)
from mendiff.data.pixels import Picture, scale_of, to_picture
from mendiff.errors import InputError, check_range

__all__ = [
    "Header",
    "Picture",
    "brightest",
    "check_depth",
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


def read_image(path: str | Path, bit_depth: int = 0) -> Picture:
    """Read an image as (H,W,3) uint8 RGB, upright by its EXIF orientation.

    Transparency is composited on white. 16-bit values are scaled by their full range (65535 -> 255; files
    that declare 9 to 15 bits by that depth), independent of the content. Float TIFFs must have values in
    [0,1], or up to the stated bit depth. Of several frames the first is read. Raises InputError, naming the
    file, if it is missing, truncated, damaged, larger than `MENDIFF_MAX_MEGAPIXELS` (default 500), has more
    than 4 channels or an unknown value range.

    Args:
        path: of the file.
        bit_depth: true bit depth of 16-bit and float files, such as 12; 0 for the declared depth. 8-bit files
            are not changed.
    """
    check_depth(bit_depth)
    path = Path(path)
    try:
        with opened(path) as image:
            orientation, declared = orientation_of(image, path), declared_top(image)
            deep = is_deep_colour(image)  # unknown after decoding
            scale = scale_of(bit_depth, declared)
            image.load()
            if bit_depth and deep and not declared:
                image.close()  # frees its pixels
                return deep_colour(sixteen_bits(path), orientation, scale, path)
            # Pillow rotates a TIFF while loading it, and no other format.
            return to_picture(image, 1 if image.format == "TIFF" else orientation, scale, path)
    except UnknownTiffError:
        found = read_tiff(path)
        return deep_colour(found.values, found.header.orientation, scale_of(bit_depth), path)


def to_rgb(image: Image.Image, source: str | Path, bit_depth: int = 0) -> Picture:
    """Convert an open Pillow image to (H,W,3) uint8 RGB, as `read_image`; `source` names it in errors."""
    orientation = legal(image.getexif().get(ORIENTATION_TAG, 1))
    return to_picture(image, orientation, scale_of(bit_depth, declared_top(image)), source)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (H, W) of an upright image from its header; errors as in read_header."""
    return read_header(path).size


def read_header(path: str | Path) -> Header:
    """Read the header of an image file; raises InputError, naming the file, if it can't be read."""
    path = Path(path)
    try:
        with opened(path) as image:
            orientation = orientation_of(image, path)
            width, height = stored_size(image)
            deep = (is_deep_colour(image) or image.mode.startswith("I")) and not declared_top(image)
    except UnknownTiffError:
        found = read_tiff_header(path)
        (height, width), orientation, deep = found.size, found.orientation, found.deep
    size = (width, height) if orientation in SWAPS_SIDES else (height, width)
    return Header(size, orientation, deep)


def brightest(path: str | Path) -> int:
    """The highest value in an image of more than 8 bits, as stored."""
    path = Path(path)
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
        with opened(path) as image:
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


def check_depth(bit_depth: int) -> None:
    """Refuse invalid bit depths."""
    if bit_depth:
        check_range("bit_depth", bit_depth, 8, 31)
