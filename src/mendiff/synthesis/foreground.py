"""Foreground masks by Otsu's threshold (Otsu 1979)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mendiff.errors import check_choice

Mode = Literal["none", "dark", "bright", "auto"]
_LUMA = (0.299, 0.587, 0.114)


def foreground(image: Tensor, mode: Mode = "auto") -> Tensor:
    """Foreground of every image, (B,3,H,W) in [0,1] to (B,H,W) bool.

    Args:
        image: RGB.
        mode: "none": the whole image. "dark": pixels darker than Otsu's threshold. "bright": brighter pixels
            (modes 3, 1 and 2 of the published GLAD code). "auto": decided per image; the side of the
            threshold that contains most of the border is background. An image with a mixed border has no
            clear background and is all foreground.
    """
    check_choice("foreground", mode, get_args(Mode))
    grey = grey_levels(image)
    if mode == "none":
        return torch.ones_like(grey, dtype=torch.bool)
    bright = grey > otsu_threshold(grey)[:, None, None]
    if mode == "dark":
        return ~bright
    if mode == "bright":
        return bright
    return _auto(bright)


def grey_levels(image: Tensor) -> Tensor:
    """Rounded 8-bit luma, (B,3,H,W) in [0,1] to (B,H,W) int64 in 0..255."""
    weights = torch.tensor(_LUMA, dtype=image.dtype, device=image.device)[:, None, None]
    return ((image.clamp(0, 1) * 255).round() * weights).sum(1).round().to(torch.int64)


def otsu_threshold(grey: Tensor) -> Tensor:
    """Otsu's threshold per image, (B,H,W) in 0..255 to (B,); foreground is above it."""
    levels = torch.arange(256, dtype=torch.float64, device=grey.device)
    flat = grey.flatten(1)
    counts = torch.zeros(flat.shape[0], 256, dtype=torch.float64, device=grey.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    share = counts / counts.sum(1, keepdim=True)
    below = share.cumsum(1)
    mass = (share * levels).cumsum(1)
    total = mass[:, -1:]
    between = (total * below - mass) ** 2 / (below * (1 - below)).clamp(min=1e-12)
    between = torch.where((below > 1e-9) & (below < 1 - 1e-9), between, torch.zeros_like(between))
    return between.argmax(1)


def _auto(bright: Tensor) -> Tensor:
    border = torch.cat([bright[:, 0], bright[:, -1], bright[:, :, 0], bright[:, :, -1]], dim=1)
    share = border.float().mean(1)[:, None, None]
    part = torch.where(share > 0.5, ~bright, bright)
    coverage = part.float().mean((1, 2), keepdim=True)
    clear = ((share > 0.85) | (share < 0.15)) & (coverage > 0.05) & (coverage < 0.9)
    return part | ~clear
