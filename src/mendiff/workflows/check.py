"""`mendiff check`: contents and faults of a data set, and good images that differ from all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mendiff.data.checks import check_data
from mendiff.data.dataset import Category, read_data
from mendiff.data.disk import short_name
from mendiff.data.images import save_png, write_bytes
from mendiff.data.json_text import as_json
from mendiff.data.outliers import STANDING_OUT
from mendiff.data.reading import Picture, Reading, read_image
from mendiff.data.samples import Finding, Use
from mendiff.report.contact_sheet import SIDE, Entry, contact_sheet
from mendiff.runs.odd_images import Odd, odd_images, odd_notes
from mendiff.runs.places import Place, check_output, new_folder
from mendiff.runs.reporting import Reporter, Table
from mendiff.workflows.options import CheckOptions
from mendiff.workflows.results import CHECK_TITLES

MOST_SHOWN = 12
TITLE = "{}: good images that differ most, with their distance in standard deviations; {}"
FRAMED, NONE = "check the framed ones", "none stands out"


def run(options: CheckOptions, reporter: Reporter) -> dict[str, Any]:
    """Read and check a data set; `faults` in the result counts the findings that prevent its use."""
    reading = Reading(options.bit_depth, tuple(options.channels or ()))
    place = None if options.out is None else check_output(options.out, options.overwrite, "a check")
    reporter = reporter.brief()
    categories, findings = read_data(options.data, options.layout)
    with reporter.bar("checking: images") as update:
        findings += check_data(categories, update, Use(options.image_size, reading))
    odd: dict[str, list[Odd]] = {}
    for category in categories:
        with reporter.bar(f"comparing good images of {category.name}") as update:
            odd[category.name] = odd_images(category, reading, update)
        findings += odd_notes(category, odd[category.name], reading)
    faults = sum(finding.hard for finding in findings)
    rows = [_count(category) for category in categories]
    _show(options.data, rows, findings, reporter)
    result = {
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
    if place is not None:
        _write(place, result, odd, findings, reading)
        reporter.say(f"pictures of the most different good images: {options.out}")
    return result


def _write(
    place: Place,
    result: dict[str, Any],
    odd: Mapping[str, Sequence[Odd]],
    findings: Sequence[Finding],
    reading: Reading,
) -> None:
    """Write the result as JSON, and for every category a sheet of the good images that differ most."""
    named = {path for finding in findings if finding.kind == STANDING_OUT for path in finding.paths}
    with new_folder(place) as draft:
        draft.mkdir(exist_ok=True)
        for name, some in odd.items():
            if not some:
                continue
            shown = sorted(some, key=lambda one: (one.path not in named, -one.distance))[:MOST_SHOWN]
            entries = [
                Entry(
                    _thumbnail(read_image(one.path, reading)),
                    f"{one.path.name}: {one.distance:.1f}",
                    one.path in named,
                )
                for one in shown
            ]
            title = TITLE.format(name, FRAMED if any(one.path in named for one in shown) else NONE)
            save_png(contact_sheet(title, entries), draft / f"{short_name(name)}.png")
        write_bytes(draft / "check.json", as_json(result, "check.json", indent=1).encode())


def _thumbnail(picture: Picture) -> Picture:
    """A picture of about SIDE pixels."""
    step = max(1, max(picture.shape) // (4 * SIDE))  # so that large pictures are not copied
    image = Image.fromarray(np.ascontiguousarray(picture[::step, ::step]))
    return np.asarray(ImageOps.contain(image, (SIDE, SIDE)))


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
    table = Table(str(data), CHECK_TITLES, words=(0, 1))
    for row in rows:
        table.add(*map(str, row.values()))
    if rows:
        reporter.table(table)
    for finding in findings:
        word, style = ("fault", "red") if finding.hard else ("warning", "yellow")
        reporter.result(f"{word}: {finding.sentence}", style)
    faults = sum(finding.hard for finding in findings)
    reporter.result(f"faults: {faults}, warnings: {len(findings) - faults}")
