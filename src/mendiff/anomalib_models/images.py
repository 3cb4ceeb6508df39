"""Good images as anomalib items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from torch import Tensor
from torch.utils.data import Dataset

from mendiff.anomalib_models.categories import CategoryBatch, CategoryItem
from mendiff.data.found import find_images
from mendiff.data.images import resize
from mendiff.data.reading import Picture, image_size, read_image
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError

CACHE_BYTES = 2**30


class GoodImages(Dataset[ImageItem]):
    """Good images, resized to the model's input size and cached in memory.

    Args:
        pictures: files, or (H,W,3) uint8 arrays.
        size: side in pixels.
        room: cache size in bytes; images beyond it are read each time.
        categories: category of every image, for models with categories.
        bit_depth: of 16-bit files, see read_image.
    """

    def __init__(
        self,
        pictures: Sequence[str | Path | Picture],
        size: int,
        room: int = CACHE_BYTES,
        categories: Sequence[str] = (),
        bit_depth: int = 0,
    ) -> None:
        self._bit_depth = bit_depth
        self._pictures, self._size, self._room, self._categories = pictures, size, room, categories
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> ImageItem:
        image, name = self.image(index), self._name(index)
        if self._categories:
            return CategoryItem(image=image, image_path=name, category=self._categories[index])
        return ImageItem(image=image, image_path=name)

    @property
    def collate_fn(self) -> Callable[..., Any]:
        """Items to a batch."""
        return CategoryBatch.collate if self._categories else ImageBatch.collate

    def image(self, index: int) -> Tensor:
        """One picture, (3,S,S) float32 in [0,1]."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept.float() / 255 if kept.dtype == torch.uint8 else kept
        source = self._pictures[index]
        image = resize(self._read(source), self._size)
        levels = (image * 255).round().to(torch.uint8)
        # In 8 bits only if lossless: calibration and prediction must use identical pixels.
        kept = levels if torch.equal(levels.float() / 255, image) else image
        if kept.nbytes <= self._room:
            self._room -= kept.nbytes
            self._kept[index] = kept
        return image

    def _read(self, source: str | Path | Picture) -> Picture:
        return read_image(source, self._bit_depth) if isinstance(source, str | Path) else source

    @cached_property
    def identities(self) -> Sequence[tuple[int, str | None]]:
        """(content seed, name) of every image."""
        return [(int(content_seeds(self.image(at)[None])), self._name(at)) for at in range(len(self))]

    def _name(self, index: int) -> str:
        source = self._pictures[index]
        return str(source) if isinstance(source, str | Path) else f"picture {index}"


class Textures(Sequence[Tensor]):
    """Texture images for synthetic anomalies, such as DTD, read on demand.

    Args:
        folder: of image files; sub-folders are searched.
        size: side in pixels after resizing.
    """

    def __init__(self, folder: str | Path, size: int) -> None:
        paths = find_images(Path(folder))
        for path in paths:
            image_size(path)  # invalid files must fail before training
        self._images = GoodImages(paths, size)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        return self._images.image(index)


def give_textures(method: Any, folder: str | Path) -> None:
    """Let a method cut half of its synthetic anomalies from the pictures in a folder; see `Textures`."""
    if not hasattr(method, "textures"):
        raise InputError(
            "textures: expected a method that trains on synthetic anomalies, such as glad, got "
            f"{type(method).__name__.lower()}."
        )
    method.textures = Textures(folder, method.config.image_size)
