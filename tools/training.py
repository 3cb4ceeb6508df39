"""A training loop that can be interrupted and resumed exactly: weight averaging, checkpoints, log."""

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
from mendiff.training.loop import load_checkpoint, run_steps, save_checkpoint
from mendiff.training.optimizers import learning_rate
from mendiff.training.step import Learner

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
CHECKPOINT_SECONDS = 60.0
LINES, LINES_PER_CHECK = 200, 10
"""Number of log lines per training, and interval of lines with results on held-back images."""
LONGEST_WARMUP = 200
"""Maximum number of warm-up steps; otherwise a tenth of all steps."""


def schedule(steps: int, rate: float = 2e-3, decay: float = 1e-4, average: float = 0.999) -> TrainingConfig:
    """Settings of AdamW with warm-up and half-cosine decay of the learning rate to zero.

    Args:
        steps: total number of steps.
        rate: peak learning rate.
        decay: weight decay.
        average: decay of the moving average of the weights, which are the final weights.
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
    """The training of a network, with its own folder.

    Args:
        network: network to train; parameters that require gradients are trained.
        plan: see `schedule`.
        folder: folder of checkpoint and log.
        asked: options that a resumed training needs; stored in the checkpoint.

    Attributes:
        step: number of finished steps.
        seconds: training time, without interruptions.
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
        """Run the remaining steps, with regular checkpoints and a final one.

        Args:
            source: a batch per remaining step.
            loss_of: computes the loss of a batch.
            check: computes metrics on held-back images, called inside `averaged`.
            progress: called with (step, steps, note).
        """
        batches = iter(source)

        def after(step: int, loss: float) -> None:
            self.advance(step, loss, check)
            progress(step, self.learner.plan.steps, f"loss {loss:.4f}")

        self.learner.network.train()
        try:
            run_steps(self.learner, self.step, lambda _: loss_of(next(batches)), after)
        finally:  # also when interrupted
            self.save()

    def advance(self, step: int, loss: float, check: Callable[[], dict[str, Any]]) -> None:
        """Record a finished step in the log, and regularly write a checkpoint."""
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
            self.save()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Context manager: the network with averaged weights in evaluation mode."""
        network, average = self.learner.network, self.learner.average
        was_training = network.training
        average.swap(self.learner.own())
        try:
            yield network.eval()
        finally:
            average.swap(self.learner.own())
            network.train(was_training)

    def save(self) -> None:
        """Write the checkpoint atomically."""
        self.seconds += time.monotonic() - self._resumed
        self._resumed = time.monotonic()
        about = {
            "step": self.step,
            "steps": self.learner.plan.steps,
            "seconds": round(self.seconds, 1),
            "asked": self._asked,
        }
        save_checkpoint(
            self.folder / CHECKPOINT, {"": self.learner}, self.step, {"about": as_json(about, "about")}
        )
        self._saved = time.monotonic()

    def resume(self) -> None:
        """Load the checkpoint of `save`, and remove later lines of the log."""
        self.step = load_checkpoint(self.folder / CHECKPOINT, {"": self.learner})
        self.seconds = read_state(self.folder)["seconds"]
        log = self.folder / LOG
        kept = [line for line in read_log(log) if line.get("step", 0) <= self.step]
        write_bytes(log, "".join(as_json(line, LOG) + "\n" for line in kept).encode())

    def log(self, figures: Mapping[str, Any]) -> None:
        """Append a line to the log: step, elapsed seconds and metrics."""
        seconds = round(self.seconds + time.monotonic() - self._resumed, 1)
        with (self.folder / LOG).open("a") as file:
            file.write(as_json({"step": self.step, "seconds": seconds, **figures}, LOG) + "\n")


def read_state(folder: Path) -> dict[str, Any]:
    """Step, steps, seconds and stored options of a folder's checkpoint."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise InputError(f"{folder}: expected an interrupted training to resume, found no {CHECKPOINT}.")
    with safe_open(path, "pt") as file:
        about: dict[str, Any] = parse_json(file.metadata()["about"], str(path))
    return about


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(parse_json(line, LOG))
        except ValueError:  # truncated line
            break
    return lines
