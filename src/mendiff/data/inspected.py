"""The inspected area of images, from mask files: outside of it nothing counts as a defect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mendiff.data.images import resize_mask
from mendiff.data.masks import Mask, read_mask
from mendiff.data.squares import check_ratio
from mendiff.errors import InputError


@dataclass(frozen=True, eq=False)
class InspectedArea:
    """The part of images that is inspected; masks of any size are scaled to an image.

    Attributes:
        mask: (H,W) bool, True where images are inspected; not empty.
    """

    mask: Mask

    @classmethod
    def read(cls, region: Path | None, ignore: Path | None) -> InspectedArea | None:
        """The area from mask files; None without files.

        Args:
            region: file that is white where images are inspected; None inspects all.
            ignore: file that is white where images are not inspected.
        """
        area = None if region is None else read_mask(region)
        if ignore is not None:
            outside = read_mask(ignore)
            if area is None:
                area = np.ones_like(outside)
            check_ratio(f"--ignore {ignore}", outside.shape, f"{region}", area.shape)
            area = area & ~resize_mask(outside, area.shape)[0].numpy()
        if area is None:
            return None
        if not area.any():
            named = " and ".join(str(path) for path in (region, ignore) if path is not None)
            raise InputError(
                f"{named}: expected a mask that leaves a part of the image to inspect, got none; draw the "
                "inspected part white in --region, and the ignored part white in --ignore."
            )
        return cls(area)

    def check(self, height: int, width: int, name: str) -> None:
        """Raise InputError for an image of another aspect ratio than the mask."""
        check_ratio("region", self.mask.shape, name, (height, width))

    def at(self, height: int, width: int) -> Tensor:
        """Where an image of a size is inspected, (1,height,width) bool; InputError if nothing is left."""
        if self.mask.shape == (height, width):
            return torch.from_numpy(self.mask)[None]
        area = resize_mask(self.mask, (height, width))
        if not bool(area.any()):
            raise InputError(
                f"region: expected an area that is visible at {width}x{height} pixels, to which images are "
                "resized, got a smaller one; draw it larger, or fit with a larger --image-size or --tile."
            )
        return area
