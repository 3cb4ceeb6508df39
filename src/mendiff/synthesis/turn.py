"""Random rotation of good images, for parts with arbitrary orientation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.synthesis import DRAWN


def turned(images: Tensor, rng: torch.Generator) -> Tensor:
    """Rotate every image by its own random angle, (B,3,H,W) in [0,1].

    The corners are filled by mirroring the image.

    Args:
        images: good images.
        rng: CPU generator.
    """
    angle = 2 * math.pi * torch.rand(len(images), generator=rng, **DRAWN)
    return rotate(images, angle, mode="bicubic").clamp(0, 1)


def rotate(images: Tensor, angle: Tensor, mode: str = "bilinear") -> Tensor:
    """Rotate every image about its centre by its own angle in radians, mirrored at the border, (B,C,H,W)."""
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)
