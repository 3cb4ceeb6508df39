"""Drawn images: dead leaves, printed circuits, writing and line art, (S,S,3) in [0,1].

Pillow fills numbered shapes at twice the size; colours and textures are assigned to the numbers afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from mendiff.demo.geometry import Field
from tools.fields import Labels, Rng, chance, coloured, draw_colour, grid, log_uniform
from tools.textures import draw_texture

Drawing = Callable[[int, Rng], Field]
Outline = list[tuple[float, float]]
FINER = 2
"""Supersampling factor per side, for smooth edges."""


class Sheet:
    """A label image of (2S,2S) supersampled pixels for numbered shapes; lengths are in final pixels."""

    def __init__(self, size: int) -> None:
        self._paper = Image.new("I", (FINER * size, FINER * size))
        self._pen = ImageDraw.Draw(self._paper)

    def area(self, points: np.ndarray, number: int) -> None:
        """Fill a polygon (N,2)."""
        self._pen.polygon(_as_outline(points), fill=number)

    def line(self, points: np.ndarray, width: float, number: int) -> None:
        """Draw a polyline (N,2) with round joints."""
        thick = max(1, round(FINER * width))
        self._pen.line(_as_outline(points), fill=number, width=thick, joint="curve")

    def disc(self, centre: np.ndarray, radius: float, number: int) -> None:
        """Fill a disc."""
        (x, y), r = FINER * centre, FINER * radius
        self._pen.ellipse((float(x - r), float(y - r), float(x + r), float(y + r)), fill=number)

    def labels(self) -> Labels:
        """The label image, (2S,2S)."""
        return np.asarray(self._paper, np.int32)


def _as_outline(points: np.ndarray) -> Outline:
    return [(float(x), float(y)) for x, y in FINER * np.asarray(points)]


def pooled(fine: Field) -> Field:
    """Average the supersampled pixels of each final pixel, (2S,2S,...) to (S,S,...)."""
    return (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) * np.float32(0.25)


# Shapes, as outlines (N,2) around the origin.


def outline(kind: int, radius: float, rng: Rng) -> np.ndarray:
    """A shape of one of seven families: disc, ellipse, box, bar, polygon, star, irregular patch."""
    turn = rng.uniform(0, 2 * math.pi)
    if kind in (2, 3):
        long = rng.uniform(0.5, 1.0) if kind == 2 else rng.uniform(2, 6)
        points = np.array([[-long, -1], [long, -1], [long, 1], [-long, 1]]) * radius / max(1.0, long / 2)
    else:
        count = 16 if kind in (0, 1, 6) else int(rng.integers(3, 8))
        if kind == 5:
            count *= 2
        angle = np.arange(count) * (2 * math.pi / count)
        reach = np.full(count, radius)
        if kind == 4:
            reach = reach * rng.uniform(0.6, 1.2, count)
        elif kind == 5:
            reach[::2] *= rng.uniform(0.2, 0.7)
        elif kind == 6:
            reach = reach * (1 + 0.25 * rng.standard_normal(count).cumsum() / 2).clip(0.3, 2)
        points = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None]
        if kind == 1:
            points[:, 1] *= rng.uniform(0.2, 0.7)
    cos, sin = math.cos(turn), math.sin(turn)
    return points @ np.array([[cos, sin], [-sin, cos]])


def dead_leaves(size: int, rng: Rng) -> Field:
    """Overlapping shapes of all sizes, many textured, some with shadows (Lee et al. 2001)."""
    sheet = Sheet(size)
    kinds = rng.choice(7, int(rng.integers(1, 4)), replace=False)
    smallest = log_uniform(rng, 1.5, 6)
    power, largest = rng.uniform(2, 3.2), rng.uniform(0.1, 0.45) * size
    count = int(min(log_uniform(rng, 4, 160), 0.02 * (size / smallest) ** 2 + 4))
    share = rng.random(count)
    bounds = smallest ** (1 - power), largest ** (1 - power)
    radii = (bounds[0] + share * (bounds[1] - bounds[0])) ** (1 / (1 - power))
    if chance(rng, 0.5):
        radii = -np.sort(-radii)  # small shapes are on top, so that all are visible
    places = rng.uniform(0, size, (count, 2))
    for number, (radius, place) in enumerate(zip(radii.tolist(), places, strict=True), start=1):
        sheet.area(outline(int(rng.choice(kinds)), radius, rng) + place, number)
    return painted(sheet.labels(), rng, count + 1)


def painted(labels: Labels, rng: Rng, count: int, shadow: float = 0.4) -> Field:
    """Colours, textures and optional shadows for the labels 0 to count - 1, (2S,2S) to (S,S,3)."""
    base, play = draw_colour(rng), log_uniform(rng, 0.07, 0.5)
    if chance(rng, 0.5):
        colours = base + play * rng.standard_normal((count, 1))  # one material
    else:
        colours = base + play * rng.standard_normal((count, 3))
    if chance(rng, 0.4):
        colours[0] = draw_colour(rng)
    image = pooled(np.clip(colours, 0.02, 0.98).astype(np.float32).take(labels, axis=0))
    middle = labels[::2, ::2]
    if chance(rng, 0.75):
        texture = draw_texture(len(image), rng)
        strength = (rng.random(count) < rng.uniform(0.2, 1)) * rng.uniform(0, 0.35, count)
        image = image * (1 + strength.astype(np.float32)[middle] * texture)[..., None]
    if chance(rng, shadow):
        down, right = (int(one) for one in rng.integers(-4, 5, 2))
        above = np.roll(middle, (down, right), (0, 1)) > middle
        soft = ndimage.uniform_filter(above.astype(np.float32), int(rng.integers(1, 5)))
        image = image * (1 - np.float32(rng.uniform(0.2, 0.7)) * soft)[..., None]
    return np.clip(image, 0, 1)


# Circuits, writing, line art.


def circuit(size: int, rng: Rng) -> Field:
    """A circuit board or its negative: conductors with bends of 45 degrees, pads, vias and print."""
    sheet, unit = Sheet(size), log_uniform(rng, 3, 14)
    width, steps = unit * rng.uniform(0.25, 0.6), np.array([[1, 0], [1, 1], [0, 1], [-1, 1]])
    if chance(rng, 0.3):
        sheet.area(np.array([[0, 0], [1, 0], [1, rng.uniform(0.2, 1)], [0, 0.9]]) * size, 1)
    for _ in range(int(log_uniform(rng, 3, 40))):
        start = np.round(rng.uniform(0, size, 2) / unit) * unit
        main = int(rng.integers(4))
        turns = np.clip(main + rng.integers(-1, 2, int(rng.integers(1, 6))), 0, 3)
        moves = steps[turns] * (rng.integers(1, 8, len(turns)) * unit)[:, None] * rng.choice([-1, 1])
        route = start + np.vstack([np.zeros((1, 2)), np.cumsum(moves, 0)])
        lanes = int(rng.integers(1, 7)) if chance(rng, 0.4) else 1
        aside = np.array([-steps[main][1], steps[main][0]]) * unit
        for lane in range(lanes):
            sheet.line(route + lane * aside, width, 1)
            if chance(rng, 0.7):
                _pad(sheet, route[-1] + lane * aside, width * rng.uniform(0.8, 1.8), rng)
    for _ in range(int(rng.integers(0, 12))):
        _pad(sheet, np.round(rng.uniform(0, size, 2) / unit) * unit, unit * rng.uniform(0.3, 0.9), rng)
    labels = sheet.labels()
    if chance(rng, 0.3):  # two tones, as from an inspection camera
        tones = np.array([draw_colour(rng), *[draw_colour(rng)] * 2, draw_colour(rng)])
        tones[3] = tones[0]
        return pooled(tones.take(labels, axis=0))
    return painted(labels, rng, 4, shadow=0.1)


def _pad(sheet: Sheet, place: np.ndarray, radius: float, rng: Rng) -> None:
    if chance(rng, 0.3):
        box = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [radius, radius * rng.uniform(0.5, 1.6)]
        sheet.area(box + place, 2)
    else:
        sheet.disc(place, radius, 2)
    if chance(rng, 0.5):
        sheet.disc(place, radius * 0.5, 3 if chance(rng, 0.5) else 0)


def writing(size: int, rng: Rng) -> Field:
    """Lines of repeated signs, like print, engraving or dot codes."""
    sheet, height = Sheet(size), log_uniform(rng, 6, 30)
    signs = [rng.uniform(0, 1, (int(rng.integers(2, 6)), 2)) for _ in range(int(rng.integers(3, 14)))]
    if chance(rng, 0.4):  # vertical and horizontal strokes only
        signs = [np.round(one * 2) / 2 for one in signs]
    width, turn = height * rng.uniform(0.08, 0.25), rng.choice([0.0, rng.normal(0, 0.2), math.pi / 2])
    cos, sin = math.cos(turn), math.sin(turn)
    spin = np.array([[cos, sin], [-sin, cos]])
    leading, pitch = height * rng.uniform(1.1, 2.2), height * rng.uniform(0.6, 1.1)
    rows, columns = int(1.5 * size / leading) + 1, int(1.5 * size / pitch) + 1
    filled, shift = rng.uniform(0.4, 1), rng.uniform(0, 20, 2)
    column, row = np.meshgrid(np.arange(columns) * pitch, np.arange(rows) * leading)
    places = np.stack([column.ravel(), row.ravel()], 1) - 0.75 * size + shift
    seen = np.abs(places @ spin + [height, 0] @ spin / 2).max(1) < size / 2 + height
    places = places[seen & (rng.random(len(places)) < filled)]
    for place, which in zip(places, rng.integers(len(signs), size=len(places)).tolist(), strict=True):
        sheet.line((signs[which] * [pitch * 0.75, height] + place) @ spin + size / 2, width, 1)
    return painted(sheet.labels(), rng, 2, shadow=0.1)


def line_art(size: int, rng: Rng) -> Field:
    """Pen drawings of curves, circles, boxes and hatching."""
    sheet, count = Sheet(size), int(rng.integers(1, 6))
    for _ in range(int(log_uniform(rng, 2, 40))):
        number, width = int(rng.integers(1, count + 1)), log_uniform(rng, 0.5, 6)
        start, kind = rng.uniform(0, size, 2), rng.integers(4)
        if kind == 0:
            points = start + wandering(rng, rng.uniform(0.2, 1.2) * size, rng.uniform(0, 0.5))
        elif kind == 1:
            ring = outline(int(rng.integers(7)), log_uniform(rng, 3, 0.4 * size), rng)
            points = start + np.vstack([ring, ring[:2]])
        elif kind == 2:
            points = np.stack([start, rng.uniform(0, size, 2)])
        else:
            side = np.arange(int(rng.integers(3, 20)))[:, None] * log_uniform(rng, 2, 10) * [1, 0]
            reach = np.exp(rng.uniform(np.log(5), np.log(60), 2))
            ends = np.stack([side, side + reach], 1)
            for stroke in ends:
                sheet.line(stroke + start, width / 2, number)
            continue
        sheet.line(points, width, number)
    return painted(sheet.labels(), rng, count + 1, shadow=0.1)


def wandering(rng: Rng, length: float, kink: float) -> np.ndarray:
    """A polyline (N,2) from the origin, with an arc and random kinks in radians."""
    count = max(4, int(length / 4))
    heading = rng.uniform(0, 2 * math.pi) + np.linspace(0, rng.normal(0, 1), count)
    heading = heading + rng.normal(0, max(kink, 1e-3), count).cumsum() * (0.5 if chance(rng, 0.5) else 1)
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * (length / count)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])


def drawn_mask(size: int, draw: Callable[[Sheet], None]) -> Field:
    """Coverage (S,S) in [0,1] of the shapes that `draw` draws with label 1."""
    sheet = Sheet(size)
    draw(sheet)
    return pooled((sheet.labels() > 0).astype(np.float32))


def plain_texture(size: int, rng: Rng) -> Field:
    """A texture in a palette's colours; one in five has a second texture in its colour channels."""
    image = coloured(draw_texture(size, rng), rng)
    if chance(rng, 0.2):
        tint = draw_colour(rng) - np.float32(0.5)
        image = image + np.float32(0.3) * draw_texture(size, rng)[..., None] * tint
    if chance(rng, 0.3):  # uneven illumination
        x, y = grid(size)
        slope = rng.uniform(-0.6, 0.6, 2).astype(np.float32) / size
        image = image * (1 + x * slope[0] + y * slope[1])[..., None]
    return np.clip(image, 0, 1)
