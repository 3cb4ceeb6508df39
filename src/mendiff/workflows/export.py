"""`mendiff export`: write a model as a graph that runs without torch."""

from __future__ import annotations

from typing import Any

from mendiff.checkpoints.store import load
from mendiff.errors import InputError, check_choice
from mendiff.export.folder import PRECISIONS, RUNTIMES, export_model
from mendiff.runs.reporting import Reporter
from mendiff.workflows.options import ExportOptions

INT8 = "int8 is not supported yet"


def run(options: ExportOptions, reporter: Reporter) -> dict[str, Any]:
    """Export a model folder and state how far the graph is from the model."""
    check_choice("--to", options.to, RUNTIMES)
    if options.precision == "int8":
        raise InputError(f"--precision: expected one of {', '.join(PRECISIONS)}, got 'int8'; {INT8}.")
    check_choice("--precision", options.precision, PRECISIONS)
    if options.out.exists():
        raise InputError(
            f"{options.out}: expected a new folder, but it exists; remove it or choose another name."
        )
    model = load(options.model, category=options.category)
    found = export_model(model, options.out, options.to, options.precision)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    reporter.say(
        f"exported {model.name} for {options.to} in {options.precision}, {size / 1e6:.1f} MB; on generated "
        f"images its scores differ from the model's by {found.score:.1g} of their value; see {options.out}"
    )
    return {
        "method": model.name,
        "to": options.to,
        "precision": options.precision,
        "bytes": size,
        "score_difference": found.score,
        "map_difference": found.anomaly_map,
        "out": str(options.out),
    }
