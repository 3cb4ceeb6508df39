"""Images as tensors: resizing, writing and drawing.

Pictures are (H,W,3) uint8 RGB arrays, masks (H,W) bool arrays; `resize` converts a picture to the (3,S,S)
float32 tensor in [0,1] that is the input of all networks, in training and prediction.
"""

import io
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mendiff.data.bands import bands, write_png
from mendiff.data.disk import short_name
from mendiff.data.masks import Mask
from mendiff.data.reading import Picture
from mendiff.errors import InputError

Heat: TypeAlias = npt.NDArray[np.floating]
FAINT = (0, 230, 210)
"""Colour of faint lines."""

# ---- tensors -----------------------------------------------------------------------------------------


def to_tensor(picture: Picture) -> Tensor:
    """Convert (H,W,3) uint8 to (3,H,W) float32 in [0,1]."""
    return torch.tensor(picture).permute(2, 0, 1).contiguous().float() / 255


def to_picture(image: Tensor) -> Picture:
    """Convert a (3,H,W) float tensor in [0,1] to (H,W,3) uint8, rounded to the nearest level."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.asarray(levels.permute(1, 2, 0).contiguous().cpu().numpy(), dtype=np.uint8)


def resize(image: Picture | Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize: (H,W,3) uint8 or (3,H,W) float in [0,1] -> (3,h,w) float32 in [0,1].

    Bilinear with antialiasing; the aspect ratio is not kept. An image of that size is not
    changed.

    Args:
        image: the image.
        size: (h, w), or the side of a square.
    """
    tall, wide = (size, size) if isinstance(size, int) else size
    if isinstance(image, Tensor):
        x = image.float().contiguous()
        return x if x.shape[-2:] == (tall, wide) else _resized(x, tall, wide).clamp(0, 1)
    if image.shape[:2] == (tall, wide):
        return to_tensor(image)
    # PyTorch resizes along rows first, then along columns. Resizing the rows in bands gives the same
    # values without a float copy of a large picture.
    height, width = image.shape[:2]
    narrow = torch.empty(3, height, wide)
    for rows in bands(height, width):
        band = to_tensor(image[rows])
        narrow[:, rows] = _resized(band, band.shape[1], wide)
    return _resized(narrow, tall, wide).clamp(0, 1)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def resize_mask(mask: Mask, size: int | tuple[int, int]) -> Tensor:
    """Resize a (H,W) bool mask to (1,h,w) bool; `size` is (h, w), or the side of a square.

    Nearest-exact keeps the share of anomalous pixels unbiased; area averaging with a limit of 0.5 would
    erase cracks thinner than half a target pixel.
    """
    x = torch.tensor(mask, dtype=torch.float32)[None, None]
    wanted = (size, size) if isinstance(size, int) else size
    return F.interpolate(x, size=wanted, mode="nearest-exact")[0] > 0.5


# ---- writing -----------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be written, before the work starts whose results are written there."""
    home = next(parent for parent in path.absolute().parents if parent.exists())
    if not home.is_dir():
        raise InputError(f"{path}: expected a path in a folder, but {home} is a file; choose another.")
    if not os.access(home, os.W_OK | os.X_OK):
        raise InputError(f"{path}: expected a writable folder, but {home} is not writable; choose another.")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file completely or not at all; see whole_file."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, put: Callable[[Path, Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file in the same folder for writing; it is renamed if the block succeeds.

    An OSError in the block names the file.

    Args:
        path: of the file.
        put: renames the first path to the second; by default, an existing file is replaced.
    """
    temporary = path.with_name(f".{short_name(path.name)}.{uuid.uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        (put or os.replace)(temporary, path)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def encode(picture: Picture | Mask, kind: str, **options: int) -> bytes:
    """Encode a (H,W,3) or (H,W) uint8 picture, or a bool mask as 0 and 255, in a Pillow format such as PNG or
    WebP.
    """
    values = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def save_png(picture: Picture | Mask, path: Path) -> None:
    """Save a (H,W,3) or (H,W) uint8 picture, or a bool mask as 0 and 255; see whole_file."""
    write_bytes(path, encode(picture, "PNG"))


def save_bands(path: Path, height: int, width: int, pixels: Iterable[Picture]) -> None:
    """Save bands of rows as one PNG file; see whole_file."""
    with whole_file(path) as file:
        write_png(file, height, width, pixels)


def save_float_tiff(path: Path, height: int, width: int, values: Iterable[Heat]) -> None:
    """Save a map as a compressed float32 TIFF; never leaves half a file behind.

    Args:
        path: of the file.
        height: of the map.
        width: of the map.
        values: its rows in the bands of `bands`, (rows,W) each.
    """
    import tifffile

    strip = next(bands(height, width)).stop
    with whole_file(path) as file:
        tifffile.imwrite(
            file,
            (zlib.compress(band.astype("<f4").tobytes()) for band in values),
            shape=(height, width),
            dtype=np.float32,
            byteorder="<",
            compression="zlib",
            rowsperstrip=strip,
        )


# ---- drawing -----------------------------------------------------------------------------------------

# From plum over red and orange to pale yellow. Lightness increases evenly, so that the map is also readable
# in grey and in print.
_HEAT_COLOURS = np.array(
    [
        *((52, 12, 82), (104, 18, 110), (158, 32, 104), (206, 56, 80)),
        *((238, 96, 50), (250, 146, 28), (252, 196, 64), (255, 244, 168)),
    ],
    dtype=np.float64,
)
_HEAT_STOPS = np.linspace(0.0, 1.0, len(_HEAT_COLOURS))


def normalise_heat(anomaly_map: Heat, threshold: float, floor: float = 0.0) -> npt.NDArray[np.float32]:
    """Scale a map linearly for drawing, clipped to [0,1]: `floor` -> 0, `threshold` -> 0.5."""
    span = max(2.0 * (threshold - floor), float(np.finfo(np.float32).tiny))
    return np.clip((np.asarray(anomaly_map, dtype=np.float64) - floor) / span, 0.0, 1.0).astype(np.float32)


def colour_heat(heat: Heat) -> Picture:
    """Colour (H,W) values, clipped to [0,1], as (H,W,3) uint8 with evenly increasing lightness."""
    values = np.clip(np.nan_to_num(heat), 0.0, 1.0)
    channels = [np.interp(values, _HEAT_STOPS, _HEAT_COLOURS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(picture: Picture, heat: Heat) -> Picture:
    """Blend a (H,W) heat map in [0,1] with a (H,W,3) picture; values of 0 leave the picture unchanged."""
    if heat.shape != picture.shape[:2]:
        raise InputError(
            f"A heat map must have its image's size {picture.shape[:2]}, got {heat.shape}; resize it."
        )
    blend = np.empty(picture.shape, np.uint8)
    for rows in bands(*heat.shape):
        blend[rows] = _overlay(picture[rows], heat[rows])
    return blend


def _overlay(picture: Picture, heat: Heat) -> Picture:
    values = np.clip(np.nan_to_num(heat), 0.0, 1.0)[:, :, None]
    # Full opacity is reached at the threshold (0.5), so that all defective pixels are equally visible.
    opacity = 0.8 * np.minimum(2.0 * values, 1.0) ** 2
    grey = picture.astype(np.float64).mean(axis=2, keepdims=True)
    faded = picture + (grey - picture) * opacity  # a grey image keeps the colours of the heat map pure
    blend: Picture = np.rint(faded * (1.0 - opacity) + colour_heat(heat) * opacity).astype(np.uint8)
    return blend


def draw_contour(picture: Picture, mask: Mask, colour: tuple[int, int, int] = (0, 230, 210)) -> Picture:
    """Outline a (H,W) mask on a (H,W,3) picture, with a dark rim for visibility on any background.

    The line is outside of the region (`outline`).
    """
    if mask.shape != picture.shape[:2]:
        raise InputError(
            f"A mask must have its image's size {picture.shape[:2]}, got {mask.shape}; resize it."
        )
    line, rim = outline(mask)
    drawn = picture.copy()
    drawn[rim] = drawn[rim] // 3
    drawn[line] = colour
    return drawn


def boundary(mask: Mask) -> Mask:
    """The pixels of a (H,W) mask next to others, as a line of a width proportional to the image size."""
    width = max(1, round(max(mask.shape) / 400))
    return mask & _grow(~mask, width)


def faint_line(picture: Picture, line: Mask) -> Picture:
    """Draw the pixels of a line (H,W) on a picture (H,W,3), half transparent."""
    drawn = picture.copy()
    drawn[line] = picture[line] // 2 + np.array(FAINT, np.uint8) // 2
    return drawn


def outline(mask: Mask) -> tuple[Mask, Mask]:
    """(line, rim) around a (H,W) mask, both outside of it; their width is proportional to the image size."""
    width = max(1, round(max(mask.shape) / 200))
    grown = _grow(mask, width)
    return grown & ~mask, _grow(mask, 2 * width) & ~grown


def _grow(mask: Mask, by: int) -> Mask:
    x = torch.tensor(mask, dtype=torch.float32)[None, None]
    return np.asarray(F.max_pool2d(x, 2 * by + 1, stride=1, padding=by)[0, 0].numpy() > 0)
