"""The content of a model folder: config.json, and the files and hashes that it lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mendiff.checkpoints.files import is_whole, read_json, sha256_of
from mendiff.checkpoints.migrate import OLDEST, migrated
from mendiff.checkpoints.provenance import check_info
from mendiff.errors import InputError
from mendiff.runtime.metadata import is_export

FORMAT = "mendiff"
VERSION = 3
CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.json"
REGION = "region.png"
CATEGORIES = "categories"


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
