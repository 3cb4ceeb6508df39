"""Assessment of features without real images: memory banks on generated surfaces with synthetic defects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mendiff.cli.terminal import Terminal
from mendiff.demo.geometry import Field
from mendiff.evaluation.baselines import fit_memory_bank
from mendiff.evaluation.metrics import image_and_pixel_metrics
from tools.camera import photographed, turned_over
from tools.drawings import circuit, dead_leaves, plain_texture
from tools.fields import Rng
from tools.flaws import Mask, flawed
from tools.images import Kind
from tools.scenes import relief

Features = Callable[[Tensor], Sequence[Tensor]]

SURFACES: tuple[Kind, ...] = (plain_texture, relief, dead_leaves, plain_texture, relief, circuit)
SIDE, SHEET = 128, 448
GOOD, TESTS, POSITIONS = 20, 24, 2000
CONTRAST = 0.02
"""Least standard deviation of a surface's pixels; a flatter surface is drawn again."""


@dataclass(frozen=True)
class Category:
    """Crops of a surface: good ones for training, and test crops of which every second has a defect.

    train: (N,3,S,S) in [0,1]; tests: (M,3,S,S); labels: (M,) bool; masks: (M,1,S,S) bool.
    """

    train: Tensor
    tests: Tensor
    labels: Tensor
    masks: Tensor


def draw_category(seed: int, number: int) -> Category:
    """Category `number` of a seed, reproducible; training and test crops come from different halves."""
    rng = np.random.default_rng([seed, number, 7])
    camera = int(rng.integers(2**32))
    while True:
        surface = SURFACES[number % len(SURFACES)](SHEET, rng)
        if surface.std() > CONTRAST:
            break
    half = SHEET // 2
    train = [_taken(_cut(surface, rng, 0, half), camera) for _ in range(GOOD)]
    tests, masks = [], []
    for index in range(TESTS):
        image = _cut(surface, rng, half, SHEET)
        mask: Mask = np.zeros((SIDE, SIDE), np.bool_)
        while index % 2 and not mask.any():
            image, mask = flawed(image, rng)
        tests.append(_taken(image, camera))
        masks.append(_as_seen(mask, camera))
    labels = torch.arange(TESTS) % 2 == 1
    return Category(torch.stack(train), torch.stack(tests), labels, torch.stack(masks))


def _cut(surface: Field, rng: Rng, top: int, bottom: int) -> Field:
    y, x = int(rng.integers(top, bottom - SIDE + 1)), int(rng.integers(SHEET - SIDE + 1))
    return surface[y : y + SIDE, x : x + SIDE].copy()


def _taken(image: Field, camera: int) -> Tensor:
    """Apply the camera model of a category, (3,S,S)."""
    pixels = photographed(image, np.random.default_rng(camera))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def _as_seen(mask: Mask, camera: int) -> Tensor:
    """Rotate and mirror the mask like the image, (1,S,S) bool."""
    seen = turned_over(mask, np.random.default_rng(camera))
    return torch.from_numpy(seen.copy())[None]


@torch.no_grad()
def assess(features: Features, categories: Sequence[Category]) -> dict[str, float]:
    """Mean image and pixel AUROC of a memory bank on these features."""
    rows = []
    for category in categories:
        scores, maps = fit_memory_bank(features, category.train, POSITIONS).predict(category.tests)
        found = image_and_pixel_metrics(scores, category.labels, maps, category.masks)
        rows.append((found["image_auroc"] or 0.0, found["pixel_auroc"] or 0.0))
    image, pixel = zip(*rows, strict=True)
    return {"image_auroc": round(sum(image) / len(rows), 4), "pixel_auroc": round(sum(pixel) / len(rows), 4)}


def assess_all(
    rows: Mapping[str, Features], categories: Sequence[Category], terminal: Terminal
) -> dict[str, dict[str, float]]:
    """Assess several features and print a row for each; does nothing without categories."""
    found = {}
    for name, features in rows.items() if categories else ():
        found[name] = assess(features, categories)
        image, pixel = found[name]["image_auroc"], found[name]["pixel_auroc"]
        place = f"on {len(categories)} generated surfaces"
        terminal.say(f"{name}: image AUROC {image:.3f}, pixel AUROC {pixel:.3f} {place}")
    return found
