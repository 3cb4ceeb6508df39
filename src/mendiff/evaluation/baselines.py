"""Two baselines without diffusion model, for every results table.

Some data sets are easy: if defects are simply darker, the distance to the image's median colour finds them. A
model should exceed these baselines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.errors import InputError
from mendiff.scoring.bank import PatchBank
from mendiff.scoring.maps import enlarged, gaussian_blur
from mendiff.scoring.score import top_share_mean

Features = Callable[[Tensor], Sequence[Tensor]]

SIGMAS = (0.0, 2.0, 4.0)
POSITIONS, SIGMA_SHARE, TOP_SHARE = 20_000, 4 / 256, 0.002
"""Memory bank: number of positions, sigma of smoothing as a share of the side, share of the mean score."""
HIGHEST = 0.01
"""Median colour: share of the highest pixels whose mean is the score."""


@dataclass(frozen=True)
class MedianColour:
    """Scores pixels by their residual to the image's median colour.

    `scales` are the standard deviations, on good images, of the squared residual blurred with each of SIGMAS.
    """

    scales: Tensor

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images (B,3,H,W) in [0,1]; -> scores (B,), maps (B,1,H,W).

        The map is the mean over all blurs, each divided by its scale. The score is the mean of the highest
        1 % of the map.
        """
        maps = (_residuals(images) / self.scales[:, None, None, None, None]).mean(dim=0)
        return self.score(maps), maps

    def score(self, maps: Tensor, pixels: int = 0) -> Tensor:
        """Scores of maps, see top_share_mean."""
        return top_share_mean(maps, HIGHEST, pixels)


def fit_median_colour(images: Tensor) -> MedianColour:
    """Compute the scales from good images (N,3,H,W) in [0,1]; InputError without images."""
    if len(images) == 0:
        raise InputError("The scales of the median colour need good images, got none.")
    moments = torch.zeros(2, len(SIGMAS), dtype=torch.float64)
    for image in images.split(1):
        flat = _residuals(image).flatten(1).double()
        moments += torch.stack([flat.mean(1), flat.square().mean(1)]) / len(images)
    mean, square = moments
    return MedianColour((square - mean.square()).clamp(min=1e-16).sqrt().float())


def _residuals(images: Tensor) -> Tensor:
    """Residual to the median colour, blurred with SIGMAS, squared, summed over channels; (3,B,1,H,W)."""
    residual = images - images.flatten(2).median(dim=2).values[:, :, None, None]
    blurred = [gaussian_blur(residual, sigma) for sigma in SIGMAS]
    return torch.stack([layer.square().sum(dim=1, keepdim=True) for layer in blurred])


@dataclass(frozen=True)
class MemoryBank:
    """Scores positions by the distance of their features to those of good images; see PatchBank.

    `features` maps (B,3,H,W) in [0,1] to feature maps (B,C,h,w), the finest first.
    """

    features: Features
    bank: PatchBank

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images (B,3,H,W) in [0,1]; -> scores (B,), maps (B,1,H,W).

        Maps are smoothed as in the read-outs. The score is the mean of the highest 0.2 % of the map.
        """
        found = [self.bank(*_described(self.features, image)) for image in images.split(1)]
        maps = F.interpolate(torch.cat(found), size=images.shape[-2:], mode="bilinear", align_corners=False)
        maps = gaussian_blur(maps, SIGMA_SHARE * images.shape[-1])
        return self.score(maps), maps

    def score(self, maps: Tensor, pixels: int = 0) -> Tensor:
        """Scores of maps, see top_share_mean."""
        return top_share_mean(maps, TOP_SHARE, pixels)


@torch.no_grad()
def fit_memory_bank(
    features: Features, images: Tensor, positions: int = POSITIONS, seed: int = 0
) -> MemoryBank:
    """Fit a bank of covering positions to good images (N,3,H,W) in [0,1]; InputError without images."""
    if len(images) == 0:
        raise InputError("A memory bank needs good images, got none.")
    channels = [layer.shape[1] for layer in _described(features, images[:1])[0]]
    bank = PatchBank(channels, positions)
    bank.fit((_described(features, image) for image in images.split(1)), seed)
    return MemoryBank(features, bank)


def _described(features: Features, image: Tensor) -> tuple[Sequence[Tensor], tuple[int, int]]:
    """Features of an image, upsampled if small as in the read-outs, and the size of their input."""
    upsampled = enlarged(image, features)
    return features(upsampled), (upsampled.shape[-2], upsampled.shape[-1])
