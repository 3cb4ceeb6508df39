"""Time and peak memory of full-size DiAD with random weights: our implementation and the published one.

    python benchmarks/diad_speed.py [--precision float32 bfloat16] [--steps 10]

One image of 256 pixels, the same steps, one process per row so that peak memory is measured per row. The
published implementation computes guidance between equal prompts, embeds the hint at every step, and also
decodes the input's latents. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from mendiff.checkpoints.import_diad import assemble
from mendiff.diffusion.ddim import ddim
from mendiff.diffusion.ladder import ladder
from mendiff.methods.diad import GUIDANCE, Diad
from mendiff.methods.diad_config import PUBLISHED
from mendiff.nets.features import FeaturesConfig
from mendiff.types import Estimate

PATHS = ("published order", "ours")


def main() -> None:
    """Measure every row in a separate process and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--row", nargs=2, metavar=("PATH", "PRECISION"), help="measure one row and print it")
    options = parser.parse_args()
    if options.row:
        print(*measured(*options.row, options.steps))
        return
    print("| path | precision | seconds | peak memory | ratio |\n|---|---|---|---|---|")
    for precision in options.precision:
        first = None
        for path in PATHS:
            command = [sys.executable, __file__, "--steps", str(options.steps), "--row", path, precision]
            seconds, gigabytes = map(float, subprocess.check_output(command, text=True).split())
            first = first or seconds
            cells = f"{path} | {precision} | {seconds:.1f} s | {gigabytes:.1f} GB | {first / seconds:.2f}"
            print(f"| {cells} |", flush=True)


@torch.no_grad()
def measured(path: str, precision: str, steps: int) -> tuple[float, float]:
    """(seconds, peak memory in GB) of one reconstruction."""
    kind = getattr(torch, precision)
    model = full_size(steps).to(kind)
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)).to(kind)
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1)).to(kind)
    model.denoiser.unet.raw(noise, torch.tensor([1]))  # warm-up
    began = time.perf_counter()
    if path == "ours":
        model.decode(model.reconstruct(model.encode(image), noise, model.scaled(image)))
    else:
        published(model, image, noise)
    seconds = time.perf_counter() - began
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def full_size(steps: int) -> Diad:
    """The published architecture with random weights, initialised in place."""
    config = dataclasses.replace(PUBLISHED, features=FeaturesConfig(), sampler_steps=steps)
    with torch.device("meta"):
        shapes = Diad(config).state_dict()
    rng = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(one.shape).normal_(std=0.02, generator=rng)
        for name, one in shapes.items()
        if name.startswith(("denoiser.", "codec.")) and "prompt" not in name
    }
    return assemble(config, weights, {}, torch.zeros(1, 77, 768), "random")


def published(model: Diad, image: torch.Tensor, noise: torch.Tensor) -> None:
    """The steps of the published implementation."""
    hint, z0 = model.scaled(image), model.encode(image)
    z_t = model.schedule.add_noise(z0, noise, torch.tensor([model.config.noise_timestep]))

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> Estimate:
        halves: list[Any] = [model.denoiser(x_t, t, model.denoiser.embed(hint)).eps for _ in range(2)]
        eps = halves[0] + GUIDANCE * (halves[1] - halves[0])
        return Estimate(model.schedule.x0_from_eps(x_t, eps, t), eps)

    timesteps = ladder(torch.tensor([1000]), model.config.sampler_steps)
    z = ddim(denoise, z_t, timesteps, model.schedule)
    model.decode(z0)
    model.decode(z)


if __name__ == "__main__":
    main()
