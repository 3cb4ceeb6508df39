"""Shared by several commands: choice of device and categories, checks, metric tables."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mendiff.data.checks import UNREADABLE, Take, check_data
from mendiff.data.dataset import GOOD, Category
from mendiff.data.names import same_name
from mendiff.data.reading import Reading, brightest, read_header
from mendiff.data.samples import Use
from mendiff.data.suitability import dark_sentence
from mendiff.errors import InputError, check_choice
from mendiff.evaluation.metrics import SPRO
from mendiff.runs.reporting import Reporter, Table

METRIC_TITLES = {
    "image_auroc": "image\nAUROC",
    "image_ap": "image\nAP",
    "image_f1max": "image\nF1max",
    "pixel_auroc": "pixel\nAUROC",
    "pixel_ap": "pixel\nAP",
    "pixel_f1max": "pixel\nF1max",
    "aupro": "\nAUPRO",
}
MOST_WARNINGS = 5
"""Most warnings of the same kind that a command prints; `mendiff check` prints all."""
FIRST_DEEP = 8
"""Number of 16-bit images whose values `predict` checks before it starts."""


def choose_device(name: str) -> str:
    """The device by torch's name; "auto" prefers CUDA, then Apple's MPS, then the CPU."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    available = [*(["cuda"] * cuda), *(["mps"] * mps), "cpu"]
    if name == "auto":
        return available[0]
    refusal = InputError(
        f"--device: expected auto or a device of this machine ({', '.join(available)}), got {name!r}."
    )
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise refusal
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise refusal from error
    return name


def choose_categories(categories: list[Category], wanted: Sequence[str] | None) -> list[Category]:
    """The categories named in `wanted`; all for None, an empty list, or "all"."""
    if not wanted or list(wanted) == ["all"]:
        return categories
    by_name = {same_name(category.name): category for category in categories}
    names = [same_name(name) for name in wanted]
    for name in names:
        check_choice("--categories", name, by_name)
    return [by_name[name] for name in names]


def readable_categories(
    categories: Sequence[Category], reporter: Reporter, use: Use | None = None, take: Take | None = None
) -> list[Category]:
    """The categories without unreadable images; other faults raise InputError or are warnings.

    Args:
        categories: from `open_data`.
        reporter: for warnings.
        use: image size and bit depth of the model, if known.
        take: see check_data.
    """
    with reporter.brief().bar("checking: images") as update:
        findings = check_data(categories, update, use, take)
    hard = [finding for finding in findings if finding.hard]
    if hard:
        more = f" {len(hard) - 1} more: see 'mendiff check'." if len(hard) > 1 else ""
        raise InputError(hard[0].sentence + more)
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.kind] += 1
        if counts[finding.kind] <= MOST_WARNINGS:
            reporter.warn(finding.sentence)
    for kind, count in counts.items():
        if count > MOST_WARNINGS:
            reporter.warn(f"{count - MOST_WARNINGS} more of this kind ({kind}): see 'mendiff check'.")
    unreadable = {path for finding in findings if finding.kind == UNREADABLE for path in finding.paths}
    return [
        dataclasses.replace(
            category,
            train=tuple(path for path in category.train if path not in unreadable),
            test=tuple(sample for sample in category.test if sample.path not in unreadable),
        )
        for category in categories
    ]


def warn_of_dark_images(paths: Sequence[Path], reading: Reading, reporter: Reporter) -> None:
    """Warn of 16-bit images that are nearly black to a model; only the first FIRST_DEEP are checked."""
    deep: list[Path] = []
    for path in paths if not reading.bit_depth else ():
        try:
            deep += [path] if read_header(path).deep else []
        except InputError:
            continue  # reported when the image is read
        if len(deep) == FIRST_DEEP:
            break
    highest = [value for path in deep if (value := _brightest(path, reading)) is not None]
    sentence = dark_sentence(max(highest, default=-1))
    if sentence:
        reporter.warn(f"{paths[0].parent}: images {sentence}")


def _brightest(path: Path, reading: Reading) -> int | None:
    try:
        return brightest(path, reading)
    except InputError:
        return None


def metrics_table(summary: dict[str, Any], title: str, first: str = "category") -> Table:
    """Table of the metrics of every category, their mean, and the metrics of all images pooled.

    Args:
        summary: from `mendiff.evaluation.metrics`.
        title: of the table.
        first: title of the first column.
    """
    # Names of up to 20 letters fit into 80 columns.
    longest = max((len(name) for name in summary["categories"]), default=0)
    titles = METRIC_TITLES
    if any(SPRO in metrics for metrics in summary["categories"].values()):
        titles = {**METRIC_TITLES, SPRO: "AU-\nsPRO"}
    most = 20 - 9 * (len(titles) - len(METRIC_TITLES))
    table = Table(title, [first, *titles.values()], narrowest=min(max(longest, 8), most))
    rows: Iterable[tuple[str, dict[str, Any]]] = summary["categories"].items()
    if len(summary["categories"]) > 1:
        rows = [*rows, ("mean", summary["mean"])]
    if "pooled" in summary:
        rows = [*rows, ("pooled", summary["pooled"])]
    for name, metrics in rows:
        cells = (metrics.get(key) for key in titles)
        shown = ("n/a" if value is None else f"{value:.3f}" for value in cells)
        table.add(name, *shown, section=name == "mean")
    return table


def threshold_table(cuts: Mapping[str, Mapping[str, Any]]) -> Table:
    """Table of precision, recall, false-alarm rate and detected defects by type, at the threshold."""
    titles = ["category", "threshold", "precision", "recall", "false\nalarms", "detected by type"]
    table = Table("at the threshold from good images", titles, words=(0, 5))
    for name, cut in cuts.items():
        shares = (cut[key] for key in ("precision", "recall", "false_alarm_rate"))
        defects = [row for row in cut["types"] if row["type"] != GOOD]
        kinds = [f"{row['type']} {row['flagged']}/{row['images']}" for row in defects]
        cells = ("n/a" if value is None else f"{value:.3f}" for value in shares)
        table.add(name, f"{cut['threshold']:.4g}", *cells, ", ".join(kinds))
    return table
