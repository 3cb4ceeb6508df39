"""Writing and loading of model folders; see mendiff.checkpoints.model_folder for their files."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mendiff.calibration import Calibration
from mendiff.checkpoints.files import sha256_of, writing
from mendiff.checkpoints.model_folder import (
    CALIBRATION,
    CATEGORIES,
    CONFIG,
    REGION,
    WEIGHTS,
    check_hash,
    place_of,
    read_config,
    read_scores,
    write_calibration,
    write_config,
)
from mendiff.checkpoints.names import check_finite, load_exactly, refuse
from mendiff.checkpoints.provenance import check_info
from mendiff.checkpoints.weights import read_shapes, read_weights, write_weights
from mendiff.data.images import save_png
from mendiff.data.inspected import InspectedArea
from mendiff.errors import InputError
from mendiff.methods.base import Method, find_method
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.model import Model

THIS_CONFIG = "this model's config"


def save(
    folder: str | Path,
    name: str,
    method: Method,
    calibration: Calibration,
    info: dict[str, Any],
    categories: Iterable[tuple[str, Model]] = (),
    area: InspectedArea | None = None,
) -> None:
    """Write a model folder atomically. The folder must not exist.

    Args:
        folder: path of the new folder.
        name: the method's name in METHODS.
        method: a trained method with computed statistics.
        calibration: scores of held-back good images.
        info: additional information (data, seed, training time), JSON-serialisable; see provenance.Info.
        categories: models with the same networks and statistics per category, by category.
        area: the inspected area of images.

    Raises:
        InputError: if the folder exists, or for non-finite weights or numbers; nothing is written then.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(
            f"{folder}: expected a new folder for the model, but it exists; remove it or choose another name."
        )
    check_info(info, "info")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        with writing(folder):
            own = Model(name, method, calibration, info, area=area)
            files = _write_statistics(draft, str(folder), own, categories)
            write_config(draft, name, config_to_dict(method.config), info, files)
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_statistics(
    draft: Path, where: str, shared: Model, categories: Iterable[tuple[str, Model]]
) -> dict[str, str]:
    """Write weights, calibration and area of a model and of its categories; returns the hashes by name."""
    weights = shared.method.state_dict()
    check_finite(weights, f"{where}: the model", shared.method.INFINITE)
    files = _write_learned(draft, "", weights, shared.calibration) | _write_area(draft, "", shared.area)
    for category, model in categories:
        state = model.method.state_dict()
        check_finite(state, f"{where}: the model of {category}", shared.method.INFINITE)
        own = {key: value for key, value in state.items() if not torch.equal(value, weights[key])}
        place = f"{CATEGORIES}/{category}/"
        files |= _write_learned(draft, place, own, model.calibration)
        files |= _write_area(draft, place, model.area)
    return files


def _write_learned(
    folder: Path, place: str, state: Mapping[str, Tensor], calibration: Calibration
) -> dict[str, str]:
    """Write weights and calibration to a place within a model folder; returns their hashes by name."""
    weights = folder / f"{place}{WEIGHTS}"
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_weights(state, weights)
    hashes = {f"{place}{WEIGHTS}": sha256_of(weights)}
    return hashes | write_calibration(folder, place, calibration, hashes[f"{place}{WEIGHTS}"])


def _write_area(folder: Path, place: str, area: InspectedArea | None) -> dict[str, str]:
    """Write the mask of an inspected area to a place within a model folder; returns its hash by name."""
    if area is None:
        return {}
    save_png(area.mask, folder / f"{place}{REGION}")
    return {f"{place}{REGION}": sha256_of(folder / f"{place}{REGION}")}


def load(
    folder: str | Path,
    device: str = "cpu",
    category: str | None = None,
    *,
    offload: bool = False,
    half: bool = False,
) -> Model:
    """Open a model folder for prediction.

    Args:
        folder: folder written by `mendiff fit -o` or `Model.save`.
        device: torch device name.
        category: category whose statistics and threshold are used, for models with statistics per category.
        offload: keep each network on the device only while it is used; see Model.sparing.
        half: store weights in bfloat16; see Model.sparing.

    Raises:
        InputError: if the folder is not a model, or a file is damaged, belongs to another model or has
            non-finite numbers.
    """
    folder = Path(folder)
    config = read_config(folder)
    files: dict[str, str] = config["files"]
    place = place_of(folder, category)
    region = f"{place}{REGION}" if f"{place}{REGION}" in files else ""
    for name in dict.fromkeys((WEIGHTS, f"{place}{WEIGHTS}", f"{place}{CALIBRATION}", region)):
        if name:
            check_hash(folder, name, files)
    method = _built(folder, config)
    weights, source = read_weights(folder / WEIGHTS, infinite=method.INFINITE), folder / WEIGHTS
    if category is not None:
        method.choose_category(category)
        source = folder / place / WEIGHTS
        weights |= read_weights(source, infinite=method.INFINITE)
    load_exactly(method, weights, str(source), THIS_CONFIG)
    calibration = read_scores(folder / place / CALIBRATION, files.get(f"{place}{WEIGHTS}"))
    model = Model(config["method"], method.eval(), calibration, config["info"])
    model.source, model.category = str(folder.resolve()), category or ""
    model.area = InspectedArea.read(folder / region, None) if region else None
    return model.sparing(device, offload=offload, half=half) if offload or half else model.to(device)


def _built(folder: Path, config: Mapping[str, Any]) -> Method:
    """Build the method of a config, after checking that the shapes in the weight file match."""
    kind = find_method(config["method"], f"{folder / CONFIG}: method")
    where = f"{folder / CONFIG}: config"
    settings = config_from_dict(kind.Config, config["config"], where)
    try:
        with torch.device("meta"):  # uses no memory, even for huge sizes in a config
            places = {name: tuple(one.shape) for name, one in kind(settings).state_dict().items()}
    except InputError:
        raise
    except Exception as error:  # incompatible settings raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{where}: expected valid settings of a model, got invalid ones ({reason})."
        ) from error
    stored, source = read_shapes(folder / WEIGHTS), str(folder / WEIGHTS)
    refuse("lacks", sorted(places.keys() - stored.keys()), source, THIS_CONFIG)
    refuse("has the unknown", sorted(stored.keys() - places.keys()), source, THIS_CONFIG)
    others = sorted(name for name, shape in places.items() if stored[name] != shape)
    refuse("has another shape of", others, source, THIS_CONFIG)
    return kind(settings)
