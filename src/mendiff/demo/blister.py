"""A blister pack: two-coloured capsules under clear domes on embossed foil.

A mark is printed on the foil under every capsule. It is visible when the capsule is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mendiff.demo.geometry import (
    TURNED,
    Field,
    Frame,
    Point,
    blob,
    grain,
    inside,
    noise,
    rounded_box,
    smoothstep,
    turned,
    waves,
)
from mendiff.demo.marks import crack, fracture, pick_point
from mendiff.demo.shading import Surface, linear

DEFECTS = ("crack", "discolouration", "hole", "misplaced", "missing")
CARD, POCKET, CAPSULE = (0.82, 0.80), (0.325, 0.185), (0.255, 0.112)  # half sizes
MARK = (0.15, 0.055)
PLACES = tuple((u, v) for v in (-0.49, 0.0, 0.49) for u in (-0.395, 0.395))

TABLE, FOIL, TEAL, CREAM = linear("a58f78"), linear("cdd0d4"), linear("1f8a8c"), linear("f1e9d8")
INK = linear("a8323a")
YELLOWED = np.array([0.80, 0.60, 0.30], np.float32)


@dataclass(frozen=True)
class Capsule:
    """A capsule: centre and rotation in part coordinates."""

    centre: Point
    turn: float


def build(
    frame: Frame, defect: str | None, rng: np.random.Generator, flaw: np.random.Generator
) -> tuple[Surface, Field]:
    """Build a pack; returns its surface and the coverage of the defect (H,W)."""
    surface = Surface.plain(frame, TABLE * float(rng.uniform(0.93, 1.07)))
    surface.albedo *= 1 + 0.04 * grain(frame, 0.022, rng)
    capsules = [Capsule(place, float(rng.normal(0, 0.03))) for place in PLACES]
    shade = float(rng.uniform(0.94, 1.06))
    foil = _card(surface, frame, rng)

    cover = np.zeros_like(frame.u)
    if defect in ("missing", "misplaced"):
        capsules, cover = _rearrange(capsules, defect, frame, flaw)
    elif defect == TURNED:  # the pack turned by 180 degrees, visible only in the colours of the capsules
        capsules = [replace(capsule, turn=capsule.turn + np.pi) for capsule in capsules]
        cover = inside(np.minimum.reduce([_outline(frame, capsule) for capsule in capsules]), frame.step)
    shells = np.zeros_like(frame.u)
    for capsule in capsules:
        near = frame.window(capsule.centre, CAPSULE[0] + 0.02)
        shell = _capsule(surface.cut(near), frame.cut(near), capsule, shade)
        np.maximum(shells[near], shell, out=shells[near])
    if defect == "hole":
        cover = _puncture(surface, frame, foil, flaw)
    elif defect == "crack":
        cover = _crack(surface, frame, capsules, flaw)
    elif defect == "discolouration":
        cover = _discolour(surface, frame, capsules, flaw)
    return surface, cover


def _card(surface: Surface, frame: Frame, rng: np.random.Generator) -> Field:
    """Draw the card with its pockets and domes; returns where the foil is bare (H,W)."""
    edge = rounded_box(frame.u, frame.v, CARD, 0.09)
    card = inside(edge, frame.step)
    emboss = np.cos(frame.u * 52) * np.cos(frame.v * 52)
    surface.height += 0.03 * smoothstep(0, 0.02, -edge) + np.float32(0.0016) * card * emboss
    surface.height += np.float32(0.0016) * card * waves(frame.u, frame.v, 2.0, rng)
    surface.paint(card, FOIL * float(rng.uniform(0.95, 1.05)), gloss=0.25, metal=0.85)
    surface.cover = np.zeros_like(frame.u)
    bare = card.copy()
    for centre in PLACES:
        near = frame.window(centre, POCKET[0] + 0.05)
        local, here = surface.cut(near), frame.cut(near)
        a, b = turned(here.u, here.v, centre, 0.0)
        wall = rounded_box(a, b, POCKET, 0.16)
        surface.cover[near] += 0.09 * smoothstep(0.0, 0.10, -wall)
        local.height += 0.008 * np.exp(-((wall / np.float32(0.014)) ** 2))
        local.paint(inside(wall, frame.step) * 0.35, FOIL * 0.6, gloss=0.3, metal=0.85)
        mark = rounded_box(a, b, MARK, MARK[1])
        local.paint(inside(mark, frame.step), INK, gloss=0.15)
        bare[near] *= inside(0.03 - wall, frame.step)
    return bare * inside(edge + 0.05, frame.step)


def _capsule(surface: Surface, frame: Frame, capsule: Capsule, shade: float) -> Field:
    a, b = turned(frame.u, frame.v, capsule.centre, capsule.turn)
    radius = CAPSULE[1]
    edge = rounded_box(a, b, CAPSULE, radius)
    cover = inside(edge, frame.step)
    bulge = np.sqrt(np.clip(1 - (1 + np.minimum(edge, 0) / radius) ** 2, 0, 1))
    cap = smoothstep(0.008, -0.008, a)
    surface.height += cover * (0.95 * radius * bulge + 0.008 * cap)
    surface.paint(cover, CREAM * shade, gloss=0.5)
    surface.paint(cover * cap, TEAL * shade, gloss=0.5)
    return cover


def _rearrange(
    capsules: list[Capsule], defect: str, frame: Frame, rng: np.random.Generator
) -> tuple[list[Capsule], Field]:
    index = int(rng.integers(len(capsules)))
    capsule = capsules[index]
    rest = capsules[:index] + capsules[index + 1 :]
    was = _outline(frame, capsule)
    if defect == "missing":
        return rest, inside(was, frame.step)
    turn = float(rng.choice([-1, 1]) * rng.uniform(0.28, 0.55))
    moved = (capsule.centre[0] + rng.uniform(-0.03, 0.03), capsule.centre[1] + rng.uniform(-0.02, 0.02))
    askew = replace(capsule, centre=moved, turn=capsule.turn + turn)
    return [*rest, askew], inside(np.minimum(was, _outline(frame, askew)), frame.step)


def _outline(frame: Frame, capsule: Capsule) -> Field:
    a, b = turned(frame.u, frame.v, capsule.centre, capsule.turn)
    return rounded_box(a, b, CAPSULE, CAPSULE[1])


def _puncture(surface: Surface, frame: Frame, foil: Field, rng: np.random.Generator) -> Field:
    spots = np.flatnonzero(foil > 0.5)
    spot = spots[rng.integers(len(spots))]
    centre = (float(frame.u.flat[spot]), float(frame.v.flat[spot]))
    edge = blob(frame.u, frame.v, centre, rng.uniform(0.045, 0.08), rng)
    edge += np.float32(0.006) * noise(frame.u, frame.v, 25, rng)
    cover = inside(edge, frame.step)
    surface.height += 0.015 * np.exp(-(((edge - 0.008) / 0.012) ** 2)) - 0.06 * smoothstep(0.004, -0.02, edge)
    surface.paint(cover, TABLE * 0.22, gloss=0.02)
    return inside(edge - 0.016, frame.step)


def _crack(surface: Surface, frame: Frame, capsules: list[Capsule], rng: np.random.Generator) -> Field:
    capsule = capsules[int(rng.integers(len(capsules)))]
    a, b = turned(frame.u, frame.v, capsule.centre, capsule.turn)
    shell = inside(rounded_box(a, b, CAPSULE, CAPSULE[1]), frame.step)
    middle = rounded_box(a - 0.09, b, (0.11, 0.03), 0.03) < 0
    centre = pick_point(middle.astype(np.float32), frame, rng)
    return crack(surface, frame, shell, centre, rng.uniform(0.28, 0.5), rng)


def _discolour(surface: Surface, frame: Frame, capsules: list[Capsule], rng: np.random.Generator) -> Field:
    capsule = capsules[int(rng.integers(len(capsules)))]
    a, b = turned(frame.u, frame.v, capsule.centre, capsule.turn)
    shell = inside(rounded_box(a, b, CAPSULE, CAPSULE[1]), frame.step)
    half = shell * smoothstep(-0.006, 0.006, a)
    if rng.random() < 0.5:  # the whole cream half has yellowed
        cover, strength = half, rng.uniform(0.7, 1.0)
    else:  # or a patch of mould
        spot = (float(rng.uniform(0.03, 0.2)), float(rng.uniform(-0.06, 0.06)))
        patch = blob(a, b, spot, rng.uniform(0.06, 0.10), rng)
        cover, strength = half * smoothstep(0.012, -0.012, patch), 1.0
    mottle = np.clip(strength * (0.9 + 0.12 * fracture(frame, 1.0, rng)), 0, 1.2)
    surface.tint(cover * mottle, YELLOWED)
    return cover
