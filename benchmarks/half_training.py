"""A bfloat16 training step on a CPU, with and without the memory layout of mendiff.nets.half_training.

    OMP_NUM_THREADS=1 python benchmarks/half_training.py

GLAD's denoiser of the preset `small`, 16 latents of 32x32, alternating steps. Prints the median seconds per
step and their ratio. For processors with matrix units.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from mendiff.diffusion.schedule import make_schedule
from mendiff.methods.base import find_preset
from mendiff.methods.base_config import TIMESTEPS
from mendiff.nets import build
from mendiff.nets.denoiser import Denoiser
from mendiff.training.optimizers import make_optimizer

BATCH, CHANNELS, SIDE, WARM_UP, ROUNDS = 16, 16, 32, 2, 12


def stepper() -> Callable[[], None]:
    """Create a training step of a new network."""
    preset: Any = find_preset("glad", "small")
    torch.manual_seed(0)
    denoiser = Denoiser(preset.denoiser, make_schedule(preset.schedule, TIMESTEPS), CHANNELS)
    optimizer = make_optimizer(preset.training, denoiser.parameters())
    x, t = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.randint(0, TIMESTEPS, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = denoiser.raw(x, t).square().mean()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure and print."""
    laid_out, lay_out = stepper(), build.lay_out
    build.lay_out = lambda network: None
    plain, build.lay_out = stepper(), lay_out
    taken: dict[str, list[float]] = {"without": [], "with": []}
    for number in range(WARM_UP + ROUNDS):
        for name, step in (("without", plain), ("with", laid_out)):
            began = time.perf_counter()
            step()
            if number >= WARM_UP:
                taken[name].append(time.perf_counter() - began)
    before, after = median(taken["without"]), median(taken["with"])
    print(
        f"{torch.get_num_threads()} threads: {before:.2f} s without, {after:.2f} s with: {before / after:.2f}"
    )


if __name__ == "__main__":
    main()
