"""Recognises folders that mendiff wrote, by a JSON file in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mendiff.data.json_text import parse_json
from mendiff.errors import InputError

# Name of the output, its file, and fields of the file. --overwrite deletes only such folders.
MADE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("a model", "config.json", {"format": "mendiff"}),
    ("a codec", "config.json", {"format": "mendiff codec"}),
    ("tuned features", "config.json", {"format": "mendiff features"}),
    ("findings", "predictions.json", {"threshold": ..., "unreadable": ...}),
    ("explanations", "explain.json", {"models": ..., "images": ...}),
    ("a check", "check.json", {"faults": ..., "findings": ...}),
    ("a demo", "demo.json", {"mean": ..., "seconds": ...}),
    ("a run", "run.json", {"format": ...}),
    ("a tuned model", "tuning.json", {"changes": ..., "trials": ...}),
    ("a distilled model", "distillation.json", {"start_timestep": ..., "rows": ...}),
)
BENCHMARK = ("a benchmark", "results.json", {"results": ..., "figures": ...})
"""Not in MADE: a benchmark continues in its folder and never replaces it."""


def output_kind(folder: Path) -> str | None:
    """The name in MADE of the output in a folder; None for other folders."""
    return _marked(folder, MADE)


def any_output_kind(folder: Path) -> str | None:
    """Like output_kind, including benchmarks; images in such folders are not images of parts."""
    return _marked(folder, (*MADE, BENCHMARK))


def _marked(folder: Path, marks: tuple[tuple[str, str, dict[str, Any]], ...]) -> str | None:
    for what, name, fields in marks:
        content = _content(folder / name)
        if all(key in content and value in (..., content[key]) for key, value in fields.items()):
            return what
    return None


def _content(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it can't be read."""
    try:
        return parse_json(path.read_bytes(), str(path)) if path.is_file() else {}
    except (OSError, InputError):
        return {}
