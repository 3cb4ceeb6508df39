"""Reconstructions from several start timesteps with the same read-out.

    python benchmarks/starts.py MODEL DATA --starts 200 350 500 650
    python benchmarks/starts.py MODEL DATA --walk

MODEL is a GLAD model with an autoencoder. Features of image and reconstruction are averaged over 3x3
positions and compared position by position with the cosine distance. For comparison: a memory bank of the
same features, alone and added, both scaled by held-back good images. Networks run in bfloat16. Prints a
Markdown table, and with --walk the stop steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mendiff.checkpoints.store import load
from mendiff.cli.terminal import Terminal
from mendiff.data.dataset import open_data
from mendiff.diffusion.random import content_seeds
from mendiff.evaluation.stops import stop_figures
from mendiff.runs import testing
from mendiff.scoring.bank import PatchBank
from mendiff.scoring.maps import cosine_map, enlarged, gaussian_blur
from mendiff.scoring.score import top_share_mean
from mendiff.training.split import split_images

SIGMA, SHARE, POSITIONS, BATCH = 4 / 256, 0.002, 20_000, 8
SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap")


class Reader:
    """Smoothed maps from features, (N,1,S,S)."""

    def __init__(self, method: Any) -> None:
        self.features = method.features
        self.bank = PatchBank(self.features.channels, POSITIONS)

    def described(self, images: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """Features of a batch, and the size at which they were extracted."""
        images = enlarged(images, self.features)
        return self.features(images), (images.shape[-2], images.shape[-1])

    def from_bank(self, images: Tensor) -> Tensor:
        """Distance to the nearest vector of the memory bank."""
        maps = [self.bank(*self.described(batch)) for batch in images.split(BATCH)]
        return self.smoothed(torch.cat(maps), images.shape[-1])

    def between(self, images: Tensor, rebuilt: Tensor) -> Tensor:
        """Distance at the same position, mean over layers."""
        maps = []
        for one, other in zip(images.split(BATCH), rebuilt.split(BATCH), strict=True):
            pairs = zip(self.described(one)[0], self.described(other)[0], strict=True)
            layers = [cosine_map(*(_pooled(layer) for layer in pair)) for pair in pairs]
            size = layers[0].shape[-2:]
            maps.append(
                torch.stack([F.interpolate(layer, size, mode="bilinear") for layer in layers]).mean(0)
            )
        return self.smoothed(torch.cat(maps), images.shape[-1])

    @staticmethod
    def smoothed(maps: Tensor, side: int) -> Tensor:
        """Resize maps to the images' size and smooth them."""
        return gaussian_blur(F.interpolate(maps, (side, side), mode="bilinear"), SIGMA * side)


def _pooled(layer: Tensor) -> Tensor:
    return F.avg_pool2d(layer, 3, 1, 1, count_include_pad=False)


def estimate(method: Any, t: int, images: Tensor) -> Tensor:
    """The clean estimate of one step from timestep t, decoded; 0 for the codec's round trip."""
    z0, noise = method._start(images, method.noise(images, content_seeds(images)))
    steps = torch.full((len(images),), t)
    z = method.denoiser(method.schedule.add_noise(z0, noise, steps), steps).x0 if t else z0
    decoded: Tensor = method.codec.decode(z)
    return decoded


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="a category with the data of the model's fit")
    parser.add_argument("--starts", type=int, nargs="+", default=[200, 350, 500, 650])
    parser.add_argument("--walk", action="store_true", help="the model's own search, too")
    options = parser.parse_args()
    model = load(options.model, "cpu")
    method: Any = model.method
    (category,) = open_data(options.data)
    tests = testing.read_tests(category, model.image_size, Terminal(True))
    held_back, seen = split_images(torch.stack([model.prepare(path) for path in category.train]))
    model.sparing("cpu", half=True)
    reader, good = Reader(method), ~tests.labels
    reader.bank.fit(reader.described(batch) for batch in seen.split(BATCH))
    banks = reader.from_bank(tests.images), reader.from_bank(held_back)

    def figures(maps: Tensor) -> str:
        found = testing.measure(tests, top_share_mean(maps, SHARE), maps)
        return " / ".join(f"{found[name]:.3f}" for name in SHOWN)

    def row(label: str, rebuild: Callable[[Tensor], Tensor]) -> None:
        rebuilt, kept = (
            torch.cat([rebuild(one) for one in images.split(BATCH)]) for images in (tests.images, held_back)
        )
        error = (rebuilt - tests.images)[good].square().mean((1, 2, 3))
        maps, normal = reader.between(tests.images, rebuilt), reader.between(held_back, kept)
        both = (maps - normal.mean()) / normal.std() + (banks[0] - banks[1].mean()) / banks[1].std()
        psnr = float(-10 * error.log10().mean())
        print(f"| {label} | {psnr:.1f} dB | {figures(maps)} | {figures(both)} |", flush=True)

    print("| | PSNR to good test images | alone | with the memory bank |\n|---|---|---|---|")
    row("round trip", partial(estimate, method, 0))
    for start in options.starts:
        row(f"one step from t = {start}", partial(estimate, method, start))
    stops: list[Tensor] = []

    def walk(images: Tensor) -> Tensor:
        found = model.predict_batch(images)
        stops.append(found.stop_step)
        return found.reconstruction

    if options.walk:
        row("the model's search", walk)
    print(f"| memory bank | | {figures(banks[0])} | |")
    if options.walk:
        found = torch.cat(stops)[: len(tests.images)]
        stopped = stop_figures(found, tests.labels, tests.masks)
        print(f"\nstop steps of good images: {stopped['good']}")
        print(f"stop steps of defective images: {stopped['defective']}")
        print(f"rank correlation with the defect's area: {stopped['area_rank']}")


if __name__ == "__main__":
    main()
