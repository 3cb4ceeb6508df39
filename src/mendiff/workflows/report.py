"""`mendiff report`: an HTML report of a run."""

from __future__ import annotations

from typing import Any

from mendiff.report.html import write_report
from mendiff.report.run import read_run
from mendiff.runs.reporting import Reporter
from mendiff.workflows.options import ReportOptions

PAGE = "report.html"


def run(options: ReportOptions, reporter: Reporter) -> dict[str, Any]:
    """Write the report of a run folder to `out`, or into the folder."""
    content = read_run(options.run)
    place = options.out or options.run / PAGE
    write_report(place, content)
    images = sum(len(category.images) for category in content.categories)
    size = place.stat().st_size
    reporter.say(f"report: {place} ({images} images, {size / 1e6:.1f} MB)")
    return {"report": str(place), "images": images, "bytes": size}
