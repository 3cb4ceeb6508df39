"""The image gallery of a report: order of the images and the data shown for each."""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mendiff.report.contents import CategoryReport, ImageRow, Report
from mendiff.report.plots import ScoreAxis, score_axis

SHOWN = 24
"""Number of images shown in print and without JavaScript."""

VERDICTS = {
    "missed": "Missed",
    "false alarm": "False alarms",
    "flagged": "Flagged",
    "found": "Found",
    "passed": "Passed",
}
"""Verdicts, worst first, with the labels of their buttons."""


@dataclass(frozen=True)
class Entry:
    """An image of the gallery.

    Attributes:
        row: the image.
        category: index of its category in the report.
        category_name: name of its category.
        threshold: score threshold of its category.
        verdict: one of VERDICTS.
        score_at: position of its score on the category's score axis, 0 to 1.
        threshold_at: position of the threshold on the same axis.
    """

    row: ImageRow
    category: int
    category_name: str
    threshold: float
    verdict: str
    score_at: float
    threshold_at: float

    @property
    def margin(self) -> float:
        """Distance from the threshold as a share of the axis; negative below the threshold."""
        return self.score_at - self.threshold_at

    @property
    def pictures(self) -> dict[str, str]:
        """The pictures as data URLs."""
        found = self.row.pictures
        known = {"input": found.input, "reconstruction": found.reconstruction, "heat": found.heat}
        if found.contour is not None:
            known["contour"] = found.contour
        return {kind: data_url(data) for kind, data in known.items()}


def data_url(picture: bytes) -> str:
    """Encode a WebP file as a data URL."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def entries(report: Report) -> list[Entry]:
    """All images, worst errors first: missed defects far below the threshold, false alarms far above it."""
    found = [entry for place, one in enumerate(report.categories) for entry in _of_category(place, one)]
    ranks = {verdict: rank for rank, verdict in enumerate(VERDICTS)}

    def badness(entry: Entry) -> tuple[int, float, str, str]:
        margin = entry.margin if entry.verdict == "missed" else -entry.margin
        return ranks[entry.verdict], margin, entry.category_name, entry.row.name

    return sorted(found, key=badness)


def axis_of(category: CategoryReport) -> ScoreAxis:
    """The score axis of a category, used by its histogram and by the bar of every image."""
    return score_axis([row.score for row in category.images], category.threshold)


def _of_category(place: int, category: CategoryReport) -> Iterator[Entry]:
    axis = axis_of(category)
    threshold_at = axis.place(category.threshold)
    for row in category.images:
        verdict = row.verdict(category.threshold)
        score_at = axis.place(row.score)
        yield Entry(row, place, category.name, category.threshold, verdict, score_at, threshold_at)


def types_of(found: list[Entry]) -> dict[str, int]:
    """Number of images per label: good first, then the defect types by name."""
    counts = Counter(entry.row.label for entry in found if entry.row.label is not None)
    return {label: counts[label] for label in sorted(counts, key=lambda label: (label != "good", label))}
