"""The good images that are held back from training, for statistics, scores and thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mendiff.anomalib_models.fsdp import Host
from mendiff.anomalib_models.images import GoodImages
from mendiff.diffusion.random import content_seeds
from mendiff.methods.base import MethodConfig
from mendiff.training.random import generator
from mendiff.training.split import Identity, Split, split_of


class HeldBack(Host):
    """Selects the held-back images, finds them in batches, and reads them.

    Attributes:
        config: of the method.
        seed: of random numbers drawn while reading.
        held_back: content seeds of the held-back images.
        new: content seeds of images that the fit of the initial weights lacked; see split_of.
        split: indices of held-back and training images.
    """

    config: MethodConfig
    seed: int
    held_back: list[int]
    new: frozenset[int] = frozenset()
    split: Split

    def hold_back(self, identities: Sequence[Identity]) -> None:
        """Choose the held-back images; see `mendiff.training.split.split_of`."""
        self.split = split_of(identities, self.held_back, self.new)
        self.held_back = self.split.held_back

    def _identities(self, loader: DataLoader) -> Sequence[Identity]:
        if isinstance(loader.dataset, GoodImages):
            return loader.dataset.identities
        with torch.random.fork_rng(devices=[]):  # reading may draw random numbers
            torch.default_generator.manual_seed(self.seed)
            options: Any = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
            singly = DataLoader(loader.dataset, generator=generator(self.seed), **options)
            return [
                Identity(int(content_seeds(self._resize(one))), (one.image_path or [None])[0])
                for one in singly
            ]

    def _resize(self, batch: Any) -> Tensor:
        """The images of a batch as in training_step."""
        # Under FSDP, self.device is the CPU.
        image = batch.image.to(self.trainer.strategy.root_device)
        transform = getattr(self.pre_processor, "transform", None)
        return (transform(image) if transform else image).as_subclass(Tensor)

    def _held_back_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-back images in a fixed order: (images (B,3,H,W) on the device, seeds (B,))."""
        return self._batches_at(self.split.held_back_at)

    def _seen_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of the training images, likewise."""
        return self._batches_at(self.split.seen_at)

    def _trained_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images, or many of them, likewise."""
        return self._batches_at(self.split.trained_at)

    def _batches_at(self, chosen: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        loader: Any = self.trainer.train_dataloader
        plan = self.config.training
        count = min(8, max(1, plan.batch_size // plan.accumulate))  # no more than fits in training
        for first in range(0, len(chosen), count):
            places = chosen[first : first + count]
            with torch.random.fork_rng(devices=[]):  # reading may draw random numbers, alike in every pass
                torch.default_generator.manual_seed(self.seed)
                items = [loader.collate_fn([loader.dataset[place]]) for place in places]
            image = torch.cat([self._resize(item) for item in items])
            yield image, content_seeds(image)

    def _is_held_back(self, batch: Any) -> Tensor:
        """Whether each image of a batch is held back, (B,) bool: by known name, or by content."""
        names = [str(path) for path in batch.image_path or []]
        if names and all(name in self.split.by_name for name in names):
            held_back = [self.split.by_name[name] for name in names]
        else:
            seeds = content_seeds(batch.image.as_subclass(Tensor)).tolist()
            held_back = [seed in self.held_back for seed in seeds]
        return torch.tensor(held_back, device=batch.image.device)
