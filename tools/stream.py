"""Rounds of generated images, drawn and encoded by worker processes during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from tools.images import generate_batch

Describe = Callable[[Tensor], Sequence[Tensor]]
"""Maps images (B,3,S,S) in [0,1] to training targets."""


@dataclass(frozen=True)
class RoundsConfig:
    """Settings of the stream of generated images.

    Attributes:
        seed: seed of the images.
        size: side of the images in pixels.
        batch: images per step.
        batches: new batches per round.
        passes: number of passes over the images of a round.
        workers: worker processes that draw images; 0 draws them in the training process.
    """

    seed: int = 0
    size: int = 160
    batch: int = 32
    batches: int = 32
    passes: int = 4
    workers: int = 1

    @property
    def steps(self) -> int:
        """Steps per round."""
        return self.batches * self.passes


class Drawn(Dataset):
    """Batch n of a seed: uint8 images (B,3,S,S), and the targets of `describe` in half precision."""

    def __init__(self, config: RoundsConfig, describe: Describe | None) -> None:
        self._config, self._describe = config, describe

    def __getitem__(self, number: int) -> list[Tensor]:
        plan = self._config
        images = generate_batch(plan.seed, number * plan.batch, plan.batch, plan.size)
        if self._describe is None:
            return [images]
        with torch.no_grad():
            return [images, *(one.half() for one in self._describe(images.float() / 255))]


def batches(config: RoundsConfig, first: int, last: int, describe: Describe | None) -> Iterator[list[Tensor]]:
    """The batches of steps first to last - 1: images in [0,1] and training targets, in float32.

    A batch depends only on the config and the step, so a resumed training uses the same batches.
    """
    rounds = range(first // config.steps, -(-last // config.steps))
    numbers = range(rounds.start * config.batches, rounds.stop * config.batches)
    loader: DataLoader[list[Tensor]] = DataLoader(
        Drawn(config, describe),
        batch_size=None,
        sampler=numbers,
        num_workers=config.workers,
        prefetch_factor=config.batches if config.workers else None,
        generator=Generator(),
    )
    source = iter(loader)
    for number in rounds:
        parts = [next(source) for _ in range(config.batches)]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        for step, chosen in enumerate(_order(config, number), start=number * config.steps):
            if first <= step < last:
                images, *described = (column[chosen] for column in columns)
                yield [images.float() / 255, *(one.float() for one in described)]


def _order(config: RoundsConfig, number: int) -> list[Tensor]:
    """Image indices of every step of a round: all images, shuffled in every pass."""
    count = config.batch * config.batches
    rng = Generator().manual_seed(config.seed * 1_000_003 + number)
    passes = [torch.randperm(count, generator=rng) for _ in range(config.passes)]
    return list(torch.cat(passes).split(config.batch))
