"""What a report is made of: numbers that were computed elsewhere, and pictures small enough for a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

GOOD = "good"

Curve: TypeAlias = list[tuple[float, float]]


@dataclass(frozen=True)
class Pictures:
    """An image's pictures, all of one size, each as the bytes of a WebP file.

    Attributes:
        size: width and height in pixels.
        input: the image as tested.
        reconstruction: what a good part would have looked like.
        heat: the heat map over the input.
        contour: the true mask's outline on a transparent ground, to lie over any of the others; None where
            nothing is marked.
    """

    size: tuple[int, int]
    input: bytes
    reconstruction: bytes
    heat: bytes
    contour: bytes | None = None


@dataclass(frozen=True)
class ImageRow:
    """One tested image.

    label is `good`, the kind of defect, or None where it isn't known. p_value is the share of good images
    that score as high; stop_step the noise level, in steps, at which the method stopped, if it says.
    """

    name: str
    label: str | None
    score: float
    pictures: Pictures
    p_value: float | None = None
    stop_step: int | None = None

    @property
    def group(self) -> str:
        """good, defective or unlabelled."""
        if self.label is None:
            return "unlabelled"
        return GOOD if self.label == GOOD else "defective"

    def verdict(self, threshold: float) -> str:
        """Compare with the threshold: found, missed, false alarm, passed; without a label flagged or
        passed.
        """
        flagged = self.score > threshold
        if self.label is None:
            return "flagged" if flagged else "passed"
        if self.label == GOOD:
            return "false alarm" if flagged else "passed"
        return "found" if flagged else "missed"


@dataclass(frozen=True)
class Strip:
    """How a model came to its finding on one image.

    Attributes:
        name: of the image.
        title: why it is shown, in a few words.
        size: width and height in pixels.
        picture: the bytes of a WebP file.
    """

    name: str
    title: str
    size: tuple[int, int]
    picture: bytes


@dataclass(frozen=True)
class TypeRow:
    """The images of one label, good or a kind of defect: how many, how many above the threshold, the share of
    these (0 to 1), and the mean score.
    """

    type: str
    images: int
    flagged: int
    share: float
    mean_score: float


@dataclass(frozen=True)
class CategoryReport:
    """The images of one category, its score threshold and what was measured on it (empty without labels).

    curves holds what is defined of image_roc, image_pr, pixel_roc, pixel_pr and pro: points from left to
    right, both coordinates in 0..1. strips are of a few images, if any.
    """

    name: str
    threshold: float
    images: list[ImageRow]
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    types: list[TypeRow] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A report: metrics as `mendiff.evaluation.metrics.summary` gives them (or empty), model_info as shown
    lines.
    """

    title: str
    subtitle: str
    categories: list[CategoryReport]
    metrics: Mapping[str, Mapping] = field(default_factory=dict)
    model_info: Mapping[str, object] = field(default_factory=dict)
