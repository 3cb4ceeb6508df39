"""What a feature extractor is tuned by: images and their reconstructions should look alike to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.nets.features import FeatureExtractor, FeaturesConfig


class FeaturesTuning(nn.Module):
    """A backbone that is tuned, beside a frozen one that it should stay near.

    Both stay in evaluation mode: the statistics of batch norms are those of the original.

    Args:
        config: of both.
        keep_weight: of the term that holds the tuned features near the original ones.

    Source: domain adaptation of DDAD (Mousakhan et al. 2023), which GLAD takes over for VisA and PCB-Bank.
    """

    def __init__(self, config: FeaturesConfig, keep_weight: float) -> None:
        super().__init__()
        self.keep_weight = keep_weight
        self.tuned, self.original = FeatureExtractor(config), FeatureExtractor(config)
        self.tuned.backbone.requires_grad_(True)

    def forward(self, image: Tensor, rebuilt: Tensor) -> Tensor:
        """The loss of images and their reconstructions, both (B,3,H,W) in [0,1], to a scalar."""
        likeness, drift = self.terms(image, rebuilt)
        return likeness + self.keep_weight * drift

    def terms(self, image: Tensor, rebuilt: Tensor) -> tuple[Tensor, Tensor]:
        """Two sums over layers of 1 - cosine, mean over positions: two scalars.

        Of the tuned features of images and reconstructions; and of the tuned and the original features of
        both.
        """
        both = torch.cat([image, rebuilt])
        tuned = self.tuned(both)
        with torch.no_grad():
            original = self.original(both)
        pairs = [layer.chunk(2) for layer in tuned]
        likeness = torch.stack([distance(ours, theirs) for ours, theirs in pairs]).sum()
        kept = [2 * distance(ours, theirs) for ours, theirs in zip(tuned, original, strict=True)]
        return likeness, torch.stack(kept).sum()


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean over positions of 1 - cosine, two (B,C,h,w) to a scalar."""
    return 1 - F.cosine_similarity(first, second, dim=1).mean()
