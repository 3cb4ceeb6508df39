"""`mendiff check`: what a data set holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mendiff.commands.common import Output, Terminal
from mendiff.commands.ending import one_line
from mendiff.data.reading import check_depth
from mendiff.evaluation.checks import check_data
from mendiff.evaluation.data import Category, read_data
from mendiff.evaluation.outliers import unlike_images
from mendiff.evaluation.samples import Finding, Use


def run(data: Path, layout: str, image_size: int, bit_depth: int, quiet: bool) -> dict[str, Any]:
    """Read and check a data set; `faults` in the result counts those that keep it from being used."""
    check_depth(bit_depth)
    terminal = Terminal(quiet, fleeting=True)
    categories, findings = read_data(data, layout)
    with terminal.bar("checking") as update:
        findings += check_data(categories, update, Use(image_size, bit_depth))
    findings += [finding for category in categories for finding in unlike_images(category)]
    faults = sum(finding.hard for finding in findings)
    rows = [_count(category) for category in categories]
    if not quiet:
        _show(data, rows, findings)
    return {
        "data": str(data),
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


def _show(data: Path, rows: Sequence[dict[str, Any]], findings: Sequence[Finding]) -> None:
    console = Output(highlight=False)
    table = Table(title=str(data), title_justify="left")
    for title in ("category", "layout", "train", "test good", "test defective", "masks"):
        table.add_column(
            title, justify="left" if title in ("category", "layout") else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(str, row.values()))
    if rows:
        console.print(table)
    for finding in findings:
        word, style = ("fault", "red") if finding.hard else ("warning", "yellow")
        console.print(f"{word}: {one_line(finding.sentence)}", style=style, soft_wrap=True, markup=False)
    faults = sum(finding.hard for finding in findings)
    console.print(f"faults: {faults}, warnings: {len(findings) - faults}", markup=False)
