"""The training loop of networks, with checkpoints to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor, nn

from mendiff.checkpoints.names import load_exactly, refuse
from mendiff.errors import DivergedError
from mendiff.methods.base import TrainingConfig
from mendiff.training.random import generator
from mendiff.training.step import Learner

CHECKPOINT, CHECKPOINT_SECONDS = "last.safetensors", 30.0
INTERRUPTED, SAME = "--resume: the interrupted training", "the same network"


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


def train_network(
    network: nn.Module,
    loss_of: Callable[[Generator], Tensor],
    loop: Loop,
    update: Callable[[int, int, str], None],
    rival: Rival | None = None,
) -> None:
    """All steps, or those that are left; a checkpoint about every half minute.

    Args:
        network: what is trained, as far as its parameters ask for gradients; at the end with its averages.
        loss_of: from a step's generator (CPU), the only randomness, to the loss of a batch.
        loop: see Loop.
        update: called with (step, steps, note).
        rival: a second network that is trained by turns with the first one.
    """
    plan = loop.training
    learner = Learner(network, plan)
    learning, first = {"": learner}, 0
    if rival is not None:
        learning["rival."] = Learner(rival.network, replace(plan, clip=0.0, ema=0.0))
    if loop.resume and loop.checkpoint is not None and loop.checkpoint.is_file():
        first = go_on(loop.checkpoint, learning)
    saved = time.monotonic()

    def after(step: int, loss: float) -> None:
        nonlocal saved
        update(step, plan.steps, f"loss {loss:.4f}")
        if loop.checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            keep(loop.checkpoint, learning, step)
            saved = time.monotonic()

    def loss_at(step: int) -> Tensor:
        if rival is not None:
            rival.begin(step)
        return loss_of(generator(loop.seed, step))

    def oppose(step: int) -> None:
        loss = None if rival is None else rival.loss()
        if loss is not None:
            learning["rival."].descend(loss, step)

    take_steps(learner, first, loss_at, after, oppose)
    learner.average.swap(learner.own())


def take_steps(
    learner: Learner,
    first: int,
    loss_at: Callable[[int], Tensor],
    after: Callable[[int, float], None],
    between: Callable[[int], None] = lambda _: None,
) -> None:
    """The steps of a training from a first one on.

    Args:
        learner: what is trained, and for how long.
        first: number of the first step, from 0.
        loss_at: the loss at a step.
        after: called after every step with (steps that are done, loss).
        between: called with the step once the network has moved.
    """
    for step in range(first, learner.plan.steps):
        loss = loss_at(step)
        if not bool(loss.isfinite()):
            raise DivergedError("training")
        learner.descend(loss, step)
        between(step)
        after(step + 1, loss.item())


Learning = Mapping[str, Learner]
"""What is trained, by what its names begin with in a checkpoint."""


def keep(checkpoint: Path, learning: Learning, step: int, told: Mapping[str, str] | None = None) -> None:
    """Write what a later run goes on from, under another name first.

    Args:
        checkpoint: file.
        learning: what is trained.
        step: steps that are done.
        told: what a later run has to know besides.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, learner in learning.items():
        own = {f"network.{name}": one for name, one in learner.own().items()}
        own |= {f"average.{name}": one for name, one in learner.average.weights.items()}
        own |= moments_of(learner.optimizer)
        tensors |= {f"{prefix}{name}": one.detach().cpu().contiguous() for name, one in own.items()}
    draft = checkpoint.with_suffix(".new")
    try:
        save_file(tensors, draft, metadata={**(told or {}), "step": str(step)})
        draft.rename(checkpoint)
    finally:
        draft.unlink(missing_ok=True)


def go_on(checkpoint: Path, learning: Learning) -> int:
    """Take up what `keep` wrote; returns the number of steps that are done."""
    with safe_open(checkpoint, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    for prefix, learner in learning.items():
        own = {name[len(prefix) :]: one for name, one in tensors.items() if name.startswith(prefix)}
        weights, averages = (_named(own, group) for group in ("network.", "average."))
        for expected, stored in ((learner.own(), weights), (learner.average.weights, averages)):
            refuse("lacks", sorted(expected.keys() - stored.keys()), INTERRUPTED, SAME)
        # What is not trained is as it was built.
        load_exactly(learner.network, learner.network.state_dict() | weights, INTERRUPTED, SAME)
        for name, mean in learner.average.weights.items():
            mean.copy_(averages[name])
        take_moments(learner.optimizer, own)
    return step


def _named(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors of a group, by their names within it."""
    return {name.removeprefix(group): one for name, one in tensors.items() if name.startswith(group)}


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
