"""Contents of a report: precomputed numbers, and pictures small enough for a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

GOOD = "good"

Curve: TypeAlias = list[tuple[float, float]]


@dataclass(frozen=True)
class Pictures:
    """The pictures of an image, all of the same size, each as the bytes of a WebP file.

    Attributes:
        size: width and height in pixels.
        input: the tested image.
        reconstruction: the image without its defect, as the model reconstructs it.
        heat: the anomaly map, drawn over the input.
        contour: outline of the true mask on a transparent background, to overlay on the other pictures; None
            without a mask or for an empty mask.
    """

    size: tuple[int, int]
    input: bytes
    reconstruction: bytes
    heat: bytes
    contour: bytes | None = None


@dataclass(frozen=True)
class ImageRow:
    """A tested image.

    label is `good`, the defect type, or None if unknown. p_value is the share of good images with a score at
    least as high. stop_step is the timestep at which the method stopped, if the method reports it.
    """

    name: str
    label: str | None
    score: float
    pictures: Pictures
    p_value: float | None = None
    stop_step: int | None = None

    @property
    def group(self) -> str:
        """Class of the image: good, defective or unlabelled."""
        if self.label is None:
            return "unlabelled"
        return GOOD if self.label == GOOD else "defective"

    def verdict(self, threshold: float) -> str:
        """Compare the score with the threshold: found, missed, false alarm or passed; flagged or passed
        without a label.
        """
        flagged = self.score > threshold
        if self.label is None:
            return "flagged" if flagged else "passed"
        if self.label == GOOD:
            return "false alarm" if flagged else "passed"
        return "found" if flagged else "missed"


@dataclass(frozen=True)
class Strip:
    """The intermediate results of a prediction for an image, as one picture.

    Attributes:
        name: name of the image.
        title: short reason for showing it.
        size: width and height in pixels.
        picture: the bytes of a WebP file.
    """

    name: str
    title: str
    size: tuple[int, int]
    picture: bytes


@dataclass(frozen=True)
class TypeRow:
    """Statistics of the images of a label (good or a defect type): number of images, number and share (0 to
    1) above the threshold, and mean score.
    """

    type: str
    images: int
    flagged: int
    share: float
    mean_score: float


@dataclass(frozen=True)
class CategoryReport:
    """The images of a category, its score threshold and its metrics (empty without labels).

    curves holds the defined ones of image_roc, image_pr, pixel_roc, pixel_pr and pro: points from left to
    right, both coordinates in 0..1. strips show the intermediate results of a few images.
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
    """A report. metrics come from `mendiff.evaluation.metrics.summary` (may be empty); model_info is shown as
    lines.
    """

    title: str
    subtitle: str
    categories: list[CategoryReport]
    metrics: Mapping[str, Mapping] = field(default_factory=dict)
    model_info: Mapping[str, object] = field(default_factory=dict)
