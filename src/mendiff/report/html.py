"""The report as one HTML file with every picture inside: readable offline, on paper, in the light and in the
dark.
"""

import errno
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mendiff import __version__
from mendiff.data.disk import exchange, rename_new
from mendiff.data.images import check_writable, whole_file
from mendiff.errors import InputError
from mendiff.report.contents import CategoryReport, Report
from mendiff.report.gallery import SHOWN, VERDICTS, Entry, data_url, entries, types_of
from mendiff.report.plots import Figure, number, percent, plots

COLUMNS = {
    "image_auroc": "AUROC",
    "image_ap": "AP",
    "image_f1max": "F1 max",
    "pixel_auroc": "AUROC",
    "pixel_ap": "AP",
    "pixel_f1max": "F1 max",
    "aupro": "AUPRO",
    "aupro_005": "AUPRO .05",
    "dice": "Dice",
    "twin_psnr_inside": "PSNR inside",
    "twin_psnr_outside": "PSNR outside",
    "twin_features_inside": "Features inside",
    "twin_features_outside": "Features outside",
}
GROUPS = {"image": "Whole images", "pixel": "Pixels", "twin": "Against the clean twin"}
"""Titles of column groups by the first word of the metric's key; other words belong to "pixel"."""
MARK = b'<meta name="generator" content="mendiff report">'
FEW_CATEGORIES = 2
"""Up to this number of categories, all are shown unfolded."""


@dataclass(frozen=True)
class ColumnGroup:
    """A group of columns of the metrics table: title, index of the first column, number of columns."""

    title: str
    first: int
    columns: int


@dataclass(frozen=True)
class MetricRow:
    """A row of the metrics table: a category, a mean or a baseline.

    Attributes:
        name: text in the first column.
        place: index of the category in the report; None for other rows.
        kind: empty for a category, "over-all" or "control" for other rows.
        metrics: values by the keys of the table's columns.
        counts: number of images per verdict; None if unknown.
    """

    name: str
    place: int | None
    metrics: Mapping[str, float | None]
    counts: Mapping[str, int] | None
    kind: str = ""


@dataclass(frozen=True)
class CategoryView:
    """A category as shown: its index in the report, its plots and the number of images per verdict."""

    place: int
    category: CategoryReport
    counts: Mapping[str, int]
    plots: list[Figure]


def write_report(path: Path, report: Report) -> None:
    """Write the report atomically as one self-contained HTML file; see check_place."""
    check_place(path)
    # File names may hold bytes that are not valid text; they become question marks.
    page = render(report).encode("utf-8", "replace")
    for at in count(1):
        place = path if at == 1 else path.with_stem(f"{path.stem}-{at}")
        with suppress(FileExistsError):
            with whole_file(place, _put) as file:
                file.write(page)
            break
    if place != path:
        raise InputError(
            f"{path}: expected a free name or an earlier report, but another file was created there in the "
            f"meantime and was kept; the report is {place}."
        )


def _put(page: Path, place: Path) -> None:
    """Rename a page to a free name or over an earlier report, without overwriting any other file."""
    if not os.path.lexists(place):
        rename_new(page, place)
        return
    spare = page.with_suffix(".before")
    exchange(page, place, spare)  # the caller removes the file with the page's name
    if page.is_dir() or not _is_report(page):
        exchange(page, place, spare)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return MARK in file.read(1000)


def check_place(path: Path) -> None:
    """Refuse to overwrite anything but an earlier report."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a folder {path.parent} to write the report to; make it first.")
    check_writable(path)
    if not path.exists():
        return
    if path.is_dir():
        raise InputError(f"{path}: expected a file name for the report, got a folder; add /report.html.")
    if not _is_report(path):
        raise InputError(
            f"{path}: expected a new file or an earlier report of mendiff, got another kind of file; choose "
            "another name."
        )


def render(report: Report) -> str:
    """Render the page as HTML text."""
    found = entries(report)
    columns = _columns(report)
    views = [_category_view(one, place) for place, one in enumerate(report.categories)]
    return _template().render(
        report=report,
        version=__version__,
        columns=columns,
        groups=_groups(columns),
        table=_table(report, views),
        counts=sum((Counter(view.counts) for view in views), Counter()),
        views=views,
        unfolded=len(views) <= FEW_CATEGORIES,
        entries=found,
        shown=SHOWN,
        verdicts=VERDICTS,
        types=types_of(found),
        has_stop=any(entry.row.stop_step is not None for entry in found),
        has_p=any(entry.row.p_value is not None for entry in found),
        one_threshold=len({view.category.threshold for view in views}) == 1,
        cut=_cut(found),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("mendiff.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, metric=_metric, percent=percent, data_url=data_url)
    return environment.get_template("report.html.j2")


def _cut(found: list[Entry]) -> str:
    """The notice that not all images are shown; empty if all are."""
    if len(found) <= SHOWN:
        return ""
    return (
        f"{SHOWN} of {len(found)} images are shown, the worst errors first. With JavaScript this page shows "
        "all images and can sort and filter them."
    )


def _category_view(category: CategoryReport, place: int) -> CategoryView:
    counts = Counter(row.verdict(category.threshold) for row in category.images)
    counts.update(row.group for row in category.images)
    counts["all"] = len(category.images)
    drawn = plots(category, f"category-{place}-plot") if category.images else []
    return CategoryView(place, category, counts, drawn)


def _columns(report: Report) -> list[tuple[str, str]]:
    """(key, title) of all metrics that any category has, ordered by group."""
    keys = dict.fromkeys(key for one in report.categories for key in one.metrics)
    ordered = [key for key in COLUMNS if key in keys] + [key for key in keys if key not in COLUMNS]
    ordered.sort(key=lambda key: list(GROUPS).index(_group(key)))
    return [(key, COLUMNS.get(key, key.replace("_", " "))) for key in ordered]


def _group(key: str) -> str:
    word = key.partition("_")[0]
    return word if word in GROUPS else "pixel"


def _groups(columns: list[tuple[str, str]]) -> list[ColumnGroup]:
    """The non-empty groups of columns, from left to right."""
    counts = Counter(_group(key) for key, _ in columns)
    found, first = [], 0
    for word, title in GROUPS.items():
        if counts[word]:
            found.append(ColumnGroup(title, first, counts[word]))
            first += counts[word]
    return found


def _table(report: Report, views: list[CategoryView]) -> list[MetricRow]:
    """Rows of the metrics table. Means over categories are shown only if there are several categories."""
    rows = [MetricRow(view.category.name, view.place, view.category.metrics, view.counts) for view in views]
    if len(views) > 1:
        total: Counter = sum((Counter(view.counts) for view in views), Counter())
        over_all = {"mean": "Mean of categories", "pooled": "All images pooled"}
        for key, name in over_all.items():
            if key in report.metrics:
                rows.append(
                    MetricRow(name, None, report.metrics[key], total if key == "mean" else None, "over-all")
                )
    for name, result in report.metrics.get("controls", {}).items():
        rows.append(MetricRow(f"Baseline: {name}", None, result.get("mean", {}), None, "control"))
    return rows


def _metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
