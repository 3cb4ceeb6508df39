"""Converts NumPy arrays of any depth to pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.data.reading import AS_STORED, Picture, Reading, to_rgb
from mendiff.data.stacks import chosen
from mendiff.errors import InputError

CHANNELS = (1, 2, 3, 4)
"""Grey, grey with alpha, RGB, RGBA."""
ROUNDING = 1e-4
"""Tolerance at the bounds of [0,1]."""


def picture_of(array: Any, reading: Reading = AS_STORED) -> Picture:
    """Convert an array to the (H,W,3) uint8 picture that `read_image` returns for a file of the same content.

    Args:
        array: (H,W), (H,W,1), (H,W,3), or with alpha (H,W,2) or (H,W,4): uint8; full-scale uint16; or
            float32 or float64 in [0,1]. Views with any strides are allowed.
        reading: bit depth of uint16 values, and the channels to choose from an (H,W,C) array; (H,W,3) counts
            as chosen, as `read_image` returns it.

    Raises InputError for other shapes, types and values.
    """
    values = np.asarray(array)
    if values.ndim == 0:
        raise InputError(
            f"image: expected a path, an array, a PIL image or a tensor, got a {type(array).__name__}."
        )
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    _check_type(values)
    if reading.channels and values.ndim in (2, 3) and values.shape[2:] != (3,):
        values = chosen(values if values.ndim == 3 else values[..., None], reading.channels, "image")
    _check_shape(values)
    values = values if values.dtype == np.uint8 else _levels(values, reading.bit_depth)
    values = np.ascontiguousarray(values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return values if values.ndim == 3 and values.shape[2] == 3 else to_rgb(Image.fromarray(values), "image")


def _check_type(values: npt.NDArray[Any]) -> None:
    if values.dtype in (np.uint8, np.uint16, np.float32, np.float64):
        return
    hint = {
        "b": "multiply it by 255 and use .astype(np.uint8), if it is an image and not a mask",
        "f": "use .astype(np.float32), if the lower precision is acceptable",
        "i": "use .astype(np.uint8) for values up to 255, .astype(np.uint16) for values up to 65535",
        "u": "use .astype(np.uint8) for values up to 255, .astype(np.uint16) for values up to 65535",
    }.get(values.dtype.kind, "give a path, a PIL image or a tensor")
    raise InputError(f"image: expected an array of uint8, uint16 or float32, got {values.dtype}; {hint}.")


def _check_shape(values: npt.NDArray[Any]) -> None:
    shape = values.shape
    if values.size and (values.ndim == 2 or (values.ndim == 3 and shape[2] in CHANNELS)):
        return
    hint = "give several images as a list"
    if values.size == 0:
        hint = "it has no pixels"
    elif values.ndim == 3 and shape[0] in CHANNELS:
        hint = "move the channels to the end with np.moveaxis(image, 0, -1)"
    raise InputError(f"image: expected an (H,W,3) RGB or (H,W) grey array, got {shape}; {hint}.")


def _levels(values: npt.NDArray[Any], bit_depth: int) -> npt.NDArray[np.uint8]:
    """Convert uint16 and float values to 8 bits, as `read_image` does for files."""
    if values.dtype == np.uint16:
        top = 2 ** min(bit_depth or 16, 16) - 1
        if int(values.max()) > top:
            raise InputError(
                f"image: expected values from 0 to {top}, since the model was fitted with {bit_depth} bits, "
                f"got {int(values.max())}."
            )
        scaled: npt.NDArray[np.uint8] = np.rint(values * (255.0 / top)).astype(np.uint8)
        return scaled
    low, high = float(values.min()), float(values.max())
    check_unit_range("array", low, high)
    levels: npt.NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255.0).astype(np.uint8)
    return levels


def check_unit_range(kind: str, low: float, high: float) -> None:
    """Raise InputError for values of a float array or tensor (`kind`) outside [0,1]."""
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # written so that NaN fails too
        divide = "; divide it by 255" if 1 < high <= 255 and low >= 0 else "; scale them"
        raise InputError(
            f"image: expected a float {kind} with values in [0,1], got {low:g} to {high:g}{divide}."
        )
