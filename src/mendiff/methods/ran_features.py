"""RAN's target features: all layers of an extractor on a common grid."""

from __future__ import annotations

import torch
from torch import Tensor

from mendiff.nets.features import Features
from mendiff.scoring.maps import enlarged, enlarged_size, to_grid


def joined_features(image: Tensor, features: Features, times: int) -> Tensor:
    """All feature layers of images (B,3,H,W) in [0,1] on a common grid, (B,C,h,w).

    Args:
        image: images.
        features: extractor.
        times: upsampling factor of the images (see RanConfig.enlarge). The grid is that of images which are
            upsampled to the extractor's `least_side` only.
    """
    rows, columns = enlarged_size((image.shape[-2], image.shape[-1]), features, min(times, 1))
    grid = (rows // min(features.strides), columns // min(features.strides))
    return torch.cat([to_grid(one, grid) for one in features(enlarged(image, features, times))], dim=1)


def effective_strides(features: Features, side: int, times: int) -> list[float]:
    """Strides of the feature layers in pixels of the original images, on the grid of `joined_features`.

    Args:
        features: extractor.
        side: side of the images in pixels.
        times: upsampling factor of the images.
    """
    upsampled, plain = (enlarged_size((side, side), features, factor)[0] for factor in (times, min(times, 1)))
    return [max(stride * plain / upsampled, min(features.strides)) for stride in features.strides]
