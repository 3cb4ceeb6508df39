"""The features that RAN predicts: all layers of an extractor on one grid."""

from __future__ import annotations

import torch
from torch import Tensor

from mendiff.nets.features import Features
from mendiff.scoring.maps import enlarged, enlarged_size, to_grid


def joined_features(image: Tensor, features: Features, times: int) -> Tensor:
    """Every layer of images (B,3,H,W) in [0,1] on one grid, (B,C,h,w).

    Args:
        image: good or not.
        features: extractor.
        times: as large as it is the extractor sees an image (see RanConfig.enlarge); the grid stays that of
            the image itself, or of one of its `least_side`.
    """
    rows, columns = enlarged_size((image.shape[-2], image.shape[-1]), features, min(times, 1))
    grid = (rows // min(features.strides), columns // min(features.strides))
    return torch.cat([to_grid(one, grid) for one in features(enlarged(image, features, times))], dim=1)


def seen_strides(features: Features, side: int, times: int) -> list[float]:
    """How far apart the positions of every layer lie, the finest's as on the grid of `joined_features`.

    Args:
        features: extractor.
        side: of the images, in pixels.
        times: as large as they are the extractor sees them.
    """
    seen, plain = (enlarged_size((side, side), features, more)[0] for more in (times, min(times, 1)))
    return [max(stride * plain / seen, min(features.strides)) for stride in features.strides]
