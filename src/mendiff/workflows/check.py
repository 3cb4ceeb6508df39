"""`mendiff check`: contents and faults of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mendiff.data.checks import check_data
from mendiff.data.dataset import Category, read_data
from mendiff.data.outliers import unlike_images
from mendiff.data.reading import check_depth
from mendiff.data.samples import Finding, Use
from mendiff.runs.reporting import Reporter, Table
from mendiff.workflows.options import CheckOptions


def run(options: CheckOptions, reporter: Reporter) -> dict[str, Any]:
    """Read and check a data set; `faults` in the result counts the findings that prevent its use."""
    check_depth(options.bit_depth)
    reporter = reporter.brief()
    categories, findings = read_data(options.data, options.layout)
    with reporter.bar("checking") as update:
        findings += check_data(categories, update, Use(options.image_size, options.bit_depth))
    findings += [finding for category in categories for finding in unlike_images(category)]
    faults = sum(finding.hard for finding in findings)
    rows = [_count(category) for category in categories]
    _show(options.data, rows, findings, reporter)
    return {
        "data": str(options.data),
        "faults": faults,
        "warnings": len(findings) - faults,
        "categories": rows,
        "findings": [
            {
                "kind": finding.kind,
                "hard": finding.hard,
                "sentence": finding.sentence,
                "paths": [str(path) for path in finding.paths],
            }
            for finding in findings
        ],
    }


def _count(category: Category) -> dict[str, Any]:
    defective = [sample for sample in category.test if not sample.is_good]
    return {
        "name": category.name,
        "layout": category.layout,
        "train": len(category.train),
        "test_good": len(category.test) - len(defective),
        "test_defective": len(defective),
        "masks": sum(sample.mask_path is not None and sample.mask_path.is_file() for sample in defective),
    }


def _show(
    data: Path, rows: Sequence[dict[str, Any]], findings: Sequence[Finding], reporter: Reporter
) -> None:
    titles = ["category", "layout", "train", "test good", "test defective", "masks"]
    table = Table(str(data), titles, words=(0, 1))
    for row in rows:
        table.add(*map(str, row.values()))
    if rows:
        reporter.table(table)
    for finding in findings:
        word, style = ("fault", "red") if finding.hard else ("warning", "yellow")
        reporter.result(f"{word}: {finding.sentence}", style)
    faults = sum(finding.hard for finding in findings)
    reporter.result(f"faults: {faults}, warnings: {len(findings) - faults}")
