"""How long to train: a fast machine makes more of the minutes that a preset is meant for.

Speed differs from moment to moment, and with it the number of steps: it is told, kept with the model, and
given again by `mendiff fit --steps N`. Seed and steps together fix a model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mendiff.checkpoints.bundled import resolved
from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, MethodConfig, find_method
from mendiff.nets.codec import CodecConfig
from mendiff.training.codec_stage import codec_step
from mendiff.training.optimizers import COMPUTED_IN, make_optimizer, trainer_precision

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


@dataclass(frozen=True)
class Length:
    """How long a training is.

    Attributes:
        steps: of the method.
        codec_images: crops that the codec is fitted to before; 0 where it is not.
        minutes: that both take here, where that was measured.
    """

    steps: int
    codec_images: int = 0
    minutes: float = 0.0

    def of(self, config: MethodConfig) -> MethodConfig:
        """The config with this length."""
        changes: dict[str, Any] = {"training": replace(config.training, steps=self.steps)}
        codec = codec_of(config)
        if codec is not None and codec.fit.images:
            fit = replace(codec.fit, images=self.codec_images)
            changes["codec"] = replace(codec, fit=fit)
        return replace(config, **changes)


def codec_of(config: MethodConfig) -> CodecConfig | None:
    """The config of a method's codec."""
    codec = getattr(config, "codec", None)
    return codec if isinstance(codec, CodecConfig) else None


def configured_length(config: MethodConfig) -> Length:
    """The length that a config states."""
    codec = codec_of(config)
    return Length(config.training.steps, 0 if codec is None else codec.fit.images)


def chosen_length(
    name: str,
    config: MethodConfig,
    device: str,
    *,
    minutes: float = 0.0,
    say: Callable[[str], None] = lambda _: None,
) -> Length:
    """How long to train: what the config asks for, or what its minutes, or those asked for, allow.

    Args:
        name: of the method.
        config: the method's. Where it states minutes, a fast machine trains longer, never less.
        device: torch's name.
        minutes: of the training as a whole, codec included; 0 leaves it to the config.
        say: takes a line for people where the machine was busy.
    """
    plan, asked = config.training, configured_length(config)
    if not minutes and not plan.minutes and not asked.codec_images:
        return asked
    seconds = seconds_per_step(find_method(name)(resolved(config)), config, device, say) + OVERHEAD
    if minutes:
        whole = plan.steps * seconds + _codec_seconds(config, device)
        share = 60 * minutes / whole
        steps = max(1, round(plan.steps * share))
        return Length(steps, math.ceil(asked.codec_images * share), minutes)
    fitting = [length for length in LENGTHS if plan.steps * length * seconds <= 60 * plan.minutes]
    steps = round(plan.steps * max(fitting, default=1.0))
    taken = steps * seconds + _codec_seconds(config, device)
    return Length(steps, asked.codec_images, taken / 60)


def _codec_seconds(config: MethodConfig, device: str) -> float:
    """What the stage that fits the codec takes on this machine, in seconds."""
    codec = codec_of(config)
    if codec is None or not codec.fit.images:
        return 0.0
    return codec.fit.steps * timed(codec_step(resolved(config).codec, device))[1]


def write_length(workdir: Path, length: Length) -> None:
    """Note how long a training is, for when it is resumed."""
    (workdir / STEPS_FILE).write_text(f"{length.steps} {length.codec_images}")


def read_length(workdir: Path) -> Length | None:
    """What was noted, if anything was."""
    kept = workdir / STEPS_FILE
    if not kept.is_file():
        return None
    numbers = [int(word) for word in kept.read_text().split()]
    return Length(*numbers[:2])


def seconds_per_step(
    method: Method, config: MethodConfig, device: str, say: Callable[[str], None] = lambda _: None
) -> float:
    """What a training step takes on this machine by itself, in seconds, in the precision of training.

    An untrained method learns from noise, every step the same, in short rounds with pauses between: other
    programs may slow some steps down, hardly all. On a processor what counts is the time that this thread
    computed, since it waits while another program has its core. The fastest step counts.
    """
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
