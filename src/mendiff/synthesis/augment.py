"""Strong colour and geometry augmentation for the textures of synthetic anomalies.

The ten operations of DRAEM, MemSeg and the published GLAD code, implemented with torchvision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from mendiff.synthesis import DRAWN


def _between(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng, **DRAWN))


def _equalize(image: Tensor, _: torch.Generator) -> Tensor:
    equalized: Tensor = tv.equalize((image.clamp(0, 1) * 255).to(torch.uint8))
    return equalized.float() / 255


def _posterize(image: Tensor, rng: torch.Generator) -> Tensor:
    levels: int = 2 ** int(torch.randint(1, 5, (), generator=rng))
    return (image * (levels - 1)).round() / (levels - 1)


OPERATIONS: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (
    lambda image, rng: tv.adjust_gamma(image.clamp(0, 1), _between(rng, 0.5, 2.0)),
    lambda image, rng: image * _between(rng, 0.8, 1.2) + _between(rng, -0.12, 0.12),
    lambda image, rng: tv.adjust_sharpness(image, _between(rng, 1.5, 4.0)),
    lambda image, rng: tv.adjust_hue(
        tv.adjust_saturation(image, _between(rng, 0.5, 2.0)), _between(rng, -0.2, 0.2)
    ),
    lambda image, rng: tv.solarize(image.clamp(0, 1), _between(rng, 0.13, 0.5)),
    _posterize,
    lambda image, rng: 1 - image,
    lambda image, rng: tv.autocontrast(image),
    _equalize,
    lambda image, rng: tv.rotate(image, _between(rng, -45.0, 45.0), tv.InterpolationMode.BILINEAR),
)


def augment(image: Tensor, rng: torch.Generator, count: int = 3) -> Tensor:
    """Apply `count` different random operations, (3,H,W) in [0,1] to (3,H,W) in [0,1]."""
    chosen = torch.randperm(len(OPERATIONS), generator=rng)[:count]
    for index in chosen.tolist():
        image = OPERATIONS[index](image, rng).clamp(0, 1)
    return image
