"""The loss for fine-tuning features: features of images and their reconstructions should be equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mendiff.nets.features import FeatureExtractor, FeaturesConfig


class FeaturesTuning(nn.Module):
    """A backbone to fine-tune, and a frozen copy for regularisation.

    Both stay in evaluation mode, so the batch-norm statistics do not change.

    Args:
        config: config of both backbones.
        keep_weight: weight of the distance between tuned and original features.

    Source: domain adaptation of DDAD (Mousakhan et al. 2023), which GLAD uses for VisA and PCB-Bank.
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
        """Two scalars: 1 - cosine, mean over positions, sum over layers.

        First between the tuned features of images and reconstructions, second between tuned and original
        features of both.
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
