"""Converts decoded pixels of any mode, depth and orientation to upright (H,W,3) uint8 RGB."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.data.opening import SWAPS_SIDES
from mendiff.errors import InputError, check_chosen_channels, check_range

if TYPE_CHECKING:
    from mendiff.methods.base_config import MethodConfig

Picture: TypeAlias = npt.NDArray[np.uint8]
BAND_PIXELS = 2**18


@dataclass(frozen=True)
class Reading:
    """How the values of image files become pictures.

    Attributes:
        bit_depth: significant bits of 16-bit and float files, such as 12; 0 for the depth that the files
            declare. 8-bit files are not changed.
        channels: numbers of the channels, from 0, that become red, green and blue, or of a single one that
            becomes grey; empty for grey and RGB images as they are.
    """

    bit_depth: int = 0
    channels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.bit_depth:
            check_range("bit_depth", self.bit_depth, 8, 31)
        check_chosen_channels(self.channels)

    @classmethod
    def of(cls, config: MethodConfig) -> Reading:
        """How a model with a config reads images."""
        return cls(config.bit_depth, config.channels)


AS_STORED = Reading()


@dataclass(frozen=True)
class Scale:
    """The values that become white.

    Attributes:
        whole: of integers with more than 8 bits.
        real: of floats.
    """

    whole: int = 65535
    real: float = 1.0


def scale_of(bit_depth: int, declared: int = 0) -> Scale:
    """The scale for a bit depth that the user states (0 for none) and one that the file declares."""
    stated = 2**bit_depth - 1 if bit_depth else 0
    return Scale(declared or stated or 65535, stated or 1.0)


def to_picture(image: Image.Image, orientation: int, scale: Scale, source: str | Path) -> Picture:
    """The upright picture, filled in bands, so that there is only one copy of the decoded image."""
    width, height = image.size
    upright = (width, height) if orientation in SWAPS_SIDES else (height, width)
    picture = np.empty((*upright, 3), np.uint8)
    stored = as_stored(picture, orientation)
    rows = max(1, BAND_PIXELS // max(width, 1))
    for first in range(0, height, rows):
        last = min(first + rows, height)
        band = image if rows >= height else image.crop((0, first, width, last))
        stored[first:last] = _rgb(band, scale, source)
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


def _rgb(band: Image.Image, scale: Scale, source: str | Path) -> npt.NDArray[Any]:
    """Rows of an image as (H,W,3) uint8, or (H,W,1) if grey."""
    if band.mode in ("I", "F") or band.mode.startswith("I;16"):
        return to_8_bits(np.asarray(band), scale, source)[:, :, None]
    if band.mode in ("La", "RGBa"):  # premultiplied alpha; Pillow converts it only between these modes
        band = band.convert({"La": "LA", "RGBa": "RGBA"}[band.mode])
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba))[..., :3]
    if band.mode == "L":
        return np.asarray(band)[:, :, None]
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def to_8_bits(values: npt.NDArray[Any], scale: Scale, source: str | Path) -> Picture:
    """Scale integers or floats, in bands of rows, so that 0 is black and the scale's value white.

    Raises InputError, naming the source, for values beyond the scale.
    """
    levels = np.empty(values.shape, np.uint8)
    real = np.issubdtype(values.dtype, np.floating)
    top: float = scale.real if real else scale.whole
    rows = max(1, BAND_PIXELS // max(values[:1].size, 1))
    for first in range(0, len(values), rows):
        band = values[first : first + rows].astype(np.float64)
        low, high = float(band.min()), float(band.max())
        if not (low >= 0.0 and high <= top):  # written so that NaN fails too
            raise _beyond(values, scale, source)
        levels[first : first + rows] = np.rint(band * (255.0 / top))
    return levels


def _beyond(values: npt.NDArray[Any], scale: Scale, source: str | Path) -> InputError:
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        allowed = "[0, 1]" if scale.real == 1.0 else f"0 to {scale.real:.0f}"
        advice = "scale it, give its bit depth (--bit-depth 8 for 0 to 255), or save it as 8 or 16 bit"
        return InputError(
            f"{source}: a float image must lie in {allowed}, got {low:g} to {high:g}; {advice}."
        )
    advice = "save it as 8 or 16 bit" if scale.whole >= 65535 else "give its bit depth"
    return InputError(
        f"{source}: an integer image must lie in 0 to {scale.whole}, got {low:.0f} to {high:.0f}; {advice}."
    )
