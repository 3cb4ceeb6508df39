"""What the student is to say: a pretrained network's features, aligned with the image and whitened."""

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
"""Share of the mean variance below which a direction of the features counts less."""
FAINT = 0.1
"""Whitened variance within an image below which its deviations count less."""


class Teacher(nn.Module):
    """A pretrained network's features at strides 4, 8 and 16, of the inner part of an image.

    Where a position looks depends on the padding, while maps are enlarged as if position i of stride s looked
    at pixel s i + (s - 1) / 2. MobileNetV2 with TensorFlow's "same" padding looks at s i + 2.3, 5.6 and 10
    pixels (centre of the squared gradient); with PyTorch's padding, networks look at about s i. The student
    sees a cut whose corner makes up for that, so that its maps lie better on the image than its teacher's;
    the teacher sees what lies around the cut, where the student has only its margin of zeros.

    Args:
        features: of the teacher, all three stages.
        same: whether it pads as TensorFlow does.
    """

    def __init__(self, features: FeatureExtractor, *, same: bool) -> None:
        super().__init__()
        self.features = folded(features).to(memory_format=torch.channels_last)
        self.channels = features.channels
        self._corner, self._dropped = (2, (0, 0, 0)) if same else (11, (3, 2, 1))

    def cut(self, image: Tensor) -> Tensor:
        """The part that the student sees, (B,3,H,W) to (B,3,H-16,W-16)."""
        height, width = image.shape[-2] - STRIDES[-1], image.shape[-1] - STRIDES[-1]
        return image[..., self._corner : self._corner + height, self._corner : self._corner + width]

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB (B,3,H,W) in [0,1] to the features of its cut, (B,C,(H-16)/s,(W-16)/s); 16 divides H and W."""
        found = []
        layers = self.features(image.contiguous(memory_format=torch.channels_last))
        for layer, stride, first in zip(layers, STRIDES, self._dropped, strict=True):
            height, width = (side // stride - STRIDES[-1] // stride for side in image.shape[-2:])
            found.append(layer[..., first : first + height, first : first + width].contiguous())
        return found


def folded(features: FeatureExtractor) -> FeatureExtractor:
    """Fold every batch norm into the convolution before it, in place: nearly twice as fast on a CPU."""
    for parent in list(features.modules()):
        names = [name for name, _ in parent.named_children()]
        for first, second in pairwise(names):
            conv, norm = getattr(parent, first), getattr(parent, second)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, getattr(norm, "act", nn.Identity()))  # timm's norms have ReLU inside
    return features


class Whitenings(nn.Module):
    """Features brought to unit covariance within images: a defect is a deviation from its image's own
    features, in whatever direction.

    Args:
        channels: of every stage.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(ChannelWhitening(one, SHRINKAGE) for one in channels)

    def fit(self, described: list[list[Tensor]]) -> None:
        """Learn mean and covariance from batches of all stages."""
        for stage, batches in zip(self.stages, zip(*described, strict=True), strict=True):
            assert isinstance(stage, ChannelWhitening)
            for batch in batches:
                stage.update(batch - batch.mean((2, 3), keepdim=True))
            stage.finish()
            stage.mean.copy_(torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0))

    def forward(self, layers: list[Tensor]) -> list[Tensor]:
        """One (B,C,h,w) per stage to the same, whitened."""
        return [stage(layer) for stage, layer in zip(self.stages, layers, strict=True)]

    @torch.no_grad()
    def undone_by(self, student: Student) -> None:
        """Let a student that gives whitened features give the teacher's own: its last layers are linear."""
        for stage, head in zip(self.stages, student.heads, strict=True):
            assert isinstance(stage, ChannelWhitening)
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            back = torch.linalg.inv(stage.root)
            head.weight.copy_(torch.einsum("dc,cihw->dihw", back, head.weight))
            head.bias.copy_(back @ head.bias + stage.mean)


def distance(said: list[Tensor], meant: list[Tensor]) -> Tensor:
    """How far the student's whitened features are from the teacher's, summed over stages, (B,C,h,w) each.

    Three terms per stage: smooth L1; one minus the cosine; and the squared error of what deviates from the
    image's mean, relative to how much there is of it, so that faint images count as much as loud ones.
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
    """Share of the whitened variance within images that the student gets right, by stage; 1 is all of it."""
    shares = []
    for ours, theirs in zip(said, meant, strict=True):
        own, off = (one - one.mean((2, 3), keepdim=True) for one in (theirs, ours - theirs))
        shares.append(1 - float(off.square().sum() / own.square().sum()))
    return [one if math.isfinite(one) else 0.0 for one in shares]
