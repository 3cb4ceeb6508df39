"""Images as tensors: resizing, writing and drawing.

Pictures are (H,W,3) uint8 RGB arrays, masks (H,W) bool arrays; `resize` turns a picture into the (3,S,S)
float32 tensor in [0,1] that every network sees, for training and for inference alike.
"""

import io
import os
import uuid
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

# ---- tensors -----------------------------------------------------------------------------------------


def to_tensor(picture: Picture) -> Tensor:
    """Turn (H,W,3) uint8 into (3,H,W) float32 in [0,1]."""
    return torch.tensor(picture).permute(2, 0, 1).contiguous().float() / 255


def to_picture(image: Tensor) -> Picture:
    """Turn a (3,H,W) float tensor in [0,1] into (H,W,3) uint8, rounding to the nearest level."""
    levels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.asarray(levels.permute(1, 2, 0).contiguous().cpu().numpy(), dtype=np.uint8)


def resize(image: Picture | Tensor, size: int) -> Tensor:
    """Resize to a square: (H,W,3) uint8 or (3,H,W) float in [0,1] -> (3,size,size) float32 in [0,1].

    Bilinear with antialiasing; the aspect ratio is not kept. An image that already has the size passes
    unchanged.
    """
    if isinstance(image, Tensor):
        x = image.float().contiguous()
        return x if x.shape[-2:] == (size, size) else _resized(x, size, size).clamp(0, 1)
    if image.shape[:2] == (size, size):
        return to_tensor(image)
    # PyTorch resizes along rows first, then along columns: to do the first band by band gives the same
    # numbers without a float copy of a large picture.
    height, width = image.shape[:2]
    narrow = torch.empty(3, height, size)
    for rows in bands(height, width):
        band = to_tensor(image[rows])
        narrow[:, rows] = _resized(band, band.shape[1], size)
    return _resized(narrow, size, size).clamp(0, 1)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def resize_mask(mask: Mask, size: int) -> Tensor:
    """Resize a (H,W) bool mask to (1,size,size) bool.

    Nearest-exact: it keeps the share of anomalous pixels unbiased, where a rule of half the area would erase
    cracks thinner than half a target pixel.
    """
    x = torch.tensor(mask, dtype=torch.float32)[None, None]
    return F.interpolate(x, size=(size, size), mode="nearest-exact")[0] > 0.5


# ---- writing -----------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Refuse a place where nothing can be written, before the work whose results should go there."""
    home = next(parent for parent in path.absolute().parents if parent.exists())
    if not home.is_dir():
        raise InputError(f"{path}: expected a place in a folder, but {home} is a file; choose another.")
    if not os.access(home, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: expected a place that may be written to, but {home} may not; choose another."
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; see whole_file."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, put: Callable[[Path, Path], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write under a temporary name in the same folder, which is renamed when the block ends well.

    An OSError of the block names the file, also where the system does not say which it was.

    Args:
        path: of the file.
        put: renames the first path to the second; unless given, whatever is there is replaced.
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
    """Save a (H,W,3) or (H,W) uint8 picture, or a bool mask as 0 and 255; never leaves half a file behind."""
    write_bytes(path, encode(picture, "PNG"))


def save_bands(path: Path, height: int, width: int, pixels: Iterable[Picture]) -> None:
    """Save a picture of which there are only bands of rows, as PNG; never leaves half a file behind."""
    with whole_file(path) as file:
        write_png(file, height, width, pixels)


# ---- drawing -----------------------------------------------------------------------------------------

# From plum over red and orange to pale yellow; lightness rises evenly, so the map also reads in grey and in
# print.
_HEAT_COLOURS = np.array(
    [
        52,
        12,
        82,
        104,
        18,
        110,
        158,
        32,
        104,
        206,
        56,
        80,
        238,
        96,
        50,
        250,
        146,
        28,
        252,
        196,
        64,
        255,
        244,
        168,
    ],
    dtype=np.float64,
).reshape(-1, 3)
_HEAT_STOPS = np.linspace(0.0, 1.0, len(_HEAT_COLOURS))


def normalise_heat(anomaly_map: Heat, threshold: float, floor: float = 0.0) -> npt.NDArray[np.float32]:
    """Scale a map to [0,1] for drawing: `floor` -> 0, `threshold` -> 0.5, as far above the threshold again ->
    1.
    """
    span = max(2.0 * (threshold - floor), float(np.finfo(np.float32).tiny))
    return np.clip((np.asarray(anomaly_map, dtype=np.float64) - floor) / span, 0.0, 1.0).astype(np.float32)


def colour_heat(heat: Heat) -> Picture:
    """Colour (H,W) values, clipped to [0,1], as (H,W,3) uint8 with evenly rising lightness."""
    values = np.clip(np.nan_to_num(heat), 0.0, 1.0)
    channels = [np.interp(values, _HEAT_STOPS, _HEAT_COLOURS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def overlay(picture: Picture, heat: Heat) -> Picture:
    """Lay a (H,W) heat map in [0,1] over a (H,W,3) picture; where there is no heat the picture stays as it
    is.
    """
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
    # Full colour is reached at the threshold (0.5), so that all that counts as defective is equally easy to
    # see.
    opacity = 0.8 * np.minimum(2.0 * values, 1.0) ** 2
    grey = picture.astype(np.float64).mean(axis=2, keepdims=True)
    calm = picture + (grey - picture) * opacity  # colour of the part and colour of the heat would mix to mud
    blend: Picture = np.rint(calm * (1.0 - opacity) + colour_heat(heat) * opacity).astype(np.uint8)
    return blend


def draw_contour(picture: Picture, mask: Mask, colour: tuple[int, int, int] = (0, 230, 210)) -> Picture:
    """Outline a (H,W) mask on a (H,W,3) picture, with a dark rim so that the line shows on any ground.

    The line runs just outside the region and covers none of it (`outline`).
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


def outline(mask: Mask) -> tuple[Mask, Mask]:
    """(line, rim) around a (H,W) mask, both just outside of it; their width grows with the image."""
    width = max(1, round(max(mask.shape) / 200))
    grown = _grow(mask, width)
    return grown & ~mask, _grow(mask, 2 * width) & ~grown


def _grow(mask: Mask, by: int) -> Mask:
    x = torch.tensor(mask, dtype=torch.float32)[None, None]
    return np.asarray(F.max_pool2d(x, 2 * by + 1, stride=1, padding=by)[0, 0].numpy() > 0)
