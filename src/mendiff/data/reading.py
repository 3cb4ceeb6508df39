"""Reads image files of any format, depth and size as pictures: upright (H,W,3) uint8 RGB arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mendiff.errors import InputError, check_range

Picture: TypeAlias = npt.NDArray[np.uint8]

EXTENSIONS = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
        *(".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".sgi", ".tga", ".tif"),
        *(".tiff", ".webp"),
    )
)
"""Lower-case extensions of images that Pillow reads without other programs."""
FORMATS = (
    *("PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "WEBP", "GIF", "AVIF", "PPM", "JPEG2000", "TGA", "PCX"),
    *("QOI", "SGI", "SUN"),
)
"""Pillow's names of allowed formats. Pillow reads further formats, some of them by running Ghostscript."""
ORIENTATION_TAG, WIDTH_TAG, HEIGHT_TAG, BITS_TAG = 0x0112, 256, 257, 258
SWAPS_SIDES = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""
MOST_MEGAPIXELS = 500.0
MEGAPIXELS = "MENDIFF_MAX_MEGAPIXELS"
BAND_PIXELS = 2**18
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
    [0,1]. Of several frames the first is read. Raises InputError, naming the file, if it is missing,
    truncated, damaged, larger than `MENDIFF_MAX_MEGAPIXELS` (default 500), or has an unknown value range.

    Args:
        path: of the file.
        bit_depth: true bit depth of 16-bit files, such as 12; 0 for the declared depth. 8-bit files are not
            changed.
    """
    check_depth(bit_depth)
    path = Path(path)
    with opened(path) as image:
        orientation, top, deep = orientation_of(image, path), _declared_top(image), _is_deep_colour(image)
        image.load()
        if bit_depth and deep and not top:
            return _deep_colour(path, orientation, 2**bit_depth - 1)
        # Pillow rotates a TIFF while loading it, and no other format.
        remaining = 1 if image.format == "TIFF" else orientation
        return _picture(image, remaining, top or 2 ** (bit_depth or 16) - 1, path)


def to_rgb(image: Image.Image, source: str | Path, bit_depth: int = 0) -> Picture:
    """Convert an open Pillow image to (H,W,3) uint8 RGB, as `read_image`; `source` names it in errors."""
    orientation = _legal(image.getexif().get(ORIENTATION_TAG, 1))
    return _picture(image, orientation, _declared_top(image) or 2 ** (bit_depth or 16) - 1, source)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (H, W) of an upright image from its header; errors as in read_header."""
    return read_header(path).size


def read_header(path: str | Path) -> Header:
    """Read the header of an image file; raises InputError, naming the file, if it can't be read."""
    path = Path(path)
    with opened(path) as image:
        orientation = orientation_of(image, path)
        width, height = _stored_size(image)
        size = (width, height) if orientation in SWAPS_SIDES else (height, width)
        deep = (_is_deep_colour(image) or image.mode.startswith("I")) and not _declared_top(image)
        return Header(size, orientation, deep)


def brightest(path: str | Path) -> int:
    """The highest value in an image of more than 8 bits, as stored."""
    path = Path(path)
    with opened(path) as image:
        deep = _is_deep_colour(image)
        image.load()  # raises an error for damaged files
        return int((_sixteen_bits(path)[..., :3] if deep else np.asarray(image)).max())


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
        with opened(path):
            return True
    except InputError:
        return False


def check_depth(bit_depth: int) -> None:
    """Refuse invalid bit depths."""
    if bit_depth:
        check_range("bit_depth", bit_depth, 9, 31)


# ---- opening -----------------------------------------------------------------------------------------


class _NoPillowLimit:
    """Disables Pillow's limit of pixels while reading; `check_pixels` replaces it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._saved = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._saved


_NO_PILLOW_LIMIT = _NoPillowLimit()


@contextmanager
def opened(path: Path, source: Any = None) -> Iterator[Image.Image]:
    """Open an image file and read its header; errors in the block become an InputError that names the file.

    Args:
        path: of the file.
        source: open file with its bytes; by default, the path is opened.
    """
    try:
        # Given a path, Pillow maps a TIFF into memory, with a wrong width if it has an orientation.
        with ExitStack() as stack:
            stack.enter_context(_NO_PILLOW_LIMIT)
            file = stack.enter_context(path.open("rb")) if source is None else source
            image = stack.enter_context(Image.open(file, formats=_formats()))
            check_pixels(path, image.size)
            yield image
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise errors of many types
        raise _unreadable(path, error) from error


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def check_pixels(path: Path, size: tuple[int, int]) -> None:
    """Refuse images (W,H) of more than `MENDIFF_MAX_MEGAPIXELS`."""
    try:
        most = float(os.environ.get(MEGAPIXELS, MOST_MEGAPIXELS))
    except ValueError as error:
        raise InputError(
            f"{MEGAPIXELS}: expected a number of megapixels, got {os.environ[MEGAPIXELS]!r}."
        ) from error
    width, height = size
    if not width * height <= most * 1e6:
        raise InputError(
            f"{path}: expected an image of at most {most:g} megapixels, got {width}x{height} "
            f"({width * height / 1e6:.0f} megapixels); cut it into tiles, or increase {MEGAPIXELS}."
        )


def orientation_of(image: Image.Image, path: Path) -> int:
    """EXIF orientation, 1 to 8, of an image that is not decoded yet."""
    if image.format == "TIFF":
        return _legal(image.tag_v2.get(ORIENTATION_TAG, 1))  # type: ignore[attr-defined]
    return _legal(_header_exif(image, path).get(ORIENTATION_TAG, 1))


def _legal(orientation: Any) -> int:
    return orientation if orientation in range(1, 9) else 1


def _header_exif(image: Image.Image, path: Path) -> Image.Exif:
    """EXIF data without decoding; Pillow decodes every PNG, since EXIF data may follow the pixels."""
    if image.format != "PNG" or image.info.get("exif") or _text_behind_pixels(path):
        return image.getexif()
    return Image.Image.getexif(image)


def _text_behind_pixels(path: Path) -> bool:
    """Whether EXIF or text chunks follow the pixels of a PNG; only chunk headers are read."""
    pixels = False
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            if pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels = pixels or head[4:] == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(W, H) as stored; some versions of Pillow swap the size of a rotated TIFF."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return tags[WIDTH_TAG], tags[HEIGHT_TAG]
    return image.size


def _unreadable(path: Path, error: BaseException) -> InputError:
    if not path.exists():
        return InputError(f"{path}: no such file; check the path.")
    if path.is_dir():
        return InputError(f"{path}: expected an image file, got a folder.")
    if path.stat().st_size == 0:
        return InputError(f"{path}: the file is empty, expected an image; replace or remove it.")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: the image is not readable (permission denied); change its permissions.")
    if isinstance(error, UnidentifiedImageError):
        return InputError(f"{path}: not an image that can be read; replace or remove it.")
    detail = " ".join(str(error).split()).rstrip(".")
    return InputError(f"{path}: the image is truncated or damaged ({detail}); replace or remove it.")


# ---- pixels ------------------------------------------------------------------------------------------


def _picture(image: Image.Image, orientation: int, top: int, source: str | Path) -> Picture:
    """The upright picture, filled in bands, so that there is only one copy of the decoded image."""
    width, height = image.size
    upright = (width, height) if orientation in SWAPS_SIDES else (height, width)
    picture = np.empty((*upright, 3), np.uint8)
    stored = as_stored(picture, orientation)
    rows = max(1, BAND_PIXELS // max(width, 1))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        band = image if rows >= height else image.crop((0, first, width, last))
        stored[first:last] = _rgb(band, top, source)
    return picture


def as_stored(upright: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """View of an upright (H,W,...) array in the stored order of an EXIF orientation."""
    if orientation in (3, 4, 7):
        upright = upright[::-1]
    if orientation in (2, 3, 7):
        upright = upright[:, ::-1]
    if orientation in (5, 7):
        upright = upright.swapaxes(0, 1)
    return np.rot90(upright, {6: 1, 8: -1}.get(orientation, 0))


def as_upright(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The inverse of as_stored."""
    if orientation in (6, 8):
        return np.rot90(stored, {6: -1, 8: 1}[orientation])
    return as_stored(stored, orientation)  # the other orientations are their own inverses


def _rgb(band: Image.Image, top: int, source: str | Path) -> npt.NDArray[Any]:
    """Rows of an image as (H,W,3) uint8, or (H,W,1) if grey."""
    if band.mode in ("I", "F") or band.mode.startswith("I;16"):
        return _to_8_bits(np.asarray(band), top, band.mode == "F", source)[:, :, None]
    if band.mode in ("La", "RGBa"):  # premultiplied alpha; Pillow converts it only between these modes
        band = band.convert({"La": "LA", "RGBa": "RGBA"}[band.mode])
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))[..., :3]
    if band.mode == "L":
        return np.asarray(band)[:, :, None]
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def _to_8_bits(values: npt.NDArray[Any], top: int, unit: bool, source: str | Path) -> Picture:
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if unit and not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
        raise InputError(
            f"{source}: a float image must lie in [0, 1], got {low:g} to {high:g}; "
            "scale it or save it as 8 or 16 bit."
        )
    if not unit and not (low >= 0.0 and high <= top):
        advice = "save it as 8 or 16 bit" if top >= 65535 else "give its bit depth"
        raise InputError(
            f"{source}: an integer image must lie in 0 to {top}, got {low:.0f} to {high:.0f}; {advice}."
        )
    return np.rint(values * (255.0 / (1.0 if unit else top))).astype(np.uint8)


# ---- more than 8 bits --------------------------------------------------------------------------------


def _declared_top(image: Image.Image) -> int:
    """The declared maximum of a file with more than 8 bits; 0 for 16 bits or no declaration."""
    tags = getattr(image, "tag_v2", None)
    if tags:
        bits = max(tags.get(BITS_TAG, (16,)))
        return int(2**bits - 1) if 8 < bits < 16 else 0
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    scaled = image.format == "PPM" and isinstance(arguments, tuple) and arguments[-1] not in (255, 65535)
    return 65535 if scaled else 0  # Pillow has scaled it already


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a colour image, before decoding, has 16 bits per channel; Pillow drops the lower 8 bits."""
    tiles: Any = getattr(image, "tile", None)
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX") or not tiles:
        return False
    arguments = tiles[0][3]
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    deep_ppm = image.format == "PPM" and arguments[-1] == 65535
    return deep_ppm or any(isinstance(mode, str) and ";16" in mode for mode in arguments)


def _sixteen_bits(path: Path) -> npt.NDArray[np.uint16]:
    """Read a colour image as (H,W,3) or (H,W,4) uint16 RGB, in stored orientation."""
    if path.read_bytes()[:2] in (b"II", b"MM"):
        import tifffile  # OpenCV would apply the orientation

        with tifffile.TiffFile(path) as file:
            values = file.pages.first.asarray()
            planar = file.pages.first.axes.startswith("S")
        values = values.transpose(1, 2, 0) if planar else values
    else:
        import cv2  # the import takes half a second and few files need it

        decoded: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
        values = np.asarray(decoded if decoded is not None else ())
        values = values[..., [2, 1, 0, 3][: values.shape[2]]] if values.ndim == 3 else values
    if values.ndim != 3 or values.dtype != np.uint16:
        raise ValueError("its 16-bit values can't be decoded")
    return values


def _deep_colour(path: Path, orientation: int, top: int) -> Picture:
    values = _sixteen_bits(path)
    colours = _to_8_bits(values[..., :3], top, False, path)
    if values.shape[2] == 4:
        visible = values[..., 3:].astype(np.float64) / 65535
        colours = np.rint(255 + (colours - 255.0) * visible).astype(np.uint8)
    return np.ascontiguousarray(as_upright(colours, orientation))
