"""Good images as anomalib items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from anomalib.data import ImageBatch, ImageItem
from torch import Tensor
from torch.utils.data import Dataset

from mendiff.anomalib_models.categories import CategoryBatch, CategoryItem
from mendiff.data.cache import CACHE_BYTES, ImageCache
from mendiff.data.image_files import find_images
from mendiff.data.reading import Picture, image_size
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError


class GoodImages(Dataset[ImageItem]):
    """Good images, resized to the model's input size and cached in memory.

    Args:
        pictures: files, or (H,W,3) uint8 arrays.
        size: side in pixels.
        room: cache size in bytes; images beyond it are read each time.
        categories: category of every image, for models with categories.
        bit_depth: of 16-bit files, see read_image.
        cache: cached images of this size to start with.
    """

    def __init__(
        self,
        pictures: Sequence[str | Path | Picture],
        size: int,
        room: int = CACHE_BYTES,
        categories: Sequence[str] = (),
        bit_depth: int = 0,
        cache: ImageCache | None = None,
    ) -> None:
        self._pictures, self._categories = pictures, categories
        self._cache = ImageCache(size, bit_depth, room) if cache is None else cache

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
        source = self._pictures[index]
        return self._cache.image(source, source if isinstance(source, str | Path) else index)

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
    """Let a method cut half of its synthetic anomalies from texture images of a folder; see `Textures`."""
    if not hasattr(method, "textures"):
        raise InputError(
            "textures: expected a method that trains on synthetic anomalies, such as glad, got "
            f"{type(method).__name__.lower()}."
        )
    method.textures = Textures(folder, method.config.image_size)
