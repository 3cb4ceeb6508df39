"""Memory cache of network inputs of whole images, so that each file is decoded once."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from pathlib import Path

import torch
from torch import Tensor

from mendiff.data.geometry import Geometry
from mendiff.data.reading import AS_STORED, Picture, Reading, read_image

CACHE_BYTES = 2**30


class ImageCache:
    """Resized images by key, such as the file path; thread-safe.

    Args:
        geometry: how images are resized, or the side in pixels to which they are stretched; without tiles.
        reading: of files.
        capacity: bytes of the cache; images that do not fit are decoded each time.

    Attributes:
        geometry: how images are resized.
        reading: of files.
    """

    def __init__(
        self, geometry: Geometry | int, reading: Reading = AS_STORED, capacity: int = CACHE_BYTES
    ) -> None:
        self.geometry = Geometry(geometry) if isinstance(geometry, int) else geometry
        self.reading, self._capacity = reading, capacity
        self._images: dict[Hashable, Tensor] = {}
        self._lock = threading.Lock()

    def image(self, source: str | Path | Picture, key: Hashable) -> Tensor:
        """Load a file or an (H,W,3) picture as (3,S,S) float32 in [0,1]."""
        stored = self._images.get(key)
        if stored is not None:
            return stored.float() / 255 if stored.dtype == torch.uint8 else stored
        return self.take(key, read_image(source, self.reading) if isinstance(source, str | Path) else source)

    def prepared(self, source: str | Path | Picture, key: Hashable) -> Tensor:
        """A file or picture at its working size, see Geometry.prepare; only stretched images are cached."""
        if self.geometry.stretches:
            return self.image(source, key)
        picture = read_image(source, self.reading) if isinstance(source, str | Path) else source
        return self.geometry.prepare(picture)

    def take(self, key: Hashable, picture: Picture) -> Tensor:
        """Resize a decoded picture and cache it."""
        image = self.geometry.whole(picture)
        levels = (image * 255).round().to(torch.uint8)
        # Stored in 8 bits only if that is exact: calibration and prediction must see the same pixels.
        stored = levels if torch.equal(levels.float() / 255, image) else image
        with self._lock:
            if key not in self._images and stored.nbytes <= self._capacity:
                self._capacity -= stored.nbytes
                self._images[key] = stored
        return image
