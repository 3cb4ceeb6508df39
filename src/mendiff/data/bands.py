"""Processes images in bands of rows, so that images of hundreds of megapixels need no second copy."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.data.pixels import BAND_PIXELS

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def bands(height: int, width: int) -> Iterator[slice]:
    """Row slices from top to bottom, each of about BAND_PIXELS pixels."""
    rows = max(1, BAND_PIXELS // width)
    return (slice(first, min(first + rows, height)) for first in range(0, height, rows))


class Enlarged:
    """Bilinear upsampling of a (C,h,w) tensor to (height, width), computed per band; equals F.interpolate.

    Args:
        small: the tensor.
        height: of the result.
        width: of the result.
        inside: (height,width) bool; elsewhere the result is 0, or the lowest value of `small` if that is
            negative. None for everywhere.
    """

    def __init__(
        self, small: Tensor, height: int, width: int, inside: npt.NDArray[np.bool_] | None = None
    ) -> None:
        self._inside = None if inside is None else torch.from_numpy(inside)
        self._outside = small.min().clamp(max=0)
        self._wide = small.float()
        if small.shape[2] != width:
            self._wide = F.interpolate(
                self._wide[None], size=(small.shape[1], width), mode="bilinear", align_corners=False
            )[0]
        centres = (torch.arange(height, dtype=torch.float32) + 0.5) * (small.shape[1] / height) - 0.5
        centres = centres.clamp(min=0)
        self._upper = centres.long()
        self._lower = (self._upper + 1).clamp(max=small.shape[1] - 1)
        self._share = centres - self._upper

    def __getitem__(self, rows: slice) -> Tensor:
        """Upsampled rows, (C,rows,width)."""
        share = self._share[rows, None]
        band = self._wide[:, self._upper[rows]] * (1 - share) + self._wide[:, self._lower[rows]] * share
        return band if self._inside is None else torch.where(self._inside[rows], band, self._outside)


def write_png(file: BinaryIO, height: int, width: int, pixels: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Write an RGB image as PNG from bands of rows, (rows,width,3) uint8, from top to bottom.

    Source: PNG specification, third edition. Every row uses the filter Sub or Up, whichever has the smaller
    sum of absolute differences.
    """
    file.write(SIGNATURE)
    _chunk(file, b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    compressor = zlib.compressobj()
    above = np.zeros((1, width, 3), np.uint8)
    for band in pixels:
        _chunk(file, b"IDAT", compressor.compress(_filtered(band, above)))
        above = band[-1:].copy()
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")


def _filtered(band: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8]) -> bytes:
    """Rows with their filter type: 1 (Sub, minus the left pixel) or 2 (Up, minus the pixel above)."""
    sub, up = band.copy(), band.copy()
    sub[:, 1:] -= band[:, :-1]
    up[1:] -= band[:-1]
    up[:1] -= above
    # Differences are modulo 256: 255 is as near to 0 as 1.
    costs = [np.minimum(rows, 0 - rows).sum(axis=(1, 2), dtype=np.int64) for rows in (sub, up)]
    lines = np.empty((len(band), 1 + band[0].size), np.uint8)
    upper = costs[1] < costs[0]
    lines[:, 0] = np.where(upper, 2, 1)
    lines[:, 1:] = np.where(upper[:, None], up.reshape(len(band), -1), sub.reshape(len(band), -1))
    return lines.tobytes()


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    if data or kind != b"IDAT":
        file.write(struct.pack(">I", len(data)) + kind + data)
        file.write(struct.pack(">I", zlib.crc32(kind + data)))
