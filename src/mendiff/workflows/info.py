"""`mendiff info`: describe a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mendiff.checkpoints.model_folder import categories_of
from mendiff.checkpoints.provenance import Fitted, fitted_of
from mendiff.checkpoints.store import load
from mendiff.data.suitability import vanishing
from mendiff.evaluation.operating import RATES
from mendiff.methods.base import describe_parameters
from mendiff.methods.config import config_to_dict
from mendiff.model import Model
from mendiff.runs.geometry import describe_geometry
from mendiff.runs.power import power_of
from mendiff.runs.reporting import Reporter, Table
from mendiff.workflows.options import InfoOptions


def run(options: InfoOptions, reporter: Reporter) -> dict[str, Any]:
    """Load the model completely, which detects damaged folders, and describe it."""
    loaded = load(options.model)
    calibration = loaded.calibration
    own = {name: load(options.model, category=name).threshold for name in categories_of(options.model)}
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
    table = Table(str(options.model), ["", ""], words=(0, 1), header=False)
    for name, text in {**describe(loaded), **_thresholds(loaded, own)}.items():
        table.add(name, text)
    reporter.table(table)
    return result


def describe(model: Model) -> dict[str, str]:
    """Description of a model under short titles, without its threshold."""
    parameters, info = describe_parameters(model.method), model.info
    fitted, training = fitted_of(info), model.method.config.training
    features = config_to_dict(model.method.config).get("features", {})
    return {
        "method": f"{model.name} (preset {info.get('preset', '?')})",
        "images": _images(model),
        "parameters": f"{parameters['trained']:,} trained, {parameters['frozen']:,} frozen",
        "features": features.get("name") or "none pretrained",
        "trained on": f"{info.get('images', '?')} good images of {', '.join(info.get('categories', []))}",
        "fitted in": f"{info.get('seconds', float('nan')):.0f} s, {info.get('steps', training.steps)} steps "
        f"with seed {info.get('seed', '?')}{_started_from(info)}",
        **({} if fitted is None else _origin(fitted)),
    }


def _started_from(info: Mapping[str, Any]) -> str:
    """The images of a fit that went on from a fitted model."""
    counts = info.get("started_from")
    return f", from a fitted model, with {counts['old']} old and {counts['new']} new images" if counts else ""


def _origin(fitted: Fitted) -> dict[str, str]:
    """Data, files and machine of a fit; hashes are shortened."""
    files = ", ".join(f"{part} {digits[:12]}" for part, digits in fitted.files.items())
    machine = fitted.machine
    return {
        "data": f"{fitted.images} images, fingerprint {fitted.data[:12]}; {len(fitted.held_back)} held back",
        "files": f"SHA-256 of {files}" if files else "no weights came from files",
        "machine": f"{machine.processor} ({machine.capability}), {machine.threads} threads, on "
        f"{machine.device}, torch {machine.torch}",
    }


def _images(model: Model) -> str:
    """How images are resized, and which defects vanish by that."""
    config, size = model.method.config, model.info.get("usual_size")
    text = describe_geometry(config)
    if isinstance(size, list) and len(size) == 2:
        height, width = size
        text += f", from typically {width} x {height}"
        lost = 0 if config.tile else vanishing((height, width), config.image_size)
        text += f"; defects smaller than about {lost} original pixels vanish" if lost else ""
    if model.area is not None:
        text += f"; inspected in a region, {100 * model.area.mask.mean():.0f} % of an image"
    text += f"; 16-bit files have {config.bit_depth} significant bits" if config.bit_depth else ""
    numbers = ", ".join(map(str, config.channels))
    return text + (f"; channels {numbers} of the files" if numbers else "")


def _thresholds(model: Model, own: Mapping[str, float]) -> dict[str, str]:
    calibration, rate = model.calibration, f"{100 * model.calibration.false_alarm_rate:.3g}%"
    text = f"{calibration.threshold:.4g}, for a false-alarm rate of {rate}; {calibration.worth}"
    named = {f"threshold of {name}": f"{value:.4g}" for name, value in own.items()}
    return {"threshold": text, **named, **_power(model)}


def _power(model: Model) -> dict[str, str]:
    """Synthetic defects that the threshold finds, and those of other false-alarm rates would."""
    power = power_of(model.info)
    if power is None:
        return {}
    limits = {rate: model.with_false_alarm_rate(rate).threshold for rate in RATES}
    others = ", ".join(f"{power.found(limit)} at {100 * rate:g} %" for rate, limit in limits.items())
    return {"power": f"{power.sentence(model.threshold)}; by false-alarm rate: {others}"}
