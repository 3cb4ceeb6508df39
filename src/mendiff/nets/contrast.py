"""The contrast of good images, which differs from product to product, while a schedule's noise does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mendiff.diffusion.posterior import Pixels

LEAST = 1e-3
"""Smallest deviation that is divided by: images of a single colour have none."""


class Contrast(nn.Module):
    """Brings latents to zero mean and unit deviation over all good images; as it is made, leaves them alone.

    One number each for all channels, so that colours keep their relations.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self._sums = torch.zeros(3, dtype=torch.float64)

    @property
    def pixels(self) -> Pixels:
        """How to make pixels in [-1,1] of the latents of a codec that only moves pixels."""
        return Pixels(self.mean, self.std)

    def update(self, latents: Tensor) -> None:
        """Take in latents of good images, (B,c,h,w)."""
        flat = latents.detach().double().cpu()
        self._sums += torch.stack([torch.ones_like(flat).sum(), flat.sum(), flat.square().sum()])

    def finish(self) -> None:
        """Set mean and deviation from all that was taken in; starts anew."""
        count, total, squares = self._sums
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((squares / count - mean**2).clamp(min=LEAST**2).sqrt())
        self._sums.zero_()

    def forward(self, latents: Tensor) -> Tensor:
        """(B,c,h,w) to the same, at unit contrast."""
        return (latents - self.mean) / self.std

    def undo(self, latents: Tensor) -> Tensor:
        """(B,c,h,w) at unit contrast to what they were."""
        return self.mean + self.std * latents
