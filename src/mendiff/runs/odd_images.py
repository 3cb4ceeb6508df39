"""Finds good images that differ from all others of their category, such as a defect among them.

The bundled features describe positions of an image. The distance of a position is that to the nearest
position in any other image (leave-one-out; PatchCore, Roth et al. 2022). The distance of an image is the mean
over its farthest positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mendiff.checkpoints.bundled import open_features
from mendiff.data.images import resize
from mendiff.data.outliers import FEWEST, STANDING_OUT, unlike_images
from mendiff.data.reading import AS_STORED, Reading, read_image
from mendiff.data.samples import Category, Finding
from mendiff.errors import InputError
from mendiff.nets.features import STAGES
from mendiff.scoring.bank import embedded
from mendiff.scoring.odd_images import MOST_KNOWN, Positions, above_median, farthest, is_far

SIDE = 160
"""Image side in pixels; at 320 no more planted defects were found on real sets."""
FAR = 4.0
"""Robust standard deviations above the median from which an image is named; more for few images."""


@dataclass(frozen=True)
class Odd:
    """A good image and how far it is from all others.

    Attributes:
        path: of the image.
        distance: of its log distance to the median, in robust standard deviations.
        far: whether it is an outlier.
    """

    path: Path
    distance: float
    far: bool


def odd_images(
    category: Category, reading: Reading = AS_STORED, update: Callable[[int, int, str], None] | None = None
) -> list[Odd]:
    """All readable good images of training and test, the most different first; none among fewer than FEWEST.

    Args:
        category: has good images.
        reading: of the files.
        update: called with (done, total, note).
    """
    paths = list(dict.fromkeys(category.good))
    if len(paths) < FEWEST:
        return []
    described = Described(reading)
    chosen = torch.linspace(0, len(paths) - 1, min(len(paths), MOST_KNOWN)).round().long().tolist()
    known = {index: vectors for index in chosen if (vectors := described(paths[index])) is not None}
    if len(known) < FEWEST:
        return []
    positions = Positions(known)
    found: list[tuple[Path, float]] = []
    for index, path in enumerate(paths):
        vectors = known.get(index) if index in known else described(path)
        if vectors is not None:
            found.append((path, farthest(positions.distances(vectors, index))))
        if update is not None:
            update(index + 1, len(paths), "")
    return ranked(found)


def odd_notes(category: Category, odd: Sequence[Odd], reading: Reading = AS_STORED) -> list[Finding]:
    """A warning for every outlier, by features (see odd_images) or by colours and contrasts."""
    notes = [
        Finding(
            STANDING_OUT,
            False,
            f"{one.path}: differs from the other good images of {category.name} (the distance of its "
            f"features to theirs is {one.distance:.1f} standard deviations above the median); check that it "
            "is good.",
            (one.path,),
        )
        for one in odd
        if one.far
    ]
    named = {one.path for one in odd if one.far}
    return notes + [note for note in unlike_images(category, reading) if not named.intersection(note.paths)]


class Described:
    """Describes files by the bundled features: vectors of unit length, (P,D); None if one can't be read."""

    def __init__(self, reading: Reading) -> None:
        self._features, self._reading = open_features(STAGES), reading

    @torch.no_grad()
    def __call__(self, path: Path) -> Tensor | None:
        try:
            image = resize(read_image(path, self._reading), SIDE)[None]
        except InputError:
            return None  # reported by check_data
        return embedded(self._features(image), (SIDE, SIDE))[0].flatten(1).T


def ranked(found: Sequence[tuple[Path, float]]) -> list[Odd]:
    """Images with their distances (see Positions), the most different first."""
    deviations = above_median([distance for _, distance in found])
    far = is_far(deviations, FAR).tolist()
    odd = [Odd(path, *one) for (path, _), *one in zip(found, deviations.tolist(), far, strict=True)]
    return sorted(odd, key=lambda one: -one.distance)
