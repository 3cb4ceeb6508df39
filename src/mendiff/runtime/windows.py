"""Letterboxed images and tiles for exported models; see mendiff.data.geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mendiff.data.squares import LEAST_WEIGHT, Squares

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layout(Squares):
    """Square inputs of images as NumPy arrays; see Squares for the attributes."""

    def windows(self, image: Array) -> list[Array]:
        """The windows of an image of working size (C,h,w), padded by their last pixels to (C,S,S)."""
        height, width = image.shape[1:]
        parts = [image[:, r : r + self.side, c : c + self.side] for r, c in self.places(height, width)]
        missing = [(0, self.side - one) for one in parts[0].shape[1:]]  # all are alike
        return [np.pad(one, [(0, 0), *missing], mode="edge") for one in parts]

    def joined(self, values: Sequence[Array], height: int, width: int) -> Array:
        """Values of all windows, (C,S,S) each, blended to those of the image, (C,h,w)."""
        places = self.places(height, width)
        if len(places) == 1:
            return np.ascontiguousarray(values[0][:, :height, :width])
        at = (np.arange(self.side, dtype=np.float32) + np.float32(0.5)) / np.float32(self.side)
        window = np.maximum(np.sin(np.float32(np.pi) * at) ** 2, np.float32(LEAST_WEIGHT))
        weights = window[:, None] * window
        shape = (max(height, self.side), max(width, self.side))
        total, sums = np.zeros((len(values[0]), *shape), np.float32), np.zeros(shape, np.float32)
        for (row, column), one in zip(places, values, strict=True):
            place = (slice(row, row + self.side), slice(column, column + self.side))
            total[(slice(None), *place)] += one * weights
            sums[place] += weights
        return (total / sums)[:, :height, :width]


def top_mean(
    anomaly_map: Array, top_k: int, top_share: float, side: int, area: npt.NDArray[np.bool_] | None = None
) -> Any:
    """The score of a whole image from its map (1,h,w): the mean of the largest values.

    Args:
        anomaly_map: of any size.
        top_k: number of values; 0 uses the share.
        top_share: share of the inspected pixels, of at most those of an input.
        side: of an input.
        area: where the image is inspected, (1,h,w); None for everywhere.
    """
    values = anomaly_map.ravel() if area is None else anomaly_map[area]
    pixels = min(values.size, side**2)
    count = min(top_k, pixels) if top_k else max(1, round(top_share * pixels))
    return np.sort(values)[-count:].astype(np.float64).mean()
