"""Opens image files: formats, limits of size, orientation, and errors that name the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image, UnidentifiedImageError

from mendiff.errors import InputError

EXTENSIONS = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
        *(".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".sgi", ".tga", ".tif"),
        *(".tiff", ".webp"),
    )
)
"""Lower-case extensions of images that Pillow reads without other programs."""
ARRAY = ".npy"
IMAGES = EXTENSIONS | {ARRAY}
"""Lower-case extensions of all files that may be images."""
FORMATS = (
    *("PNG", "JPEG", "MPO", "TIFF", "BMP", "DIB", "WEBP", "GIF", "AVIF", "PPM", "JPEG2000", "TGA", "PCX"),
    *("QOI", "SGI", "SUN"),
)
"""Pillow's names of allowed formats. Pillow reads further formats, some of them by running Ghostscript."""
ORIENTATION_TAG, WIDTH_TAG, HEIGHT_TAG, BITS_TAG, CHANNELS_TAG = 0x0112, 256, 257, 258, 277
SWAPS_SIDES = frozenset({5, 6, 7, 8})
"""EXIF orientations that exchange width and height."""
MOST_MEGAPIXELS = 500.0
MEGAPIXELS = "MENDIFF_MAX_MEGAPIXELS"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF file."""


class UnknownTiffError(InputError):
    """A TIFF file that Pillow can't read; `mendiff.data.tiffs` may."""


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
def opened(path: Path, source: Any = None, *, header: bool = False) -> Iterator[Image.Image]:
    """Open an image file and read its header; errors in the block become an InputError that names the file.

    Args:
        path: of the file.
        source: open file with its bytes; by default, the path is opened.
        header: whether only the header is used; then a TIFF may have any number of channels.
    """
    try:
        # Given a path, Pillow maps a TIFF into memory, with a wrong width if it has an orientation.
        with ExitStack() as stack:
            stack.enter_context(_NO_PILLOW_LIMIT)
            file = stack.enter_context(path.open("rb")) if source is None else source
            image = stack.enter_context(Image.open(file, formats=_formats()))
            check_pixels(path, image.size)
            if image.format == "TIFF" and not header:
                check_channels(path, image.tag_v2.get(CHANNELS_TAG, 1))  # type: ignore[attr-defined]
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


def check_channels(path: Path, channels: Any, allowed: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Refuse images of other channels than grey or RGB, and transparency; Pillow reads the first ones."""
    if channels not in allowed:
        raise InputError(
            f"{path}: expected a grey or RGB image, got {channels} channels; choose up to three of them, "
            "such as --channels 0 2 5 (documentation, Data, several lights)."
        )


def orientation_of(image: Image.Image, path: Path) -> int:
    """EXIF orientation, 1 to 8, of an image that is not decoded yet."""
    if image.format == "TIFF":
        return legal(image.tag_v2.get(ORIENTATION_TAG, 1))  # type: ignore[attr-defined]
    return legal(_header_exif(image, path).get(ORIENTATION_TAG, 1))


def legal(orientation: Any) -> int:
    """An EXIF orientation from 1 to 8; 1 for other values."""
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


def stored_size(image: Image.Image) -> tuple[int, int]:
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
    if isinstance(error, UnidentifiedImageError) and starts_as_tiff(path):
        return UnknownTiffError(f"{path}: not a TIFF image that can be read; save it as 8 or 16 bit.")
    if isinstance(error, UnidentifiedImageError):
        return InputError(f"{path}: not an image that can be read; replace or remove it.")
    detail = " ".join(str(error).split()).rstrip(".")
    return InputError(f"{path}: the image is truncated or damaged ({detail}); replace or remove it.")


def starts_as_tiff(path: Path) -> bool:
    """Whether a file begins like a TIFF file; False if it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) in TIFF_STARTS
    except OSError:
        return False
