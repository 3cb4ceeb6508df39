"""`mendiff info`: what a model folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mendiff.checkpoints.store import categories_of, load
from mendiff.methods.base import describe_parameters
from mendiff.methods.config import config_to_dict


def run(model: Path, quiet: bool) -> dict[str, Any]:
    """Read the model whole, so that a damaged folder shows, and describe it."""
    loaded = load(model)
    calibration = loaded.calibration
    result = {
        "method": loaded.name,
        "image_size": loaded.image_size,
        "parameters": describe_parameters(loaded.method),
        "threshold": calibration.threshold,
        "thresholds": {name: load(model, category=name).threshold for name in categories_of(model)},
        "calibration_images": len(calibration.scores),
        "false_alarm_rate": calibration.false_alarm_rate,
        "info": loaded.info,
        "config": config_to_dict(loaded.method.config),
    }
    if not quiet:
        _show(model, result)
    return result


def _show(model: Path, result: dict[str, Any]) -> None:
    table = Table(title=str(model), title_justify="left", show_header=False)
    parameters, info = result["parameters"], result["info"]
    table.add_row("method", f"{result['method']} (preset {info.get('preset', '?')})")
    table.add_row("images", f"resized to {result['image_size']} x {result['image_size']} pixels")
    table.add_row("parameters", f"{parameters['trained']:,} trained, {parameters['frozen']:,} frozen")
    table.add_row("features", result["config"].get("features", {}).get("name") or "none pretrained")
    table.add_row(
        "trained on", f"{info.get('images', '?')} good images of {', '.join(info.get('categories', []))}"
    )
    table.add_row("fitted in", f"{info.get('seconds', float('nan')):.0f} s with seed {info.get('seed', '?')}")
    share = result["false_alarm_rate"]
    table.add_row(
        "threshold",
        f"{result['threshold']:.4g}, meant to flag {share:.0%} of good parts; "
        f"from {result['calibration_images']} held-back images",
    )
    for name, threshold in result["thresholds"].items():
        table.add_row(f"threshold of {name}", f"{threshold:.4g}")
    Console(highlight=False).print(table)
