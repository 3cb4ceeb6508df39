"""The training loop of what is tuned before a method is fitted, with checkpoints to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from mendiff.checkpoints.names import load_exactly
from mendiff.errors import DivergedError
from mendiff.methods.base import TrainingConfig
from mendiff.training.optimizers import learning_rate, make_optimizer
from mendiff.training.random import generator

CHECKPOINT, CHECKPOINT_SECONDS = "last.safetensors", 30.0


@dataclass(frozen=True)
class Loop:
    """How long, from where on, and where to keep what was reached.

    Attributes:
        training: steps and optimiser.
        seed: of every step's random numbers.
        checkpoint: file for what a later run goes on from; None keeps nothing.
        resume: go on from it, if it is there.
    """

    training: TrainingConfig
    seed: int
    checkpoint: Path | None
    resume: bool


@dataclass(frozen=True)
class Rival:
    """A second network, trained by turns with the first one, such as a discriminator.

    Attributes:
        network: all of its parameters are trained.
        begin: called with the number of every step.
        loss: its own of that step, to a scalar, after the first network has moved; None where it rests.
    """

    network: nn.Module
    begin: Callable[[int], None]
    loss: Callable[[], Tensor | None]

    def learn(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of its own."""
        loss = self.loss()
        if loss is not None:
            optimizer.zero_grad()  # of what the first network's loss left in it
            loss.backward()
            optimizer.step()


def train_network(
    network: nn.Module,
    loss_of: Callable[[Generator], Tensor],
    loop: Loop,
    update: Callable[[int, int, str], None],
    rival: Rival | None = None,
) -> None:
    """All steps, or those that are left; a checkpoint about every half minute.

    Args:
        network: what is trained, as far as its parameters ask for gradients, and kept in checkpoints.
        loss_of: from a step's generator (CPU), the only randomness, to the loss of a batch.
        loop: see Loop.
        update: called with (step, steps, note).
        rival: a second network that is trained by turns with the first one.
    """
    training = loop.training
    trained = [one for one in network.parameters() if one.requires_grad]
    optimizer, first = make_optimizer(training, trained), 0
    learning = {"": (network, optimizer)}
    if rival is not None:
        learning["rival."] = (rival.network, make_optimizer(training, rival.network.parameters()))
    if loop.resume and loop.checkpoint is not None and loop.checkpoint.is_file():
        first = go_on(loop.checkpoint, learning)
    saved = time.monotonic()
    for step in range(first, training.steps):
        for _, one in learning.values():
            for group in one.param_groups:
                group["lr"] = training.learning_rate * learning_rate(training, step)
        if rival is not None:
            rival.begin(step)
        loss = loss_of(generator(loop.seed, step))
        if not bool(loss.isfinite()):
            raise DivergedError("training")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, training.clip or float("inf"))
        optimizer.step()
        if rival is not None:
            rival.learn(learning["rival."][1])
        update(step + 1, training.steps, f"loss {loss.item():.4f}")
        if loop.checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            keep(loop.checkpoint, learning, step + 1)
            saved = time.monotonic()


Learning = Mapping[str, tuple[nn.Module, torch.optim.Optimizer]]
"""Networks with their optimisers, by what their names begin with in a checkpoint."""


def keep(checkpoint: Path, learning: Learning, step: int) -> None:
    """Write what a later run goes on from, under another name first."""
    tensors: dict[str, Tensor] = {}
    for prefix, (network, optimizer) in learning.items():
        own = {f"network.{name}": one.contiguous() for name, one in network.state_dict().items()}
        tensors |= {f"{prefix}{name}": one for name, one in (own | moments_of(optimizer)).items()}
    draft = checkpoint.with_suffix(".new")
    try:
        save_file(tensors, draft, metadata={"step": str(step)})
        draft.rename(checkpoint)
    finally:
        draft.unlink(missing_ok=True)


def go_on(checkpoint: Path, learning: Learning) -> int:
    """Take up what `keep` wrote; returns the number of steps that are done."""
    with safe_open(checkpoint, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    for prefix, (network, optimizer) in learning.items():
        own = {name[len(prefix) :]: one for name, one in tensors.items() if name.startswith(prefix)}
        weights = {name[8:]: one for name, one in own.items() if name.startswith("network.")}
        load_exactly(network, weights, "--resume: the interrupted training", "the same network")
        take_moments(optimizer, own)
    return step


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers from step to step, as tensors by names of their own."""
    moments = optimizer.state_dict()["state"]
    return {f"optimizer.{at}.{name}": one for at, state in moments.items() for name, one in state.items()}


def take_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Take up what `moments_of` gave, from among other tensors."""
    state = optimizer.state_dict()
    for name, one in tensors.items():
        if name.startswith("optimizer."):
            _, at, key = name.split(".")
            state["state"].setdefault(int(at), {})[key] = one
    optimizer.load_state_dict(state)
