"""Defect generators for images (S,S,3) in [0,1]; each returns image and mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mendiff.demo.geometry import Field
from tools.drawings import Sheet, drawn_mask, outline, plain_texture, wandering
from tools.fields import Rng, blob, chance, clouds, draw_colour, log_uniform, soft
from tools.scenes import shaded

Mask = NDArray[np.bool_]
Flaw = Callable[[Field, Rng], tuple[Field, Field]]


def _place(size: int, rng: Rng) -> tuple[float, float]:
    x, y = rng.uniform(-0.42, 0.42, 2) * size
    return float(x), float(y)


def _radius(size: int, rng: Rng) -> float:
    return log_uniform(rng, 2.5, 0.16 * size)


def _patch(size: int, rng: Rng) -> Field:
    """Coverage of an irregular or angular patch with a sharp or soft edge."""
    radius, centre = _radius(size, rng), _place(size, rng)
    if chance(rng, 0.65):
        return soft(blob(size, rng, radius, centre), log_uniform(rng, 1, 0.6 * radius + 1))
    points = outline(int(rng.integers(7)), radius, rng) + np.array(centre) + size / 2
    return drawn_mask(size, lambda sheet: sheet.area(points, 1))


def _curve(size: int, rng: Rng, width: float, kink: float) -> Field:
    """Coverage of a thin line through the image; jagged lines have branches."""
    start, length = np.array(_place(size, rng)) + size / 2, log_uniform(rng, 0.08, 0.8) * size
    points = start + wandering(rng, length, kink)

    def draw(sheet: Sheet) -> None:
        sheet.line(points, width, 1)
        for _ in range(int(rng.integers(0, 3)) if kink > 0.2 else 0):
            fork = points[rng.integers(len(points))]
            sheet.line(fork + wandering(rng, length * rng.uniform(0.2, 0.5), kink), width * 0.8, 1)

    return drawn_mask(size, draw)


def _laid(image: Field, mask: Field, other: Field) -> tuple[Field, Field]:
    return image + mask[..., None] * (other - image), mask


def foreign(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A patch of another texture with random opacity."""
    mask = _patch(len(image), rng)
    laid, _ = _laid(image, mask * np.float32(rng.uniform(0.3, 1)), plain_texture(len(image), rng))
    return laid, mask


def moved(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A patch from another place of the image, or rotated: normal colours, wrong pattern."""
    shift = rng.integers(len(image) // 8, len(image) - len(image) // 8, 2).tolist()
    other = np.roll(image, shift, (0, 1))
    if chance(rng, 0.5):
        other = np.rot90(other, int(rng.integers(1, 4)))
    return _laid(image, _patch(len(image), rng), other)


def stain(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A spot that tints, darkens or bleaches the image."""
    mask = _patch(len(image), rng)
    factor = np.exp(rng.choice([-1, 1]) * rng.uniform(0.1, 1) + rng.normal(0, 0.25, 3)).astype(np.float32)
    return image * (1 + mask[..., None] * (factor - 1)), mask


def spot(image: Field, rng: Rng) -> tuple[Field, Field]:
    """One or several dots, holes or crumbs of a single colour."""
    size, count, colour = len(image), int(log_uniform(rng, 1, 9)), draw_colour(rng)
    middle, spread = np.array(_place(size, rng)) + size / 2, log_uniform(rng, 3, 0.2 * size)
    places = middle + spread * rng.standard_normal((count, 2)) * (count > 1)
    radii = [log_uniform(rng, 0.7, 0.06 * size) for _ in range(count)]

    def draw(sheet: Sheet) -> None:
        for place, radius in zip(places, radii, strict=True):
            sheet.disc(place, radius, 1)

    mask = drawn_mask(size, draw)
    laid, _ = _laid(image, mask * np.float32(rng.uniform(0.4, 1)), colour)
    return laid, mask


def scratch(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A thin, nearly straight line, brighter or darker than the background, or both as in a groove."""
    mask = _curve(len(image), rng, log_uniform(rng, 0.6, 3), rng.uniform(0, 0.05))
    if chance(rng, 0.4):
        lit = mask - np.roll(mask, (1, 1), (0, 1))
        return image * (1 + np.float32(rng.uniform(0.3, 0.9)) * lit)[..., None], mask
    tone = np.float32(rng.choice([-1, 1]) * rng.uniform(0.1, 0.7))
    return image + mask[..., None] * tone * (draw_colour(rng) if chance(rng, 0.3) else 1), mask


def crack(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A jagged dark line with branches."""
    mask = _curve(len(image), rng, log_uniform(rng, 0.6, 4), rng.uniform(0.2, 0.7))
    return image * (1 - np.float32(rng.uniform(0.3, 0.95)) * mask)[..., None], mask


def thread(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A hair or fibre on the surface, with a shadow."""
    mask = _curve(len(image), rng, log_uniform(rng, 0.8, 5), rng.uniform(0.02, 0.2))
    down, right = (int(one) for one in rng.integers(-2, 3, 2))
    shade = ndimage.uniform_filter(np.roll(mask, (down, right), (0, 1)), 3)
    return _laid(image * (1 - np.float32(0.4) * shade)[..., None], mask, draw_colour(rng))


def worn(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A region without the pattern: blurred or uniform."""
    mask = _patch(len(image), rng)
    if chance(rng, 0.3):
        weight = mask[..., None] + np.float32(1e-3)
        return _laid(image, mask, (image * weight).sum((0, 1)) / weight.sum((0, 1)))
    width = int(log_uniform(rng, 3, 12))
    return _laid(image, mask, ndimage.uniform_filter(image, (width, width, 1)))


def distorted(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A region with a distorted pattern."""
    size, (x, y) = len(image), np.meshgrid(np.arange(len(image)), np.arange(len(image)))
    mask = _patch(size, rng)
    slope = ndimage.gaussian_filter(mask, max(1.0, 0.02 * size))
    push = rng.uniform(-8, 8, 2)
    at_y = np.clip(np.rint(y + push[0] * slope), 0, size - 1).astype(np.int32)
    at_x = np.clip(np.rint(x + push[1] * slope), 0, size - 1).astype(np.int32)
    return image[at_y, at_x], mask


def dent(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A dent or a bump with shading."""
    size, radius = len(image), max(4.0, _radius(len(image), rng))
    distance = blob(size, rng, radius, _place(size, rng))
    depth = np.float32(rng.choice([-1, 1]) * rng.uniform(0.3, 1.5) * radius)
    height = depth * np.clip(1 - (distance / np.float32(radius) + 1) ** 2, 0, 1)
    lit = shaded(height, np.ones(3, np.float32), rng)
    flat = lit[np.unravel_index(int(np.abs(height).argmin()), height.shape)]
    return image * np.clip(lit / np.maximum(flat, np.float32(0.2)), 0, 2.5), soft(distance)


def rough(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A region with added noise."""
    mask = _patch(len(image), rng)
    noise = clouds(len(image), rng, rng.uniform(0, 1)) * np.float32(rng.uniform(0.05, 0.3))
    return image + (mask * noise)[..., None], mask


def inverted(image: Field, rng: Rng) -> tuple[Field, Field]:
    """A region with inverted or reduced contrast."""
    mask = _patch(len(image), rng)
    mean = image.mean((0, 1))
    return _laid(image, mask, mean - np.float32(rng.uniform(-0.6, 1)) * (image - mean))


FLAWS: tuple[Flaw, ...] = (
    foreign,
    moved,
    stain,
    spot,
    scratch,
    crack,
    thread,
    worn,
    distorted,
    dent,
    rough,
    inverted,
)


def flawed(image: Field, rng: Rng) -> tuple[Field, Mask]:
    """Add a random defect; returns the image and its mask, (S,S) bool."""
    changed, mask = FLAWS[rng.integers(len(FLAWS))](image, rng)
    return np.clip(changed, 0, 1), mask > np.float32(0.5)
