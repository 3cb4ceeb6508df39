"""A training that can stop at any step and go on as if it had not: averages, checkpoints, log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from mendiff.checkpoints.files import as_json, parse_json
from mendiff.data.images import write_bytes
from mendiff.errors import InputError
from mendiff.methods.base import TrainingConfig
from mendiff.training.loop import go_on, keep, take_steps
from mendiff.training.optimizers import learning_rate
from mendiff.training.step import Learner

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
CHECKPOINT_SECONDS = 60.0
LINES, LINES_PER_CHECK = 200, 10
"""Lines of the log over a whole training, of which every tenth tells of held-back images too."""
LONGEST_WARMUP = 200
"""Steps over which the learning rate rises, at most; otherwise a tenth of all."""


def schedule(steps: int, rate: float = 2e-3, decay: float = 1e-4, average: float = 0.999) -> TrainingConfig:
    """How the weights move: AdamW, whose rate rises and then falls to zero along a half cosine.

    Args:
        steps: of the whole training.
        rate: highest learning rate.
        decay: of the weights.
        average: of the moving average of the weights, which becomes the network.
    """
    return TrainingConfig(
        steps=steps,
        learning_rate=rate,
        weight_decay=decay,
        warmup=min(LONGEST_WARMUP, steps // 10),
        cosine=True,
        ema=average,
    )


class Run:
    """A network in training, in a folder of its own.

    Args:
        network: what is trained: its parameters that require gradients.
        plan: see `schedule`.
        folder: for checkpoint and log.
        asked: what a resumed training has to know besides; kept in the checkpoint.

    Attributes:
        step: steps that are done.
        seconds: that they took, interruptions not counted.
    """

    def __init__(
        self, network: nn.Module, plan: TrainingConfig, folder: Path, asked: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.learner = folder, Learner(network, plan)
        self._asked = dict(asked or {})
        self.step, self.seconds = 0, 0.0
        self._losses: list[float] = []
        self._saved = self._resumed = time.monotonic()

    def learn(
        self,
        source: Iterable[list[Tensor]],
        loss_of: Callable[[list[Tensor]], Tensor],
        check: Callable[[], dict[str, Any]],
        progress: Callable[[int, int, str], None],
    ) -> None:
        """Take all steps that are left, with a checkpoint from time to time and at the end.

        Args:
            source: a batch per step, from the first that is not done.
            loss_of: a batch's loss.
            check: figures of held-back images, within `averaged`.
            progress: called with (step, steps, note).
        """
        batches = iter(source)

        def after(step: int, loss: float) -> None:
            self.advance(step, loss, check)
            progress(step, self.learner.plan.steps, f"loss {loss:.4f}")

        self.learner.network.train()
        try:
            take_steps(self.learner, self.step, lambda _: loss_of(next(batches)), after)
        finally:  # also when interrupted
            self.keep()

    def advance(self, step: int, loss: float, check: Callable[[], dict[str, Any]]) -> None:
        """Note a step that is done: in the log, and from time to time in a checkpoint."""
        plan = self.learner.plan
        self.step, every, last = step, max(1, plan.steps // LINES), step == plan.steps
        self._losses.append(loss)
        if last or step % every == 0:
            rate = plan.learning_rate * learning_rate(plan, step)
            line = {"loss": round(sum(self._losses) / len(self._losses), 5), "rate": rate}
            if last or step % (every * LINES_PER_CHECK) == 0:
                with self.averaged():
                    line |= check()
            self.log(line)
            self._losses = []
        if time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            self.keep()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with averaged weights in evaluation mode, for as long as the block runs."""
        network, average = self.learner.network, self.learner.average
        was_training = network.training
        average.swap(self.learner.own())
        try:
            yield network.eval()
        finally:
            average.swap(self.learner.own())
            network.train(was_training)

    def keep(self) -> None:
        """Write the checkpoint, whole or not at all."""
        self.seconds += time.monotonic() - self._resumed
        self._resumed = time.monotonic()
        about = {
            "step": self.step,
            "steps": self.learner.plan.steps,
            "seconds": round(self.seconds, 1),
            "asked": self._asked,
        }
        keep(self.folder / CHECKPOINT, {"": self.learner}, self.step, {"about": as_json(about, "about")})
        self._saved = time.monotonic()

    def go_on(self) -> None:
        """Take up what `keep` wrote, and forget what was logged after it."""
        self.step = go_on(self.folder / CHECKPOINT, {"": self.learner})
        self.seconds = read_about(self.folder)["seconds"]
        log = self.folder / LOG
        kept = [line for line in read_log(log) if line.get("step", 0) <= self.step]
        write_bytes(log, "".join(as_json(line, LOG) + "\n" for line in kept).encode())

    def log(self, figures: Mapping[str, Any]) -> None:
        """Add a line to the log: the step, the seconds so far, and the figures."""
        seconds = round(self.seconds + time.monotonic() - self._resumed, 1)
        with (self.folder / LOG).open("a") as file:
            file.write(as_json({"step": self.step, "seconds": seconds, **figures}, LOG) + "\n")


def read_about(folder: Path) -> dict[str, Any]:
    """Step, steps, seconds and remembered options of a folder's checkpoint."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"{folder}: expected an interrupted training to go on with, found no {CHECKPOINT}.")
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = parse_json(file.metadata()["about"], str(path))
    return about


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, as far as it was written whole."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(parse_json(line, LOG))
        except ValueError:  # cut off while it was written
            break
    return lines
