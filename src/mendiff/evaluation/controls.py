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
from mendiff.scoring.maps import enlarged, gaussian_blur
from mendiff.scoring.score import top_share_mean

Features = Callable[[Tensor], Sequence[Tensor]]

SIGMAS = (0.0, 2.0, 4.0)
PATCHES = 8000
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
    """Feature patches of good images; what is far from all of them is anomalous (after PatchCore, Roth et al.
    2022).

    features maps (B,3,H,W) in [0,1] to feature maps (B,C,h,w), the finest first; patches is (K,C).
    """

    features: Features
    patches: Tensor

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score images (B,3,H,W) by the distance to the nearest patch; -> scores (B,), maps (B,1,H,W).

        The distances are upsampled bilinearly; an image's score is its map's maximum.
        """
        maps = []
        for image in images.split(1):  # one at a time: all distances of a batch would need gigabytes
            described = _describe(self.features, image)
            nearest = torch.cdist(described.flatten(1).T, self.patches).amin(dim=1)
            grid = nearest.view(1, 1, *described.shape[1:])
            maps.append(F.interpolate(grid, size=image.shape[-2:], mode="bilinear", align_corners=False))
        joined = torch.cat(maps)
        return joined.amax(dim=(1, 2, 3)), joined


def fit_memory_bank(features: Features, images: Tensor, patches: int = PATCHES, seed: int = 0) -> MemoryBank:
    """Keep random patches of good images (N,3,H,W) in [0,1]; all of them where there are fewer than
    `patches`.

    Raises InputError without images.
    """
    if len(images) == 0:
        raise InputError("A memory bank needs good images, got none.")
    first = _describe(features, images[:1])
    per_image = first.shape[1] * first.shape[2]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(images) * per_image, generator=generator)[:patches].sort().values
    kept = []
    for i, image in enumerate(images.split(1)):
        at = drawn[(drawn >= i * per_image) & (drawn < (i + 1) * per_image)] - i * per_image
        if len(at):
            kept.append(_describe(features, image).flatten(1).T[at])
    return MemoryBank(features, torch.cat(kept))


@torch.no_grad()
def _describe(features: Features, image: Tensor) -> Tensor:
    """Describe each place of one image (1,3,H,W) by its 3x3 neighbourhood in every layer, (C,h,w) on the
    finest grid; small images are enlarged for the features first, as our own read-outs do.
    """
    layers = features(enlarged(image, features))
    size = layers[0].shape[-2:]
    pooled = [F.avg_pool2d(layer.float(), 3, stride=1, padding=1) for layer in layers]
    resized = [F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in pooled]
    return torch.cat(resized, dim=1)[0]
