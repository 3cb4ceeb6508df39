"""Images at the size that a model sees, kept in memory: each is decoded once while there is room."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from pathlib import Path

import torch
from torch import Tensor

from mendiff.data.images import resize
from mendiff.data.reading import Picture, read_image

CACHE_BYTES = 2**30


class ImageCache:
    """Resized images by file, or by any other key; threads may share it.

    Args:
        size: side in pixels.
        bit_depth: of 16-bit files, see read_image.
        room: bytes to keep images in; the others are read each time.

    Attributes:
        size: side in pixels.
        bit_depth: of 16-bit files.
    """

    def __init__(self, size: int, bit_depth: int = 0, room: int = CACHE_BYTES) -> None:
        self.size, self.bit_depth, self._room = size, bit_depth, room
        self._kept: dict[Hashable, Tensor] = {}
        self._lock = threading.Lock()

    def image(self, source: str | Path | Picture, key: Hashable) -> Tensor:
        """A file or a picture (H,W,3) as (3,S,S) float32 in [0,1]."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept.float() / 255 if kept.dtype == torch.uint8 else kept
        return self.take(
            key, read_image(source, self.bit_depth) if isinstance(source, str | Path) else source
        )

    def take(self, key: Hashable, picture: Picture) -> Tensor:
        """The same of a picture that was just decoded, which is kept from now on."""
        image = resize(picture, self.size)
        levels = (image * 255).round().to(torch.uint8)
        # In 8 bits only if they hold it exactly: calibration must see the pixels that prediction will see.
        kept = levels if torch.equal(levels.float() / 255, image) else image
        with self._lock:
            if key not in self._kept and kept.nbytes <= self._room:
                self._room -= kept.nbytes
                self._kept[key] = kept
        return image
