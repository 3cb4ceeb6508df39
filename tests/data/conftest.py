"""Miniature data sets: every image differs from all others, and nothing is real."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def put() -> Callable[..., Path]:
    """(path, size as (width, height)) to a new picture there, different from all before it."""
    numbers = count()

    def write(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(next(numbers)).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def put_mask() -> Callable[..., Path]:
    """(path, grey value of some pixels, size as (width, height)) to a new mask there."""

    def write(path: Path, value: int = 255, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
        pixels[2:5, 3:6] = value
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def mvtec(put, put_mask) -> Callable[..., Path]:
    """(folder, kinds of defects) to a category in MVTec layout: 3 images to learn from, 2 of each test."""

    def write(root: Path, kinds: tuple[str, ...] = ("bent", "scratch")) -> Path:
        for index in range(3):
            put(root / f"train/good/{index:03}.png")
        for index in range(2):
            put(root / f"test/good/{index:03}.png")
            for kind in kinds:
                put(root / f"test/{kind}/{index:03}.png")
                put_mask(root / f"ground_truth/{kind}/{index:03}_mask.png")
        return root

    return write
