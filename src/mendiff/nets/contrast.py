"""Contrast normalisation: the contrast of images differs between products, the noise schedule does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mendiff.diffusion.posterior import Pixels
from mendiff.scoring.whitening import Moments

LEAST = 1e-3
"""Lower limit of the divisor, for images of a single colour."""


class Contrast(nn.Module):
    """Normalises latents to zero mean and unit deviation over all good images; initially the identity.

    Mean and deviation are shared by all channels, so that the ratios of colours are preserved.
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
        """Conversion of normalised latents to pixels in [-1,1], for codecs without a network."""
        return Pixels(self.mean, self.std)

    def update(self, latents: Tensor) -> None:
        """Accumulate latents of good images, (B,c,h,w)."""
        self._moments.update(latents.flatten(1)[:, None, None])

    def finish(self) -> None:
        """Set mean and deviation from the accumulated latents, and reset the accumulator."""
        mean, covariance = self._moments.finish()
        self.mean.copy_(mean[0])
        self.std.copy_(covariance[0, 0].clamp(min=LEAST**2).sqrt())

    def forward(self, latents: Tensor) -> Tensor:
        """Normalise latents, (B,c,h,w)."""
        return (latents - self.mean) / self.std

    def undo(self, latents: Tensor) -> Tensor:
        """Invert the normalisation, (B,c,h,w)."""
        return self.pixels.of(latents)
