"""Latents, or features, of images that come again and again, made once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from mendiff.diffusion.random import content_seeds


class LatentCache:
    """Latents by their image's content, kept on the CPU.

    Every image is encoded alone, so that its latents don't depend on the batch in which it came first.

    Args:
        room: bytes that may be kept; further images are encoded whenever they come.
        dtype: what is kept is rounded to this.
    """

    def __init__(self, room: float = math.inf, dtype: torch.dtype = torch.float32) -> None:
        self._room, self._dtype = room, dtype
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._known: dict[Hashable, Tensor] = {}
        self._left = self._room

    def __getstate__(self) -> dict[str, Any]:
        """Copies, and what is stored, begin empty: latents are made again where they are wanted."""
        return {"_room": self._room, "_dtype": self._dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.clear()

    def of(self, keys: Sequence[Hashable], make: Callable[[int], Tensor], like: Tensor) -> Tensor:
        """What belongs to every key, (B,...), on the device and in the precision of `like`.

        Args:
            keys: of the rows.
            make: from a row's number to what belongs to its key; called for keys that are not known yet.
            like: any tensor.
        """
        found = []
        for number, key in enumerate(keys):
            one = self._known.get(key)
            if one is None:
                # Rounded also where it can't be kept: a step is the same whatever was kept before it.
                one = make(number).to("cpu", self._dtype)
                size = one.numel() * one.element_size()
                if size <= self._left:
                    self._known[key] = one
                    self._left -= size
            found.append(one)
        return torch.stack([one.to(like) for one in found])

    def latents(self, image: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents of a batch, (B,3,H,W) in [0,1] to (B,c,h,w).

        Args:
            image: of any content; what was not seen before is encoded and remembered.
            encode: frozen and without a draw, the same at every call.
        """
        keys = [(seed, image.shape[1:]) for seed in content_seeds(image).tolist()]
        return self.of(keys, lambda number: encode(image[number : number + 1])[0], image)
