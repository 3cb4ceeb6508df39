"""Small and faint defects to measure with, not to train on: what good images would look like with one flaw.

Synthetic anomalies as GLAD trains on are plain to see, and a model has learned them. These are of many sizes
and contrasts, down to what no model finds, so that what finds more of them can be told apart.
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
"""Radius of a flaw: least in pixels, most as a share of the image's side; the logarithm is uniform."""
RIM = 0.42
"""How far from the middle a flaw's centre may lie, as a share of the side."""
SHUFFLED = 8
"""Cells per side, at most, of the shuffles that foreign patches are cut from."""

VISIBLE, SEEN = 4 / 255, 0.25
"""What a pixel changes by at least to be seen as changed, and the share of a flaw's pixels that must be."""

Flaw = Callable[[Tensor, Generator], Tensor]


def probe(image: Tensor, rng: Generator) -> tuple[Tensor, Tensor]:
    """A good image with one flaw, (3,H,W) in [0,1] to the same, and its mask (1,H,W) bool, never empty.

    A flaw that would not show, such as a blur of what is flat, is drawn again.

    Args:
        image: of any size from 16 pixels.
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
    """Good images, each in turn, with a flaw each, (N,3,H,W) to (count,3,H,W), and masks (count,1,H,W)."""
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
    """How far a lumpy patch with a sharp or a soft rim covers every pixel, (1,H,W) in [0,1]."""
    size = (image.shape[-2], image.shape[-1])
    radius = _log_uniform(rng, SMALLEST, LARGEST * min(size))
    cells = torch.full((1, 2), max(1, round(0.7 * min(size) / radius)), dtype=torch.int64)
    lumps = perlin_noise(cells.clamp(max=min(size) // 4), size, rng)[0]
    inside = radius * (1 + _uniform(rng, 0, 0.8) * lumps) - _from_centre(image, rng)
    rim = _log_uniform(rng, 1, 0.6 * radius + 1)
    return (0.5 + inside / rim).clamp(0, 1)[None].to(image)


def _line(image: Tensor, rng: Generator) -> Tensor:
    """The same of a piece of a thin curve."""
    size = (image.shape[-2], image.shape[-1])
    length = _log_uniform(rng, 0.04, 0.4) * min(size)
    near = _from_centre(image, rng) < length
    curve = thin_masks(1, size, rng) & near
    return (_uniform(rng, 0.5, 1) * curve.float()).clamp(0, 1).to(image) if curve.any() else curve.to(image)


def _foreign(image: Tensor, rng: Generator) -> Tensor:
    """Another texture, more or less see-through."""
    cells = math.gcd(SHUFFLED, *image.shape[-2:])  # they must share out the image evenly
    return torch.lerp(image, anomaly_source(image[None], rng, cells)[0], _uniform(rng, 0.3, 1))


def _moved(image: Tensor, rng: Generator) -> Tensor:
    """The image's own, from another place: colours are right, the pattern is not."""
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
    """Grainier."""
    grain = torch.randn(1, *image.shape[1:], generator=rng, **DRAWN)
    return image + (_uniform(rng, 0.05, 0.3) * grain).to(image)


def _pale(image: Tensor, rng: Generator) -> Tensor:
    """With its contrast reduced, gone or turned round."""
    mean = image.mean((1, 2), keepdim=True)
    return mean + _uniform(rng, -0.6, 0.7) * (image - mean)


def _toned(image: Tensor, rng: Generator) -> Tensor:
    """Brighter or darker by an amount."""
    sign = 1 if _uniform(rng, 0, 1) < 0.5 else -1
    return image + sign * _uniform(rng, 0.1, 0.7)


def _dark(image: Tensor, rng: Generator) -> Tensor:
    """Darker by a factor, as a crack is."""
    return image * (1 - _uniform(rng, 0.3, 0.95))


AREAS: tuple[Flaw, ...] = (_foreign, _moved, _stain, _worn, _rough, _pale)
LINES: tuple[Flaw, ...] = (_toned, _dark, _stain)
