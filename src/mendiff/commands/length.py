"""How long to train: a fast machine makes more of the minutes that a preset is meant for."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from statistics import median

import torch

from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, MethodConfig, find_method

LENGTHS = (4.0, 3.0, 2.0, 1.5)
"""By how much training may be lengthened: few choices, so that one machine chooses alike from run to run."""
OVERHEAD = 0.03
"""Seconds that a step spends outside the method: reading images, bookkeeping."""
WARM_UP, MEASURED = 3, 5
STEPS_FILE = "steps"


def lengthened(
    name: str, config: MethodConfig, device: str, workdir: Path, *, resume: bool, measure: bool = True
) -> MethodConfig:
    """The config with as many steps as its minutes allow; never fewer than it asks for.

    Args:
        name: of the method.
        config: the method's.
        device: torch's name.
        workdir: where a training leaves its checkpoints and its number of steps.
        resume: take the number from there, so that a resumed training stays as long as it was.
        measure: whether speed counts; several processes would each measure another.
    """
    plan, kept = config.training, workdir / STEPS_FILE
    if resume and kept.is_file():
        steps = int(kept.read_text())
    elif plan.minutes == 0 or not measure:
        return config
    else:
        seconds = seconds_per_step(find_method(name)(config), config, device) + OVERHEAD
        fitting = [length for length in LENGTHS if plan.steps * length * seconds <= 60 * plan.minutes]
        steps = round(plan.steps * max(fitting, default=1.0))
    return dataclasses.replace(config, training=dataclasses.replace(plan, steps=steps))


def seconds_per_step(method: Method, config: MethodConfig, device: str) -> float:
    """Median seconds of a training step of an untrained method on noise, in the precision of training."""
    from mendiff.anomalib_models.optimizers import COMPUTED_IN, make_optimizer, trainer_precision

    side, count = config.crop or config.image_size, config.training.batch_size // config.training.accumulate
    rng = PerImageRandom(torch.arange(count))
    image = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    method.to(device).train()
    trained = (one for one in method.parameters() if one.requires_grad)
    optimizer = make_optimizer(config.training, trained)
    taken: list[float] = []
    half = COMPUTED_IN.get(trainer_precision(config.training, device))
    for _ in range(WARM_UP + MEASURED):
        began = time.perf_counter()
        with torch.autocast(torch.device(device).type, half, enabled=half is not None):
            loss = method.training_loss(image, rng)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a device that works on its own
        taken.append(time.perf_counter() - began)
    return config.training.accumulate * median(taken[WARM_UP:])
