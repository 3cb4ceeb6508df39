"""Equal random windows of two maps of different resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def random_windows(
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
        blocks: rows and columns of the common block grid. Both maps are returned unchanged if the second has
            no integer number of positions per block.
        side: window side in blocks; 0, or a side that covers the image, returns both maps unchanged.
        generators: a generator per image for the window's position; None uses the top left corner.
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
    """Random first block of a window along an axis."""
    return int(torch.randint(max(blocks - side, 0) + 1, (1,), generator=generator))


def _windows(maps: Tensor, rows: int, side: int, corners: Sequence[tuple[int, int]]) -> Tensor:
    """Cut the windows from a map of every image."""
    unit = maps.shape[-2] // rows
    size = side * unit
    pairs = zip(maps, corners, strict=True)
    return torch.stack([one[:, y * unit :, x * unit :][:, :size, :size] for one, (y, x) in pairs])
