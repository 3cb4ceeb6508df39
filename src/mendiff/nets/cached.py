"""Caches for latents or features of images that occur repeatedly."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from mendiff.diffusion.random import content_seeds


class LatentCache:
    """A cache of latents by image content, stored on the CPU.

    Every image is encoded alone, so its latents do not depend on the batch in which it first occurred.

    Args:
        capacity: capacity in bytes; further images are encoded at every call.
        dtype: dtype of the stored latents.
    """

    def __init__(self, capacity: float = math.inf, dtype: torch.dtype = torch.float32) -> None:
        self._capacity, self._dtype = capacity, dtype
        self.clear()

    def clear(self) -> None:
        """Empty the cache."""
        self._known: dict[Hashable, Tensor] = {}
        self._left = self._capacity

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles start with an empty cache."""
        return {"_capacity": self._capacity, "_dtype": self._dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.clear()

    def of(self, keys: Sequence[Hashable], make: Callable[[int], Tensor], like: Tensor) -> Tensor:
        """The tensors of the given keys, (B,...), with the device and dtype of `like`.

        Args:
            keys: keys of the B rows.
            make: computes the tensor of a row, given its index; called for unknown keys.
            like: any tensor.
        """
        found = []
        for number, key in enumerate(keys):
            one = self._known.get(key)
            if one is None:
                # Rounded even if it is not stored, so that results do not depend on the state of the cache.
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
            image: images; new ones are encoded and stored.
            encode: deterministic encoder with frozen weights.
        """
        keys = [(seed, image.shape[1:]) for seed in content_seeds(image).tolist()]
        return self.of(keys, lambda number: encode(image[number : number + 1])[0], image)
