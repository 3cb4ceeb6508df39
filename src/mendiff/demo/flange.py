"""A turned metal flange with a rubber seal and four domed brass nuts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mendiff.demo.geometry import (
    TURNED,
    Field,
    Frame,
    Point,
    blob,
    circle,
    grain,
    inside,
    lines,
    noise,
    smoothstep,
)
from mendiff.demo.marks import fracture, scratch, stain
from mendiff.demo.shading import Surface, linear

DEFECTS = ("chip", "misplaced", "missing", "scratch", "stain")
RIM, HUB, BORE, SEAL, RING = 0.85, 0.29, 0.16, 0.36, 0.62  # radii; the nuts sit on RING
SEAT, HEAD, NUTS = 0.185, 0.15, 4
TURNS = (25.0, 65.0)  # degrees of a misrotated flange; its symmetry is 90 degrees

BENCH, STEEL, RUBBER, BRASS = linear("3d4650"), linear("c3c7cc"), linear("26272b"), linear("d9a94e")
PIT, CAST = linear("14130f"), linear("4a4038")
SCORED = linear("ffffff") * 1.2  # a bare scratch glints
RUST = np.array([0.62, 0.36, 0.20], np.float32)


@dataclass(frozen=True)
class Nut:
    """A domed nut: its centre in part coordinates, and the slope of its seat."""

    centre: Point
    tilt: Point = (0.0, 0.0)


def build(
    frame: Frame, defect: str | None, rng: np.random.Generator, flaw: np.random.Generator
) -> tuple[Surface, Field]:
    """Build a flange; returns its surface and the coverage of the defect (H,W)."""
    surface = Surface.plain(frame, BENCH * float(rng.uniform(0.92, 1.08)))
    surface.albedo *= 1 + 0.05 * grain(frame, 0.02, rng)
    surface.axis = _middle(frame)
    metal = STEEL * rng.uniform(0.96, 1.04, 3).astype(np.float32) ** np.float32(0.5)
    nuts = [Nut(_place(k)) for k in range(NUTS)]
    body = circle(frame.u, frame.v, (0, 0), RIM)
    streaks = lines(body + np.float32(RIM), 120, rng)

    cover = np.zeros_like(frame.u)
    bitten = np.zeros_like(frame.u)
    if defect == "chip":
        bitten = _bite(frame, flaw)
        cover = bitten * inside(body, frame.step)
    _plate(surface, frame, body, metal, streaks)
    _seal(surface, frame)
    if defect == "chip":
        _break_away(surface, frame, body, bitten, flaw)
    if defect == TURNED:
        nuts, cover = _turn(nuts, frame, flaw)
    for nut in nuts:
        near = frame.window(nut.centre, SEAT + 0.02)
        _seat(surface.cut(near), frame.cut(near), nut.centre)
    if defect in ("missing", "misplaced"):
        nuts, cover = _rearrange(nuts, defect, frame, flaw)
    for nut in nuts:
        near = frame.window(nut.centre, HEAD + 0.02)
        _head(surface.cut(near), frame.cut(near), nut)
    if defect in ("scratch", "stain"):
        face = inside(body + 0.04, frame.step) * (surface.turning > 0.5)
        if defect == "scratch":
            cover = scratch(surface, frame, face, SCORED, flaw)
        else:
            cover = stain(surface, frame, face, RUST, flaw)
    return surface, cover


def _middle(frame: Frame) -> Point:
    nearest = frame.nearest((0, 0))
    return float(frame.x.flat[nearest]), float(frame.y.flat[nearest])


def _place(index: int, turn: float = 0.0) -> Point:
    angle = (index + 0.5) * 2 * np.pi / NUTS + turn
    return RING * float(np.cos(angle)), RING * float(np.sin(angle))


def _plate(surface: Surface, frame: Frame, body: Field, metal: Field, streaks: Field) -> None:
    hub, bore = circle(frame.u, frame.v, (0, 0), HUB), circle(frame.u, frame.v, (0, 0), BORE)
    grain = 1 + 0.045 * streaks
    surface.height += 0.08 * smoothstep(0, 0.035, -body) + 0.045 * smoothstep(0, 0.03, -hub)
    disc = inside(body, frame.step)
    surface.height += np.float32(0.0006) * streaks * disc
    surface.paint(disc, metal[:, None, None] * grain, gloss=0.12, metal=1.0, turning=1.0)
    hole = inside(bore, frame.step)
    surface.height -= 0.16 * smoothstep(0.0, 0.03, -bore)
    surface.paint(hole, BENCH * 0.35, gloss=0.02)


def _seal(surface: Surface, frame: Frame) -> None:
    across = np.abs(np.hypot(frame.u, frame.v) - np.float32(SEAL)) / np.float32(0.034)
    band = inside((across - 1) * 0.034, frame.step)
    surface.height += band * (0.034 * np.sqrt(np.clip(1 - across**2, 0, 1)) - 0.012)
    surface.paint(band, RUBBER, gloss=0.16)


def _seat(surface: Surface, frame: Frame, centre: Point) -> None:
    ring = circle(frame.u, frame.v, centre, SEAT)
    thread = circle(frame.u, frame.v, centre, 0.062)
    surface.height -= 0.02 * smoothstep(0.006, -0.012, ring) + 0.08 * smoothstep(0.008, -0.02, thread)
    surface.paint(inside(ring, frame.step), STEEL * 0.72, gloss=0.1, metal=1.0, turning=0.0)
    surface.paint(inside(thread, frame.step), PIT, gloss=0.05)


def _head(surface: Surface, frame: Frame, nut: Nut) -> None:
    head = circle(frame.u, frame.v, nut.centre, HEAD)
    cover = inside(head, frame.step)
    slope = nut.tilt[0] * (frame.u - nut.centre[0]) + nut.tilt[1] * (frame.v - nut.centre[1])
    dome = np.sqrt(np.clip(1 - (1 + np.minimum(head, 0) / HEAD) ** 2, 0, 1))
    surface.height += cover * (0.06 + 0.6 * HEAD * dome + slope - surface.height)
    surface.paint(cover, BRASS, gloss=0.25, metal=0.9)


def _rearrange(
    nuts: list[Nut], defect: str, frame: Frame, rng: np.random.Generator
) -> tuple[list[Nut], Field]:
    index = int(rng.integers(len(nuts)))
    nut = nuts[index]
    rest = nuts[:index] + nuts[index + 1 :]
    was = circle(frame.u, frame.v, nut.centre, HEAD)
    if defect == "missing":
        return rest, inside(was, frame.step)
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.14)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    centre = (nut.centre[0] + reach * cos, nut.centre[1] + reach * sin)
    steep = rng.uniform(0.25, 0.45)
    loose = replace(nut, centre=centre, tilt=(steep * cos, steep * sin))
    return [*rest, loose], inside(np.minimum(was, circle(frame.u, frame.v, centre, HEAD)), frame.step)


def _turn(nuts: list[Nut], frame: Frame, rng: np.random.Generator) -> tuple[list[Nut], Field]:
    """Rotate the whole flange. The mask covers its nuts and seats in the new and the normal position."""
    turn = float(np.deg2rad(rng.uniform(*TURNS)))
    moved = [Nut(_place(k, turn)) for k in range(NUTS)]
    seats = [circle(frame.u, frame.v, nut.centre, SEAT) for nut in (*nuts, *moved)]
    return moved, inside(np.minimum.reduce(seats), frame.step)


def _bite(frame: Frame, rng: np.random.Generator) -> Field:
    angle = rng.uniform(0, 2 * np.pi)
    centre = (float(np.cos(angle)) * RIM, float(np.sin(angle)) * RIM)
    edge = blob(frame.u, frame.v, centre, rng.uniform(0.13, 0.20), rng)
    edge += np.float32(0.008) * noise(frame.u, frame.v, 22, rng)
    return inside(edge, frame.step)


def _break_away(surface: Surface, frame: Frame, body: Field, bitten: Field, rng: np.random.Generator) -> None:
    depth = fracture(frame, 0.025, rng) * smoothstep(0, 0.02, -body)
    surface.height += bitten * (depth - surface.height)
    cover = bitten * inside(body, frame.step)
    surface.paint(cover, CAST[:, None, None] * (1 + 0.10 * noise(frame.u, frame.v, 30, rng)), gloss=0.05)
