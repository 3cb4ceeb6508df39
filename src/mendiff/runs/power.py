"""Detection power of a threshold, estimated on synthetic defects in held-back good images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from mendiff.methods.base import Progress, track
from mendiff.model import Model
from mendiff.synthesis.probes import probes

MOST, PER_IMAGE, BATCH = 60, 4, 8
"""Synthetic defects at most, per held-back image, and per batch."""
SEED = 1
"""Of the synthetic defects; the share of a memory bank is chosen on defects of another seed."""
SIZES = (8.0, 24.0)
"""Diameters in pixels between small, medium and large defects."""
TITLE = "scoring synthetic defects"


@dataclass(frozen=True)
class Power:
    """Image scores of synthetic defects.

    Attributes:
        diameters: of the circles of equal area, in pixels of the images that the model sees.
        scores: image scores.
    """

    diameters: tuple[float, ...]
    scores: tuple[float, ...]

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
        return f"finds {self.found(threshold)} of {count} synthetic defects in held-back images ({sizes})"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return {"diameters": list(self.diameters), "scores": list(self.scores)}


def power_of(info: Mapping[str, Any]) -> Power | None:
    """The power that a model folder states; None for a folder without it."""
    stated = info.get("power")
    return Power(tuple(stated["diameters"]), tuple(stated["scores"])) if stated else None


def estimate_power(model: Model, held_back: Sequence[Tensor], progress: Progress) -> Power:
    """Add synthetic defects of many sizes and contrasts to good images, and score them.

    Args:
        model: fitted.
        held_back: good images (3,S,S) that the networks were not trained on.
        progress: called per batch.
    """
    images = torch.stack(list(held_back))
    count = min(MOST, PER_IMAGE * len(images))
    defective, masks = probes(images, count, Generator("cpu").manual_seed(SEED))
    areas = masks.flatten(1).sum(1).tolist()
    scores: list[float] = []
    with model.in_half():
        for batch in track(defective.split(BATCH), TITLE, progress):
            scores += model.predict_batch(batch).score.tolist()
    return Power(tuple(2 * math.sqrt(area / math.pi) for area in areas), tuple(scores))
