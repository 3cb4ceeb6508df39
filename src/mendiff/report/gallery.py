"""The images of a report in the order in which they are shown, with what the page needs of each."""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mendiff.report.contents import CategoryReport, ImageRow, Report
from mendiff.report.plots import ScoreAxis, score_axis

SHOWN = 24
"""So many images are shown on paper and without JavaScript."""

VERDICTS = {
    "missed": "Missed",
    "false alarm": "False alarms",
    "flagged": "Flagged",
    "found": "Found",
    "passed": "Passed",
}
"""Worst first, with the words of their buttons."""


@dataclass(frozen=True)
class Entry:
    """One image of the gallery.

    Attributes:
        row: the image.
        category: its category's place in the report.
        category_name: and name.
        threshold: its category's.
        verdict: one of VERDICTS.
        score_at: where its score lies on its category's axis, 0 to 1.
        threshold_at: where the threshold lies there.
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
        """How far above the threshold, in shares of the axis; below it, negative."""
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
    """A WebP file as a URL that holds it."""
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def entries(report: Report) -> list[Entry]:
    """All images, the worst errors first: missed ones far below the threshold, false alarms far above it."""
    found = [entry for place, one in enumerate(report.categories) for entry in _of_category(place, one)]
    ranks = {verdict: rank for rank, verdict in enumerate(VERDICTS)}

    def badness(entry: Entry) -> tuple[int, float, str, str]:
        margin = entry.margin if entry.verdict == "missed" else -entry.margin
        return ranks[entry.verdict], margin, entry.category_name, entry.row.name

    return sorted(found, key=badness)


def axis_of(category: CategoryReport) -> ScoreAxis:
    """The axis of a category's scores, for its histogram and for every image's bar."""
    return score_axis([row.score for row in category.images], category.threshold)


def _of_category(place: int, category: CategoryReport) -> Iterator[Entry]:
    axis = axis_of(category)
    threshold_at = axis.place(category.threshold)
    for row in category.images:
        verdict = row.verdict(category.threshold)
        score_at = axis.place(row.score)
        yield Entry(row, place, category.name, category.threshold, verdict, score_at, threshold_at)


def types_of(found: list[Entry]) -> dict[str, int]:
    """How many images there are of every label; good first, then the kinds of defects by name."""
    counts = Counter(entry.row.label for entry in found if entry.row.label is not None)
    return {label: counts[label] for label in sorted(counts, key=lambda one: (one != "good", one))}
