"""Images in memory: checks and converts NumPy arrays and tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from mendiff.data.image_files import find_images
from mendiff.data.reading import Picture, read_image, to_rgb
from mendiff.errors import InputError

CHANNELS = (1, 2, 3, 4)
"""Grey, grey with alpha, RGB, RGBA."""
ROUNDING = 1e-4
"""Tolerance at the bounds of [0,1]."""


def as_picture(image: Any, bit_depth: int = 0) -> Picture | Tensor:
    """A picture of any type (see mendiff.model.Pictures) as (H,W,3) uint8, or (3,H,W) float32 for a tensor.

    Args:
        image: a path, array, PIL image or tensor.
        bit_depth: see read_image.
    """
    if isinstance(image, str | Path):
        return read_image(image, bit_depth)
    if isinstance(image, Tensor):
        return checked_tensor(image)
    return (
        to_rgb(image, "image", bit_depth) if isinstance(image, Image.Image) else picture_of(image, bit_depth)
    )


def picture_of(array: Any, bit_depth: int = 0) -> Picture:
    """Convert an array to the (H,W,3) uint8 picture that `read_image` returns for a file of the same content.

    Args:
        array: (H,W), (H,W,1), (H,W,3), or with alpha (H,W,2) or (H,W,4): uint8; full-scale uint16; or
            float32 or float64 in [0,1]. Views with any strides are allowed.
        bit_depth: bits of uint16 values, such as 12; 0 for full scale.

    Raises InputError for other shapes, types and values.
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
    """Check an image tensor; returns (3,H,W) float32 on the CPU, clipped to [0,1]."""
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        hint = ""
        if image.ndim == 2 or (image.ndim == 3 and image.shape[0] == 1):
            hint = "; repeat the channel of a grey image with image.expand(3, -1, -1)"
        elif image.ndim == 3 and image.shape[2] == 3:
            hint = "; move the channels to the front with image.permute(2, 0, 1)"
        raise InputError(
            f"image: expected a float tensor (3,H,W) in [0,1], got {image.dtype} {tuple(image.shape)}{hint}."
        )
    image = in_float32(image).detach().cpu()
    _check_range("tensor", float(image.min()), float(image.max()))
    return image.clamp(0, 1)


def in_float32(image: Tensor) -> Tensor:
    """Convert pixels to float32; InputError for integers and for half precision, which rounds grey levels."""
    if image.dtype in (torch.float32, torch.float64):
        return image.float()
    hint = "divide whole numbers by 255"
    if image.is_floating_point():
        hint = (
            "its rounding changes scores: give the image before it was converted, or convert it with .float()"
        )
    kind = str(image.dtype).removeprefix("torch.")
    raise InputError(f"image: expected a float32 tensor in [0,1], got {kind}; {hint}.")


def as_list(images: Any) -> list[Any]:
    """A list of single pictures from one or more pictures of any type; InputError for none.

    A folder stands for its images, see find_images.
    """
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        images = list(images)
    given = list(images) if isinstance(images, list | tuple) else [images]
    listed = [one for some in given for one in (find_images(Path(some)) if _is_folder(some) else [some])]
    if not listed:
        raise InputError("images: expected at least one image, got none.")
    return listed


def _is_folder(image: Any) -> bool:
    return isinstance(image, str | Path) and Path(image).is_dir()
