"""Exponential moving average (EMA) of the weights during training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """EMA of weights by name.

    Args:
        decay: per step; 0 disables the average.

    Attributes:
        decay: per step.
        weights: averaged weights; empty before `start` and if disabled.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}

    def start(self, own: Mapping[str, Tensor]) -> None:
        """Start from the weights of a network, or from averages that a checkpoint has set."""
        before, self.weights = self.weights, {}
        for name, weight in own.items() if self.decay else ():
            self.weights[name] = before.get(name, weight).detach().to(weight.device, copy=True)

    @torch.no_grad()
    def update(self, own: Mapping[str, Tensor], step: int) -> None:
        """Update the averages after a step; integers, such as counters, are copied."""
        # The decay grows with the steps, so that early averages do not consist mostly of initial weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged = [name for name, weight in self.weights.items() if weight.is_floating_point()]
        if averaged:
            means, weights = (
                [tensors[name].detach() for name in averaged] for tensors in (self.weights, own)
            )
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
