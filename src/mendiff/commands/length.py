"""How long to train: a fast machine makes more of the minutes that a preset is meant for.

Speed differs from moment to moment, and with it the number of steps: it is told, kept with the model, and
given again by `mendiff fit --steps N`. Seed and steps together fix a model.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, MethodConfig, find_method

LENGTHS = (4.0, 3.0, 2.0, 1.5)
"""By how much training may be lengthened: few choices, so that one machine chooses alike from run to run."""
OVERHEAD = 0.03
"""Seconds that a step spends outside the method: reading images, bookkeeping."""
WARM_UP, ROUNDS, MEASURED, PAUSE = 3, 5, 3, 0.3
"""Steps before the clock counts; rounds of so many steps each, and seconds between two of them."""
LONGEST = 15.0
"""Seconds after which no further round begins: where steps are as slow as that, few are enough."""
BUSY = 1.25
"""So many times its own computing time a step takes where other programs keep the processor from it."""
STEPS_FILE = "steps"


def lengthened(
    name: str,
    config: MethodConfig,
    device: str,
    workdir: Path,
    *,
    resume: bool,
    measure: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> MethodConfig:
    """The config with as many steps as its minutes allow; never fewer than it asks for.

    Args:
        name: of the method.
        config: the method's.
        device: torch's name.
        workdir: where a training leaves its checkpoints and its number of steps.
        resume: take the number from there, so that a resumed training stays as long as it was.
        measure: whether speed counts; several processes would each measure another.
        say: takes a line for people where the machine was busy.
    """
    plan, kept = config.training, workdir / STEPS_FILE
    if resume and kept.is_file():
        steps = int(kept.read_text())
    elif plan.minutes == 0 or not measure:
        return config
    else:
        seconds = seconds_per_step(find_method(name)(config), config, device, say) + OVERHEAD
        fitting = [length for length in LENGTHS if plan.steps * length * seconds <= 60 * plan.minutes]
        steps = round(plan.steps * max(fitting, default=1.0))
    return dataclasses.replace(config, training=dataclasses.replace(plan, steps=steps))


def seconds_per_step(
    method: Method, config: MethodConfig, device: str, say: Callable[[str], None] = lambda _: None
) -> float:
    """What a training step takes on this machine by itself, in seconds, in the precision of training.

    An untrained method learns from noise, every step the same, in short rounds with pauses between: other
    programs may slow some steps down, hardly all. On a processor what counts is the time that this thread
    computed, since it waits while another program has its core. The fastest step counts.
    """
    from mendiff.training.optimizers import COMPUTED_IN, make_optimizer, trainer_precision

    side, count = config.crop or config.image_size, config.training.batch_size // config.training.accumulate
    image = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    method.to(device).train()
    trained = (one for one in method.parameters() if one.requires_grad)
    optimizer = make_optimizer(config.training, trained)
    half = COMPUTED_IN.get(trainer_precision(config.training, device))

    def step() -> None:
        with torch.autocast(torch.device(device).type, half, enabled=half is not None):
            loss = method.training_loss(image, PerImageRandom(torch.arange(count)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for a device that works on its own

    taken, computed = timed(step)
    if torch.device(device).type != "cpu":
        computed = taken
    elif taken > BUSY * computed:
        say(
            f"note: this machine is busy with other work: a step takes {taken:.2f} s now, {computed:.2f} s "
            "alone, which the number of steps is chosen by; training may last longer than meant."
        )
    return config.training.accumulate * computed


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """Seconds of the fastest of some equal steps, by the clock and by what this thread computed."""
    for _ in range(WARM_UP):
        step()
    first = time.perf_counter()
    taken: list[float] = []
    computed: list[float] = []
    for number in range(ROUNDS * MEASURED):
        if number and number % MEASURED == 0:
            if time.perf_counter() - first > LONGEST:
                break
            time.sleep(PAUSE)
        began, worked = time.perf_counter(), time.thread_time()
        step()
        computed.append(time.thread_time() - worked)
        taken.append(time.perf_counter() - began)
    return min(taken), min(computed)
