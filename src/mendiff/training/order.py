"""Which images a step sees: a function of seed and step alone, so that a resumed training goes on alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from mendiff.methods.base import TrainingConfig
from mendiff.training.random import generator


class StepOrder:
    """Endless rows of shuffles, one of every group of images; the groups take turns.

    Args:
        plan: steps, batch size and accumulation.
        seed: of the shuffles.
        groups: numbers of the images that are shown equally often.
    """

    def __init__(self, plan: TrainingConfig, seed: int, groups: Sequence[Sequence[int]]) -> None:
        self._plan, self._seed, self._groups = plan, seed, groups

    def batch(self, step: int) -> list[int]:
        """The images of a step."""
        size, turns = self._plan.batch_size, len(self._groups)
        return [self._at(place % turns, place // turns) for place in range(step * size, (step + 1) * size)]

    def parts(self, first: int, rank: int = 0, count: int = 1) -> Iterator[list[int]]:
        """The parts of all batches from a step on that one of `count` processes gets.

        Several processes deal every part of a step's batch out among them.
        """
        part = self._plan.batch_size // self._plan.accumulate
        for step in range(first, self._plan.steps):
            batch = self.batch(step)
            yield from (batch[begin + rank : begin + part : count] for begin in range(0, len(batch), part))

    def _at(self, group: int, place: int) -> int:
        indices = self._groups[group]
        epoch, at = divmod(place, len(indices))
        shuffled = torch.randperm(len(indices), generator=generator(self._seed, epoch))
        return indices[int(shuffled[at])]
