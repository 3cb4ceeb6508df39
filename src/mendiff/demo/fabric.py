"""A plain-weave cloth with blue warp and pale weft."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mendiff.demo.geometry import Field, Frame, blob, inside, smoothstep, waves
from mendiff.demo.marks import pick_point, stain
from mendiff.demo.shading import Surface, linear

DEFECTS = ("discolouration", "hole", "misplaced", "missing", "stain")
PITCH = 0.135  # from thread to thread
HALF = 0.45  # half a thread's width, in pitches
FLOAT = 0.5  # height of a pulled thread, in pitches
GONE = np.float32(-9.0)

WARP, WEFT, BELOW = linear("3a6097"), linear("d3ccb8"), linear("15171c")
COFFEE = np.array([0.46, 0.30, 0.17], np.float32)
DYED, BLEACHED = np.array([1.15, 0.62, 0.66], np.float32), linear("efe9d6")


@dataclass
class Weave:
    """Position of each pixel in the cloth, in pitches: warp runs along b, weft along a.

    i, j: number of the warp and weft thread; across_warp, across_weft: offset from its middle, within half a
    pitch; warp, weft: height of the two threads, GONE beside them.
    """

    a: Field
    b: Field
    i: Field
    j: Field
    across_warp: Field
    across_weft: Field
    warp: Field
    weft: Field


def build(
    frame: Frame, defect: str | None, rng: np.random.Generator, flaw: np.random.Generator
) -> tuple[Surface, Field]:
    """Build a cloth; returns its surface and the coverage of the defect (H,W)."""
    surface = Surface.plain(frame, BELOW, gloss=0.02)
    weave = _lay_threads(frame, rng)
    tones = _tones(weave, rng)
    cover = np.zeros_like(frame.u)
    if defect == "hole":
        cover = _tear(weave, frame, flaw)
    elif defect == "missing":
        cover = _lose_pick(weave, frame, flaw)
    elif defect == "misplaced":
        cover = _pull_pick(weave, frame, flaw)
    _colour(surface, weave, tones)
    everywhere = np.ones_like(frame.u)
    if defect == "stain":
        cover = stain(surface, frame, everywhere, COFFEE, flaw)
    elif defect == "discolouration":
        cover = _discolour(surface, frame, flaw)
    return surface, cover


def _profile(across: Field) -> Field:
    bulge = np.sqrt(np.clip(1 - (across / np.float32(HALF)) ** 2, 0, 1))
    return np.where(bulge > 0, np.float32(0.30) * bulge, GONE)


def _lay_threads(frame: Frame, rng: np.random.Generator) -> Weave:
    phase = rng.uniform(0, 2, 2)
    a = frame.u / PITCH + float(phase[0]) + 0.045 * waves(frame.u, frame.v, 1.6, rng)
    b = frame.v / PITCH + float(phase[1]) + 0.045 * waves(frame.u, frame.v, 1.6, rng)
    i, j = np.floor(a), np.floor(b)
    across_warp, across_weft = a - i - np.float32(0.5), b - j - np.float32(0.5)
    swing = np.where((i + j) % 2 == 0, np.float32(0.22), np.float32(-0.22))
    warp = _profile(across_warp) + swing * np.cos(np.float32(np.pi) * across_weft)
    weft = _profile(across_weft) - swing * np.cos(np.float32(np.pi) * across_warp)
    return Weave(a, b, i, j, across_warp, across_weft, warp, weft)


def _tones(weave: Weave, rng: np.random.Generator) -> tuple[Field, Field]:
    shade = (1 + 0.05 * rng.standard_normal((2, 64))).astype(np.float32)
    turns = (1.1 * weave.across_warp + 2 * weave.b, 1.1 * weave.across_weft + 2 * weave.a)
    warp, weft = (1 + np.float32(0.13) * np.sin(np.float32(2 * np.pi) * turn) for turn in turns)
    return warp * shade[0][weave.i.astype(int) % 64], weft * shade[1][weave.j.astype(int) % 64]


def _colour(surface: Surface, weave: Weave, tones: tuple[Field, Field]) -> None:
    top = np.maximum(weave.warp, weave.weft)
    thread = top > GONE / 2
    surface.height += np.float32(1.3 * PITCH) * np.maximum(top, np.float32(-0.35))
    warp_on_top = weave.warp > weave.weft
    colour = np.where(warp_on_top, WARP[:, None, None] * tones[0], WEFT[:, None, None] * tones[1])
    depth = np.clip(0.62 + 0.85 * top, 0.4, 1.05)
    surface.paint(thread.astype(np.float32), colour * depth, gloss=0.03)


def _stretch(weave: Weave, frame: Frame, rng: np.random.Generator) -> tuple[int, Field]:
    """Choose a section of a weft thread: its number, and each pixel's position along it (0 to 1)."""
    spot = pick_point(np.ones_like(frame.u), frame, rng)
    nearest = frame.nearest(spot)
    length = rng.uniform(4.0, 9.0)
    along = (weave.a - weave.a.flat[nearest]) / np.float32(length) + np.float32(0.5)
    return int(weave.j.flat[nearest]), along


def _lose_pick(weave: Weave, frame: Frame, rng: np.random.Generator) -> Field:
    row, along = _stretch(weave, frame, rng)
    empty = (weave.j == row) & (along > 0) & (along < 1)
    weave.weft[empty] = GONE
    slack = empty & (weave.warp > GONE / 2)
    weave.warp[slack] = _profile(weave.across_warp)[slack] - np.float32(0.12)
    return empty.astype(np.float32)


def _pull_pick(weave: Weave, frame: Frame, rng: np.random.Generator) -> Field:
    row, along = _stretch(weave, frame, rng)
    held = (along > 0) & (along < 1)
    arc = np.sin(np.float32(np.pi) * np.clip(along, 0, 1))
    sideways = float(rng.choice([-1, 1]) * rng.uniform(0.25, 0.7))
    was = (weave.j == row) & held
    seen = was & (weave.weft > weave.warp)
    weave.weft[was] = GONE
    across = weave.b - np.float32(row + 0.5) - sideways * arc
    pulled = held & (np.abs(across) < HALF)
    lifted = _profile(across) + np.float32(FLOAT) * np.sqrt(np.maximum(arc, 0))
    weave.weft[pulled] = lifted[pulled]
    weave.warp[pulled] = GONE
    return (seen | pulled).astype(np.float32)


def _tear(weave: Weave, frame: Frame, rng: np.random.Generator) -> Field:
    centre = pick_point(np.ones_like(frame.u), frame, rng)
    edge = blob(frame.u, frame.v, centre, rng.uniform(0.08, 0.19), rng)
    fray = (0.03 * rng.standard_normal((2, 64))).astype(np.float32)
    torn_warp = edge + fray[0][weave.i.astype(int) % 64] < 0
    torn_weft = edge + fray[1][weave.j.astype(int) % 64] < 0
    before = np.maximum(weave.warp, weave.weft)
    weave.warp[torn_warp] = GONE
    weave.weft[torn_weft] = GONE
    changed = (before != np.maximum(weave.warp, weave.weft)).astype(np.float32)
    return np.maximum(changed, inside(edge + 0.02, frame.step))


def _discolour(surface: Surface, frame: Frame, rng: np.random.Generator) -> Field:
    centre = pick_point(np.ones_like(frame.u), frame, rng)
    edge = blob(frame.u, frame.v, centre, rng.uniform(0.12, 0.23), rng)
    body = smoothstep(0.02, -0.02, edge)
    if rng.random() < 0.5:
        surface.tint(body * rng.uniform(0.8, 1.1), DYED)
    else:
        surface.paint(body * rng.uniform(0.45, 0.7), BLEACHED, gloss=0.03)
    return inside(edge - 0.008, frame.step)
