"""Keys that equal images share, computed with as little decoding as possible."""

import hashlib
import io
import zlib
from pathlib import Path

from mendiff.data.opening import ORIENTATION_TAG, opened
from mendiff.data.reading import AS_STORED, Picture, Reading, read_image, to_rgb
from mendiff.errors import InputError

ROWS = 16
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def top_key(path: Path, reading: Reading = AS_STORED) -> str:
    """Key from size and top rows, which equal images share; also detects damaged files.

    Images are equal if all pixels are, whatever the file format. Raises InputError, naming the file, if it
    can't be read.
    """
    found = _top(path) if reading == AS_STORED else None
    if found is None:
        picture = read_image(path, reading)
        found = picture.shape[:2], picture[:ROWS]
    return _top_key(*found)


def keys_of(picture: Picture) -> tuple[str, str]:
    """`top_key` and `whole_key` of a decoded file."""
    return _top_key(picture.shape[:2], picture[:ROWS]), _whole_key(picture)


def whole_key(path: Path, reading: Reading = AS_STORED) -> str:
    """Key from all pixels, which only equal images share."""
    return _whole_key(read_image(path, reading))


def _top_key(size: tuple[int, ...], rows: Picture) -> str:
    return f"{size[0]} {size[1]} {_digest(rows)}"


def _whole_key(picture: Picture) -> str:
    return f"{picture.shape} {_digest(picture)}"


def _digest(picture: Picture) -> str:
    return hashlib.sha256(picture.data).hexdigest()


def _top(path: Path) -> tuple[tuple[int, int], Picture] | None:
    """Size and top rows as in `read_image`; None for damaged images and those that need `read_image`."""
    try:
        data = path.read_bytes()
        with opened(path, io.BytesIO(data)) as image:
            width, height = image.size
            simple = image.mode in ("L", "RGB")
            # Decompressing whole PNG files takes most of the time; checksums detect damage, too.
            if data.startswith(PNG) and data[28] == 0:  # not interlaced: rows are in order
                image.verify()
                data, simple = _cut(data, min(height, ROWS)), True
        with opened(path, io.BytesIO(data)) as image:
            image.load()
            if not simple or image.getexif().get(ORIENTATION_TAG, 1) != 1:
                return None
            return (height, width), to_rgb(image.crop((0, 0, width, min(height, ROWS))), path)
    except (InputError, OSError):
        return None  # read_image reports the problem


def _cut(data: bytes, rows: int) -> bytes:
    """A PNG file with a smaller height in its header; decoders skip the remaining rows."""
    head = data[12:20] + rows.to_bytes(4, "big") + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]
