"""Synthetic anomalies for training, after MemSeg (Yang et al. 2023), as used by GLAD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mendiff.errors import InputError, check_choices, check_range
from mendiff.synthesis import DRAWN
from mendiff.synthesis.foreground import Mode, foreground
from mendiff.synthesis.perlin import perlin_masks, thin_masks

Textures = Sequence[Tensor] | Tensor
"""Texture images (3,h,w) in [0,1] by index, in memory or read on access."""
MAX_BLEND = 0.8
"""Largest weight of the original inside the anomaly: beta is uniform in [0, MAX_BLEND] (published)."""
GRID = 8
"""Cells per side of the self-shuffle (published); image sides must divide by it."""


@dataclass(frozen=True)
class SynthesisConfig:
    """Settings of synthetic anomalies.

    Attributes:
        share: share of the samples with an anomaly, 0 to 1 (published: 0.5).
        thin_share: share of the anomalies drawn as thin curves instead of blobs (published: 0).
        foreground: region of the anomalies: "none", "dark", "bright" or "auto"; see `foreground`.
    """

    share: float = 0.5
    thin_share: float = 0.0
    foreground: Mode = "none"

    def __post_init__(self) -> None:
        for name in ("share", "thin_share"):
            check_range(f"synthesis.{name}", getattr(self, name), 0, 1)
        check_choices(self, "synthesis.")


def synthesize(
    image: Tensor, rng: torch.Generator, config: SynthesisConfig, textures: Textures | None = None
) -> tuple[Tensor, Tensor]:
    """Add synthetic anomalies to some of the images: (1-m) x + m (beta x + (1-beta) source).

    Args:
        image: (B,3,H,W) in [0,1].
        rng: CPU generator; the only source of randomness.
        config: see SynthesisConfig.
        textures: texture images, each (3,h,w) in [0,1] and no smaller than the images. Half of the anomalies
            use a crop of a texture, the other half shuffled cells of the image; without textures all use
            shuffled cells.

    Returns:
        (images with anomalies (B,3,H,W) in [0,1], masks (B,1,H,W) bool, empty for images without an anomaly).
    """
    batch, _, height, width = image.shape
    mask = perlin_masks(batch, (height, width), rng)
    thin = torch.rand(batch, 1, 1, generator=rng, **DRAWN) < config.thin_share
    if config.thin_share > 0:
        mask = torch.where(thin, thin_masks(batch, (height, width), rng), mask)
    chosen = torch.rand(batch, 1, 1, generator=rng, **DRAWN) < config.share
    mask = (mask & chosen).to(image.device) & foreground(image, config.foreground)
    beta = (torch.rand(batch, 1, 1, 1, generator=rng, **DRAWN) * MAX_BLEND).to(image)
    picked = chosen.flatten().nonzero().flatten()
    source = image.clone()
    if len(picked):
        source[picked] = anomaly_source(image[picked], rng, textures=textures)
    inside = mask[:, None].to(image.dtype)
    return image + inside * (1 - beta) * (source - image), mask[:, None]


def synthesize_each(
    image: Tensor, rngs: Sequence[torch.Generator], config: SynthesisConfig, textures: Textures | None = None
) -> tuple[Tensor, Tensor]:
    """Like `synthesize`, with a generator per image: an anomaly does not depend on the rest of the batch."""
    pairs = [synthesize(one, rng, config, textures) for one, rng in zip(image.split(1), rngs, strict=True)]
    images, masks = zip(*pairs, strict=True)
    return torch.cat(images), torch.cat(masks)


def anomaly_source(
    image: Tensor, rng: torch.Generator, grid: int = GRID, textures: Textures | None = None
) -> Tensor:
    """Source images of the anomalies, (B,3,H,W) in [0,1]: augmented textures or shuffled augmented images."""
    from mendiff.synthesis.augment import augment  # torchvision, which only training needs, takes seconds

    sources = []
    for one in image:
        if textures is not None and float(torch.rand((), generator=rng, **DRAWN)) < 0.5:
            index = int(torch.randint(len(textures), (), generator=rng))
            sources.append(augment(_piece(textures[index], one, rng), rng))
        else:
            sources.append(shuffle_cells(augment(one, rng), grid, rng))
    return torch.stack(sources)


def _piece(texture: Tensor, image: Tensor, rng: torch.Generator) -> Tensor:
    """A random crop of a texture, (3,h,w), with the size of an image, (3,H,W)."""
    (height, width), sides = image.shape[-2:], texture.shape[-2:]
    if height > sides[0] or width > sides[1]:
        raise InputError(
            f"textures: expected pictures of at least {height}x{width} pixels, got {sides[0]}x{sides[1]}."
        )
    if sides != (height, width):
        y = int(torch.randint(sides[0] - height + 1, (), generator=rng))
        x = int(torch.randint(sides[1] - width + 1, (), generator=rng))
        texture = texture[:, y : y + height, x : x + width]
    return texture.to(image)


def shuffle_cells(image: Tensor, grid: int, rng: torch.Generator) -> Tensor:
    """Permute the grid x grid cells of an image, (3,H,W) to (3,H,W); H and W must be multiples of grid."""
    channels, height, width = image.shape
    if height % grid or width % grid:
        raise InputError(
            f"image size: expected a multiple of the shuffle grid {grid}, got {height}x{width}; "
            "choose another image size."
        )
    cells = (
        image.view(channels, grid, height // grid, grid, width // grid).permute(1, 3, 0, 2, 4).flatten(0, 1)
    )
    cells = cells[torch.randperm(grid * grid, generator=rng).to(image.device)]
    cells = cells.view(grid, grid, channels, height // grid, width // grid)
    return cells.permute(2, 0, 3, 1, 4).reshape(channels, height, width)
