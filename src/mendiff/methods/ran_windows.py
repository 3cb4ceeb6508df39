"""The same random window of two maps of an image, whatever their resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def cut_alike(
    first: Tensor,
    second: Tensor,
    blocks: tuple[int, int],
    side: int,
    generators: Sequence[Generator] | None,
) -> tuple[Tensor, Tensor]:
    """Windows of side x side blocks, (B,c,h,w) and (B,C,h',w') to the same with smaller maps.

    Args:
        first: maps of images.
        second: other maps of the same images.
        blocks: rows and columns that both are parted in; one that has no whole number of positions per block
            leaves both as they are.
        side: of the window, in blocks; 0, or one that holds the whole image, leaves both as they are.
        generators: one per image, that draw where its window lies; None takes every image's first one.
    """
    rows, columns = blocks
    whole = not side or (rows <= side and columns <= side)
    if whole or second.shape[-2] % rows or second.shape[-1] % columns:
        return first, second
    corners = [(0, 0)] * len(first)
    if generators is not None:
        corners = [(_start(rows, side, own), _start(columns, side, own)) for own in generators]
    return _windows(first, rows, side, corners), _windows(second, rows, side, corners)


def _start(blocks: int, side: int, generator: Generator) -> int:
    """Where a window begins along one axis."""
    return int(torch.randint(max(blocks - side, 0) + 1, (1,), generator=generator))


def _windows(maps: Tensor, rows: int, side: int, corners: Sequence[tuple[int, int]]) -> Tensor:
    """Those of one map of every image."""
    unit = maps.shape[-2] // rows
    size = side * unit
    pairs = zip(maps, corners, strict=True)
    return torch.stack([one[:, y * unit :, x * unit :][:, :size, :size] for one, (y, x) in pairs])
