"""Bilinear resizing with antialiasing, equal to torch's on x86-64 processors, bit for bit.

The bits matter: noise is seeded by the pixels of the resized image, rounded to 8 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
LANES = 4
"""Products that torch's loop rounds separately; those of an incomplete group are fused with the addition."""


def resized(image: Array, height: int, width: int) -> Array:
    """Resize along rows, then along columns, (C,H,W) float32 in [0,1] to (C,height,width)."""
    narrow = _along(image, width)
    tall = _along(np.swapaxes(narrow, 1, 2), height)
    whole: Array = np.ascontiguousarray(np.swapaxes(tall, 1, 2)).clip(0, 1)
    return image if image.shape[1:] == (height, width) else whole


def _along(values: Array, count: int) -> Array:
    """Resize the last axis to `count` values."""
    if values.shape[-1] == count:
        return values
    first, sizes, weights = triangles(values.shape[-1], count)
    fused_from = 1 + (sizes - 1) // LANES * LANES
    total = values[..., first] * weights[:, 0]
    for tap in range(1, weights.shape[1]):
        added = values[..., np.minimum(first + tap, values.shape[-1] - 1)]
        if (tap < fused_from).all():
            total = total + added * weights[:, tap]
            continue
        product = added.astype(np.float64) * weights[:, tap]  # exact
        product = np.where(tap < fused_from, product.astype(np.float32), product)
        total = np.where(tap < sizes, (product + total).astype(np.float32), total)
    return total


def triangles(length: int, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Array]:
    """First input value, number of input values (count,), and their weights (count,T) for every output value.

    A triangle of the width of two output values, or of two input values where those are wider.
    """
    scale = np.float32(length) / np.float32(count)
    support, inverse = (scale, np.float32(1) / scale) if scale >= 1 else (np.float32(1), np.float32(1))
    centres = (np.float64(scale) * (np.arange(count) + 0.5)).astype(np.float32)
    first = np.maximum(((centres - support).astype(np.float64) + 0.5).astype(np.int64), 0)
    last = np.minimum(((centres + support).astype(np.float64) + 0.5).astype(np.int64), length)
    at = first[:, None] + np.arange(int((last - first).max()))
    distance = (at.astype(np.float32) - centres[:, None]).astype(np.float64) + 0.5
    share = np.float32(1) - np.abs((distance * np.float64(inverse)).astype(np.float32))
    weights = np.where((share > 0) & (at < last[:, None]), share, np.float32(0))
    total = np.zeros(count, np.float32)
    for tap in weights.T:  # torch adds them in this order
        total += tap
    return first, last - first, (weights / total[:, None]).astype(np.float32)
