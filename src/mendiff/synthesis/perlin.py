"""Perlin noise masks, batched (Perlin 1985, as used by DRAEM and MemSeg for synthetic anomalies)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.synthesis import DRAWN


def perlin_noise(cells: Tensor, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Gradient noise in about [-1,1], (B,H,W) float32.

    Args:
        cells: lattice cells along y and x per image, (B,2) int64, at least 1.
        size: (H,W) in pixels.
        rng: CPU generator.
    """
    batch, (height, width) = cells.shape[0], size
    nodes = int(cells.max()) + 1
    angles = 2 * math.pi * torch.rand(batch, nodes * nodes, generator=rng, **DRAWN)
    y = (torch.arange(height, **DRAWN)[None] + 0.5) / height * cells[:, :1]
    x = (torch.arange(width, **DRAWN)[None] + 0.5) / width * cells[:, 1:]
    row, column = y.floor().long(), x.floor().long()
    dy, dx = (y - row)[:, :, None], (x - column)[:, None, :]

    def corner(down: int, right: int) -> Tensor:
        node = (row + down)[:, :, None] * nodes + (column + right)[:, None, :]
        angle = angles.gather(1, node.flatten(1)).view(batch, height, width)
        return torch.cos(angle) * (dx - right) + torch.sin(angle) * (dy - down)

    fade_y, fade_x = _fade(dy), _fade(dx)
    top = torch.lerp(corner(0, 0), corner(0, 1), fade_x)
    bottom = torch.lerp(corner(1, 0), corner(1, 1), fade_x)
    return math.sqrt(2) * torch.lerp(top, bottom, fade_y)


def perlin_masks(
    batch: int, size: tuple[int, int], rng: torch.Generator, threshold: float = 0.3, max_exponent: int = 5
) -> Tensor:
    """Random blob masks, (B,H,W) bool: rotated Perlin noise above a threshold.

    Every image has its own lattice of 2^0..2^max_exponent cells per axis and its own rotation of -90 to 90
    degrees (the published GLAD and MemSeg settings).
    """
    cells = 2 ** torch.randint(0, max_exponent + 1, (batch, 2), generator=rng)
    noise = perlin_noise(cells, size, rng)
    angle = (torch.rand(batch, generator=rng, **DRAWN) * 2 - 1) * (math.pi / 2)
    return rotate(noise[:, None], angle)[:, 0] > threshold


def thin_masks(batch: int, size: tuple[int, int], rng: torch.Generator, max_exponent: int = 3) -> Tensor:
    """Random thin curves, (B,H,W) bool: a narrow band around a level set of Perlin noise, inside a blob.

    They resemble cracks and scratches, which blobs do not. Their width is 1 to 3 pixels.
    """
    cells = 2 ** torch.randint(1, max_exponent + 1, (batch, 2), generator=rng)
    plain = perlin_noise(cells, size, rng)[:, None]
    noise = rotate(plain, torch.rand(batch, generator=rng, **DRAWN) * math.pi)[:, 0]
    level = torch.rand(batch, 1, 1, generator=rng, **DRAWN) * 0.4 - 0.2
    slope_y, slope_x = torch.gradient(noise, dim=(1, 2))
    distance = (noise - level).abs() / (slope_y**2 + slope_x**2).sqrt().clamp(min=1e-3)
    half_width = 0.5 + torch.rand(batch, 1, 1, generator=rng, **DRAWN)
    cut = perlin_noise(torch.full((batch, 2), 2), size, rng) > 0.15
    return (distance < half_width) & cut


def _fade(x: Tensor) -> Tensor:
    return x**3 * (x * (x * 6 - 15) + 10)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate every image about its centre by its own angle in radians, mirrored at the border, (B,C,H,W)."""
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle)
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
