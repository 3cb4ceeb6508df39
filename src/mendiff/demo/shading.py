"""Light and camera of the demo pictures: from a height map with materials to an 8-bit image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mendiff.demo.geometry import SUPERSAMPLING, Field, Frame, Window, smoothstep

Pixels = NDArray[np.uint8]
LONGEST_SHADOW = 0.11  # in part units


def linear(code: str) -> Field:
    """Read a hexadecimal sRGB colour as linear light (3,)."""
    return np.array([(int(code[i : i + 2], 16) / 255) ** 2.2 for i in (0, 2, 4)], np.float32)


@dataclass
class Surface:
    """The visible surface: a height map with materials, changed in place while a part is built.

    height: (H,W) in part units; albedo: (3,H,W) linear; gloss, metal: (H,W) in [0,1];
    turning: (H,W) in [0,1], strength of the reflections of a surface turned on a lathe around `axis`;
    cover: (H,W) height of a transparent sheet above everything, or None.
    """

    height: Field
    albedo: Field
    gloss: Field
    metal: Field
    turning: Field
    axis: tuple[float, float] = (0.0, 0.0)
    cover: Field | None = None

    @classmethod
    def plain(cls, frame: Frame, colour: Field, gloss: float = 0.05) -> Surface:
        """A flat surface of a single colour."""
        flat = np.zeros_like(frame.x)
        return cls(
            flat.copy(), flat + colour[:, None, None], flat + np.float32(gloss), flat.copy(), flat.copy()
        )

    def cut(self, window: Window) -> Surface:
        """A view of the surface inside a window; it shares memory with this surface."""
        albedo = self.albedo[(..., *window)]
        height, gloss, metal, turning = (
            layer[window] for layer in (self.height, self.gloss, self.metal, self.turning)
        )
        return Surface(height, albedo, gloss, metal, turning, self.axis)

    def paint(
        self, cover: Field, colour: Field, *, gloss: float = 0.1, metal: float = 0.0, turning: float = 0.0
    ) -> None:
        """Apply a material where `cover` (H,W) is 1; colour: (3,) or (3,H,W) linear."""
        self.albedo += cover * (_per_pixel(colour) - self.albedo)
        for layer, value in ((self.gloss, gloss), (self.metal, metal), (self.turning, turning)):
            layer += cover * (np.float32(value) - layer)

    def tint(self, cover: Field, factor: Field) -> None:
        """Multiply the colour by `factor` (3,) where `cover` (H,W) is 1."""
        self.albedo *= 1 + cover * (_per_pixel(factor) - 1)


def _per_pixel(colour: Field) -> Field:
    return colour[:, None, None] if colour.ndim == 1 else colour


@dataclass(frozen=True)
class Light:
    """A distant lamp in direction (x, y, z), and ambient light; colour (3,) linear."""

    towards: tuple[float, float, float]
    colour: Field
    power: float
    ambient: float


def draw_light(rng: np.random.Generator) -> Light:
    """A lamp at the upper left with small random changes of position, power and colour temperature."""
    azimuth, elevation = np.deg2rad(rng.uniform(-150, -120)), np.deg2rad(rng.uniform(50, 58))
    warmth = rng.uniform(-0.025, 0.025)
    flat = np.cos(elevation)
    return Light(
        (float(flat * np.cos(azimuth)), float(flat * np.sin(azimuth)), float(np.sin(elevation))),
        np.array([1.02 + warmth, 1.0, 0.98 - warmth], np.float32),
        float(rng.uniform(0.98, 1.10)),
        float(rng.uniform(0.30, 0.36)),
    )


def _normals(height: Field, step: float) -> tuple[Field, Field, Field]:
    gy, gx = np.gradient(height, np.float32(step))
    nz = 1 / np.sqrt(1 + gx * gx + gy * gy)
    return -gx * nz, -gy * nz, nz


def _shadow(height: Field, light: Light, step: float) -> Field:
    """Visibility of the lamp from each point (1 lit, 0 in full shadow), with soft edges."""
    lx, ly, lz = light.towards
    flat = math.hypot(lx, ly)
    rise = lz / flat
    rows, cols = height.shape
    margin = int(LONGEST_SHADOW / step) + 1
    padded = np.pad(height, margin, mode="edge")
    blocked = np.zeros_like(height)
    for reach in np.arange(1.5, LONGEST_SHADOW / step, 2.0).tolist():
        top, left = margin + round(reach * ly / flat), margin + round(reach * lx / flat)
        over = padded[top : top + rows, left : left + cols] - height - reach * step * rise
        np.maximum(blocked, over * (1 / (0.012 + 0.15 * reach * step)), out=blocked)
    return 1 - ndimage.gaussian_filter(np.clip(blocked, 0, 1), 1.0)


def shade(surface: Surface, frame: Frame, light: Light) -> Field:
    """Radiance of a lit surface, (3,H,W) linear.

    Lambertian reflection with soft shadows and ambient occlusion, Blinn-Phong highlights, a simple
    environment reflection for metal, and the fan-shaped highlight of turned metal.
    """
    lx, ly, lz = (np.float32(c) for c in light.towards)
    nx, ny, nz = _normals(surface.height, frame.step)
    free = _shadow(surface.height, light, frame.step)
    wide = ndimage.gaussian_filter(surface.height, 0.03 / frame.step, truncate=2.0)
    open_sky = np.clip(1 - 6 * np.maximum(wide - surface.height, 0), 0.25, 1)
    lambert = np.clip(nx * lx + ny * ly + nz * lz, 0, None)
    diffuse = light.ambient * open_sky + light.power * lambert * free

    # The camera is near, so the reflection on a flat mirror varies over the image.
    mirrored = 2 * (nx * lx + ny * ly) * nz + 0.28 * (frame.x * lx + frame.y * ly)
    environment = 0.30 + 0.75 * smoothstep(-0.9, 1.0, mirrored)
    metallic = (environment * open_sky) * (0.55 + 0.45 * free)
    if surface.turning.any():
        metallic = metallic * (1 - 0.5 * surface.turning) + surface.turning * _fan(surface, frame, light)

    body = surface.albedo * (diffuse * (1 - surface.metal) + metallic * surface.metal)
    spark = surface.gloss * _highlight(nx, ny, nz, frame, light) * free
    if surface.cover is not None:
        spark = spark + 0.75 * _highlight(*_normals(surface.cover, frame.step), frame, light)
    return (body + spark * light.power) * light.colour[:, None, None]


def _highlight(nx: Field, ny: Field, nz: Field, frame: Frame, light: Light) -> Field:
    hx, hy = light.towards[0] - 0.15 * frame.x, light.towards[1] - 0.15 * frame.y
    hz = np.float32(light.towards[2] + 1)
    cosine = (nx * hx + ny * hy + nz * hz) / np.sqrt(hx * hx + hy * hy + hz * hz)
    broad = _square(np.clip(cosine, 0, 1), times=4)
    return 0.12 * broad + 0.85 * _square(broad, times=3)


def _square(value: Field, times: int) -> Field:
    for _ in range(times):  # much faster than a power
        value = value * value
    return value


def _fan(surface: Surface, frame: Frame, light: Light) -> Field:
    a, b = frame.x - np.float32(surface.axis[0]), frame.y - np.float32(surface.axis[1])
    radius = np.maximum(np.hypot(a, b), np.float32(1e-3))
    lx, ly, _ = light.towards
    across = (a * np.float32(ly) - b * np.float32(lx)) / (radius * np.float32(np.hypot(lx, ly)))
    return 0.74 * np.exp(-((across / np.float32(0.42)) ** 2))


def pool(field: Field) -> Field:
    """Average the supersampled pixels (S*H,S*W) of each finished pixel (H,W)."""
    total = np.zeros_like(field[::SUPERSAMPLING, ::SUPERSAMPLING])
    for row in range(SUPERSAMPLING):
        for col in range(SUPERSAMPLING):
            total += field[row::SUPERSAMPLING, col::SUPERSAMPLING]
    return total / np.float32(SUPERSAMPLING**2)


def photograph(radiance: Field, rng: np.random.Generator) -> Pixels:
    """Camera model: (3,S*H,S*W) linear to (H,W,3) uint8 with vignetting, sensor noise and gamma.

    The noise does not depend on the scene, so two scenes with equal rng have the same noise.
    """
    image = np.stack([ndimage.gaussian_filter(pool(channel), 0.42, truncate=3) for channel in radiance], -1)
    side = len(image)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    image *= (1 - 0.07 * (axis[:, None] ** 2 + axis[None] ** 2))[..., None]
    image = np.clip(image, 0, None)
    image = image * (1 + image / 6.0) / (1 + image * 0.42)  # compress highlights instead of clipping
    grey = rng.standard_normal((side, side, 1), np.float32)
    colour = rng.standard_normal((side, side, 3), np.float32)
    image = np.clip(image, 0, 1) ** np.float32(1 / 2.2) * 255
    image += (0.9 * grey + 0.7 * colour) * (0.8 + 0.5 * np.sqrt(image / 255))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
