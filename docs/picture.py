"""Draws the README's picture from the output of `mendiff demo`.

    python docs/picture.py mendiff-demo docs/demo.png

For every kind of part the defective test image of median score: input, reconstruction, heat map, true mask.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from mendiff.checkpoints.store import load
from mendiff.data.dataset import open_data
from mendiff.data.images import (
    draw_contour,
    normalise_heat,
    overlay,
    resize,
    resize_mask,
    save_png,
    to_picture,
)
from mendiff.data.masks import read_mask
from mendiff.data.reading import read_image


def main(demo: Path, out: Path) -> None:
    """Draw a row per kind of part."""
    rows = []
    for category in open_data(demo / "data"):
        model = load(demo / "models" / category.name)
        defective = [sample for sample in category.test if not sample.is_good]
        found = model.predict([sample.path for sample in defective])
        middle = int(found.score.argsort()[len(defective) // 2])
        picture = to_picture(resize(read_image(defective[middle].path), model.image_size))
        mask = resize_mask(read_mask(defective[middle].mask_path), model.image_size)[0].numpy()
        heat = normalise_heat(found.anomaly_map[middle, 0].numpy(), *model.calibration.heat_range)
        tiles = [
            picture,
            to_picture(found.reconstruction[middle]),
            overlay(picture, heat),
            draw_contour(picture, mask),
        ]
        rows.append(
            np.concatenate([np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255) for tile in tiles], 1)
        )
    pairs = [np.concatenate(rows[first : first + 2], 1) for first in range(0, len(rows), 2)]
    save_png(np.concatenate(pairs, 0), out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
