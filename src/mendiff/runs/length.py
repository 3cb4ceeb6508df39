"""Training length: on a fast machine, presets with a time budget train for more steps.

The measured speed varies, and so does the number of steps. It is reported, stored with the model, and can be
repeated with `mendiff fit --steps N`. Seed and steps together determine a model.
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
from mendiff.nets.codec_config import CodecConfig
from mendiff.training.codec_stage import codec_step
from mendiff.training.optimizers import COMPUTED_IN, make_optimizer, trainer_precision

LENGTHS = (4.0, 3.0, 2.0, 1.5)
"""Factors by which training may be lengthened; few, so that a machine chooses the same in every run."""
OVERHEAD = 0.03
"""Seconds per step outside the method, for reading images and bookkeeping."""
WARM_UP, ROUNDS, MEASURED, PAUSE = 3, 5, 3, 0.3
"""Warm-up steps; rounds; steps per round; seconds between rounds."""
LONGEST = 15.0
"""Seconds after which no further round starts: slow steps need few measurements."""
BUSY = 1.25
"""Ratio of wall time to CPU time of a step from which the machine counts as busy."""
STEPS_FILE = "steps"


@dataclass(frozen=True)
class Length:
    """Length of a training.

    Attributes:
        steps: of the method.
        codec_images: crops for fitting the codec before; 0 without that stage.
        minutes: expected duration of both stages on this machine; 0 if not measured.
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
    """The training length of the config, or the length that fits into its minutes or into `minutes`.

    Args:
        name: of the method.
        config: of the method. If it states minutes, a fast machine trains longer, never shorter.
        device: torch's name.
        minutes: of the whole training, codec included; 0 for the config's length.
        say: receives a note if the machine was busy.
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
    """Expected seconds of the stage that fits the codec, on this machine."""
    codec = codec_of(config)
    if codec is None or not codec.fit.images:
        return 0.0
    return codec.fit.steps * timed(codec_step(resolved(config).codec, device))[1]


def write_length(workdir: Path, length: Length) -> None:
    """Store the length of a training for --resume."""
    (workdir / STEPS_FILE).write_text(f"{length.steps} {length.codec_images}")


def read_length(workdir: Path) -> Length | None:
    """The stored length of a training; None if there is none."""
    kept = workdir / STEPS_FILE
    if not kept.is_file():
        return None
    numbers = [int(word) for word in kept.read_text().split()]
    return Length(*numbers[:2])


def seconds_per_step(
    method: Method, config: MethodConfig, device: str, say: Callable[[str], None] = lambda _: None
) -> float:
    """Seconds of a training step on this machine without other load, in the precision of training.

    An untrained method is trained on noise in short rounds with pauses. The fastest step counts, because
    other programs slow down only some steps. On a CPU, the thread's CPU time counts instead of wall time.
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
        loss.item()  # waits for an asynchronous device

    taken, computed = timed(step)
    if torch.device(device).type != "cpu":
        computed = taken
    elif taken > BUSY * computed:
        say(
            "note: this machine is busy, and training may take longer than planned: the number of steps is "
            f"chosen for an idle machine ({computed:.2f} s per step, {taken:.2f} s now)."
        )
    return config.training.accumulate * computed


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of this thread) of the fastest of several equal steps."""
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
