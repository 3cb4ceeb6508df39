"""Infinite stream of generated images: image n of a seed is reproducible.

Textures, dead leaves, fractals, drawings, reliefs and rendered parts, and mixtures of these, most of them
with defects, with random light and camera. No real images are used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mendiff.demo.geometry import Field
from mendiff.demo.shading import Pixels
from tools.camera import photographed
from tools.drawings import circuit, dead_leaves, line_art, plain_texture, writing
from tools.fields import Rng, chance
from tools.flaws import flawed
from tools.scenes import demo_part, mixed, relief, things

Kind = Callable[[int, Rng], Field]

KINDS: dict[Kind, float] = {
    plain_texture: 32,
    dead_leaves: 14,
    relief: 14,
    things: 12,
    demo_part: 8,
    circuit: 6,
    line_art: 5,
    writing: 5,
}
"""Kinds of images and their relative frequencies."""
_SHARES = np.array(list(KINDS.values())) / sum(KINDS.values())
MIXED, FLAWED, MOST_FLAWS = 0.25, 0.6, 3


def draw_kind(rng: Rng) -> Kind:
    """A random element of KINDS, according to the frequencies."""
    return list(KINDS)[rng.choice(len(KINDS), p=_SHARES)]


def generate(seed: int, number: int, size: int) -> Pixels:
    """Image `number` of a seed, (size,size,3) uint8."""
    rng = np.random.default_rng([seed, number])
    image = draw_kind(rng)(size, rng)
    if chance(rng, MIXED):
        image = mixed(size, rng, image, draw_kind(rng)(size, rng))
    if chance(rng, FLAWED):
        for _ in range(int(rng.integers(1, MOST_FLAWS + 1))):
            image, _ = flawed(image, rng)
    return photographed(image, rng)


def generate_batch(seed: int, first: int, count: int, size: int) -> Tensor:
    """Images first to first + count - 1 of a seed, (count,3,size,size) uint8."""
    images = np.stack([generate(seed, number, size) for number in range(first, first + count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
