"""Pictures in memory: NumPy arrays and tensors of the kinds that people have, and what to do with others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mendiff.data.reading import Picture, to_rgb
from mendiff.errors import InputError

CHANNELS = (1, 2, 3, 4)
"""Grey, grey with alpha, RGB, RGBA."""
ROUNDING = 1e-4
"""By how much values may leave [0,1]."""


def picture_of(array: Any, bit_depth: int = 0) -> Picture:
    """An array as the (H,W,3) uint8 picture that a file of the same content is read as.

    Args:
        array: (H,W), (H,W,1), (H,W,3), or with alpha (H,W,2) or (H,W,4): uint8; uint16 of full scale; or
            float32 or float64 in [0,1]. It may be a view of any strides.
        bit_depth: of uint16 values that do not fill all 16 bits; 0 for full scale.

    Raises InputError, saying what to do, for other shapes, types and values.
    """
    values = np.asarray(array)
    if values.ndim == 0:
        raise InputError(
            f"image: expected a path, an array, a PIL image or a tensor, got a {type(array).__name__}."
        )
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    _check_type(values)
    _check_shape(values)
    values = values if values.dtype == np.uint8 else _levels(values, bit_depth)
    values = np.ascontiguousarray(values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    return values if values.ndim == 3 and values.shape[2] == 3 else to_rgb(Image.fromarray(values), "image")


def _check_type(values: npt.NDArray[Any]) -> None:
    if values.dtype in (np.uint8, np.uint16, np.float32, np.float64):
        return
    hint = {
        "b": "multiply it by 255 and use .astype(np.uint8), if it is a picture and no mask",
        "f": "use .astype(np.float32), if its rounding does no harm",
        "i": "use .astype(np.uint8) for values up to 255, .astype(np.uint16) for values up to 65535",
        "u": "use .astype(np.uint8) for values up to 255, .astype(np.uint16) for values up to 65535",
    }.get(values.dtype.kind, "give a path, a PIL image or a tensor")
    raise InputError(f"image: expected an array of uint8, uint16 or float32, got {values.dtype}; {hint}.")


def _check_shape(values: npt.NDArray[Any]) -> None:
    shape = values.shape
    if values.size and (values.ndim == 2 or (values.ndim == 3 and shape[2] in CHANNELS)):
        return
    hint = "give a list of pictures for several"
    if values.size == 0:
        hint = "it holds no pixels"
    elif values.ndim == 3 and shape[0] in CHANNELS:
        hint = "move the channels to the end with np.moveaxis(image, 0, -1)"
    raise InputError(f"image: expected an (H,W,3) RGB or (H,W) grey array, got {shape}; {hint}.")


def _levels(values: npt.NDArray[Any], bit_depth: int) -> npt.NDArray[np.uint8]:
    """Values of another type as 8 bits, as `read_image` makes them of files."""
    if values.dtype == np.uint16:
        top = 2 ** min(bit_depth or 16, 16) - 1
        if int(values.max()) > top:
            raise InputError(
                f"image: expected values of {bit_depth} bits, which the model was fitted with, 0 to {top}, "
                f"got {int(values.max())}."
            )
        scaled: npt.NDArray[np.uint8] = np.rint(values * (255.0 / top)).astype(np.uint8)
        return scaled
    low, high = float(values.min()), float(values.max())
    _check_range("array", low, high)
    levels: npt.NDArray[np.uint8] = np.rint(values.clip(0, 1) * 255.0).astype(np.uint8)
    return levels


def _check_range(kind: str, low: float, high: float) -> None:
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # written so that NaN fails too
        divide = "; divide it by 255" if 1 < high <= 255 and low >= 0 else "; scale them"
        raise InputError(
            f"image: expected a float {kind} with values in [0,1], got {low:g} to {high:g}{divide}."
        )


def checked_tensor(image: Tensor) -> Tensor:
    """A picture as a (3,H,W) float32 tensor in [0,1] on the CPU; rounding beyond that is cut off."""
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        hint = ""
        if image.ndim == 2 or (image.ndim == 3 and image.shape[0] == 1):
            hint = "; repeat a grey one with image.expand(3, -1, -1)"
        elif image.ndim == 3 and image.shape[2] == 3:
            hint = "; move the channels to the front with image.permute(2, 0, 1)"
        raise InputError(
            f"image: expected a float tensor (3,H,W) in [0,1], got {image.dtype} {tuple(image.shape)}{hint}."
        )
    image = in_float32(image).detach().cpu()
    _check_range("tensor", float(image.min()), float(image.max()))
    return image.clamp(0, 1)


def in_float32(image: Tensor) -> Tensor:
    """Pixels as float32; InputError for whole numbers, and for half precision, which rounds grey levels."""
    if image.dtype in (torch.float32, torch.float64):
        return image.float()
    hint = "divide whole numbers by 255"
    if image.is_floating_point():
        hint = (
            "its rounding changes scores: take the image before it was converted, or convert it with .float()"
        )
    kind = str(image.dtype).removeprefix("torch.")
    raise InputError(f"image: expected a float32 tensor in [0,1], got {kind}; {hint}.")
