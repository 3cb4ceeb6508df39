"""Images on disk and images as tensors: reading, resizing, writing and drawing.

Pictures are (H,W,3) uint8 RGB arrays, masks (H,W) bool arrays; `resize` turns a picture into the (3,S,S)
float32 tensor in [0,1] that every network sees, for training and for inference alike.
"""

import io
import os
import struct
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
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mendiff.bands import bands, write_png
from mendiff.disk import short_name
from mendiff.errors import InputError

Picture: TypeAlias = npt.NDArray[np.uint8]
Mask: TypeAlias = npt.NDArray[np.bool_]
Heat: TypeAlias = npt.NDArray[np.floating]

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

# What Pillow's decoders raise on damaged files; SyntaxError is its word for a broken header.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, struct.error, zlib.error)
ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_SWAPS_SIDES = frozenset({5, 6, 7, 8})


# ---- reading -----------------------------------------------------------------------------------------


def find_images(path: Path) -> list[Path]:
    """List the image files under a folder, sorted, sub-folders included; a file gives itself.

    Hidden files and folders are skipped; the extensions are `EXTENSIONS`, in either case. Raises InputError
    where there is nothing.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; give an image or a folder of images.")
    found = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in EXTENSIONS
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
        and p.is_file()
    )
    if not found:
        allowed = ", ".join(sorted(e.lstrip(".") for e in EXTENSIONS))
        raise InputError(f"{path}: no images found; expected files of type {allowed}.")
    return found


def read_image(path: str | Path) -> Picture:
    """Read any picture as (H,W,3) uint8 RGB, upright by its EXIF orientation.

    Transparency is composited on white, as viewers show it. Sixteen bits are scaled by their full range
    (65535 -> 255; a TIFF that declares 9 to 15 bits by that depth), never stretched to the content. Float
    TIFFs must lie in [0,1]. Of several frames the first is read. Raises InputError, naming the file, when it
    is missing, truncated, damaged or of a value range whose meaning can't be known.
    """
    return to_rgb(_open(Path(path)), path)


def to_rgb(image: Image.Image, source: str | Path) -> Picture:
    """Turn an open Pillow image into (H,W,3) uint8 RGB, as `read_image` does; `source` names it in errors."""
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _to_8_bits(image, source)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("La", "RGBa"):  # premultiplied alpha; Pillow undoes it only between these pairs
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: str | Path) -> Mask:
    """Read a ground-truth mask as (H,W) bool: anything above 0 is anomalous, class ids and palettes included.

    In a palette image whose entry 0 is black, every other index is anomalous whatever its colour (class ids
    often come with a meaningless palette); otherwise every colour but black is. Transparent pixels are not
    anomalous. Raises InputError, naming the file, when it can't be read.
    """
    image = _open(Path(path))
    if image.mode == "P" and not image.has_transparency_data:
        if not any((image.getpalette("RGB") or [0, 0, 0])[:3]):
            return np.asarray(np.array(image) > 0)
        image = image.convert("RGB")
    elif image.mode not in ("1", "L", "I", "F", "RGB") and not image.mode.startswith("I;16"):
        image = image.convert("RGBA")
    values = np.array(image)
    if values.ndim == 2:
        return np.asarray(values > 0)
    visible = values[..., 3] > 0 if values.shape[2] == 4 else True
    return np.asarray((values[..., :3] > 0).any(axis=2) & visible)


def image_size(path: str | Path) -> tuple[int, int]:
    """Read (H, W) of an upright image from its header alone.

    Raises InputError, naming the file, when the header can't be read.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = _header_exif(image, path).get(ORIENTATION_TAG) in _SWAPS_SIDES
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def _header_exif(image: Image.Image, path: Path) -> Image.Exif:
    """EXIF without decoding; Pillow decodes every PNG for it, since PNG may keep it behind the pixels."""
    if image.format != "PNG" or image.info.get("exif") or _text_behind_pixels(path):
        return image.getexif()
    return Image.Image.getexif(image)


def _text_behind_pixels(path: Path) -> bool:
    """Whether a PNG has EXIF or text, which may hold EXIF, behind pixels; only chunk heads are read."""
    pixels = False
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            if pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            pixels = pixels or head[4:] == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def _open(path: Path) -> Image.Image:
    """Decode a file completely and turn it upright; opening alone would not notice that it is truncated."""
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(
                image, in_place=True
            )  # a copy would forget the tags that tell the bit depth
            return image
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> InputError:
    if not path.exists():
        return InputError(f"{path}: no such file; check the path.")
    if path.is_dir():
        return InputError(f"{path}: expected an image file, got a folder.")
    if path.stat().st_size == 0:
        return InputError(f"{path}: the file is empty, expected an image; replace or remove it.")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: the image may not be read (permission denied); change its permissions.")
    if isinstance(error, UnidentifiedImageError):
        return InputError(f"{path}: not an image that can be read; replace or remove it.")
    detail = " ".join(str(error).split()).rstrip(".")
    return InputError(f"{path}: the image is truncated or damaged ({detail}); replace or remove it.")


def _to_8_bits(image: Image.Image, path: str | Path) -> Picture:
    values = np.array(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
            raise InputError(
                f"{path}: a float image must lie in [0, 1], got {low:g} to {high:g}; "
                "scale it or save it as 8 or 16 bit."
            )
        top = 1.0
    else:
        tags = getattr(image, "tag_v2", {})
        bits = max(tags.get(_BITS_PER_SAMPLE_TAG, (16,))) if tags else 16
        top = float(2 ** min(bits, 16) - 1)
        if not (low >= 0.0 and high <= top):
            raise InputError(
                f"{path}: an integer image must lie in 0 to {top:.0f}, got {low:.0f} to {high:.0f}; "
                "save it as 8 or 16 bit."
            )
    return np.rint(values * (255.0 / top)).astype(np.uint8)


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
