"""The report: one HTML file with every picture inside, readable offline, on paper, in the light and in the
dark.
"""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from mendiff.images import Mask, Picture, draw_contour, encode, overlay, write_bytes

LONGEST_SIDE = 320
BINS = 28

COLUMNS = {
    "image_auroc": "AUROC",
    "image_ap": "AP",
    "image_f1max": "F1 max",
    "pixel_auroc": "AUROC",
    "pixel_ap": "AP",
    "pixel_f1max": "F1 max",
    "aupro": "AUPRO",
}


@dataclass(frozen=True)
class ImageRow:
    """One tested image: what is known about it and its pictures.

    label is `good`, the kind of defect, or None where it isn't known. image and reconstruction are (H,W,3)
    uint8, heat (H,W) in [0,1] with 0.5 = the threshold (`mendiff.images.normalise_heat`), mask (H,W) bool or
    None; the sizes may differ, the image's aspect ratio is the one shown. p_value is the share of good images
    that score as high.
    """

    name: str
    label: str | None
    score: float
    image: Picture
    reconstruction: Picture
    heat: npt.NDArray[np.floating]
    mask: Mask | None = None
    p_value: float | None = None
    stop_step: int | None = None

    def verdict(self, threshold: float) -> str:
        """Compare with the threshold: found, missed, false alarm, passed; without a label flagged or
        passed.
        """
        flagged = self.score > threshold
        if self.label is None:
            return "flagged" if flagged else "passed"
        if self.label == "good":
            return "false alarm" if flagged else "passed"
        return "found" if flagged else "missed"


@dataclass(frozen=True)
class CategoryReport:
    """The images of one category, its score threshold and its metrics (empty where nothing is labelled)."""

    name: str
    threshold: float
    images: list[ImageRow]
    metrics: Mapping[str, float | None] = field(default_factory=dict)


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


def write_report(path: Path, report: Report) -> None:
    """Write the report as one self-contained HTML file, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("mendiff.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["metric"] = _metric
    verdicts = Counter(row.verdict(c.threshold) for c in report.categories for row in c.images)
    labels = Counter("good" if row.label == "good" else "defective" for row in _labelled(report.categories))
    html = environment.get_template("report.html.j2").render(
        report=report,
        columns=COLUMNS,
        counts={
            "all": verdicts.total(),
            "missed": verdicts["missed"],
            "false alarm": verdicts["false alarm"],
            "defective": labels["defective"],
            "good": labels["good"],
        },
        categories=[_category_view(c) for c in report.categories],
        has_stop=any(row.stop_step is not None for c in report.categories for row in c.images),
        has_p=any(row.p_value is not None for c in report.categories for row in c.images),
    )
    write_bytes(path, html.encode())


def _labelled(categories: Iterable[CategoryReport]) -> list[ImageRow]:
    return [row for c in categories for row in c.images if row.label is not None]


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


# ---- one category ------------------------------------------------------------------------------------


def _category_view(category: CategoryReport) -> dict:
    scores = np.array([row.score for row in category.images] or [0.0])
    low = min(0.0, float(scores.min()))
    high = max(float(scores.max()), category.threshold)
    span = (high - low) * 1.04 or 1.0
    ordered = sorted(category.images, key=lambda row: (-row.score, row.name))
    return {
        "name": category.name,
        "threshold": category.threshold,
        "metrics": {key: category.metrics.get(key) for key in COLUMNS},
        "threshold_at": (category.threshold - low) / span,
        "verdicts": Counter(row.verdict(category.threshold) for row in category.images),
        "labels": Counter(_group(row) for row in category.images),
        "bars": _histogram(category.images, low, span),
        "low": low,
        "high": low + span,
        "rows": [_row_view(row, category.threshold, low, span) for row in ordered],
    }


def _group(row: ImageRow) -> str:
    if row.label is None:
        return "unlabelled"
    return "good" if row.label == "good" else "defective"


def _histogram(rows: list[ImageRow], low: float, span: float) -> list[dict]:
    """Stack the groups in `BINS` bins; bars with x, y, width and height as shares of the plot."""
    counts = {}
    for group in ("good", "defective", "unlabelled"):
        scores = [row.score for row in rows if _group(row) == group]
        counts[group] = np.histogram(scores, bins=BINS, range=(low, low + span))[0]
    tallest = max(int(np.sum(list(counts.values()), axis=0).max()), 1)
    bars = []
    for i in range(BINS):
        base = 0
        for group, values in counts.items():
            if n := int(values[i]):
                base += n
                bars.append(
                    {
                        "group": group,
                        "count": n,
                        "x": i / BINS,
                        "y": 1 - base / tallest,
                        "width": 1 / BINS,
                        "height": n / tallest,
                        "from": low + span * i / BINS,
                        "to": low + span * (i + 1) / BINS,
                    }
                )
    return bars


# ---- one image ---------------------------------------------------------------------------------------


def _row_view(row: ImageRow, threshold: float, low: float, span: float) -> dict:
    size = _shown_size(row.image)
    image = _fit(row.image, size)
    heat = np.asarray(Image.fromarray(row.heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    pictures = [
        ("input", f"{row.name}, input", image),
        ("mended", f"{row.name}, mended by the model", _fit(row.reconstruction, size)),
        ("difference", f"{row.name}, where the model sees a defect", overlay(image, heat)),
    ]
    if row.mask is not None and row.mask.any():
        mask = np.asarray(Image.fromarray(row.mask).resize(size, Image.Resampling.NEAREST))
        marked = draw_contour(image, mask)
        pictures.append(("marked", f"{row.name}, the defect as marked in the data", marked))
    return {
        "row": row,
        "group": _group(row),
        "verdict": row.verdict(threshold),
        "score_at": (row.score - low) / span,
        "size": size,
        "pictures": [{"caption": c, "alt": alt, "url": _data_url(picture)} for c, alt, picture in pictures],
    }


def _shown_size(picture: Picture) -> tuple[int, int]:
    height, width = picture.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _fit(picture: Picture, size: tuple[int, int]) -> Picture:
    if (picture.shape[1], picture.shape[0]) == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _data_url(picture: Picture) -> str:
    data = encode(picture, "WEBP", quality=82, method=3)
    return "data:image/webp;base64," + base64.b64encode(data).decode()
