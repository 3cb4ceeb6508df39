"""The exponential moving average of the weights in training, which becomes the network at the end."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """Averaged weights by name.

    Args:
        decay: per step; 0 keeps no average.

    Attributes:
        decay: per step.
        weights: the averages; empty until `begin`, and where there are none.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}

    def begin(self, own: Mapping[str, Tensor]) -> None:
        """Start from a network's weights, or go on from the averages that a checkpoint gave."""
        before, self.weights = self.weights, {}
        for name, one in own.items() if self.decay else ():
            self.weights[name] = before.get(name, one).detach().to(one.device, copy=True)

    @torch.no_grad()
    def follow(self, own: Mapping[str, Tensor], step: int) -> None:
        """Move towards the weights after so many steps; whole numbers, such as counters, are copied."""
        # The first averages would be mostly initial weights: the decay grows with the steps.
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged = [name for name, one in self.weights.items() if one.is_floating_point()]
        if averaged:
            means, weights = ([of[name].detach() for name in averaged] for of in (self.weights, own))
            torch._foreach_lerp_(means, weights, 1 - decay)
        for name in self.weights.keys() - set(averaged):
            self.weights[name].copy_(own[name])

    @torch.no_grad()
    def swap(self, own: Mapping[str, Tensor]) -> None:
        """Exchange trained and averaged weights."""
        for name, mean in self.weights.items():
            trained = own[name].detach().clone()
            own[name].detach().copy_(mean)
            mean.copy_(trained)
