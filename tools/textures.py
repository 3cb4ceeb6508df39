"""Grey textures: each function draws an (S,S) field of about zero mean and unit standard deviation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mendiff.demo.geometry import Field
from tools.fields import (
    Rng,
    bent,
    chance,
    clouds,
    draw_angle,
    grid,
    log_uniform,
    normal,
    profile,
    ripples,
    tone_of,
)

Texture = Callable[[int, Rng], Field]
TAU = np.float32(2 * math.pi)


# Noise.


def cloudy(size: int, rng: Rng) -> Field:
    """Noise of any spectral slope, often stretched in one direction."""
    stretch = log_uniform(rng, 1, 12) if chance(rng, 0.5) else 1.0
    return clouds(size, rng, rng.uniform(0, 2.2), stretch, draw_angle(rng))


def octaves(size: int, rng: Rng) -> Field:
    """Several layers of noise of one scale each, unchanged, as ridges or as bulges."""
    kind, period, total = rng.integers(3), log_uniform(rng, 10, 80), np.zeros((size, size), np.float32)
    fall, step = rng.uniform(0.35, 0.8), rng.uniform(1.8, 2.6)
    for layer in range(int(rng.integers(2, 5))):
        noise = ripples(size, rng, max(period / step**layer, 2.5), 0.5)
        total += np.float32(fall**layer) * (noise if kind == 0 else -np.abs(noise) if kind == 1 else noise**2)
    return normal(total)


def labyrinth(size: int, rng: Rng) -> Field:
    """Spots or stripes like a reaction-diffusion pattern: noise of one scale, pushed to two levels."""
    noise = ripples(size, rng, log_uniform(rng, 4, 40), rng.uniform(0.1, 0.4), rng.choice([0.0, 0.3, 0.8]))
    return normal(np.tanh((noise - np.float32(rng.uniform(-1.2, 1.2))) * np.float32(log_uniform(rng, 1, 10))))


def veins(size: int, rng: Rng) -> Field:
    """Marble: waves of a coordinate distorted by noise."""
    u, _ = bent(size, rng)
    bend = np.float32(rng.uniform(2, 14)) * clouds(size, rng, rng.uniform(1.2, 2.2))
    wave = np.sin((u + bend) * (TAU / np.float32(log_uniform(rng, 8, 80))))
    return normal(wave if chance(rng, 0.5) else -np.sqrt(np.abs(wave)))


def grains(size: int, rng: Rng) -> Field:
    """Grains of several sizes and tones, sparse or dense."""
    total = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        noise = ripples(size, rng, log_uniform(rng, 2.5, 14), 0.35)
        level = np.float32(rng.uniform(0.3, 2.4))
        bump = np.clip((noise - level) * np.float32(log_uniform(rng, 1, 6)), 0, 1.5)
        total += bump * np.float32(rng.choice([-1, 1]) * rng.uniform(0.3, 1))
    return normal(total + np.float32(rng.uniform(0, 0.15)) * clouds(size, rng, 0.5))


def speckle(size: int, rng: Rng) -> Field:
    """Laser or radar speckle (magnitude of complex noise), or salt-and-pepper noise."""
    if chance(rng, 0.3):
        drawn = rng.random((size, size), np.float32)
        share = np.float32(log_uniform(rng, 0.002, 0.2))
        return normal((drawn < share).astype(np.float32) - (drawn > 1 - share))
    period = log_uniform(rng, 2.2, 8)
    one, other = ripples(size, rng, period, 0.6), ripples(size, rng, period, 0.6)
    return normal(np.sqrt(one * one + other * other))


# Lines.


def gratings(size: int, rng: Rng) -> Field:
    """One to four waves with random directions and lengths, some with a slow envelope."""
    total = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(1, 5))):
        u, _ = bent(size, rng)
        wave = np.sin(u * (TAU / np.float32(log_uniform(rng, 3, 60))))
        if chance(rng, 0.3):
            wave = wave * clouds(size, rng, 2.0)
        total += np.float32(rng.uniform(0.3, 1)) * wave
    return normal(total)


def stripes(size: int, rng: Rng) -> Field:
    """Stripes: sharp, smooth or sawtooth, of equal width or like a bar code."""
    u, _ = bent(size, rng)
    phase = u / np.float32(log_uniform(rng, 3, 50))
    kind = rng.integers(4)
    if kind == 0:
        return normal(np.tanh(np.sin(phase * TAU) * np.float32(log_uniform(rng, 1, 12))))
    if kind == 1:
        return normal(phase - np.floor(phase))
    if kind == 2:
        share = np.float32(rng.uniform(0.05, 0.5))
        return normal((phase - np.floor(phase) < share).astype(np.float32))
    return normal(np.tanh(profile(phase * 2, rng) * np.float32(log_uniform(rng, 1, 8))))


def brushed(size: int, rng: Rng) -> Field:
    """Metal: linearly brushed, turned around a point, or sanded without direction."""
    kind = rng.integers(3)
    if kind == 0:
        return clouds(size, rng, rng.uniform(0, 0.8), log_uniform(rng, 12, 60), draw_angle(rng))
    if kind == 1:
        x, y = grid(size)
        at = rng.uniform(-0.7, 0.7, 2).astype(np.float32) * size
        radius = np.hypot(x - at[0], y - at[1]) * np.float32(rng.uniform(0.3, 1.2))
        return normal(profile(radius, rng, 512) + np.float32(0.3) * clouds(size, rng, 0.3))
    scored = [clouds(size, rng, 0.4, 20, rng.uniform(0, math.pi)) for _ in range(int(rng.integers(2, 5)))]
    return normal(np.maximum.reduce(scored))


def wood(size: int, rng: Rng) -> Field:
    """Wood: obliquely cut growth rings, and fibres along them."""
    u, v = bent(size, rng)
    u, v = u - u.mean(), (v - v.mean()) * np.float32(rng.uniform(0.03, 0.3))
    away = np.float32(rng.uniform(-1, 1) * size)
    ring = np.hypot(u - away, v) + np.float32(rng.uniform(1, 6)) * clouds(size, rng, 2.0)
    period = np.float32(log_uniform(rng, 4, 40))
    rings = profile(ring / period * 2, rng) + np.sin(ring * (TAU / period))
    fibre = profile(u * np.float32(rng.uniform(0.5, 1.5)), rng, 1024)
    return normal(rings + np.float32(rng.uniform(0, 0.8)) * fibre)


# Lattices.


def woven(size: int, rng: Rng) -> Field:
    """Cloth: two sets of threads in a plain weave or a twill."""
    u, v = bent(size, rng)
    pitch = np.float32(log_uniform(rng, 3, 24))
    u, v = u / pitch, v / (pitch * np.float32(math.exp(rng.normal(0, 0.2))))
    column, row = np.floor(u), np.floor(v)
    across, along = np.abs(u - column - 0.5) * 2, np.abs(v - row - 0.5) * 2
    order, step = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    over = (column + step * row) % order < order // 2
    warp, weft = 1 - across * across, 1 - along * along
    height = np.where(over, warp * (1.3 - 0.5 * along), weft * (1.3 - 0.5 * across))
    tone = np.where(over, tone_of(column, column * 0, rng), tone_of(row, row * 0, rng) + rng.uniform(-2, 2))
    return normal(normal(height) + np.float32(rng.uniform(0, 0.7)) * tone.astype(np.float32))


def bricks(size: int, rng: Rng) -> Field:
    """Bricks, tiles or planks in rows, with individual tones and optionally grain."""
    u, v = bent(size, rng)
    height = np.float32(log_uniform(rng, 6, 60))
    width = height * np.float32(log_uniform(rng, 0.6, 5))
    row = np.floor(v / height)
    u = u / width + row * np.float32(rng.choice([0.0, 0.5, 1 / 3, 0.37]))
    column, v = np.floor(u), v / height
    to_side = np.minimum(u - column, column + 1 - u) * width
    to_end = np.minimum(v - row, row + 1 - v) * height
    joint = np.float32(rng.uniform(0.5, 3))
    stone = np.clip((np.minimum(to_side, to_end) - joint) / np.float32(rng.uniform(0.7, 4)), 0, 1)
    tone = np.float32(rng.uniform(0, 0.6)) * tone_of(row, column, rng)
    rough = np.float32(rng.uniform(0, 0.3)) * clouds(size, rng, rng.uniform(0.2, 1.5))
    return normal(stone * (1 + tone + rough) + np.float32(rng.uniform(-0.3, 1.3)) * (1 - stone))


def lattice(size: int, rng: Rng) -> Field:
    """Dots, crosses, diamonds or rings on a square or a staggered lattice."""
    u, v = bent(size, rng)
    pitch = np.float32(log_uniform(rng, 4, 50))
    u, v = u / pitch, v / pitch
    u = u + np.float32(0.5) * (np.floor(v) % 2) if chance(rng, 0.5) else u
    a, b = np.abs(u - np.floor(u) - 0.5), np.abs(v - np.floor(v) - 0.5)
    kind = rng.integers(4)
    away = (np.sqrt(a * a + b * b), a + b, np.minimum(a, b) * 2, np.maximum(a, b))[kind]
    radius, sharp = rng.uniform(0.1, 0.42), np.float32(rng.uniform(0.15, 0.8) * pitch)
    dot = np.clip((np.float32(radius) - away) * sharp + 0.5, 0, 1)
    if chance(rng, 0.3):
        dot = dot * (1 - np.clip((np.float32(radius * 0.6) - away) * sharp + 0.5, 0, 1))
    return normal(dot * (1 + np.float32(rng.uniform(0, 0.6)) * tone_of(np.floor(u), np.floor(v), rng)))


def quasicrystal(size: int, rng: Rng) -> Field:
    """Waves in three to seven evenly spaced directions: hexagonal or aperiodic patterns."""
    u, v = bent(size, rng)
    count, period = int(rng.integers(3, 8)), log_uniform(rng, 5, 40)
    angles = np.arange(count) * math.pi / count
    waves = [
        np.cos((u * np.float32(math.cos(one)) + v * np.float32(math.sin(one))) * (TAU / np.float32(period)))
        for one in angles.tolist()
    ]
    total = np.add.reduce(waves)
    return normal(np.tanh(total * np.float32(rng.uniform(0.5, 4))) if chance(rng, 0.5) else total)


def cells(size: int, rng: Rng) -> Field:
    """Voronoi cells as tones, pebbles, walls or cracked ground."""
    u, v = bent(size, rng)
    pitch = np.float32(log_uniform(rng, 6, 50))
    nearest, second, tone = nearest_points(u / pitch, v / pitch, rng)
    nearest, second = np.sqrt(nearest), np.sqrt(second)
    wall = np.clip((second - nearest) * np.float32(rng.uniform(2, 12)), 0, 1)
    kind = rng.integers(5)
    if kind == 0:
        return normal(tone * wall)
    if kind == 1:
        return normal(wall)
    if kind == 2:
        return normal(np.sqrt(np.clip(1 - nearest * nearest, 0, 1)) * wall + np.float32(0.3) * tone)
    if kind == 3:
        return normal(nearest)
    return normal(tone)


def nearest_points(u: Field, v: Field, rng: Rng) -> tuple[Field, Field, Field]:
    """Squared distances to the nearest and the second nearest point of a jittered lattice, and their tones.

    Worley, "A cellular texture basis function", 1996.
    """
    jitter = rng.uniform(0.3, 1) * (rng.random((2, 1024)) - 0.5) + 0.5
    right, below = jitter.astype(np.float32)
    tones = rng.uniform(-1.7, 1.7, 1024).astype(np.float32)
    column, row = np.floor(u), np.floor(v)
    a, b = u - column, v - row
    name = row.astype(np.int32) * 7919 + column.astype(np.int32) * 10477
    nearest, second = np.full_like(u, 9), np.full_like(u, 9)
    winner = name & 1023
    for down in (-1, 0, 1):
        for over in (-1, 0, 1):
            key = (name + (down * 7919 + over * 10477)) & 1023
            du, dv = right[key] + over - a, below[key] + down - b
            away = du * du + dv * dv
            second = np.minimum(second, np.maximum(nearest, away))
            winner = np.where(away < nearest, key, winner)
            nearest = np.minimum(nearest, away)
    return nearest, second, tones[winner]


# Fractals and slow changes.


def julia(size: int, rng: Rng) -> Field:
    """Escape time of z^2 + c around a random point of the plane."""
    x, y = turned_view(size, rng)
    z = (x + 1j * y).astype(np.complex64)
    angle = rng.uniform(0, 2 * math.pi)
    c = np.complex64(rng.uniform(0.65, 0.82) * complex(math.cos(angle), math.sin(angle)))
    count = np.zeros((size, size), np.float32)
    for _ in range(24):
        z = z * z + c
        length = z.real * z.real + z.imag * z.imag
        count += length < 16
        z = np.where(length < 1e4, z, np.complex64(100))
    return normal(np.sin(count * np.float32(rng.uniform(0.1, 0.6))) if chance(rng, 0.5) else np.sqrt(count))


def turned_view(size: int, rng: Rng) -> tuple[Field, Field]:
    """A window of 0.3 to 3 units of the plane somewhere near its origin."""
    x, y = grid(size)
    span, at = log_uniform(rng, 0.3, 3), rng.uniform(-0.6, 0.6, 2).astype(np.float32)
    scale = np.float32(span / size)
    return x * scale + at[0], y * scale + at[1]


def attractor(size: int, rng: Rng) -> Field:
    """Attractor of an iterated function system: ferns, gaskets, dust (Barnsley 1988)."""
    maps = rng.uniform(-0.75, 0.75, (int(rng.integers(2, 5)), 2, 3)).astype(np.float32)
    points = rng.uniform(-1, 1, (2, 512)).astype(np.float32)
    chosen = rng.integers(len(maps), size=(56, 512))
    seen = []
    for step, which in enumerate(chosen):
        a = maps[which]
        points = np.stack(
            [
                a[:, 0, 0] * points[0] + a[:, 0, 1] * points[1] + a[:, 0, 2],
                a[:, 1, 0] * points[0] + a[:, 1, 1] * points[1] + a[:, 1, 2],
            ]
        ).clip(-9, 9)
        if step >= 8:
            seen.append(points)
    every = np.concatenate(seen, 1)
    low, high = every.min(1, keepdims=True), every.max(1, keepdims=True)
    at = ((every - low) / np.maximum(high - low, 1e-3) * np.float32(size - 1)).astype(np.int64)
    count = np.bincount(at[1] * size + at[0], minlength=size * size).reshape(size, size)
    return normal(np.log1p(count.astype(np.float32)))


def gradient(size: int, rng: Rng) -> Field:
    """A slow gradient: linear, radial, a saddle, or a soft cloud."""
    u, v = (one / np.float32(size) for one in bent(size, rng))
    u, v = u - u.mean(), v - v.mean()
    kind = rng.integers(4)
    return normal((u, u * u + v * v, u * v, clouds(size, rng, 2.5))[kind])


TEXTURES: dict[Texture, float] = {
    cloudy: 3,
    octaves: 2,
    labyrinth: 2,
    veins: 1,
    grains: 2,
    speckle: 1,
    gratings: 1,
    stripes: 1.5,
    brushed: 2,
    wood: 1.5,
    woven: 2,
    bricks: 2,
    lattice: 1.5,
    quasicrystal: 0.7,
    cells: 2.5,
    julia: 0.7,
    attractor: 0.7,
    gradient: 1.2,
}
"""Textures and their relative frequencies."""
_SHARES = np.array(list(TEXTURES.values())) / sum(TEXTURES.values())


def draw_texture(size: int, rng: Rng) -> Field:
    """A texture, the sum of two textures, or a modulated texture, (S,S) of unit standard deviation."""
    first = list(TEXTURES)[rng.choice(len(TEXTURES), p=_SHARES)](size, rng)
    kind = rng.random()
    if kind < 0.65:
        return first
    second = list(TEXTURES)[rng.choice(len(TEXTURES), p=_SHARES)](size, rng)
    if kind < 0.9:
        return normal(first + np.float32(rng.uniform(0.1, 1)) * second)
    return normal(first * np.clip(1 + second, 0, 3))
