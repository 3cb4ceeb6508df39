"""A training step: the loss of a batch, and the update of a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, TrainingConfig
from mendiff.training.average import Average
from mendiff.training.crops import random_crops
from mendiff.training.optimizers import learning_rate, make_optimizer
from mendiff.training.random import seed_of


class Learner:
    """A network in training, with optimiser, learning rate, gradient clipping and EMA.

    Args:
        network: its parameters with requires_grad are trained.
        plan: see TrainingConfig.

    Attributes:
        network: trained network.
        plan: see TrainingConfig.
        optimizer: optimiser of the trained parameters.
        average: EMA of trained parameters and all buffers.
    """

    def __init__(self, network: nn.Module, plan: TrainingConfig) -> None:
        self.network, self.plan = network, plan
        self._trained = [weight for weight in network.parameters() if weight.requires_grad]
        self.optimizer = make_optimizer(plan, self._trained)
        self.average = Average(plan.ema)
        self.average.start(self.own())

    def own(self) -> dict[str, Tensor]:
        """Trained parameters and all buffers, by name."""
        frozen = {name for name, weight in self.network.named_parameters() if not weight.requires_grad}
        return {name: value for name, value in self.network.state_dict().items() if name not in frozen}

    def descend(self, loss: Tensor, step: int) -> None:
        """Update the weights with the gradient of a loss; the learning rate is that of `step`, from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * learning_rate(self.plan, step)
        self.optimizer.zero_grad()
        loss.backward()
        if self.plan.clip:
            torch.nn.utils.clip_grad_norm_(self._trained, self.plan.clip)
        self.optimizer.step()
        if self.average.weights:
            self.average.update(self.own(), step + 1)


def method_loss(
    method: Method, image: Tensor, rng: PerImageRandom, categories: Tensor | None = None
) -> Tensor:
    """The loss of a batch of good images, each set upright and cropped with its own random stream.

    Args:
        method: method in training.
        image: (B,3,H,W) in [0,1].
        rng: a random stream per image.
        categories: indices of the categories (B,), if the method uses them.
    """
    image = method.frame(image).image
    crop = partial(random_crops, side=method.config.crop, multiple=method.size_multiple)
    pairs = zip(image.split(1), rng.generators, strict=True)
    image = torch.cat([crop(single, rng=own) for single, own in pairs])
    condition = {} if categories is None else {"categories": categories}
    return method.training_loss(image, rng, **condition)


def streams(seed: int, step: int, positions: Sequence[int]) -> PerImageRandom:
    """Random streams of the images at some positions in the batch of a step."""
    return PerImageRandom(torch.tensor([seed_of(seed, step, position) for position in positions]))
