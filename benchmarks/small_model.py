"""Small images of parts and a small model, for benchmarks of everything but the networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import mendiff
from mendiff.data.images import save_png

NETWORK = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "norm_num_groups": 4,
    "add_attention": False,
}
SETTINGS = {"image_size": 32, "crop": 0, "denoiser.network": NETWORK, "readout.enlarge": 0}


def draw_photos(folder: Path, count: int, side: int = 24, seed: int = 0) -> Path:
    """Write grey images with noise; every tenth has a bright square."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        picture = rng.integers(100, 140, (side, side, 3), dtype=np.uint8)
        if number % 10 == 9:
            picture[side // 4 : side // 2, side // 4 : side // 2] = 255
        save_png(picture, folder / f"{number:06}.png")
    return folder


def fit_small(folder: Path, steps: int = 2) -> Path:
    """Fit a model of pixels only on 12 good images; returns its folder."""
    rng = np.random.default_rng(1)
    (folder / "good").mkdir(parents=True)
    for number in range(12):
        save_png(rng.integers(100, 140, (24, 24, 3), dtype=np.uint8), folder / f"good/{number}.png")
    settings = {**SETTINGS, "training.steps": steps}
    mendiff.fit(folder / "good", folder / "model", features="none", settings=settings)
    return folder / "model"
