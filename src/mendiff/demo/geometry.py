"""Shapes and noise of the demo parts, as fields over a supersampled image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.floating[Any]]  # float32 throughout, but numpy's stubs lose that in arithmetic
Point = tuple[float, float]
Window = tuple[slice, slice]

SUPERSAMPLING = 2
TURNED = "turned"
"""The defect of an intact part in a wrong orientation."""
HALF_SPAN = 1.8  # part coordinates reach this far in every pose


@dataclass(frozen=True)
class Frame:
    """Image and part coordinates of every supersampled pixel.

    x, y, u, v: (H,W) float32, the image spans [-1, 1]; pixel: the side of one pixel of the finished image.
    """

    x: Field
    y: Field
    u: Field
    v: Field
    pixel: float

    @property
    def step(self) -> float:
        """The side of one supersampled pixel."""
        return self.pixel / SUPERSAMPLING

    def window(self, centre: Point, reach: float) -> Window:
        """Rows and columns of all points within `reach` of `centre`, in part coordinates."""
        u, v = np.abs(self.u - np.float32(centre[0])), np.abs(self.v - np.float32(centre[1]))
        near = np.maximum(u, v) < reach
        rows, cols = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
        if not len(rows):
            return slice(0, 1), slice(0, 1)
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)

    def nearest(self, point: Point) -> int:
        """The flat index of the pixel nearest to `point`, in part coordinates."""
        return int(np.argmin((self.u - np.float32(point[0])) ** 2 + (self.v - np.float32(point[1])) ** 2))

    def cut(self, window: Window) -> Frame:
        """The part of the frame inside a window."""
        return Frame(self.x[window], self.y[window], self.u[window], self.v[window], self.pixel)


def make_frame(size: int, turn: float, shift: Point, scale: float) -> Frame:
    """The frame of a part that is rotated by `turn` radians, moved by `shift` and scaled by `scale`."""
    axis = ((np.arange(size * SUPERSAMPLING) + 0.5) * (2 / (size * SUPERSAMPLING)) - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    cos, sin = np.float32(np.cos(turn) / scale), np.float32(np.sin(turn) / scale)
    dx, dy = x - np.float32(shift[0]), y - np.float32(shift[1])
    return Frame(x, y, dx * cos + dy * sin, dy * cos - dx * sin, 2 / size)


def smoothstep(low: float, high: float, value: Field) -> Field:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def inside(distance: Field, step: float) -> Field:
    """Convert a signed distance to an antialiased coverage in [0, 1]."""
    return np.clip(0.5 - distance / step, 0, 1)


def circle(u: Field, v: Field, centre: Point, radius: float) -> Field:
    """Signed distance to a disc."""
    return np.hypot(u - np.float32(centre[0]), v - np.float32(centre[1])) - np.float32(radius)


def rounded_box(u: Field, v: Field, half: Point, corner: float) -> Field:
    """Signed distance to a box around the origin with rounded corners."""
    a, b = np.abs(u) - np.float32(half[0] - corner), np.abs(v) - np.float32(half[1] - corner)
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - np.float32(corner)


def hexagon(u: Field, v: Field, inradius: float) -> Field:
    """Distance to the sides of a hexagon around the origin, two sides parallel to v."""
    a, b = np.abs(u), np.abs(v)
    return np.maximum(a, a * np.float32(0.5) + b * np.float32(np.sqrt(0.75))) - np.float32(inradius)


def turned(u: Field, v: Field, centre: Point, turn: float) -> tuple[Field, Field]:
    """Coordinates relative to `centre`, rotated by `turn` radians."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    a, b = u - np.float32(centre[0]), v - np.float32(centre[1])
    return a * cos + b * sin, b * cos - a * sin


def polyline(u: Field, v: Field, points: NDArray[np.float64]) -> tuple[Field, Field]:
    """Distance to a polyline (N,2), and the position (0 to 1) of the nearest point along it."""
    best = np.full(u.shape, np.inf, np.float32)
    along = np.zeros(u.shape, np.float32)
    count = len(points) - 1
    for i, (start, end) in enumerate(pairwise(points)):
        a, b = u - np.float32(start[0]), v - np.float32(start[1])
        du, dv = (np.float32(c) for c in end - start)
        t = np.clip((a * du + b * dv) / max(du * du + dv * dv, np.float32(1e-12)), 0, 1)
        distance = np.hypot(a - t * du, b - t * dv)
        along = np.where(distance < best, (i + t) / count, along)
        best = np.minimum(best, distance)
    return best, along.astype(np.float32)


def blob(u: Field, v: Field, centre: Point, radius: float, rng: np.random.Generator) -> Field:
    """Approximate signed distance to an irregular rounded patch of about the given radius."""
    a, b = turned(u, v, centre, rng.uniform(0, np.pi))
    b = b * np.float32(rng.uniform(0.75, 1.35))
    angle = np.arctan2(b, a)
    edge = np.ones_like(u)
    for lobes in range(2, 8):
        edge += np.float32(rng.normal(0, 0.22 / lobes**0.8)) * np.cos(
            lobes * angle + np.float32(rng.uniform(0, 2 * np.pi))
        )
    return np.hypot(a, b) - np.float32(radius) * np.maximum(edge, np.float32(0.4))


def noise(u: Field, v: Field, cells: float, rng: np.random.Generator) -> Field:
    """Smooth noise of about unit standard deviation with `cells` cells per unit of length."""
    fine = 4 if cells < 20 else 1
    count = int(2 * HALF_SPAN * cells) + 4
    grid = rng.standard_normal((count, count)).astype(np.float32)
    if fine > 1:
        grid = ndimage.zoom(grid, fine, order=3, mode="grid-wrap")
    rows, cols = ((c + HALF_SPAN) * np.float32(cells * fine) for c in (v, u))
    return 1.4 * ndimage.map_coordinates(grid, np.stack([rows, cols]), order=1, mode="grid-wrap")


def grain(frame: Frame, width: float, rng: np.random.Generator) -> Field:
    """Noise of unit standard deviation with correlation length `width` in image coordinates."""
    blurred = ndimage.gaussian_filter(
        rng.standard_normal(frame.x.shape, np.float32), 0.5 * width / frame.step, mode="wrap", truncate=2.5
    )
    return blurred / blurred.std()


def waves(u: Field, v: Field, cells: float, rng: np.random.Generator) -> Field:
    """Smooth noise of about unit standard deviation, for the height of glossy surfaces."""
    total = np.zeros_like(u)
    for _ in range(5):
        angle, phase = rng.uniform(0, 2 * np.pi, 2).tolist()
        pace = np.pi * cells * rng.uniform(0.6, 1.3)
        total += np.sin(u * float(pace * np.cos(angle)) + v * float(pace * np.sin(angle)) + phase)
    return total * np.float32(np.sqrt(2 / 5))


def lines(position: Field, per_unit: float, rng: np.random.Generator) -> Field:
    """Noise that depends on one coordinate only, for the streaks of a turned or brushed surface."""
    count = int(2 * HALF_SPAN * per_unit)
    knots = np.linspace(-HALF_SPAN, HALF_SPAN, count)
    return np.interp(position, knots, rng.standard_normal(count)).astype(np.float32)
