"""Images of objects: shaded reliefs, parts on a background, and the demo's parts, (S,S,3) in [0,1]."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from mendiff.demo.data import CATEGORIES, LOCAL_DEFECTS, render_defective, render_good
from mendiff.demo.geometry import Field
from tools.drawings import plain_texture
from tools.fields import Rng, chance, clouds, draw_colour, grid, log_uniform, soft, turned
from tools.textures import draw_texture

PARTS = 96
"""Number of different demo parts. Rendering takes a tenth of a second, so they are cached."""


def shaded(height: Field, albedo: Field, rng: Rng) -> Field:
    """Shade a surface with a single lamp.

    Args:
        height: (S,S) in pixels.
        albedo: (S,S,3).
        rng: draws lamp and gloss.
    """
    azimuth, elevation = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 1.3)
    flat = math.cos(elevation)
    lx, ly, lz = flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)
    gy, gx = np.gradient(height)
    length = 1 / np.sqrt(1 + gx * gx + gy * gy)
    facing = np.clip((lz - gx * np.float32(lx) - gy * np.float32(ly)) * length, 0, None)
    ambient = rng.uniform(0.1, 0.5)
    light = np.float32(ambient) + np.float32((1 - ambient) / max(lz, 0.5)) * facing
    image = albedo * light[..., None]
    if chance(rng, 0.6):
        half = np.array([lx, ly, lz + 1]) / math.sqrt(lx * lx + ly * ly + (lz + 1) ** 2)
        mirrored = np.clip((half[2] - gx * half[0] - gy * half[1]) * length, 0, 1).astype(np.float32)
        spark = mirrored ** np.float32(log_uniform(rng, 4, 60))
        image = image + np.float32(rng.uniform(0.1, 0.7)) * spark[..., None]
    return image


def relief(size: int, rng: Rng) -> Field:
    """A texture used as height map, uniform or with another texture as colour."""
    height = draw_texture(size, rng) * np.float32(log_uniform(rng, 0.15, 4))
    if chance(rng, 0.5):
        height = ndimage.gaussian_filter(height, rng.uniform(0.5, 2.5))
    albedo = plain_texture(size, rng) if chance(rng, 0.5) else draw_colour(rng)
    return np.clip(shaded(height, albedo, rng), 0, 1)


def things(size: int, rng: Rng) -> Field:
    """One or several parts with bevels, holes, materials and shadows on a background."""
    image = plain_texture(size, rng)
    if chance(rng, 0.5):  # a uniform background
        image = image.mean((0, 1), keepdims=True) * 0.8 + 0.2 * image
    count = 1 if chance(rng, 0.6) else int(rng.integers(2, 5))
    material = plain_texture(size, rng)
    for _ in range(count):
        radius = size * rng.uniform(0.2, 0.5) / math.sqrt(count)
        centre = rng.uniform(-0.35, 0.35, 2) * size * (0.4 if count == 1 else 1)
        distance = part(size, rng, radius, (float(centre[0]), float(centre[1])))
        bevel = np.float32(log_uniform(rng, 1, 0.5 * radius))
        height = np.clip(-distance / bevel, 0, 1)
        height = np.sqrt(height * (2 - height)) * bevel * np.float32(rng.uniform(0.2, 1))
        if chance(rng, 0.5):
            height = height + np.float32(rng.uniform(0, 0.5)) * clouds(size, rng, rng.uniform(0.3, 2))
        if chance(rng, 0.7):
            image = image * (1 - np.float32(rng.uniform(0.2, 0.7)) * _shadow(distance, rng))[..., None]
        cover = soft(distance)[..., None]
        image = image + cover * (shaded(height, material, rng) - image)
        if chance(rng, 0.3):
            material = plain_texture(size, rng)
    return np.clip(image, 0, 1)


def _shadow(distance: Field, rng: Rng) -> Field:
    down, right = (int(one) for one in rng.integers(-6, 7, 2))
    return np.clip(0.5 - np.roll(distance, (down, right), (0, 1)) / np.float32(rng.uniform(2, 10)), 0, 1)


def part(size: int, rng: Rng, radius: float, centre: tuple[float, float]) -> Field:
    """Approximate signed distance to a disc, polygon, gear, flower, box or ring, some with holes."""
    turn = rng.uniform(0, math.pi)
    (x, y), cos, sin = turned(size, turn), math.cos(turn), math.sin(turn)
    u = x - np.float32(centre[0] * cos + centre[1] * sin)
    v = y - np.float32(centre[1] * cos - centre[0] * sin)
    away, kind = np.hypot(u, v), rng.integers(5)
    if kind == 0:
        distance = away - np.float32(radius)
    elif kind == 1:
        long = np.float32(rng.uniform(0.4, 1.0))
        a, b = np.abs(u) - np.float32(radius), np.abs(v) - np.float32(radius) * long
        corner = np.float32(rng.uniform(0, 0.4) * radius)
        outside = np.hypot(np.maximum(a + corner, 0), np.maximum(b + corner, 0))
        distance = np.maximum(np.minimum(np.maximum(a, b), 0), outside - corner)
    else:
        count, angle = int(rng.integers(3, 12)), np.arctan2(v, u)
        if kind == 2:  # a polygon
            sector = np.float32(2 * math.pi / count)
            folded = angle - sector * np.floor(angle / sector + np.float32(0.5))
            distance = away * np.cos(folded) - np.float32(radius * math.cos(math.pi / count))
        else:
            wave = np.cos(angle * count)
            wave = np.tanh(4 * wave) if kind == 3 else wave
            distance = away - np.float32(radius) * (1 + np.float32(rng.uniform(0.05, 0.25)) * wave)
    if chance(rng, 0.4):
        distance = np.maximum(distance, np.float32(radius * rng.uniform(0.2, 0.7)) - away)
    for _ in range(int(rng.integers(0, 4)) if chance(rng, 0.4) else 0):
        at = rng.uniform(-0.6, 0.6, 2).astype(np.float32) * np.float32(radius)
        hole = np.float32(radius * rng.uniform(0.05, 0.2)) - np.hypot(u - at[0], v - at[1])
        distance = np.maximum(distance, hole)
    return distance


@lru_cache(maxsize=PARTS)
def _demo_part(number: int) -> Image.Image:
    """Demo part `number`, good or defective, at its original size; reproducible on all machines."""
    rng = np.random.default_rng([20260, number])
    category, size = CATEGORIES[number % len(CATEGORIES)], int(rng.integers(160, 257))
    if chance(rng, 0.5):
        return Image.fromarray(render_good(category, rng, size))
    kinds = LOCAL_DEFECTS[category]  # and none that came later: the bundled networks were taught on these
    return Image.fromarray(render_defective(category, kinds[rng.integers(len(kinds))], rng, size)[0])


def demo_part(size: int, rng: Rng) -> Field:
    """A demo part, complete or cropped, resized."""
    picture = _demo_part(int(rng.integers(PARTS)))
    side = picture.width * rng.uniform(0.45, 1.0)
    left, top = rng.uniform(0, picture.width - side, 2)
    box = (left, top, left + side, top + side)
    resized = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized, np.float32) / 255


def mixed(size: int, rng: Rng, first: Field, second: Field) -> Field:
    """Combine two images: side by side with a straight or irregular border, blended, or multiplied."""
    kind = rng.integers(4)
    if kind == 0:
        x, _ = turned(size, rng.uniform(0, math.pi))
        mask = soft(x - np.float32(rng.uniform(-0.3, 0.3) * size), log_uniform(rng, 1, 20))
    elif kind == 1:
        mask = soft(clouds(size, rng, rng.uniform(1.3, 2.5)), log_uniform(rng, 0.05, 2))
    elif kind == 2:
        mask = np.full_like(grid(size)[0], rng.uniform(0.2, 0.8))
    else:
        return np.clip(first * (second / max(float(second.mean()), 0.05)), 0, 1)
    return first + mask[..., None] * (second - first)
