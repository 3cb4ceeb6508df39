"""`mendiff report`: one HTML page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mendiff.commands.common import Terminal
from mendiff.report.html import write_report
from mendiff.report.run import read_run

PAGE = "report.html"


def run(run: Path, out: Path | None, quiet: bool) -> dict[str, Any]:
    """Write the page of a run folder to `out`, or into the folder."""
    terminal = Terminal(quiet)
    content = read_run(run)
    place = out or run / PAGE
    write_report(place, content)
    images = sum(len(category.images) for category in content.categories)
    size = place.stat().st_size
    terminal.say(f"report: {place} ({images} images, {size / 1e6:.1f} MB)")
    return {"report": str(place), "images": images, "bytes": size}
