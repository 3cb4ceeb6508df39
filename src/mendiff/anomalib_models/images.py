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
from mendiff.data.cache import CACHE_BYTES, ImageCache
from mendiff.data.geometry import Geometry
from mendiff.data.image_files import find_images
from mendiff.data.reading import AS_STORED, Picture, Reading, image_size, read_image
from mendiff.diffusion.random import content_seeds
from mendiff.errors import InputError
from mendiff.methods.base import MethodConfig, Progress, no_progress, track
from mendiff.training.split import Identity


class GoodImages(Dataset[ImageItem]):
    """Good images, resized to the model's input size and cached in memory.

    Args:
        pictures: files, or (H,W,3) uint8 arrays.
        size: side in pixels.
        room: cache size in bytes; images beyond it are read each time.
        categories: category of every image, for models with categories.
        reading: of the files.
        cache: cached images of this size to start with.
    """

    def __init__(
        self,
        pictures: Sequence[str | Path | Picture],
        size: int,
        room: int = CACHE_BYTES,
        categories: Sequence[str] = (),
        reading: Reading = AS_STORED,
        cache: ImageCache | None = None,
    ) -> None:
        self._pictures, self._categories = pictures, categories
        self._cache = ImageCache(size, reading, room) if cache is None else cache

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> ImageItem:
        image, name = self.image(index), self._name(index)
        if self._categories:
            return CategoryItem(image=image, image_path=name, category=self._categories[index])
        return ImageItem(image=image, image_path=name)

    @property
    def geometry(self) -> Geometry:
        """How pictures become network inputs."""
        return self._cache.geometry

    @property
    def collate_fn(self) -> Callable[..., Any]:
        """Items to a batch."""
        return CategoryBatch.collate if self._categories else ImageBatch.collate

    def image(self, index: int) -> Tensor:
        """One picture, (3,S,S) float32 in [0,1]."""
        source = self._pictures[index]
        return self._cache.image(source, source if isinstance(source, str | Path) else index)

    def source(self, index: int) -> str | Path | Picture:
        """The picture of an item."""
        return self._pictures[index]

    @cached_property
    def identities(self) -> Sequence[Identity]:
        """Identity of every image."""
        return [Identity(int(content_seeds(self.image(at)[None])), self._name(at)) for at in range(len(self))]

    def _name(self, index: int) -> str:
        source = self._pictures[index]
        return str(source) if isinstance(source, str | Path) else f"picture {index}"


class GoodTiles(GoodImages):
    """Tiles of good images, cut once and kept in memory.

    Of large images a random part of the tiles is kept, as many of each image.

    Args:
        pictures: files, or (H,W,3) uint8 arrays.
        geometry: with tiles.
        room: bytes of memory.
        categories: category of every picture, for models with categories.
        reading: of the files.
        progress: called per picture.
    """

    def __init__(
        self,
        pictures: Sequence[str | Path | Picture],
        geometry: Geometry,
        room: int = CACHE_BYTES,
        categories: Sequence[str] = (),
        reading: Reading = AS_STORED,
        progress: Progress = no_progress,
    ) -> None:
        super().__init__(pictures, geometry.side)
        self._geometry = geometry
        self._tiles: list[Tensor] = []
        self._items: list[tuple[int, Identity]] = []
        exact = geometry.tile == geometry.side  # other tiles are resized and need more than 8 bits
        most = max(1, room // (len(pictures) * 3 * geometry.side**2 * (1 if exact else 4)))
        for at, picture in enumerate(track(pictures, "cutting tiles: images", progress)):
            read = read_image(picture, reading) if isinstance(picture, str | Path) else picture
            image = geometry.prepare(read)
            seed, name = geometry.seed(image), super()._name(at)
            for part, (index, tile) in enumerate(geometry.some(image, most)):
                self._tiles.append((tile * 255).round().to(torch.uint8) if exact else tile)
                self._items.append((at, Identity(seed, f"{name}, tile {index}", part)))
        self._categories = [categories[at] for at, _ in self._items] if categories else ()

    def __len__(self) -> int:
        return len(self._tiles)

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def source(self, index: int) -> str | Path | Picture:
        return self._pictures[self._items[index][0]]

    def image(self, index: int) -> Tensor:
        """One tile, (3,S,S) float32 in [0,1]."""
        tile = self._tiles[index]
        return tile.float() / 255 if tile.dtype == torch.uint8 else tile

    @cached_property
    def identities(self) -> Sequence[Identity]:
        return [identity for _, identity in self._items]

    def _name(self, index: int) -> str:
        return str(self._items[index][1].name)


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


def check_geometry(images: Any, config: MethodConfig) -> None:
    """Refuse letterboxing, tiles and channels for images that anomalib reads and stretches."""
    wanted = Geometry.of(config)
    given = images.geometry if isinstance(images, GoodImages) else Geometry(wanted.side)
    if given != wanted and not (given.stretches and wanted.stretches):
        raise InputError(
            "config: expected resize='stretch' and tile=0 for images that are resized by the data set or "
            "anomalib's pre-processor; fit with mendiff.fit for letterboxed images or tiles."
        )
    if config.channels and not isinstance(images, GoodImages):
        raise InputError(
            "config: expected no channels for images that the data set reads; fit with mendiff.fit for "
            "images of several lights."
        )
