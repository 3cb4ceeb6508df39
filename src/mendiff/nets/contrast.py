"""The contrast of good images, which differs from product to product, while a schedule's noise does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mendiff.diffusion.posterior import Pixels
from mendiff.scoring.whitening import Moments

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
        self._moments = Moments(1)

    @property
    def pixels(self) -> Pixels:
        """How to make pixels in [-1,1] of the latents of a codec that only moves pixels."""
        return Pixels(self.mean, self.std)

    def update(self, latents: Tensor) -> None:
        """Take in latents of good images, (B,c,h,w)."""
        self._moments.update(latents.flatten(1)[:, None, None])

    def finish(self) -> None:
        """Set mean and deviation from all that was taken in; starts anew."""
        mean, covariance = self._moments.finish()
        self.mean.copy_(mean[0])
        self.std.copy_(covariance[0, 0].clamp(min=LEAST**2).sqrt())

    def forward(self, latents: Tensor) -> Tensor:
        """(B,c,h,w) to the same, at unit contrast."""
        return (latents - self.mean) / self.std

    def undo(self, latents: Tensor) -> Tensor:
        """(B,c,h,w) at unit contrast to what they were."""
        return self.pixels.of(latents)
