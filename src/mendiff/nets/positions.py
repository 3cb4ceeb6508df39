"""Position embeddings of vision transformers, resampled to other image sizes."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Resampling = Literal["timm", "dino"]


class Positions:
    """Adds prefix tokens and resampled position embeddings to patch tokens; replaces timm's `_pos_embed`.

    timm has a single resampling method, which other libraries patch process-wide. The table resampled here is
    passed to timm's own function, which handles registers, distillation tokens and similar cases.

    Args:
        transformer: a timm VisionTransformer with a position embedding.
        resampling: see FeaturesConfig.position_resampling.
    """

    def __init__(self, transformer: Any, resampling: Resampling) -> None:
        self._transformer, self._resampling = transformer, resampling

    def __call__(self, patches: Tensor) -> Tensor:
        """All tokens, (B,h,w,C) to (B,prefix + h w,C)."""
        table = self.fitted((patches.shape[1], patches.shape[2]))
        add: Any = type(self._transformer)._pos_embed
        tokens: Tensor = add(_WithTable(self._transformer, table), patches.flatten(1, 2))
        return tokens

    def fitted(self, grid: tuple[int, int]) -> Tensor:
        """The table for a grid (h,w), (1,prefix + h w,C); empty prefix if prefix tokens have no positions."""
        transformer = self._transformer
        table: Tensor = transformer.pos_embed
        rows, columns = transformer.patch_embed.grid_size
        if grid == (rows, columns):
            return table
        prefix = 0 if transformer.no_embed_class else transformer.num_prefix_tokens
        square = table[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))
        if self._resampling == "dino":
            factors = ((grid[0] + 0.1) / rows, (grid[1] + 0.1) / columns)
            fitted = F.interpolate(square, scale_factor=factors, mode="bicubic")
        else:
            fitted = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
        return torch.cat([table[:, :prefix], fitted.flatten(2).transpose(1, 2)], dim=1)


class _WithTable:
    """A view of a transformer with a position table for the current size."""

    dynamic_img_size = False

    def __init__(self, transformer: Any, table: Tensor) -> None:
        self._transformer, self.pos_embed = transformer, table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transformer, name)
