"""Probes: small and faint synthetic defects for validation, not for training.

The synthetic anomalies of GLAD's training are easy to see, and the model was trained on them. Probes have
many sizes and contrasts, down to undetectable ones, so that they can rank models and settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mendiff.synthesis import DRAWN
from mendiff.synthesis.blend import anomaly_source
from mendiff.synthesis.perlin import perlin_noise, thin_masks

SMALLEST, LARGEST = 2.5, 0.16
"""Radius of a defect, log-uniform: minimum in pixels, maximum as a share of the image's side."""
RIM = 0.42
"""Largest distance of a defect's centre from the image centre, as a share of the side."""
SHUFFLED = 8
"""Largest number of cells per side of the shuffled images that foreign patches are taken from."""

VISIBLE, SEEN = 4 / 255, 0.25
"""Smallest change of a visibly changed pixel, and the smallest share of such pixels in a defect's mask."""

Flaw = Callable[[Tensor, Generator], Tensor]


def probe(image: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """Add a defect to a good image, (3,H,W) in [0,1]; returns image and mask (1,H,W) bool, never empty.

    An invisible defect, such as a blur of a uniform region, is drawn again.

    Args:
        image: a good image of at least 16 pixels per side.
        rng: CPU generator; the only source of randomness.
    """
    while True:
        kind = int(torch.randint(len(AREAS) + len(LINES), (), generator=rng))
        thin = kind >= len(AREAS)
        cover = _line(image, rng) if thin else _patch(image, rng)
        flaw = LINES[kind - len(AREAS)] if thin else AREAS[kind]
        made = torch.lerp(image, flaw(image, rng).clamp(0, 1), cover).clamp(0, 1)
        made, mask = (made * 255).round() / 255, cover > 0.5
        changed = (made - image).abs().amax(0, keepdim=True) > VISIBLE
        if bool(mask.any()) and float(changed[mask].float().mean()) > SEEN:
            return made, mask


def probes(images: Tensor, count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Probes from good images in turn, (N,3,H,W) to (count,3,H,W), and their masks (count,1,H,W)."""
    made = [probe(images[number % len(images)], rng) for number in range(count)]
    flawed, masks = zip(*made, strict=True)
    return torch.stack(flawed), torch.stack(masks)


def _uniform(rng: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng, **DRAWN))


def _log_uniform(rng: Generator, low: float, high: float) -> float:
    return math.exp(_uniform(rng, math.log(low), math.log(max(low, high))))


def _from_centre(image: Tensor, rng: Generator) -> Tensor:
    """Distance of every pixel from a random centre, (H,W)."""
    height, width = image.shape[-2:]
    y, x = (side * (0.5 + _uniform(rng, -RIM, RIM)) for side in (height, width))
    rows = torch.arange(height, **DRAWN)[:, None] - y
    return (rows.square() + (torch.arange(width, **DRAWN) - x).square()).sqrt()


def _patch(image: Tensor, rng: Generator) -> Tensor:
    """Coverage of an irregular patch with a sharp or soft edge, (1,H,W) in [0,1]."""
    size = (image.shape[-2], image.shape[-1])
    radius = _log_uniform(rng, SMALLEST, LARGEST * min(size))
    cells = torch.full((1, 2), max(1, round(0.7 * min(size) / radius)), dtype=torch.int64)
    lumps = perlin_noise(cells.clamp(max=min(size) // 4), size, rng)[0]
    inside = radius * (1 + _uniform(rng, 0, 0.8) * lumps) - _from_centre(image, rng)
    rim = _log_uniform(rng, 1, 0.6 * radius + 1)
    return (0.5 + inside / rim).clamp(0, 1)[None].to(image)


def _line(image: Tensor, rng: Generator) -> Tensor:
    """Coverage of a section of a thin curve, (1,H,W) in [0,1]."""
    size = (image.shape[-2], image.shape[-1])
    length = _log_uniform(rng, 0.04, 0.4) * min(size)
    near = _from_centre(image, rng) < length
    curve = thin_masks(1, size, rng) & near
    return (_uniform(rng, 0.5, 1) * curve.float()).clamp(0, 1).to(image) if curve.any() else curve.to(image)


def _foreign(image: Tensor, rng: Generator) -> Tensor:
    """Another texture with random opacity."""
    cells = math.gcd(SHUFFLED, *image.shape[-2:])  # must divide the image size
    return torch.lerp(image, anomaly_source(image[None], rng, cells)[0], _uniform(rng, 0.3, 1))


def _moved(image: Tensor, rng: Generator) -> Tensor:
    """Content from another place of the image: normal colours, wrong pattern."""
    down, right = (int(_uniform(rng, 0.125, 0.875) * side) for side in image.shape[-2:])
    return image.roll((down, right), (1, 2)).flip(int(torch.randint(1, 3, (), generator=rng)))


def _stain(image: Tensor, rng: Generator) -> Tensor:
    """Tinted, darkened or bleached."""
    sign = 1 if _uniform(rng, 0, 1) < 0.5 else -1
    tint = 0.25 * torch.randn(3, 1, 1, generator=rng, **DRAWN)
    return image * (sign * _uniform(rng, 0.1, 1) + tint).exp().to(image)


def _worn(image: Tensor, rng: Generator) -> Tensor:
    """Blurred."""
    side = 2 * int(_log_uniform(rng, 1, 6.9)) + 1
    padded = F.pad(image[None], [side // 2] * 4, mode="reflect")
    return F.avg_pool2d(padded, side, stride=1)[0]


def _rough(image: Tensor, rng: Generator) -> Tensor:
    """With added noise."""
    grain = torch.randn(1, *image.shape[1:], generator=rng, **DRAWN)
    return image + (_uniform(rng, 0.05, 0.3) * grain).to(image)


def _pale(image: Tensor, rng: Generator) -> Tensor:
    """With reduced, zero or inverted contrast."""
    mean = image.mean((1, 2), keepdim=True)
    return mean + _uniform(rng, -0.6, 0.7) * (image - mean)


def _toned(image: Tensor, rng: Generator) -> Tensor:
    """Brighter or darker by a constant."""
    sign = 1 if _uniform(rng, 0, 1) < 0.5 else -1
    return image + sign * _uniform(rng, 0.1, 0.7)


def _dark(image: Tensor, rng: Generator) -> Tensor:
    """Darker by a factor, like a crack."""
    return image * (1 - _uniform(rng, 0.3, 0.95))


AREAS: tuple[Flaw, ...] = (_foreign, _moved, _stain, _worn, _rough, _pale)
LINES: tuple[Flaw, ...] = (_toned, _dark, _stain)
