"""Reads pixels of more than 8 bits that Pillow would cut to 8 bits or can't read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.data.opening import BITS_TAG, check_channels, check_pixels, legal, starts_as_tiff
from mendiff.data.pixels import Picture, Scale, as_upright, to_8_bits
from mendiff.errors import InputError

# tifffile logs damage before it raises an error; other users of tifffile in the process keep its messages.
_QUIET = ContextVar("quiet", default=False)
logging.getLogger("tifffile").addFilter(lambda _: not _QUIET.get())
ALPHA = (1, 2)
"""TIFF's values of ExtraSamples for transparency."""


def declared_top(image: Image.Image) -> int:
    """The declared maximum of a file with more than 8 bits; 0 for 16 bits or no declaration."""
    tags = getattr(image, "tag_v2", None)
    if tags:
        bits = max(tags.get(BITS_TAG, (16,)))
        return int(2**bits - 1) if 8 < bits < 16 else 0
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    scaled = image.format == "PPM" and isinstance(arguments, tuple) and arguments[-1] not in (255, 65535)
    return 65535 if scaled else 0  # Pillow has scaled it already


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a colour image, before decoding, has 16 bits per channel; Pillow drops the lower 8 bits."""
    tiles: Any = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX") or not tiles:
        return False
    arguments = tiles[0][3]
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    deep_ppm = image.format == "PPM" and arguments[-1] == 65535
    return deep_ppm or any(isinstance(mode, str) and ";16" in mode for mode in arguments)


def sixteen_bits(path: Path) -> npt.NDArray[np.uint16]:
    """Read a colour image as (H,W,3) or (H,W,4) uint16 RGB, in stored orientation."""
    if starts_as_tiff(path):
        values = read_tiff(path).values
    else:
        import cv2  # the import takes half a second and few files need it

        decoded: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        values = np.asarray(decoded if decoded is not None else ())
        values = values[..., [2, 1, 0, 3][: values.shape[2]]] if values.ndim == 3 else values
    if values.ndim != 3 or values.dtype != np.uint16:
        raise ValueError("its 16-bit values can't be decoded")
    return values


def deep_colour(values: npt.NDArray[Any], orientation: int, scale: Scale, path: Path) -> Picture:
    """Convert (H,W), (H,W,3) or, with alpha, (H,W,4) values of any type to an upright picture."""
    values = values if values.ndim == 3 else values[..., None]
    plain = values.dtype == np.uint8
    colours = values[..., :3].copy() if plain else to_8_bits(values[..., :3], scale, path)
    if values.shape[2] == 4:
        opaque = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
        for row, alpha in zip(colours, values[..., 3:], strict=True):  # by rows: no second copy
            row[:] = np.rint(255 + (row - 255.0) * (alpha.astype(np.float64) / opaque))
    colours = np.broadcast_to(colours, (*colours.shape[:2], 3)) if colours.shape[2] == 1 else colours
    return np.ascontiguousarray(as_upright(colours, orientation))


# ---- TIFF --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TiffHeader:
    """Header of the first page of a TIFF file.

    Attributes:
        size: (H, W) as stored.
        orientation: EXIF's, 1 to 8.
        deep: whether values are integers of more than 8 bits.
    """

    size: tuple[int, int]
    orientation: int
    deep: bool


@dataclass(frozen=True)
class TiffImage:
    """The first page of a TIFF file: header and (H,W) or (H,W,C) values as stored."""

    header: TiffHeader
    values: npt.NDArray[Any]


def read_tiff_header(path: Path) -> TiffHeader:
    """The header of a TIFF file, also of floats and other types that Pillow does not read."""
    return _tiff(path, pixels=False).header


def read_tiff(path: Path) -> TiffImage:
    """The first page of a TIFF file; raises InputError, naming the file, if it can't be read."""
    return _tiff(path, pixels=True)


def _tiff(path: Path, pixels: bool) -> TiffImage:
    with open_tiff(path) as file:
        page: Any = file.pages.first
        check_pixels(path, (page.imagewidth, page.imagelength))
        orientation = page.tags.valueof("Orientation", 1)
        deep = page.dtype is not None and page.dtype.kind in "iu" and page.dtype.itemsize > 1
        header = TiffHeader((page.imagelength, page.imagewidth), legal(orientation), deep)
        if not pixels:
            return TiffImage(header, np.empty((*header.size, 0)))
        # A channel beyond grey or RGB is transparency only if the file says so.
        alpha = any(extra in ALPHA for extra in page.extrasamples)
        check_channels(path, page.samplesperpixel, (1, 3, 4) if alpha else (1, 3))
        values = page.asarray()
        if page.axes.startswith("S"):  # a plane for each channel
            values = values.transpose(1, 2, 0)
        fits = values.shape[:2] == header.size and values.ndim in (2, 3)
        if not fits or values.dtype.kind not in "uifb":
            raise ValueError("its pixels do not fit its header")
    return TiffImage(header, values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values)


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF file with tifffile; errors in the block become an InputError that names the file."""
    import tifffile

    quiet = _QUIET.set(True)
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many types
        detail = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{path}: the TIFF image can't be read ({detail}); save it as 8 or 16 bit."
        ) from error
    finally:
        _QUIET.reset(quiet)
