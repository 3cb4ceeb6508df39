"""Latents of images that come again and again, encoded once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mendiff.diffusion.random import content_seeds


class LatentCache:
    """Latents by their image's content, kept on the CPU.

    Every image is encoded alone, so that its latents don't depend on the batch in which it came first.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, torch.Size], Tensor] = {}

    def latents(self, image: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents of a batch, (B,3,H,W) in [0,1] to (B,c,h,w).

        Args:
            image: of any content; what was not seen before is encoded and remembered.
            encode: frozen and without a draw, the same at every call.
        """
        keys = [(seed, image.shape[1:]) for seed in content_seeds(image).tolist()]
        for key, one in zip(keys, image, strict=True):
            if key not in self._known:
                self._known[key] = encode(one[None])[0].cpu()
        return torch.stack([self._known[key] for key in keys]).to(image.device)
