"""Camera model: light, lens, sensor and compression, for images (S,S,3) in [0,1]."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from mendiff.demo.geometry import Field
from mendiff.demo.shading import Pixels
from tools.fields import Rng, chance, draw_colour, grid, log_uniform

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def photographed(image: Field, rng: Rng) -> Pixels:
    """Apply random camera effects, each with some probability; returns (S,S,3) uint8."""
    image = _tones(_lens(turned_over(image, rng), rng), rng)
    if chance(rng, 0.5):
        image = _sensor(image, rng)
    pixels = np.clip(image * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
    return _compressed(pixels, rng) if chance(rng, 0.25) else pixels


def turned_over(image: Any, rng: Rng) -> Any:
    """Rotate by a random multiple of 90 degrees and mirror at random; the first step of `photographed`."""
    image = np.rot90(image, int(rng.integers(4)))
    return image[::-1] if chance(rng, 0.5) else image


def _lens(image: Field, rng: Rng) -> Field:
    """Blur or sharpening, and vignetting."""
    kind = rng.random()
    if kind < 0.3:
        sigma = log_uniform(rng, 0.4, 2.0)
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3)
    elif kind < 0.4:
        mean = ndimage.uniform_filter(image, (3, 3, 1))
        image = image + np.float32(rng.uniform(0.3, 1.5)) * (image - mean)
    if chance(rng, 0.2):
        x, y = grid(len(image))
        far = (x * x + y * y) * np.float32(2 / len(image) ** 2)
        image = image * (1 - np.float32(rng.uniform(0.1, 0.6)) * far)[..., None]
    return image


def _tones(image: Field, rng: Rng) -> Field:
    """Colour, brightness and contrast; many inspection cameras are monochrome with low contrast."""
    if chance(rng, 0.4):
        image = (image @ _LUMA)[..., None]
    elif chance(rng, 0.3):
        tint = draw_colour(rng)
        image = image * (tint / tint.mean()) ** np.float32(rng.uniform(0, 0.6))
    if chance(rng, 0.4):
        image = np.clip(image, 0, 1) ** np.float32(math.exp(rng.normal(0, 0.5)))
    if chance(rng, 0.6):
        contrast = log_uniform(rng, 0.25, 3.0)
        middle = float(image.mean())
        aim = rng.uniform(0.1, 0.9)
        image = np.float32(aim) + np.float32(contrast) * (image - np.float32(middle))
    if chance(rng, 0.08):
        image = 1 - image
    return np.broadcast_to(image, (*image.shape[:2], 3))


def _sensor(image: Field, rng: Rng) -> Field:
    """Noise, grey or coloured; strong noise is stronger in dark regions."""
    strength = np.float32(log_uniform(rng, 0.004, 0.08))
    channels = 1 if chance(rng, 0.5) else 3
    return image + strength * rng.standard_normal((*image.shape[:2], channels), np.float32)


def _compressed(pixels: Pixels, rng: Rng) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(25, 95)))
    return np.asarray(Image.open(buffer))
