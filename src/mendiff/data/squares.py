"""Sizes and places of the square inputs that cover an image of any size; plain numbers, without torch.

An image is resized to its working size: a square ("stretch"), the largest size of its aspect ratio that fits
into the square ("letterbox"), or a fixed scale (tiles). Square windows of the network's input side then cover
it. Where the image is smaller than a window, the window is padded; the padded part never reaches a result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mendiff.errors import InputError

LEAST_WEIGHT = 1e-3
"""Weight of a tile's outermost pixels (1 in its centre); not 0, because only one tile reaches a border."""
TOLERANCE = 0.02
"""Largest relative difference between the aspect ratios of a mask and of an image."""


@dataclass(frozen=True)
class Squares:
    """How images are resized and covered by square inputs.

    Attributes:
        side: S, side of an input in pixels.
        letterbox: keep the aspect ratio and pad, instead of stretching images to a square.
        tile: side of a tile in pixels of the original image; 0 for whole images.
        overlap: least share of a tile that it has in common with the next.
    """

    side: int
    letterbox: bool = False
    tile: int = 0
    overlap: float = 0.25

    @property
    def stretches(self) -> bool:
        """Whether every image becomes a single square input without padding."""
        return not self.letterbox and not self.tile

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w), the working size of an image."""
        if self.stretches:
            return self.side, self.side
        scale = self.side / (self.tile or max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def starts(self, length: int) -> list[int]:
        """First pixels of the windows along an axis of the working size, evenly from border to border."""
        rest = length - self.side
        if rest <= 0:
            return [0]
        steps = math.ceil(rest / max(1, self.side * (1 - self.overlap)))
        return [round(number * rest / steps) for number in range(steps + 1)]

    def places(self, height: int, width: int) -> list[tuple[int, int]]:
        """(row, column) of the first pixel of every window of a working size, in rows from top to bottom."""
        columns = self.starts(width)
        return [(row, column) for row in self.starts(height) for column in columns]


def check_ratio(what: str, ours: Sequence[int], name: str, theirs: Sequence[int]) -> None:
    """Raise InputError for a mask of another aspect ratio than an image, (height, width) each."""
    ratio = (ours[1] / ours[0]) / (theirs[1] / theirs[0])
    if not 1 - TOLERANCE <= ratio <= 1 / (1 - TOLERANCE):
        raise InputError(
            f"{what}: expected a mask with the aspect ratio of {name}, {theirs[1]}x{theirs[0]}, got "
            f"{ours[1]}x{ours[0]}; draw it on such an image."
        )
