"""Random crops of training images."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def random_crops(image: Tensor, side: int, multiple: int, rng: Generator) -> Tensor:
    """A random square crop of every image, (B,3,H,W) to (B,3,side,side); smaller images are not cropped.

    Args:
        image: a batch.
        side: side of the square in pixels; 0 does not crop.
        multiple: corners are multiples of this, so that crops and images have the same pixel blocks.
        rng: CPU generator.
    """
    height, width = image.shape[-2:]
    if side == 0 or (height <= side and width <= side):
        return image
    down = torch.randint((height - side) // multiple + 1, (len(image),), generator=rng) * multiple
    right = torch.randint((width - side) // multiple + 1, (len(image),), generator=rng) * multiple
    corners = zip(image, down.tolist(), right.tolist(), strict=True)
    return torch.stack([whole[:, y : y + side, x : x + side] for whole, y, x in corners])
