"""Folders that mendiff wrote, told by a file at their top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mendiff.data.json_text import parse_json
from mendiff.errors import InputError

# By a file at its top and some of the names in it; --overwrite deletes nothing else.
MADE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("a model", "config.json", {"format": "mendiff"}),
    ("a codec", "config.json", {"format": "mendiff codec"}),
    ("tuned features", "config.json", {"format": "mendiff features"}),
    ("findings", "predictions.json", {"threshold": ..., "unreadable": ...}),
    ("explanations", "explain.json", {"models": ..., "images": ...}),
    ("a demo", "demo.json", {"mean": ..., "seconds": ...}),
    ("a run", "run.json", {"format": ...}),
    ("a tuned model", "tuning.json", {"changes": ..., "trials": ...}),
)
BENCHMARK = ("a benchmark", "results.json", {"results": ..., "figures": ...})
"""Not in MADE: a benchmark goes on in its folder and never replaces it."""


def made(folder: Path) -> str | None:
    """What mendiff wrote into a folder, by its name in MADE; None for a folder of others."""
    return _marked(folder, MADE)


def is_made(folder: Path) -> str | None:
    """Like made, with benchmarks: pictures in there are mendiff's own, and no images of parts."""
    return _marked(folder, (*MADE, BENCHMARK))


def _marked(folder: Path, marks: tuple[tuple[str, str, dict[str, Any]], ...]) -> str | None:
    for what, name, fields in marks:
        content = _content(folder / name)
        if all(key in content and value in (..., content[key]) for key, value in fields.items()):
            return what
    return None


def _content(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none that can be read."""
    try:
        return parse_json(path.read_bytes(), str(path)) if path.is_file() else {}
    except (OSError, InputError):
        return {}
