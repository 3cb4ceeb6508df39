"""`mendiff export`: write a model as a graph that runs without torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mendiff.checkpoints.store import load
from mendiff.data.image_files import find_images
from mendiff.errors import InputError, check_choice
from mendiff.export.folder import PRECISIONS, RUNTIMES, export_model
from mendiff.export.int8 import Int8Loss
from mendiff.runs.reporting import Reporter
from mendiff.workflows.options import ExportOptions


def run(options: ExportOptions, reporter: Reporter) -> dict[str, Any]:
    """Export a model folder and state how far the graph is from the model."""
    check_choice("--to", options.to, RUNTIMES)
    check_choice("--precision", options.precision, PRECISIONS)
    good = _good_images(options)
    if options.out.exists():
        raise InputError(
            f"{options.out}: expected a new folder, but it exists; remove it or choose another name."
        )
    model = load(options.model, category=options.category)
    found = export_model(model, options.out, options.to, options.precision, good, options.max_loss)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    reporter.say(
        f"exported {model.name} for {options.to} in {options.precision}, {size / 1e6:.1f} MB; on generated "
        f"images its scores differ from the model's by {found.score:.1g} of their value; see {options.out}"
    )
    if found.int8 is not None:
        reporter.say(_told(found.int8))
    return {
        "method": model.name,
        "to": options.to,
        "precision": options.precision,
        "bytes": size,
        "score_difference": found.score,
        "map_difference": found.anomaly_map,
        "int8": found.int8 and asdict(found.int8),
        "out": str(options.out),
    }


def _good_images(options: ExportOptions) -> list[Path]:
    """The good images for int8, none for other precisions."""
    if (options.precision == "int8") != (options.calibrate is not None):
        raise InputError(
            f"--calibrate: expected a folder of good images for --precision int8 alone, got "
            f"{options.calibrate or 'none'} for {options.precision}."
        )
    return find_images(options.calibrate) if options.calibrate else []


def _told(loss: Int8Loss) -> str:
    total = loss.images + loss.defects
    return (
        f"int8: image AUROC {loss.auroc:.3f} instead of {loss.auroc_float:.3f}, on {loss.defects} synthetic "
        f"defects in {loss.images} good images that did not calibrate; scores differ by {loss.change:.2g} of "
        f"the distance from the median good score to the threshold (root mean square), {loss.decisions} of "
        f"{total} decisions differ"
    )
