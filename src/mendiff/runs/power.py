"""Detection power of a threshold, estimated on synthetic defects in held-back good images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Generator, Tensor

from mendiff.data.geometry import Geometry, padded
from mendiff.data.inspected import InspectedArea
from mendiff.data.reading import image_size
from mendiff.methods.base import Progress, track
from mendiff.model import Model
from mendiff.synthesis.probes import probe

MOST, PER_IMAGE, BATCH = 60, 4, 8
"""Synthetic defects at most, per held-back image, and per batch."""
SEED = 1
"""Of the synthetic defects; the share of a memory bank is chosen on defects of another seed."""
SIZES = (8.0, 24.0)
"""Diameters in pixels between small, medium and large defects."""
MOST_TRIES = 10
"""Most synthetic defects that are drawn for each that lies in the inspected area."""
SMALLEST_PROBED = 16
"""Fewest pixels of a side of an image to which a defect can be added."""
TITLE = "scoring synthetic defects: batches"


@dataclass(frozen=True)
class Power:
    """Image scores of synthetic defects.

    Attributes:
        diameters: of the circles of equal area, in pixels of the images that the model sees.
        scores: image scores.
        pixel: side of such a pixel in pixels of the original images; 0 if their sizes differ or are unknown.
    """

    diameters: tuple[float, ...]
    scores: tuple[float, ...]
    pixel: float = 0.0

    def found(self, threshold: float) -> int:
        """Number of defects whose image scores above a threshold."""
        return sum(score > threshold for score in self.scores)

    def share(self, threshold: float) -> float:
        """Share of defects whose image scores above a threshold, in [0,1]."""
        return self.found(threshold) / len(self.scores)

    def by_size(self, threshold: float) -> list[tuple[str, int, int]]:
        """(sizes, found, all) of small, medium and large defects, without empty groups."""
        edges = (0.0, *SIZES, math.inf)
        titles = (f"below {SIZES[0]:g} px", f"{SIZES[0]:g} to {SIZES[1]:g} px", f"above {SIZES[1]:g} px")
        groups = []
        for title, low, high in zip(titles, edges, edges[1:], strict=False):
            pairs = zip(self.diameters, self.scores, strict=True)
            scores = [score for diameter, score in pairs if low <= diameter < high]
            if scores:
                groups.append((title, sum(score > threshold for score in scores), len(scores)))
        return groups

    def sentence(self, threshold: float) -> str:
        """What a threshold finds, in one sentence."""
        sizes = ", ".join(f"{found} of {count} {title}" for title, found, count in self.by_size(threshold))
        count = len(self.scores)
        return (
            f"finds {self.found(threshold)} of {count} synthetic defects in held-back images "
            f"({sizes}; {self._unit()})"
        )

    def _unit(self) -> str:
        """What the pixels of the sizes are."""
        if self.pixel == 1:
            return "px of the original image"
        original = f", 1 px = {self.pixel:.3g} px of the original" if self.pixel else ""
        return f"px of the resized image{original}"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return {"diameters": list(self.diameters), "scores": list(self.scores), "pixel": self.pixel}


def power_of(info: Mapping[str, Any]) -> Power | None:
    """The power that a model folder states; None for a folder without it."""
    stated = info.get("power")
    if not stated:
        return None
    return Power(tuple(stated["diameters"]), tuple(stated["scores"]), stated.get("pixel", 0.0))


def pixel_of(geometry: Geometry, paths: Iterable[Path]) -> float:
    """See Power.pixel; the side of a square of the same area if images are stretched."""
    sizes = {image_size(path) for path in paths}
    if len(sizes) != 1:
        return 0.0
    size = sizes.pop()
    return math.sqrt(math.prod(size) / math.prod(geometry.size(*size)))


def estimate_power(model: Model, held_back: Iterable[Tensor], progress: Progress) -> Power:
    """Add synthetic defects of many sizes and contrasts to good images, and score them.

    Args:
        model: fitted.
        held_back: good images of Model.prepare that the networks were not trained on.
        progress: called per batch.
    """
    images, model = _parts(model, held_back)
    made = list(_made(images, model.area, min(MOST, PER_IMAGE * len(images))))
    areas = [int(mask.sum()) for _, mask in made]
    scores: list[float] = []
    with model.in_half():
        batches = [made[first : first + BATCH] for first in range(0, len(made), BATCH)]
        for batch in track(batches, TITLE, progress):
            scores += [float(row.score) for row in model.rows([image for image, _ in batch], BATCH)]
    return Power(tuple(2 * math.sqrt(area / math.pi) for area in areas), tuple(scores))


def _made(
    images: Sequence[Tensor], area: InspectedArea | None, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images with a defect and its mask; defects outside of the inspected area are left out."""
    rng = Generator("cpu").manual_seed(SEED)
    left = count
    for number in range(count if area is None else MOST_TRIES * count):
        image, mask = probe(images[number % len(images)], rng)
        if area is None or bool((mask & area.at(*mask.shape[1:])).any()):
            left -= 1
            yield image, mask
        if not left:
            return


def _parts(model: Model, images: Iterable[Tensor]) -> tuple[list[Tensor], Model]:
    """Images to which defects are added, (3,h,w) float each, and the model that scores them.

    Of tiled images it is a tile each: a defect has the least influence on the score of an image as large as a
    tile. Where in the inspected area a tile lies is unknown.
    """
    geometry = model.geometry
    if geometry.tile:
        return list(geometry.sample(images, 1)), replace(model, area=None)
    images = list(images)
    small = any(min(image.shape[-2:]) < SMALLEST_PROBED for image in images)
    return [padded(image, geometry.side) if small else image for image in images], model
