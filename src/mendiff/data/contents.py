"""Which pictures are equal, without decoding more of them than that takes."""

import hashlib
import io
import zlib
from pathlib import Path

from mendiff.data.reading import ORIENTATION_TAG, Picture, opened, read_image, to_rgb
from mendiff.errors import InputError

ROWS = 16
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def top_key(path: Path) -> str:
    """A key that equal pictures share, from their size and top rows; whether the file is whole is seen too.

    Pictures are equal when all their pixels are, whatever the file format. Raises InputError, naming the
    file, when it can't be read.
    """
    found = _top(path)
    if found is None:
        picture = read_image(path)
        found = picture.shape[:2], picture[:ROWS]
    return _top_key(*found)


def keys_of(picture: Picture) -> tuple[str, str]:
    """What `top_key` and `whole_key` give of a file, from its decoded picture."""
    return _top_key(picture.shape[:2], picture[:ROWS]), _whole_key(picture)


def whole_key(path: Path) -> str:
    """A key that equal pictures share and no others, from all their pixels."""
    return _whole_key(read_image(path))


def _top_key(size: tuple[int, ...], rows: Picture) -> str:
    return f"{size[0]} {size[1]} {_digest(rows)}"


def _whole_key(picture: Picture) -> str:
    return f"{picture.shape} {_digest(picture)}"


def _digest(picture: Picture) -> str:
    return hashlib.sha256(picture.data).hexdigest()


def _top(path: Path) -> tuple[tuple[int, int], Picture] | None:
    """Size and top rows as `read_image` gives them; None for images that are damaged or need all its care."""
    try:
        data = path.read_bytes()
        with opened(path, io.BytesIO(data)) as image:
            width, height = image.size
            usual = image.mode in ("L", "RGB")
            # Inflating whole PNG files takes nearly all of the time; their checksums tell damage as well.
            if data.startswith(PNG) and data[28] == 0:  # not interlaced: rows come in their order
                image.verify()
                data, usual = _cut(data, min(height, ROWS)), True
        with opened(path, io.BytesIO(data)) as image:
            image.load()
            if not usual or image.getexif().get(ORIENTATION_TAG, 1) != 1:
                return None
            return (height, width), to_rgb(image.crop((0, 0, width, min(height, ROWS))), path)
    except (InputError, OSError):
        return None  # read_image tells what is wrong


def _cut(data: bytes, rows: int) -> bytes:
    """A PNG file that claims to be only so many rows high; decoders stop there and skip the rest."""
    head = data[12:20] + rows.to_bytes(4, "big") + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]
