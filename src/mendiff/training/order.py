"""Images of every training step, determined by seed and step, so that training can be resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mendiff.methods.base import TrainingConfig
from mendiff.training.random import generator


class StepOrder:
    """Infinite shuffled order of images that alternates between groups.

    Args:
        plan: steps, batch size and accumulation.
        seed: seed of the shuffles.
        groups: indices of images; groups are sampled equally often.
    """

    def __init__(self, plan: TrainingConfig, seed: int, groups: Sequence[Sequence[int]]) -> None:
        self._plan, self._seed, self._groups = plan, seed, groups

    def batch(self, step: int) -> list[int]:
        """Indices of the images of a step."""
        size, count = self._plan.batch_size, len(self._groups)
        return [self._at(index % count, index // count) for index in range(step * size, (step + 1) * size)]

    def parts(self, first: int, rank: int = 0, count: int = 1) -> Iterator[list[int]]:
        """The parts of all batches from a step on, for process `rank` of `count`.

        With gradient accumulation a batch has several parts; each is distributed over all processes.
        """
        part = self._plan.batch_size // self._plan.accumulate
        for step in range(first, self._plan.steps):
            batch = self.batch(step)
            yield from (batch[begin + rank : begin + part : count] for begin in range(0, len(batch), part))

    def _at(self, group: int, position: int) -> int:
        indices = self._groups[group]
        epoch, at = divmod(position, len(indices))
        shuffled = torch.randperm(len(indices), generator=generator(self._seed, epoch))
        return indices[int(shuffled[at])]
