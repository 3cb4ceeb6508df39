"""From images of any size to the square inputs of networks, and from their maps back to maps of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mendiff.data.images import resize
from mendiff.data.reading import Picture
from mendiff.data.squares import LEAST_WEIGHT, Squares
from mendiff.diffusion.random import content_seeds
from mendiff.methods.base_config import MethodConfig


@dataclass(frozen=True)
class Geometry(Squares):
    """Square inputs of images as tensors; see Squares for the attributes."""

    @classmethod
    def of(cls, config: MethodConfig) -> Geometry:
        """The geometry of a method's config."""
        return cls(config.image_size, config.resize == "letterbox", config.tile, config.tile_overlap)

    def prepare(self, image: Picture | Tensor) -> Tensor:
        """Resize an image to its working size.

        Args:
            image: (H,W,3) uint8, or (3,H,W) float in [0,1].

        Returns (3,h,w) float32 in [0,1]; uint8 for tiles of a uint8 image at its own scale, which saves the
        memory of a float copy.
        """
        height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
        size = self.size(height, width)
        if self.tile and size == (height, width) and not isinstance(image, Tensor):
            return torch.from_numpy(image.copy()).permute(2, 0, 1)
        return resize(image, size)

    def whole(self, image: Picture | Tensor) -> Tensor:
        """An image as a single network input, (3,S,S) float32 in [0,1]; not for tiles."""
        return self.windows(self.prepare(image))[0]

    def windows(self, image: Tensor) -> Windows:
        """The windows that cover an image of working size, (3,h,w)."""
        return Windows(image, self)

    def sample(self, images: Iterable[Tensor], count: int) -> Tensor:
        """Some windows of images of working size as network inputs, (N,3,S,S).

        The choice is random and depends on each image alone.

        Args:
            images: (3,h,w) each.
            count: windows of each image; all of an image that has no more.
        """
        return torch.stack([window for image in images for _, window in self.some(image, count)])

    def some(self, image: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
        """At most `count` random windows of an image of working size (3,h,w), with their numbers."""
        windows = self.windows(image)
        order = list(range(len(windows)))
        if len(windows) > 1:
            rng = Generator("cpu").manual_seed(self.seed(image))
            order = torch.randperm(len(windows), generator=rng, device="cpu").tolist()
        return ((index, windows[index]) for index in order[:count])

    def seed(self, image: Tensor) -> int:
        """Content seed of an image of working size, (3,h,w): that of its network input if it has only one."""
        windows = self.windows(image)
        return int(content_seeds((windows[0] if len(windows) == 1 else image)[None]))


class Windows(Sequence[Tensor]):
    """Square windows that cover an image, in rows from top to bottom; each is (3,S,S) float32 in [0,1].

    Args:
        image: (3,h,w) uint8, or float in [0,1].
        squares: places and side of the windows.

    Attributes:
        size: (h, w).
        places: (row, column) of the first pixel of every window.
    """

    def __init__(self, image: Tensor, squares: Squares) -> None:
        self._image, self._squares, self._side = image, squares, squares.side
        self.size = (image.shape[-2], image.shape[-1])
        self.places = squares.places(*self.size)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        row, column = self.places[index]
        part = self._image[:, row : row + self._side, column : column + self._side]
        part = part.float() / 255 if part.dtype == torch.uint8 else part
        return padded(part, self._side)

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Top, left, bottom and right of a window without its padding, in pixels."""
        (row, column), (height, width) = self.places[index], self.size
        return row, column, min(row + self._side, height), min(column + self._side, width)

    def around(self, at: tuple[int, int]) -> int:
        """The window whose centre is nearest to a pixel (row, column)."""
        half = self._side / 2
        return min(range(len(self)), key=lambda index: math.dist(at, [half + n for n in self.places[index]]))

    def cut(self, values: Tensor) -> Tensor:
        """A picture or map (C,a,b) of a window without the padded part."""
        shares = [min(1.0, length / self._side) for length in self.size]
        height, width = (max(1, round(n * share)) for n, share in zip(values.shape[-2:], shares, strict=True))
        return values[:, :height, :width]

    def weights(self) -> tuple[Tensor, list[Tensor]]:
        """(weight of the pixels of a window along an axis (S,), sum of all windows' weights per axis)."""
        at = (torch.arange(self._side, dtype=torch.float32) + 0.5) / self._side
        window = (torch.pi * at).sin().square().clamp(min=LEAST_WEIGHT)
        sums = []
        for length in self.size:
            total = torch.zeros(max(length, self._side))
            for start in self._squares.starts(length):
                total[start : start + self._side] += window
            sums.append(total[:length])
        return window, sums


class Blend:
    """Maps or pictures of windows, joined to that of the image; neighbours fade into each other.

    Weights are those of a Hann window, so that the result has no visible seams. A single window is copied.

    Args:
        windows: of the image.
    """

    def __init__(self, windows: Windows) -> None:
        self._windows, self._alone = windows, len(windows) == 1
        self._window, self._sums = windows.weights()
        self._total: Tensor | None = None

    def add(self, index: int, values: Tensor) -> None:
        """Add the result (C,S,S) of a window."""
        height, width = self._windows.size
        if self._total is None:
            self._total = torch.zeros(len(values), height, width)
        (row, column), side = self._windows.places[index], values.shape[-1]
        place = self._total[:, row : row + side, column : column + side]
        inside = values[:, : place.shape[1], : place.shape[2]]
        if self._alone:
            place.copy_(inside)
            return
        sums = (self._sums[0][row : row + side], self._sums[1][column : column + side])
        shares = [self._window[: len(one)] / one for one in sums]
        place += inside * shares[0][:, None] * shares[1]

    def result(self) -> Tensor:
        """The joined values, (C,h,w)."""
        assert self._total is not None
        return self._total


def padded(image: Tensor, side: int) -> Tensor:
    """Pad an image (C,h,w) at the bottom and at the right to (C,side,side) by repeating its last pixels."""
    height, width = image.shape[-2:]
    if (height, width) == (side, side):
        return image
    return F.pad(image[None], (0, side - width, 0, side - height), mode="replicate")[0]


def on_canvas(parts: Sequence[Tensor]) -> Tensor:
    """Stack (C,h,w) tensors of different sizes, padded with zeros at the bottom and at the right."""
    height, width = (max(part.shape[axis] for part in parts) for axis in (-2, -1))
    if all(part.shape[-2:] == (height, width) for part in parts):
        return torch.stack(list(parts))
    return torch.stack(
        [F.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2])) for part in parts]
    )
