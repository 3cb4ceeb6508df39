"""Images in memory: pictures of any type, and checks of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mendiff.data.image_files import find_images
from mendiff.data.numpy_arrays import check_unit_range, picture_of
from mendiff.data.reading import AS_STORED, Picture, Reading, read_image, to_rgb
from mendiff.errors import InputError


def as_picture(image: Any, reading: Reading = AS_STORED) -> Picture | Tensor:
    """A picture of any type (see mendiff.model.Pictures) as (H,W,3) uint8, or (3,H,W) float32 for a tensor.

    Args:
        image: a path, array, PIL image or tensor.
        reading: bit depth and channels; a tensor is taken as it is.
    """
    if isinstance(image, str | Path):
        return read_image(image, reading)
    if isinstance(image, Tensor):
        return checked_tensor(image)
    return to_rgb(image, "image", reading) if isinstance(image, Image.Image) else picture_of(image, reading)


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
    check_unit_range("tensor", float(image.min()), float(image.max()))
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
