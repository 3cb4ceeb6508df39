"""Images per second: RAN's single batch per image and GLAD's sampling loop, with the same UNet.

    python benchmarks/ran_speed.py [--image-size 256]

Random weights, the same small UNet on 4x4 pixel blocks and the same weight-free features for both methods, so
that only the inference procedure differs. RAN processes all timesteps and noise samples of an image in one
batch. GLAD runs step by step (one-step estimates as in `tiny`, and 25 steps with the adaptive stop). Runs
alternate; the median is reported.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch

from mendiff.methods.base import Method, find_method, find_preset
from mendiff.methods.config import override
from mendiff.nets.denoiser import plain_unet

SHARED: dict[str, Any] = {"codec.factor": 4, "denoiser.network": plain_unet(64, 96, 128)}
LOOP = {
    "start_timesteps": [750],
    "sampler_steps": 25,
    "spacing": "leading",
    "adaptive": True,
    "threshold": 1e9,
}
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("RAN, 3 timesteps x 1 draw in one batch", "ran", {}),
    ("RAN, 3 timesteps x 4 draws in one batch", "ran", {"draws": 4}),
    ("GLAD, one-step estimates at 50 and 200", "glad", {}),
    ("GLAD, 25 steps with adaptive stop", "glad", LOOP),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = torch.rand(options.batch, 3, options.image_size, options.image_size)
    methods = [build(name, changes, options.image_size) for _, name, changes in ROWS]
    seconds: list[list[float]] = [[] for _ in ROWS]
    for _ in range(options.rounds + 1):
        for taken, method in zip(seconds, methods, strict=True):
            taken.append(clock(method, images))
    rates = [options.batch / median(taken[1:]) for taken in seconds]  # the first round is a warm-up
    print("| inference | images/s | against the first |\n|---|---|---|")
    for (row, _, _), rate in zip(ROWS, rates, strict=True):
        print(f"| {row} | {rate:.2f} | {rate / rates[0]:.2f} |")


def build(name: str, changes: dict[str, Any], size: int) -> Method:
    """A method with random weights."""
    settings = {**SHARED, "image_size": size, **changes}
    return find_method(name)(override(find_preset(name, "tiny"), settings)).eval()


@torch.no_grad()
def clock(method: Method, images: torch.Tensor) -> float:
    """Seconds of one prediction."""
    began = time.perf_counter()
    method.predict(images, torch.arange(len(images)))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
