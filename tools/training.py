"""A training that can stop at any step and go on as if it had not: averages, checkpoints, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mendiff.checkpoints.files import as_json, parse_json
from mendiff.data.images import write_bytes
from mendiff.errors import InputError
from mendiff.training.loop import moments_of, take_moments

CHECKPOINT, LOG = "checkpoint.safetensors", "log.jsonl"
CHECKPOINT_SECONDS = 60.0
LINES, LINES_PER_CHECK = 200, 10
"""Lines of the log over a whole training, of which every tenth tells of held-back images too."""


@dataclass(frozen=True)
class Schedule:
    """How the weights move.

    Attributes:
        steps: of the whole training.
        rate: highest learning rate of AdamW, which then falls to zero along a half cosine.
        warmup: steps over which it rises, at most a tenth of all.
        decay: of the weights.
        average: of the moving average of the weights, which becomes the network.
        clip: largest norm of the gradient.
    """

    steps: int
    rate: float = 2e-3
    warmup: int = 200
    decay: float = 1e-4
    average: float = 0.999
    clip: float = 1.0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / max(min(self.warmup, self.steps // 10), 1))
        return self.rate * rise * (0.5 + 0.5 * math.cos(math.pi * min(step / self.steps, 1.0)))


class Run:
    """A network in training, in a folder of its own.

    Args:
        network: what is trained: its parameters that require gradients.
        schedule: see Schedule.
        folder: for checkpoint and log.
        asked: what a resumed training has to know besides; kept in the checkpoint.

    Attributes:
        step: steps that are done.
        seconds: that they took, interruptions not counted.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, folder: Path, asked: Mapping[str, Any] | None = None
    ) -> None:
        self.network, self.schedule, self.folder = network, schedule, folder
        self._asked = dict(asked or {})
        self.step, self.seconds = 0, 0.0
        self._trained = [one for one in network.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trained, lr=schedule.rate, weight_decay=schedule.decay, fused=True
        )
        self._average = {name: one.detach().clone() for name, one in self._own().items()}
        self._saved = self._resumed = time.monotonic()

    def _own(self) -> dict[str, Tensor]:
        """Trained parameters and the buffers beside them, by name."""
        frozen = {name for name, one in self.network.named_parameters() if not one.requires_grad}
        return {name: one for name, one in self.network.state_dict().items() if name not in frozen}

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
        losses: list[float] = []
        steps = self.schedule.steps
        every = max(1, steps // LINES)
        self.network.train()
        try:
            for batch in source:
                loss = loss_of(batch)
                self.update(loss)
                losses.append(loss.item())
                progress(self.step, steps, f"loss {losses[-1]:.4f}")
                last = self.step == steps
                if last or self.step % every == 0:
                    line = {
                        "loss": round(sum(losses) / len(losses), 5),
                        "rate": self.schedule.rate_at(self.step),
                    }
                    if last or self.step % (every * LINES_PER_CHECK) == 0:
                        with self.averaged():
                            line |= check()
                    self.log(line)
                    losses = []
        finally:  # also when interrupted
            self.keep()

    def update(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate_at(self.step)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, self.schedule.clip)
        self._optimizer.step()
        self.step += 1
        # The first averages would be mostly initial weights: the decay grows with the steps.
        decay = min(self.schedule.average, (1 + self.step) / (10 + self.step))
        for name, one in self._own().items():
            if one.is_floating_point():
                self._average[name].lerp_(one.detach(), 1 - decay)
            else:
                self._average[name].copy_(one)
        if time.monotonic() - self._saved >= CHECKPOINT_SECONDS:
            self.keep()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with averaged weights in evaluation mode, for as long as the block runs."""
        own = {name: one.detach().clone() for name, one in self._own().items()}
        was_training = self.network.training
        self.network.load_state_dict(self._average, strict=False)
        try:
            yield self.network.eval()
        finally:
            self.network.load_state_dict(own, strict=False)
            self.network.train(was_training)

    def keep(self) -> None:
        """Write the checkpoint, whole or not at all."""
        self.seconds += time.monotonic() - self._resumed
        self._resumed = time.monotonic()
        tensors = {f"network.{name}": one for name, one in self._own().items()}
        tensors |= {f"average.{name}": one for name, one in self._average.items()}
        tensors |= moments_of(self._optimizer)
        about = {
            "step": self.step,
            "steps": self.schedule.steps,
            "seconds": round(self.seconds, 1),
            "asked": self._asked,
        }
        content = save(
            {name: one.detach().cpu().contiguous() for name, one in tensors.items()},
            metadata={"about": as_json(about, "about")},
        )
        write_bytes(self.folder / CHECKPOINT, content)
        self._saved = time.monotonic()

    def go_on(self) -> None:
        """Take up what `keep` wrote, and forget what was logged after it."""
        with safe_open(self.folder / CHECKPOINT, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
        about = read_about(self.folder)
        self.step, self.seconds = about["step"], about["seconds"]
        own = self._own()
        for group, target in (("network.", own), ("average.", self._average)):
            stored = {
                name.removeprefix(group): one for name, one in tensors.items() if name.startswith(group)
            }
            differ = [
                name for name in target if name not in stored or stored[name].shape != target[name].shape
            ]
            if differ or stored.keys() != target.keys():
                raise InputError(
                    f"{self.folder / CHECKPOINT}: expected a checkpoint of this network, but "
                    f"{(differ or sorted(stored.keys() - target.keys()))[0]!r} differs; choose another -o."
                )
            for name, one in stored.items():
                target[name].detach().copy_(one)
        take_moments(self._optimizer, tensors)
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
