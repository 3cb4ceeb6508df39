"""A step of training: the loss of a method's batch, and one move of a network down its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from mendiff.diffusion.random import PerImageRandom
from mendiff.methods.base import Method, TrainingConfig, random_crops
from mendiff.training.average import Average
from mendiff.training.optimizers import learning_rate, make_optimizer
from mendiff.training.random import seed_of


class Learner:
    """A network and what moves its weights: optimiser, learning rate, clipping, moving average.

    Args:
        network: its parameters that ask for gradients are trained.
        plan: see TrainingConfig.

    Attributes:
        network: what is trained.
        plan: see TrainingConfig.
        optimizer: of the trained parameters.
        average: of the trained parameters and of all buffers.
    """

    def __init__(self, network: nn.Module, plan: TrainingConfig) -> None:
        self.network, self.plan = network, plan
        self._trained = [one for one in network.parameters() if one.requires_grad]
        self.optimizer = make_optimizer(plan, self._trained)
        self.average = Average(plan.ema)
        self.average.begin(self.own())

    def own(self) -> dict[str, Tensor]:
        """Trained parameters and all buffers, by name."""
        frozen = {name for name, one in self.network.named_parameters() if not one.requires_grad}
        return {name: one for name, one in self.network.state_dict().items() if name not in frozen}

    def descend(self, loss: Tensor, step: int) -> None:
        """Move down the gradient of a loss, at the learning rate of a step (0 for the first)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * learning_rate(self.plan, step)
        self.optimizer.zero_grad()
        loss.backward()
        if self.plan.clip:
            torch.nn.utils.clip_grad_norm_(self._trained, self.plan.clip)
        self.optimizer.step()
        if self.average.weights:
            self.average.follow(self.own(), step + 1)


def method_loss(
    method: Method, image: Tensor, rng: PerImageRandom, categories: Tensor | None = None
) -> Tensor:
    """The loss of a batch of good images, each set upright and cropped by its own random stream.

    Args:
        method: in training.
        image: (B,3,H,W) in [0,1].
        rng: a stream per image.
        categories: numbers of the images' categories (B,), where the method asks for them.
    """
    image = method.frame(image).image
    cut = partial(random_crops, side=method.config.crop, multiple=method.size_multiple)
    pairs = zip(image.split(1), rng.generators, strict=True)
    image = torch.cat([cut(one, rng=own) for one, own in pairs])
    told = {} if categories is None else {"categories": categories}
    return method.training_loss(image, rng, **told)


def streams(seed: int, step: int, places: Sequence[int]) -> PerImageRandom:
    """Random numbers of the images at some places of a step's batch."""
    return PerImageRandom(torch.tensor([seed_of(seed, step, place) for place in places]))
