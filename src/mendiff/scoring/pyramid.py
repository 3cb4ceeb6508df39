"""Local colours and edges as feature layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelPyramid(nn.Module):
    """Features without weights: local colour, contrast and edges at strides 4, 8 and 16.

    They complement deep features, which represent structure well and colour poorly.
    """

    channels = (15, 15, 15)
    strides = (4, 8, 16)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B,3,H,W) in [0,1] to one (B,15,H/s,W/s) per stride s."""
        return self.unnormalised(image * 2 - 1)

    def unnormalised(self, pixels: Tensor) -> list[Tensor]:
        """The same for pixels in about [-1,1]."""
        down, right = torch.zeros_like(pixels), torch.zeros_like(pixels)
        down[:, :, 1:] = pixels.diff(dim=2)
        right[:, :, :, 1:] = pixels.diff(dim=3)
        local = torch.cat([pixels, down, right, down.abs(), right.abs()], dim=1)
        return [F.avg_pool2d(local, stride) for stride in self.strides]
