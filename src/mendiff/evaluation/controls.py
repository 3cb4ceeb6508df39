"""Two controls that have no diffusion model, to be printed beside every table of results.

Some data sets give much away: where a defect is simply darker than the rest, the distance from the image's
own colour finds it. A figure below a control's says nothing in favour of a model.
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
"""Of the memory bank: what it keeps; how its maps are smoothed, as a share of their side; and scored."""
HIGHEST = 0.01
"""Share of the pixels whose mean is an image's score by the median colour."""


@dataclass(frozen=True)
class MedianColour:
    """The residual to an image's own median colour; what differs from it is anomalous.

    scales holds the standard deviation on good images of the residual, blurred at each of SIGMAS and squared.
    """

    scales: Tensor

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images (B,3,H,W) in [0,1]; -> scores (B,), maps (B,1,H,W).

        The map is the mean over the blurs, each in units of its scale; an image's score is the mean of the
        highest 1 % of its map.
        """
        maps = (_residuals(images) / self.scales[:, None, None, None, None]).mean(dim=0)
        return top_share_mean(maps, HIGHEST), maps


def fit_median_colour(images: Tensor) -> MedianColour:
    """Learn three numbers, and nothing else, from good images (N,3,H,W) in [0,1].

    Raises InputError without images.
    """
    if len(images) == 0:
        raise InputError("The scales of the median colour need good images, got none.")
    moments = torch.zeros(2, len(SIGMAS), dtype=torch.float64)
    for image in images.split(1):
        flat = _residuals(image).flatten(1).double()
        moments += torch.stack([flat.mean(1), flat.square().mean(1)]) / len(images)
    mean, square = moments
    return MedianColour((square - mean.square()).clamp(min=1e-16).sqrt().float())


def _residuals(images: Tensor) -> Tensor:
    """The residual to the median colour, blurred at each of SIGMAS, then squared and summed over channels,
    (3,B,1,H,W).
    """
    residual = images - images.flatten(2).median(dim=2).values[:, :, None, None]
    blurred = [gaussian_blur(residual, sigma) for sigma in SIGMAS]
    return torch.stack([one.square().sum(dim=1, keepdim=True) for one in blurred])


@dataclass(frozen=True)
class MemoryBank:
    """Positions of good images in features; what is far from all of them is anomalous, see PatchBank.

    features maps (B,3,H,W) in [0,1] to feature maps (B,C,h,w), the finest first.
    """

    features: Features
    bank: PatchBank

    @torch.no_grad()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images (B,3,H,W) by the distance to the nearest position; -> scores (B,), maps (B,1,H,W).

        Maps are smoothed as our own read-outs smooth theirs, and an image's score is the mean of the highest
        0.2 % of its map.
        """
        found = [self.bank(*_described(self.features, image)) for image in images.split(1)]
        maps = F.interpolate(torch.cat(found), size=images.shape[-2:], mode="bilinear", align_corners=False)
        maps = gaussian_blur(maps, SIGMA_SHARE * images.shape[-1])
        return top_share_mean(maps, TOP_SHARE), maps


@torch.no_grad()
def fit_memory_bank(
    features: Features, images: Tensor, positions: int = POSITIONS, seed: int = 0
) -> MemoryBank:
    """Keep positions that stand for all of good images (N,3,H,W) in [0,1].

    Raises InputError without images.
    """
    if len(images) == 0:
        raise InputError("A memory bank needs good images, got none.")
    channels = [layer.shape[1] for layer in _described(features, images[:1])[0]]
    bank = PatchBank(channels, positions)
    bank.fit((_described(features, image) for image in images.split(1)), seed)
    return MemoryBank(features, bank)


def _described(features: Features, image: Tensor) -> tuple[Sequence[Tensor], tuple[int, int]]:
    """Features of an image, enlarged for them if small as our own read-outs do, and the size they saw."""
    seen = enlarged(image, features)
    return features(seen), (seen.shape[-2], seen.shape[-1])
