"""Draws the pictures of RAN from the output of `mendiff demo --method ran -o DEMO`.

    python docs/ran_pictures.py DEMO docs

For every kind of part the defective test image of median score, as docs/ran-NAME.png: input, KL map at every
timestep, mean of the feature maps, combined map, gradient-denoised image, true mask.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from mendiff.checkpoints.store import load
from mendiff.data.dataset import Category, open_data
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
from mendiff.data.reading import Picture, read_image
from mendiff.diffusion.random import content_seeds
from mendiff.model import Model


def main(demo: Path, out: Path) -> None:
    """Draw a file per kind of part."""
    out.mkdir(parents=True, exist_ok=True)
    for category in open_data(demo / "data"):
        tiles = row(load(demo / "models" / category.name), category)
        padded = [np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255) for tile in tiles]
        save_png(np.concatenate(padded, 1), out / f"ran-{category.name}.png")


@torch.no_grad()
def row(model: Model, category: Category) -> list[Picture]:
    """The pictures of an image."""
    defective = [sample for sample in category.test if not sample.is_good]
    found = model.predict([sample.path for sample in defective])
    middle = int(found.score.argsort()[len(defective) // 2])
    image = resize(read_image(defective[middle].path), model.image_size)[None]
    mask = resize_mask(read_mask(defective[middle].mask_path), model.image_size)[0].numpy()
    seeds, picture = content_seeds(image), to_picture(image[0])
    maps = model.method.scales(
        model.method.maps(model.method.run_network(image, model.method.noise(image, seeds)))
    )
    steps = len(model.method.config.start_timesteps)
    pixel, feature = maps[:steps], maps[steps:]
    combined = normalise_heat(found.anomaly_map[middle, 0].numpy(), *model.calibration.heat_range)
    return [
        picture,
        *(overlay(picture, as_heat(one)) for one in pixel),
        overlay(picture, as_heat(feature.mean(0))),
        overlay(picture, combined),
        to_picture(model.method.explain(image, seeds)[0]),
        draw_contour(picture, mask),
    ]


def as_heat(standardised: torch.Tensor) -> np.ndarray:
    """A standardised map (1,1,H,W) for drawing: half colour at 4 deviations above the mean of good images."""
    return normalise_heat(standardised[0, 0].numpy(), 4.0, 0.0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
