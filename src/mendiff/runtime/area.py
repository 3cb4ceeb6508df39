"""The inspected area of images for exported models; see mendiff.data.inspected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mendiff.data.squares import check_ratio

Mask = npt.NDArray[np.bool_]
FILE = "region.png"


@dataclass(frozen=True, eq=False)
class Area:
    """Where images are inspected.

    Attributes:
        mask: (H,W) bool, of any size.
    """

    mask: Mask

    @classmethod
    def read(cls, file: Path) -> Area:
        """From a mask that is white where images are inspected."""
        with Image.open(file) as image:
            return cls(np.asarray(image.convert("L")) > 0)

    def check(self, height: int, width: int, name: str) -> None:
        """Raise InputError for an image of another aspect ratio."""
        check_ratio("region", self.mask.shape, name, (height, width))

    def at(self, height: int, width: int) -> Mask:
        """Where an image of a size is inspected, (1,height,width)."""
        rows, columns = (
            _nearest(old, new) for old, new in zip(self.mask.shape, (height, width), strict=True)
        )
        area: Mask = self.mask[rows[:, None], columns][None]
        return area


def _nearest(length: int, count: int) -> npt.NDArray[Any]:
    """Indices of the nearest values of a line, as torch's "nearest-exact" has them, (count,)."""
    scale = np.float32(length) / np.float32(count)
    at = np.floor((np.arange(count, dtype=np.float32) + np.float32(0.5)) * scale)
    nearest: npt.NDArray[Any] = np.minimum(at, length - 1).astype(np.int64)
    return nearest


def without_outside(anomaly_map: npt.NDArray[np.float32], area: Mask) -> npt.NDArray[np.float32]:
    """A map (1,h,w) whose values outside the area are its lowest, at most 0: no findings there."""
    return np.where(area, anomaly_map, min(float(anomaly_map[area].min()), 0.0)).astype(np.float32)
