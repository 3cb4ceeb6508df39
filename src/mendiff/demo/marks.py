"""Surface defects. Each function changes a surface in place and returns the coverage (H,W) in [0, 1]."""

from __future__ import annotations

import numpy as np

from mendiff.demo.geometry import Field, Frame, Point, blob, inside, noise, polyline, smoothstep
from mendiff.demo.shading import Surface, linear

DEPTH = linear("1b1a18")  # colour inside a crack


def pick_point(where: Field, frame: Frame, rng: np.random.Generator) -> Point:
    """A random point of `where` (H,W), in part coordinates, away from the edge of the picture."""
    near = (np.abs(frame.x) < 0.82) & (np.abs(frame.y) < 0.82)
    spots = np.flatnonzero((where > 0.5) & near)
    spot = spots[rng.integers(len(spots))]
    return float(frame.u.flat[spot]), float(frame.v.flat[spot])


def wander(centre: Point, length: float, bend: float, kink: float, rng: np.random.Generator) -> np.ndarray:
    """A polyline (N,2) through `centre`: an arc of angle `bend` with random kinks, in radians."""
    count = max(5, int(length / 0.05))
    heading = rng.uniform(0, 2 * np.pi) + np.linspace(-bend / 2, bend / 2, count)
    heading += rng.normal(0, kink, count)
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * (length / count)
    points = np.vstack([[0.0, 0.0], np.cumsum(steps, 0)])
    return points - points[count // 2] + np.asarray(centre)


def _seen(points: np.ndarray, where: Field, frame: Frame) -> float:
    """The share of the points (N,2), in part coordinates, that are on `where` and inside the picture."""
    ways = [np.abs(frame.u - np.float32(u)) + np.abs(frame.v - np.float32(v)) for u, v in points]
    return float(np.mean([where.flat[int(way.argmin())] > 0.5 and way.min() < frame.pixel for way in ways]))


def scratch(surface: Surface, frame: Frame, where: Field, fresh: Field, rng: np.random.Generator) -> Field:
    """Draw a scratch with raised edges on `where`; fresh: (3,) colour of the exposed material."""
    for _ in range(8):  # parts on the surface may hide most of it
        centre, length = pick_point(where, frame, rng), rng.uniform(0.35, 0.95)
        points = wander(centre, length, rng.normal(0, 0.35), 0.02, rng)
        if length * _seen(points, where, frame) > 0.3:
            break
    half = max(rng.uniform(0.011, 0.016), 0.75 * frame.pixel)
    distance, along = polyline(frame.u, frame.v, points)
    taper = 0.55 + 0.45 * smoothstep(0, 0.2, along) * smoothstep(0, 0.2, 1 - along)
    across = distance / (half * taper)
    depth = np.float32(rng.uniform(0.6, 1.0) * half)
    lips, groove = np.exp(-(((across - 1.1) / 0.35) ** 2)), np.exp(-1.5 * across**2)
    surface.height += where * depth * (0.5 * lips - groove)
    cover = where * (across < 1.15)
    opaque = float(rng.uniform(0.7, 0.95))
    surface.paint(where * np.exp(-(across**2) * 1.2) * opaque, fresh, gloss=0.25)
    return cover


def crack(
    surface: Surface, frame: Frame, where: Field, centre: Point, length: float, rng: np.random.Generator
) -> Field:
    """Draw a jagged, branching crack of the given length through `centre`, limited to `where` (H,W)."""
    trunk = wander(centre, length, rng.normal(0, 0.3), 0.42, rng)
    fork = trunk[len(trunk) // 2 + int(rng.integers(-1, 2))]
    branch = wander((0, 0), length * rng.uniform(0.3, 0.5), 0.0, 0.45, rng)
    half = max(rng.uniform(0.009, 0.014), 0.8 * frame.pixel)
    cover = np.zeros_like(frame.u)
    for points, width in ((trunk, 1.0), (branch - branch[0] + fork, 0.9)):
        distance, along = polyline(frame.u, frame.v, points)
        across = distance / np.float32(half * width) / (1 - 0.2 * along)
        line = where * np.exp(-((across / 0.85) ** 4))
        surface.height -= line * np.float32(half * 0.9)
        surface.paint(line * np.float32(0.85), DEPTH, gloss=0.02)
        cover = np.maximum(cover, where * (across < 1.0))
    return cover


def stain(surface: Surface, frame: Frame, where: Field, factor: Field, rng: np.random.Generator) -> Field:
    """Draw a dried stain on `where`, darker at its rim; factor: (3,) remaining share of the colour."""
    centre = pick_point(where, frame, rng)
    radius = rng.uniform(0.07, 0.19)
    distance = blob(frame.u, frame.v, centre, radius, rng)
    distance += np.float32(0.012) * noise(frame.u, frame.v, 9, rng)
    for _ in range(int(rng.integers(0, 3))):  # separate drops
        angle, reach = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.25, 1.6)
        drop = (centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle))
        distance = np.minimum(distance, blob(frame.u, frame.v, drop, rng.uniform(0.022, 0.04), rng))
    body = where * smoothstep(0.012, -0.012, distance)
    rim = np.exp(-(((distance + 0.02) / 0.022) ** 2))
    cloud = np.clip(0.75 + 0.12 * noise(frame.u, frame.v, 7, rng) + 0.35 * rim, 0.35, 1.2)
    surface.tint(body * cloud, factor)
    surface.gloss *= 1 - 0.4 * body
    surface.metal *= 1 - 0.35 * body
    surface.turning *= 1 - 0.6 * body
    return where * inside(distance - np.float32(0.004), frame.step)


def fracture(frame: Frame, depth: float, rng: np.random.Generator) -> Field:
    """Height (H,W) of a rough fracture surface."""
    return np.float32(depth) * (
        1 + 0.28 * noise(frame.u, frame.v, 11, rng) + 0.14 * noise(frame.u, frame.v, 28, rng)
    )
