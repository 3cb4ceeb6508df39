"""`mendiff info`: what a model folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mendiff.checkpoints.store import categories_of, load
from mendiff.methods.base import describe_parameters
from mendiff.methods.config import config_to_dict
from mendiff.model import Model


def run(model: Path, quiet: bool) -> dict[str, Any]:
    """Read the model whole, so that a damaged folder shows, and describe it."""
    loaded = load(model)
    calibration = loaded.calibration
    own = {name: load(model, category=name).threshold for name in categories_of(model)}
    result = {
        "method": loaded.name,
        "image_size": loaded.image_size,
        "parameters": describe_parameters(loaded.method),
        "threshold": calibration.threshold,
        "thresholds": own,
        "calibration_images": len(calibration.scores),
        "false_alarm_rate": calibration.false_alarm_rate,
        "worth": calibration.worth,
        "info": loaded.info,
        "config": config_to_dict(loaded.method.config),
    }
    if not quiet:
        _show(str(model), {**describe(loaded), **_thresholds(loaded, own)})
    return result


def describe(model: Model) -> dict[str, str]:
    """What a person wants to know of a model, under short names: all but its threshold."""
    parameters, info = describe_parameters(model.method), model.info
    features = config_to_dict(model.method.config).get("features", {})
    return {
        "method": f"{model.name} (preset {info.get('preset', '?')})",
        "images": f"resized to {model.image_size} x {model.image_size} pixels",
        "parameters": f"{parameters['trained']:,} trained, {parameters['frozen']:,} frozen",
        "features": features.get("name") or "none pretrained",
        "trained on": f"{info.get('images', '?')} good images of {', '.join(info.get('categories', []))}",
        "fitted in": f"{info.get('seconds', float('nan')):.0f} s with seed {info.get('seed', '?')}",
    }


def _thresholds(model: Model, own: Mapping[str, float]) -> dict[str, str]:
    calibration, rate = model.calibration, f"{100 * model.calibration.false_alarm_rate:.3g}%"
    told = f"{calibration.threshold:.4g}, meant to flag {rate} of good parts; {calibration.worth}"
    return {"threshold": told, **{f"threshold of {name}": f"{value:.4g}" for name, value in own.items()}}


def _show(title: str, rows: Mapping[str, str]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    Console(highlight=False).print(table)
