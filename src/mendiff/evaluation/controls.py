"""Two controls that learn no diffusion model, to be printed beside every table of results.

Some data sets give much away: where a defect is simply darker than the rest, the distance from the image's
own colour finds it. A figure below a control's says nothing in favour of a model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.errors import InputError
from mendiff.scoring.maps import gaussian_blur

Features = Callable[[Tensor], Sequence[Tensor]]

SIGMAS = (0.0, 2.0, 4.0)
PATCHES = 8000


def median_colour_control(images: Tensor) -> tuple[Tensor, Tensor]:
    """Score images by the distance from their own median colour; (B,3,H,W) -> scores (B,), maps (B,1,H,W).

    The squared residual, summed over channels, is averaged over Gaussian blurs of 0, 2 and 4 pixels; an
    image's score is its map's maximum. Nothing is learnt, not even from good images.
    """
    median = images.flatten(2).median(dim=2).values[:, :, None, None]
    squared = (images - median).square().sum(dim=1, keepdim=True)
    maps = torch.stack([gaussian_blur(squared, sigma) for sigma in SIGMAS]).mean(dim=0)
    return maps.amax(dim=(1, 2, 3)), maps


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
    finest grid.
    """
    layers = features(image)
    size = layers[0].shape[-2:]
    pooled = [F.avg_pool2d(layer.float(), 3, stride=1, padding=1) for layer in layers]
    resized = [F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in pooled]
    return torch.cat(resized, dim=1)[0]
