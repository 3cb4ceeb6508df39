"""Building blocks of generated images: coordinates, noise, colours. Fields are (S,S) float32."""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from mendiff.demo.geometry import Field

Rng = np.random.Generator
Labels = NDArray[np.int32]


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """A log-uniform random number, used for scale-free sizes."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def chance(rng: Rng, share: float) -> bool:
    """True with probability `share`."""
    return bool(rng.random() < share)


# Coordinates.


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """(x, y) of every pixel relative to the image centre."""
    axis = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def turned(size: int, angle: float) -> tuple[Field, Field]:
    """(x, y) of every pixel, rotated by an angle in radians."""
    x, y = grid(size)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def draw_angle(rng: Rng) -> float:
    """A random direction, often horizontal or vertical as in man-made objects."""
    return rng.choice([0.0, math.pi / 2]) if chance(rng, 0.4) else rng.uniform(0, math.pi)


def bent(size: int, rng: Rng) -> tuple[Field, Field]:
    """Coordinates of a pattern on a surface: rotated, stretched, sometimes in perspective or wavy."""
    u, v = turned(size, draw_angle(rng))
    stretch = np.float32(math.exp(rng.normal(0, 0.15)))
    u, v = u * stretch + np.float32(rng.uniform(0, 500)), v / stretch + np.float32(rng.uniform(0, 500))
    if chance(rng, 0.25):
        x, y = grid(size)
        reach = 0.6 / size
        depth = 1 + x * np.float32(rng.uniform(-reach, reach)) + y * np.float32(rng.uniform(-reach, reach))
        u, v = u / depth, v / depth
    if chance(rng, 0.4):
        swing = np.float32(log_uniform(rng, 0.3, 6))
        u = u + swing * clouds(size, rng, 2.5)
        if chance(rng, 0.5):
            v = v + swing * clouds(size, rng, 2.5)
    return u, v


# Noise with zero mean and unit standard deviation.


@lru_cache(maxsize=8)
def _frequencies(size: int) -> tuple[Field, Field, Field]:
    """Cycles per pixel along x and y, and their length (that of the mean is 1), (S,S//2+1)."""
    fx, fy = np.meshgrid(np.fft.rfftfreq(size), np.fft.fftfreq(size))
    length = np.hypot(fx, fy)
    length[0, 0] = 1
    return fx.astype(np.float32), fy.astype(np.float32), length.astype(np.float32)


def normal(field: Field) -> Field:
    """Normalise a field to zero mean and unit standard deviation; a constant field becomes 0."""
    field = field - field.mean(dtype=np.float32)
    flat = field.ravel()
    return field / np.float32(max(math.sqrt(float(flat @ flat) / flat.size), 1e-6))


def spectral(size: int, rng: Rng, amplitude: Field) -> Field:
    """Gaussian noise with a given amplitude per frequency, (S,S//2+1); frequency 0 is ignored."""
    drawn = rng.standard_normal((*amplitude.shape, 2), np.float32).view(np.complex64)[..., 0]
    drawn *= amplitude
    drawn[0, 0] = 0
    return normal(scipy.fft.irfft2(drawn, s=(size, size)))


def clouds(size: int, rng: Rng, slope: float, stretch: float = 1.0, angle: float = 0.0) -> Field:
    """Noise with amplitude f^-slope: 0 is white, 1 as in photographs, 2 smooth; optionally stretched."""
    fx, fy, length = _frequencies(size)
    if stretch != 1:
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        along, across = (fx * cos + fy * sin) * np.float32(stretch), fy * cos - fx * sin
        length = np.sqrt(along * along + across * across)
        length[0, 0] = 1
    return spectral(size, rng, length ** np.float32(-slope))


def ripples(size: int, rng: Rng, period: float, width: float, spread: float = 0.0) -> Field:
    """Noise of a single scale.

    Args:
        size: S.
        rng: the only source of randomness.
        period: period in pixels.
        width: bandwidth in octaves.
        spread: spread of the directions, small for parallel waves; 0 for isotropic noise.
    """
    fx, fy, length = _frequencies(size)
    octaves = np.log2(length * np.float32(period)) / np.float32(width)
    amplitude = np.exp(-octaves * octaves) / length
    if spread:
        angle = draw_angle(rng)
        across = (fy * np.float32(math.cos(angle)) - fx * np.float32(math.sin(angle))) / length
        amplitude = amplitude * np.exp(-((across / np.float32(spread)) ** 2))
    return spectral(size, rng, amplitude)


def profile(position: Field, rng: Rng, knots: int = 256) -> Field:
    """A random function of one coordinate with a knot per pixel and a period of `knots` pixels."""
    values = rng.standard_normal(knots).astype(np.float32)
    low = np.floor(position)
    at = low.astype(np.int32)
    first, second = values[at % knots], values[(at + 1) % knots]
    return first + (position - low) * (second - first)


def tone_of(row: Field, column: Field, rng: Rng) -> Field:
    """A random number in [-1,1] for every cell of a lattice, given by integer row and column."""
    table = rng.uniform(-1, 1, 1024).astype(np.float32)
    return table[(row.astype(np.int32) * 7919 + column.astype(np.int32) * 10477) & 1023]


# Shapes and colours.


def soft(distance: Field, edge: float = 1.0) -> Field:
    """Coverage in [0,1] of the region with negative signed distance, with a soft edge."""
    return np.clip(0.5 - distance / np.float32(edge), 0, 1)


def blob(size: int, rng: Rng, radius: float, centre: tuple[float, float]) -> Field:
    """Approximate signed distance to an irregular patch of about the given radius."""
    x, y = grid(size)
    a, b = x - np.float32(centre[0]), y - np.float32(centre[1])
    angle, squeeze = rng.uniform(0, math.pi), np.float32(math.exp(rng.normal(0, 0.3)))
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    along, across = (a * cos + b * sin) * squeeze, (b * cos - a * sin) / squeeze
    uneven = np.float32(rng.uniform(0, 0.35) * radius)
    return np.sqrt(along * along + across * across) - np.float32(radius) + uneven * clouds(size, rng, 2.0)


def draw_colour(rng: Rng) -> Field:
    """A random colour (3,) in [0,1], mostly with low saturation."""
    saturation = rng.beta(0.8, 2.5)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.05, 1.0)), np.float32)


def draw_palette(rng: Rng) -> Field:
    """Colours from low to high, (256,3): a ramp of one tint or several colours, smooth or in steps."""
    kind = rng.random()
    if kind < 0.55:  # shades of a single colour
        base, contrast = draw_colour(rng), log_uniform(rng, 0.15, 2)
        middle = rng.uniform(0.2, 0.8)
        levels = np.clip(middle + contrast * np.linspace(-0.5, 0.5, 256), 0, 1).astype(np.float32)
        ramp = levels[:, None] * (base / base.max())
        return ramp[::-1] if chance(rng, 0.5) else ramp
    stops = np.stack([draw_colour(rng) for _ in range(int(rng.integers(2, 6)))])
    places = np.sort(rng.uniform(0.1, 0.9, len(stops)))
    if kind > 0.9:
        return stops[np.searchsorted(places[1:], np.linspace(0, 1, 256))]
    position = np.linspace(0, 1, 256)
    return np.stack([np.interp(position, places, stops[:, c]) for c in range(3)], 1).astype(np.float32)


def coloured(field: Field, rng: Rng) -> Field:
    """Map a field of about unit standard deviation to a random palette, (S,S,3) in [0,1]."""
    levels = np.clip(field * np.float32(51) + np.float32(127.5), 0, 255).astype(np.uint8)
    return draw_palette(rng).take(levels, axis=0)
