"""A mosaic of glazed hexagons in pale grout."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mendiff.demo.geometry import Field, Frame, blob, circle, grain, hexagon, inside, noise, smoothstep, waves
from mendiff.demo.marks import crack, fracture, pick_point, scratch, stain
from mendiff.demo.shading import Surface, linear

DEFECTS = ("chip", "crack", "discolouration", "scratch", "stain")
WIDTH, GAP = 0.38, 0.022  # of a hexagon from flat to flat, and half the joint

GROUT, GLAZE, POOLED, BISCUIT = linear("d5cfc2"), linear("c4673a"), linear("a34e29"), linear("e6d5b4")
TEA = np.array([0.52, 0.36, 0.22], np.float32)


@dataclass(frozen=True)
class Mosaic:
    """The hexagon at each pixel: its number (0 to 63) and the signed distance to its edge; (H,W)."""

    number: NDArray[np.int_]
    edge: Field


def build(
    frame: Frame, defect: str | None, rng: np.random.Generator, flaw: np.random.Generator
) -> tuple[Surface, Field]:
    """Build a mosaic; returns its surface and the coverage of the defect (H,W)."""
    surface = Surface.plain(frame, GROUT * float(rng.uniform(0.95, 1.05)), gloss=0.02)
    grit = grain(frame, 0.025, rng)
    surface.albedo *= 1 + 0.05 * grit
    mosaic = _lattice(frame)
    glaze = inside(mosaic.edge, frame.step)
    surface.height += np.float32(0.0012) * (1 - glaze) * grit
    _glaze(surface, frame, mosaic, rng)
    cover = np.zeros_like(frame.u)
    if defect == "chip":
        cover = _chip(surface, frame, mosaic, flaw)
    elif defect == "discolouration":
        cover = _discolour(surface, frame, mosaic, flaw)
    elif defect == "scratch":
        cover = scratch(surface, frame, glaze, linear("dfe6df"), flaw)
    elif defect == "crack":
        cover = crack(surface, frame, glaze, pick_point(glaze, frame, flaw), flaw.uniform(0.35, 0.8), flaw)
    elif defect == "stain":
        cover = stain(surface, frame, np.ones_like(frame.u), TEA, flaw)
    return surface, cover


def _lattice(frame: Frame) -> Mosaic:
    best, number, edge = np.full_like(frame.u, np.inf), np.zeros(frame.u.shape, int), np.zeros_like(frame.u)
    tall = WIDTH * math.sqrt(3)
    for offset in (0.0, 0.5):  # two interleaved rectangular lattices
        row, col = np.rint(frame.v / tall - offset), np.rint(frame.u / WIDTH - offset)
        a, b = frame.u - (col + offset) * WIDTH, frame.v - (row + offset) * tall
        far = a * a + b * b
        nearer = far < best
        np.copyto(best, far, where=nearer)
        np.copyto(number, (14 * row + 6 * col + 20 * offset).astype(int) & 63, where=nearer)
        np.copyto(edge, hexagon(a, b, WIDTH / 2 - GAP), where=nearer)
    return Mosaic(number, edge)


def _glaze(surface: Surface, frame: Frame, mosaic: Mosaic, rng: np.random.Generator) -> None:
    tone = (1 + 0.04 * rng.standard_normal(64)).astype(np.float32)[mosaic.number]
    pillow = smoothstep(0, 0.06, -mosaic.edge)
    surface.height += 0.04 * np.sqrt(smoothstep(-0.004, 0.05, -mosaic.edge))
    ripple = waves(frame.u, frame.v, 4, rng)
    surface.height += np.float32(0.0018) * pillow * ripple
    cloud = 1 + 0.03 * ripple
    colour = GLAZE[:, None, None] * pillow + POOLED[:, None, None] * (1 - pillow)
    surface.paint(inside(mosaic.edge, frame.step), colour * (tone * cloud), gloss=0.6)


def _chip(surface: Surface, frame: Frame, mosaic: Mosaic, rng: np.random.Generator) -> Field:
    rim = (np.abs(mosaic.edge) < 0.015).astype(np.float32)
    tile = inside(mosaic.edge, frame.step)
    edge = blob(frame.u, frame.v, pick_point(rim, frame, rng), rng.uniform(0.07, 0.13), rng)
    edge += np.float32(0.008) * noise(frame.u, frame.v, 20, rng)
    cover = inside(edge, frame.step) * tile
    depth = fracture(frame, 0.018, rng) + 0.02 * smoothstep(-0.03, 0.0, edge)
    surface.height += cover * (np.minimum(depth, surface.height) - surface.height)
    surface.paint(cover, BISCUIT * float(rng.uniform(0.8, 1.0)), gloss=0.03)
    return cover


def _discolour(surface: Surface, frame: Frame, mosaic: Mosaic, rng: np.random.Generator) -> Field:
    tile = inside(mosaic.edge, frame.step)
    spot = pick_point(tile, frame, rng)
    near = circle(frame.u, frame.v, spot, WIDTH * 1.3) < 0  # numbers repeat at larger distances
    cover = tile * near * (mosaic.number == mosaic.number.flat[frame.nearest(spot)])
    factor = np.array([[0.55, 0.85, 1.3], [1.15, 1.7, 1.6], [0.6, 0.52, 0.5]], np.float32)[rng.integers(3)]
    surface.tint(cover * rng.uniform(0.7, 1.0), factor)
    return cover
