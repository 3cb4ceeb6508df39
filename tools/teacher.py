"""Training targets of the student: a pretrained network's features, aligned with the image and whitened."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mendiff.nets.features import FeatureExtractor
from mendiff.nets.student import STRIDES, Student
from mendiff.scoring.whitening import ChannelWhitening

SHRINKAGE = 0.3
"""Directions with a variance below this share of the mean variance have less weight."""
FAINT = 0.1
"""Deviations in images with a whitened variance below this value have less weight."""


class Teacher(nn.Module):
    """A pretrained network's features at strides 4, 8 and 16, for the inner part of an image.

    The centre of a position's receptive field depends on the padding, but maps are upsampled as if position i
    of stride s had its centre at pixel s i + (s - 1) / 2. For MobileNetV2 with TensorFlow's "same" padding
    the centres are at s i + 2.3, 5.6 and 10 pixels (centre of the squared gradient); with PyTorch's padding
    they are at about s i. The student's crop is shifted to compensate for this, which aligns its maps better
    with the image than the teacher's. The teacher also receives the surroundings of the crop, where the
    student has zero padding.

    Args:
        features: features of the teacher, all three stages.
        same: whether the teacher uses TensorFlow's padding.
    """

    def __init__(self, features: FeatureExtractor, *, same: bool) -> None:
        super().__init__()
        self.features = folded(features).to(memory_format=torch.channels_last)
        self.channels = features.channels
        self._corner, self._dropped = (2, (0, 0, 0)) if same else (11, (3, 2, 1))

    def cut(self, image: Tensor) -> Tensor:
        """The student's crop, (B,3,H,W) to (B,3,H-16,W-16)."""
        height, width = image.shape[-2] - STRIDES[-1], image.shape[-1] - STRIDES[-1]
        return image[..., self._corner : self._corner + height, self._corner : self._corner + width]

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB (B,3,H,W) in [0,1] to features of the crop, (B,C,(H-16)/s,(W-16)/s); 16 divides H and W."""
        found = []
        layers = self.features(image.contiguous(memory_format=torch.channels_last))
        for layer, stride, first in zip(layers, STRIDES, self._dropped, strict=True):
            height, width = (side // stride - STRIDES[-1] // stride for side in image.shape[-2:])
            found.append(layer[..., first : first + height, first : first + width].contiguous())
        return found


def folded(features: FeatureExtractor) -> FeatureExtractor:
    """Fold every batch norm into the preceding convolution, in place; nearly twice as fast on a CPU."""
    for parent in list(features.modules()):
        names = [name for name, _ in parent.named_children()]
        for first, second in pairwise(names):
            conv, norm = getattr(parent, first), getattr(parent, second)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, getattr(norm, "act", nn.Identity()))  # timm's norms have ReLU inside
    return features


class Whitenings(nn.Module):
    """Whitening of features to unit covariance within images, because a defect is a deviation from the
    features of its image in any direction.

    Args:
        channels: channels of every stage.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(ChannelWhitening(one, SHRINKAGE) for one in channels)

    def fit(self, described: list[list[Tensor]]) -> None:
        """Compute mean and covariance from batches of all stages."""
        for stage, batches in zip(self.stages, zip(*described, strict=True), strict=True):
            assert isinstance(stage, ChannelWhitening)
            for batch in batches:
                stage.update(batch - batch.mean((2, 3), keepdim=True))
            stage.finish()
            stage.mean.copy_(torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0))

    def forward(self, layers: list[Tensor]) -> list[Tensor]:
        """Whiten features, a (B,C,h,w) map per stage."""
        return [stage(layer) for stage, layer in zip(self.stages, layers, strict=True)]

    @torch.no_grad()
    def undone_by(self, student: Student) -> None:
        """Change the linear output layers of a student from whitened features to the teacher's features."""
        for stage, head in zip(self.stages, student.heads, strict=True):
            assert isinstance(stage, ChannelWhitening)
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            back = torch.linalg.inv(stage.root)
            head.weight.copy_(torch.einsum("dc,cihw->dihw", back, head.weight))
            head.bias.copy_(back @ head.bias + stage.mean)


def distance(said: list[Tensor], meant: list[Tensor]) -> Tensor:
    """Distance of the student's whitened features from the teacher's, summed over stages, (B,C,h,w) each.

    Three terms per stage: smooth L1; one minus the cosine; and the squared error of the deviation from the
    image's mean relative to its variance, so that images with low and high contrast have equal weight.
    """
    total = said[0].new_zeros(())
    for ours, theirs in zip(said, meant, strict=True):
        error = ours - theirs
        own, off = (one - one.mean((2, 3), keepdim=True) for one in (theirs, error))
        relative = off.square().mean((1, 2, 3)) / (own.square().mean((1, 2, 3)) + FAINT)
        cosine = 1 - F.cosine_similarity(ours, theirs, dim=1)
        total = total + F.smooth_l1_loss(ours, theirs) + cosine.mean() + relative.mean()
    return total


def explained(said: list[Tensor], meant: list[Tensor]) -> list[float]:
    """Share of the whitened variance within images that the student explains, per stage; at most 1."""
    shares = []
    for ours, theirs in zip(said, meant, strict=True):
        own, off = (one - one.mean((2, 3), keepdim=True) for one in (theirs, ours - theirs))
        shares.append(1 - float(off.square().sum() / own.square().sum()))
    return [one if math.isfinite(one) else 0.0 for one in shares]
