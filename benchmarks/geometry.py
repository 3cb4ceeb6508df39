"""Stretched, letterboxed and tiled images on parts of 3:1, and a small defect in a large image.

    python benchmarks/geometry.py OUT

A part is three rendered parts of the demo side by side; a defective part has one with a defect. Each row is a
fit of `tiny` with the same number of steps. Pixel metrics are those of maps at the size of the images. OUT
keeps data and models, so that a second run only measures.

    python benchmarks/geometry.py OUT --large 6000x4000 --steps 60

Instead fits tiles of 256 pixels, with a small network, on images of a woven texture with a quarter of that
size, and searches for a dark spot of 12 pixels in an image of that size. Prints where the map is highest, the
score, the time, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import mendiff
from mendiff.cli.terminal import Terminal
from mendiff.data.bands import Enlarged
from mendiff.data.dataset import open_data
from mendiff.data.geometry import on_canvas
from mendiff.data.images import save_png
from mendiff.data.masks import read_mask
from mendiff.data.reading import read_image
from mendiff.demo.data import LOCAL_DEFECTS, render_defective, render_good
from mendiff.evaluation.metrics import image_and_pixel_metrics
from mendiff.model import Model

SHOWN = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
ACROSS, TRAIN, GOOD, BAD = 3, 30, 12, 24
"""Parts side by side; images for training, and good and defective images for tests."""
SPOT = 12
LARGE_IMAGES = 3


def draw_strips(root: Path, category: str, side: int) -> None:
    """A category of 3:1 images in MVTec-AD's layout."""

    def strip(number: int, defect: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([number, *category.encode()])
        parts = [render_good(category, rng, side) for _ in range(ACROSS)]
        mask, at = np.zeros((side, ACROSS * side), np.bool_), number % ACROSS
        if defect is not None:
            parts[at], mask[:, at * side : (at + 1) * side] = render_defective(category, defect, rng, side)
        return np.concatenate(parts, 1), mask

    places = {f"train/good/{k:03}": (k, None) for k in range(TRAIN)}
    places |= {f"test/good/{k:03}": (1000 + k, None) for k in range(GOOD)}
    kinds = LOCAL_DEFECTS[category]
    for k in range(BAD):
        places[f"test/{kinds[k % len(kinds)]}/{k:03}"] = (2000 + k, kinds[k % len(kinds)])
    for place, (number, defect) in places.items():
        picture, mask = strip(number, defect)
        for array, name in (
            (picture, f"{place}.png"),
            (mask, f"{place.replace('test', 'ground_truth')}.png"),
        ):
            if array is picture or defect is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                save_png(array, root / name)


def measure(model: Model, data: Path) -> dict[str, float | None]:
    """Metrics on test images, with maps at the size of the images."""
    (category,) = open_data(data)
    scores, labels, maps, masks = [], [], [], []
    for sample in category.test:
        picture = read_image(sample.path)
        (row,) = model.rows([model.prepare(picture)])
        size = picture.shape[:2]
        maps.append(Enlarged(row.anomaly_map[0], *size)[slice(0, size[0])])
        place = str(sample.path).replace("/test/", "/ground_truth/")
        masks.append(torch.from_numpy(np.zeros(size, np.bool_) if sample.is_good else read_mask(place))[None])
        scores.append(float(row.score))
        labels.append(not sample.is_good)
    return image_and_pixel_metrics(
        torch.tensor(scores), torch.tensor(labels), on_canvas(maps), on_canvas(masks)
    )


def compare(options: argparse.Namespace) -> None:
    """Print a table of all ways to resize."""
    ways = {
        "stretch": {"resize": "stretch", "image_size": options.image_size},
        "letterbox": {"resize": "letterbox", "image_size": options.image_size},
        f"tiles of {options.side}": {"tile": options.side},
    }
    print(f"| parts | images | {' | '.join(SHOWN)} | seconds per image |\n|{'---|' * (len(SHOWN) + 3)}")
    for category in options.categories:
        data = options.out / f"{category}-{options.side}"
        if not data.is_dir():
            draw_strips(data, category, options.side)
        for label, given in ways.items():
            place = options.out / f"{options.method}-{category}-{options.side}-{label.replace(' ', '-')}"
            fitted = {"method": options.method, "steps": options.steps, "reporter": Terminal(True), **given}
            model = mendiff.load(place) if place.is_dir() else mendiff.fit(data, place, **fitted)
            began = time.monotonic()
            metrics = measure(model, data)
            seconds = (time.monotonic() - began) / (GOOD + BAD)
            cells = " | ".join(f"{metrics[name]:.3f}" for name in SHOWN)
            print(f"| {category} | {label} | {cells} | {seconds:.2f} |", flush=True)


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """A woven texture with noise, (H,W,3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = (np.arange(length, dtype=np.float32) + rng.uniform(0, 16) for length in (height, width))
    woven = 130 + 30 * np.sin(y / 2.5)[:, None] * np.sin(x / 2.5)
    noisy = woven + rng.standard_normal((height, width), dtype=np.float32) * 6
    return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


def search(options: argparse.Namespace) -> None:
    """Print what a tiled model finds in a large image."""
    width, height = map(int, options.large.split("x"))
    data = options.out / f"large-{options.large}"
    data.mkdir(parents=True, exist_ok=True)
    for number in range(LARGE_IMAGES):
        Image.fromarray(texture(number, height // 4, width // 4)).save(data / f"{number}.png")
    place = options.out / f"model-large-{options.large}"
    if not place.is_dir():
        mendiff.fit(data, place, reporter=Terminal(True), steps=options.steps, tile=256, settings=FAST)
    model = mendiff.load(place)
    picture = texture(99, height, width)
    y, x = np.mgrid[:SPOT, :SPOT] - (SPOT - 1) / 2
    row, column = int(0.37 * height), int(0.61 * width)
    picture[row : row + SPOT, column : column + SPOT][np.hypot(y, x) < SPOT / 2] //= 2
    before = peak()
    began = time.monotonic()
    (found,) = model.rows([model.prepare(picture)])
    seconds = time.monotonic() - began
    at = np.unravel_index(int(found.anomaly_map.argmax()), (height, width))
    print(
        f"{options.large}: score {float(found.score):.3f}, threshold {model.threshold:.3f}; highest map "
        f"value at {at[1]}, {at[0]}, spot of {SPOT} pixels at {column}, {row}; {seconds:.0f} s; peak memory "
        f"{before:.2f} GB before, {peak():.2f} GB after ({picture.nbytes / 1e9:.2f} GB image)"
    )


FAST = {
    "denoiser.network": {
        **{"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4},
        **{"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
        "add_attention": False,
    },
    "codec.factor": 4,
    "readout.bank_size": 500,
    "readout.enlarge": 0,
    "adaptive": False,
    "sampler_steps": 1,
    "start_timesteps": [200],
}
"""GLAD's settings for the search in a large image, which is about memory."""


def peak() -> float:
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", default="glad")
    parser.add_argument("--categories", nargs="+", default=["fabric", "blister"])
    parser.add_argument("--side", type=int, default=128, help="shorter side of the images, and side of tiles")
    parser.add_argument("--image-size", type=int, default=128, help="of whole images")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--large", help="WIDTHxHEIGHT of a large image")
    options = parser.parse_args()
    search(options) if options.large else compare(options)


if __name__ == "__main__":
    main()
