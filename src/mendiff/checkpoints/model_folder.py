"""The files of model folders: config.json, model.safetensors and calibration.json, without the networks.

With statistics per category, categories/NAME has the same two files with only the tensors and scores that
differ for this category. A model with an inspected area also has its mask, region.png, in the same places.

config.json holds {"format": "mendiff", "version": 3, "mendiff", "method", "config", "info", "files",
"sha256"}. "files" are the hashes of all other files by name, "sha256" is the hash of the other fields, so
that every change is detected. calibration.json contains the hash of the weights that it belongs to. The
config is checked against the method's dataclasses when it is read. No file can execute code.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mendiff import __version__
from mendiff.calibration import Calibration
from mendiff.checkpoints.files import is_whole, read_json, sealed, sha256_of, write_json
from mendiff.checkpoints.migrate import OLDEST, migrated
from mendiff.checkpoints.provenance import check_info
from mendiff.errors import InputError
from mendiff.runtime.metadata import is_export

FORMAT = "mendiff"
VERSION = 3
CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.json"
REGION = "region.png"
CATEGORIES = "categories"


def write_config(
    folder: Path, method: str, config: Mapping[str, Any], info: Mapping[str, Any], files: Mapping[str, str]
) -> None:
    """Write the config.json of a model folder.

    Args:
        folder: of the model.
        method: its name.
        config: of the method, as JSON values.
        info: see provenance.Info.
        files: hashes of all other files by name.
    """
    facts = {"format": FORMAT, "version": VERSION, "mendiff": __version__, "method": method}
    facts |= {"config": config, "info": info, "files": files}
    write_json(folder / CONFIG, sealed(facts, str(folder / CONFIG)))


def write_calibration(folder: Path, place: str, calibration: Calibration, weights: str) -> dict[str, str]:
    """Write scores to a place within a model folder; returns their hash by name.

    Args:
        folder: of the model.
        place: see place_of.
        calibration: the scores.
        weights: hash of the weights to which they belong.
    """
    _check_scores(calibration, "calibration")
    write_json(folder / f"{place}{CALIBRATION}", {**calibration.to_dict(), "weights": weights})
    return {f"{place}{CALIBRATION}": sha256_of(folder / f"{place}{CALIBRATION}")}


def recalibrated(
    source: Path, folder: Path, calibrations: Mapping[str | None, Calibration], info: Mapping[str, Any]
) -> None:
    """Write a copy of a model folder with other scores.

    Args:
        source: the model folder, of any version.
        folder: to write to; empty.
        calibrations: of every category; the common one under None.
        info: see provenance.Info.
    """
    config, files = read_config(source), {}
    for category, calibration in calibrations.items():
        place = place_of(source, category)
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in (f"{place}{WEIGHTS}", f"{place}{REGION}"):
            if (source / name).is_file():
                check_hash(source, name, config["files"])
                shutil.copyfile(source / name, folder / name)
                files[name] = sha256_of(folder / name)
        files |= write_calibration(folder, place, calibration, files[f"{place}{WEIGHTS}"])
    write_config(folder, config["method"], config["config"], info, files)


def read_calibration(folder: str | Path, category: str | None = None) -> Calibration:
    """The scores of good images of a model folder, without its networks; errors as in load.

    Args:
        folder: see load.
        category: see load.
    """
    folder = Path(folder)
    files = read_config(folder)["files"]
    place = place_of(folder, category)
    check_hash(folder, f"{place}{CALIBRATION}", files)
    return read_scores(folder / place / CALIBRATION, files.get(f"{place}{WEIGHTS}"))


def place_of(folder: Path, category: str | None) -> str:
    """Place of a category's files within a model folder; InputError for an unknown category."""
    if category is None:
        return ""
    if category not in (known := categories_of(folder)):
        listed = ", ".join(known) or "none: it has a single threshold"
        raise InputError(f"category: expected a category of {folder} ({listed}), got {category!r}.")
    return f"{CATEGORIES}/{category}/"


def read_scores(path: Path, weights: str | None) -> Calibration:
    """Read the scores of good images and check that they belong to the weights; no check if hash is None."""
    data = read_json(path)
    if weights is not None and data.get("weights") != weights:
        raise InputError(
            f"{path}: expected the scores of this model's weights, but they belong to another model; fit the "
            "model again."
        )
    calibration = Calibration.from_dict(data, str(path))
    _check_scores(calibration, str(path))
    return calibration


def _check_scores(calibration: Calibration, where: str) -> None:
    """Refuse scores from which no finite threshold can be computed."""
    if len(calibration.pixel_scores) != len(calibration.scores):
        raise InputError(
            f"{where}: expected as many pixel_scores as scores, {len(calibration.scores)}, got "
            f"{len(calibration.pixel_scores)}; fit the model again."
        )
    try:
        limits = (calibration.threshold, calibration.pixel_threshold)
    except OverflowError:
        limits = (math.inf, math.inf)
    if not all(math.isfinite(one) for one in limits):
        raise InputError(
            f"{where}: expected scores with a finite threshold, got other scores; fit the model again."
        )


def check_hash(folder: Path, name: str, files: Mapping[str, str]) -> None:
    """Refuse a changed file of a model folder, by its hash; version 1 has no hashes."""
    if files and sha256_of(folder / name) != files[name]:
        raise InputError(
            f"{folder / name}: expected the file that was written with this model, but it is damaged or "
            "belongs to another model; copy the model folder again, or fit it again."
        )


def categories_of(folder: str | Path) -> list[str]:
    """The categories of a model folder with statistics per category, sorted."""
    files = read_config(Path(folder))["files"]
    if files:
        return sorted({name.split("/")[1] for name in files if "/" in name})
    inside = Path(folder) / CATEGORIES
    return sorted(one.name for one in inside.iterdir() if one.is_dir()) if inside.is_dir() else []


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model folder's config.json, check format, version and hash, and migrate it to this version.

    Raises InputError also if another file of the folder is missing.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a model folder written by 'mendiff fit -o', but there is no such folder."
        )
    _check_there(folder, (CONFIG, WEIGHTS, CALIBRATION))
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{folder}: {CONFIG} was not written by mendiff; expected a folder of 'mendiff fit -o'."
        )
    version = config.get("version")
    if type(version) is not int or not OLDEST <= version <= VERSION:
        raise InputError(
            f"{folder}: expected a model of version {VERSION} or older, got version {version}, written by "
            f"mendiff {config.get('mendiff')}; update mendiff."
        )
    if version > 1 and not is_whole(config):
        raise InputError(
            f"{folder / CONFIG}: expected an unchanged file, but it was changed or is damaged; copy the "
            "model folder again, or fit it again."
        )
    known = ("method", "config", "info") if version == 1 else ("method", "config", "info", "files")
    lacking = [key for key in known if key not in config]
    if lacking:
        raise InputError(f"{folder}: {CONFIG} lacks the field {lacking[0]!r}; fit the model again.")
    config = migrated(config, str(folder))
    check_info(config["info"], f"{folder / CONFIG}: info")
    if version > 1:
        _check_files(folder, config["files"])
    return config


def _check_files(folder: Path, files: Any) -> None:
    """Refuse an invalid list of files, and a folder with missing files."""
    names = list(files) if isinstance(files, dict) else []
    apart = [name.split("/") for name in names if "/" in name]
    known = {parts[1] for parts in apart if len(parts) == 3 and parts[1] not in ("", ".", "..")}
    places = ["", *(f"{CATEGORIES}/{one}/" for one in known)]
    needed = {f"{place}{one}" for place in places for one in (WEIGHTS, CALIBRATION)}
    if set(names) - {f"{place}{REGION}" for place in places} != needed:
        raise InputError(
            f"{folder / CONFIG}: files: expected the files of a model, got others; fit the model again."
        )
    _check_there(folder, names)


def _check_there(folder: Path, names: Iterable[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        if is_export(folder):
            raise InputError(
                f"{folder}: expected a model folder of 'mendiff fit', got an exported model; use it with "
                "'mendiff predict' or mendiff.runtime."
            )
        raise InputError(
            f"{folder}: expected a model folder with {CONFIG}, {WEIGHTS} and {CALIBRATION}, but {missing[0]} "
            "is missing; fit the model again."
        )
