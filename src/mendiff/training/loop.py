"""Training loop of networks with resumable checkpoints."""

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
    """Options of a training loop.

    Attributes:
        training: steps and optimiser.
        seed: seed of the random numbers of all steps.
        checkpoint: checkpoint file; None for no checkpoints.
        resume: whether to resume from an existing checkpoint.
    """

    training: TrainingConfig
    seed: int
    checkpoint: Path | None
    resume: bool


@dataclass(frozen=True)
class Adversary:
    """A second network that is trained alternately with the first, such as a discriminator.

    Attributes:
        network: all parameters are trained.
        begin: called with the number of every step, before it.
        loss: scalar loss of the step, called after the update of the first network; None to skip the step.
    """

    network: nn.Module
    begin: Callable[[int], None]
    loss: Callable[[], Tensor | None]


def train_network(
    network: nn.Module,
    loss_of: Callable[[Generator], Tensor],
    loop: Loop,
    update: Callable[[int, int, str], None],
    adversary: Adversary | None = None,
) -> None:
    """Train all remaining steps, with a checkpoint every CHECKPOINT_SECONDS.

    Args:
        network: its parameters with requires_grad are trained; at the end it has the averaged weights.
        loss_of: maps a step's CPU generator, the source of all randomness, to the loss of a batch.
        loop: see Loop.
        update: called with (step, steps, note).
        adversary: a second network that is trained alternately.
    """
    plan = loop.training
    learner = Learner(network, plan)
    learners, first = {"": learner}, 0
    if adversary is not None:
        learners["rival."] = Learner(adversary.network, replace(plan, clip=0.0, ema=0.0))
    if loop.resume and loop.checkpoint is not None and loop.checkpoint.is_file():
        first = load_checkpoint(loop.checkpoint, learners)
    saved = time.monotonic()

    def after(step: int, loss: float) -> None:
        nonlocal saved
        update(step, plan.steps, f"loss {loss:.4f}")
        if loop.checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save_checkpoint(loop.checkpoint, learners, step)
            saved = time.monotonic()

    def loss_at(step: int) -> Tensor:
        if adversary is not None:
            adversary.begin(step)
        return loss_of(generator(loop.seed, step))

    def train_adversary(step: int) -> None:
        loss = None if adversary is None else adversary.loss()
        if loss is not None:
            learners["rival."].descend(loss, step)

    run_steps(learner, first, loss_at, after, train_adversary)
    learner.average.swap(learner.own())


def run_steps(
    learner: Learner,
    first: int,
    loss_at: Callable[[int], Tensor],
    after: Callable[[int, float], None],
    between: Callable[[int], None] = lambda _: None,
) -> None:
    """Run the training steps from `first` on.

    Args:
        learner: network and training config.
        first: number of the first step, from 0.
        loss_at: computes the loss of a step.
        after: called after every step with (completed steps, loss).
        between: called with the step after the update of the network.
    """
    for step in range(first, learner.plan.steps):
        loss = loss_at(step)
        if not bool(loss.isfinite()):
            raise DivergedError("training")
        learner.descend(loss, step)
        between(step)
        after(step + 1, loss.item())


Learners = Mapping[str, Learner]
"""Learners by the prefix of their names in a checkpoint."""


def save_checkpoint(
    checkpoint: Path, learners: Learners, step: int, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a checkpoint to a temporary file and rename it.

    Args:
        checkpoint: checkpoint file.
        learners: what is trained.
        step: number of completed steps.
        metadata: further texts to store.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, learner in learners.items():
        own = {f"network.{name}": tensor for name, tensor in learner.own().items()}
        own |= {f"average.{name}": tensor for name, tensor in learner.average.weights.items()}
        own |= optimizer_state(learner.optimizer)
        tensors |= {f"{prefix}{name}": tensor.detach().cpu().contiguous() for name, tensor in own.items()}
    draft = checkpoint.with_suffix(".new")
    try:
        save_file(tensors, draft, metadata={**(metadata or {}), "step": str(step)})
        draft.rename(checkpoint)
    finally:
        draft.unlink(missing_ok=True)


def load_checkpoint(checkpoint: Path, learners: Learners) -> int:
    """Load a checkpoint of `save_checkpoint`; returns the number of completed steps."""
    with safe_open(checkpoint, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    for prefix, learner in learners.items():
        own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        weights, averages = (_named(own, group) for group in ("network.", "average."))
        for expected, stored in ((learner.own(), weights), (learner.average.weights, averages)):
            refuse("lacks", sorted(expected.keys() - stored.keys()), INTERRUPTED, SAME)
        # Weights that are not trained are not in the checkpoint.
        load_exactly(learner.network, learner.network.state_dict() | weights, INTERRUPTED, SAME)
        for name, mean in learner.average.weights.items():
            mean.copy_(averages[name])
        load_optimizer_state(learner.optimizer, own)
    return step


def _named(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """The tensors with a prefix, by the rest of their names."""
    return {name.removeprefix(group): tensor for name, tensor in tensors.items() if name.startswith(group)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as tensors by name."""
    moments = optimizer.state_dict()["state"]
    return {
        f"optimizer.{at}.{name}": tensor for at, state in moments.items() for name, tensor in state.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state of `optimizer_state` from a set of tensors."""
    state = optimizer.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, at, key = name.split(".")
            state["state"].setdefault(int(at), {})[key] = tensor
    optimizer.load_state_dict(state)
