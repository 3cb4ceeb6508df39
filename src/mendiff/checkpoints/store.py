"""A model is a folder: config.json, model.safetensors and calibration.json. The only door to weights.

Where statistics were learned for every category, categories/NAME holds what differs from these: the same two
files with the tensors and scores of that category alone.

config.json holds {"format": "mendiff", "version": 1, "method", "config", "info"}; the config is checked
against the method's dataclasses when it is read. Nothing here can run code from a file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mendiff import __version__
from mendiff.calibration import Calibration
from mendiff.checkpoints.names import load_exactly
from mendiff.errors import InputError
from mendiff.methods.base import Method, find_method
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.model import Model

FORMAT = "mendiff"
VERSION = 1
CONFIG, WEIGHTS, CALIBRATION = "config.json", "model.safetensors", "calibration.json"
CATEGORIES = "categories"
ZIPPED = b"PK\x03\x04"
"""How files begin that today's torch.save wrote."""
PICKLED = (ZIPPED, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files begin that torch.save or pickle wrote."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class FullDiskError(InputError):
    """No room for what is being written."""


def save(
    folder: str | Path,
    name: str,
    method: Method,
    calibration: Calibration,
    info: dict[str, Any],
    categories: Iterable[tuple[str, Model]] = (),
) -> None:
    """Write a model folder in one step; a folder of that name must not exist.

    Args:
        folder: where to.
        name: the method's name in METHODS.
        method: trained, statistics learned.
        calibration: scores of held-back good images.
        info: what a person wants to know later (data, seed, training time); JSON-able.
        categories: the same networks with statistics of their own, by category.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(
            f"{folder}: expected a new folder for the model, but it exists; remove it or choose another name."
        )
    config = {
        "format": FORMAT,
        "version": VERSION,
        "mendiff": __version__,
        "method": name,
        "config": config_to_dict(method.config),
        "info": info,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    draft.mkdir()
    try:
        with writing(folder):
            (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            shared = method.state_dict()
            _write_learned(draft, shared, calibration)
            for category, model in categories:
                state = model.method.state_dict()
                own = {key: value for key, value in state.items() if not torch.equal(value, shared[key])}
                (draft / CATEGORIES / category).mkdir(parents=True)
                _write_learned(draft / CATEGORIES / category, own, model.calibration)
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_learned(folder: Path, state: Mapping[str, Tensor], calibration: Calibration) -> None:
    (folder / CALIBRATION).write_text(json.dumps(calibration.to_dict(), indent=2) + "\n")
    write_weights(state, folder / WEIGHTS)


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, readable for whom new files are meant to be: safetensors asks nobody."""
    path.touch()
    mode = path.stat().st_mode
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    path.chmod(mode)


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
        folder: what `mendiff fit -o` wrote.
        device: torch's name of a device.
        category: whose statistics and threshold to use, where the model has them for every category.
        offload: keep each network on the device only while it is used; see Model.sparing.
        half: keep weights in bfloat16; see Model.sparing.
    """
    folder = Path(folder)
    config = read_config(folder)
    kind = find_method(config["method"], f"{folder / CONFIG}: method")
    method = kind(config_from_dict(kind.Config, config["config"], f"{folder / CONFIG}: config"))
    weights, source = read_weights(folder / WEIGHTS), folder
    if category is not None:
        known = categories_of(folder)
        if category not in known:
            listed = ", ".join(known) or "none: it has one threshold for all"
            raise InputError(f"category: expected one that {folder} knows ({listed}), got {category!r}.")
        method.choose_category(category)
        source = folder / CATEGORIES / category
        weights |= read_weights(source / WEIGHTS)
    load_exactly(method, weights, str(source / WEIGHTS), "this model's config")
    calibration = Calibration.from_dict(read_json(source / CALIBRATION), str(source / CALIBRATION))
    model = Model(config["method"], method.eval(), calibration, config["info"])
    model.source, model.category = str(folder.resolve()), category or ""
    return model.sparing(device, offload=offload, half=half) if offload or half else model.to(device)


def categories_of(folder: str | Path) -> list[str]:
    """The categories that a model folder has statistics of their own for, sorted."""
    inside = Path(folder) / CATEGORIES
    return sorted(one.name for one in inside.iterdir() if one.is_dir()) if inside.is_dir() else []


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json, checked for format and version."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: expected a model folder written by 'mendiff fit -o', but there is no such folder."
        )
    missing = [name for name in (CONFIG, WEIGHTS, CALIBRATION) if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: expected a model folder with {CONFIG}, {WEIGHTS} and {CALIBRATION}, but {missing[0]} "
            "is missing; fit the model again."
        )
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{folder}: {CONFIG} is not mendiff's; expected a folder written by 'mendiff fit -o'."
        )
    version = config.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{folder}: expected a model of version {VERSION} or older, got version {version}, written by "
            f"mendiff {config.get('mendiff')}; update mendiff."
        )
    lacking = [key for key in ("method", "config", "info") if key not in config]
    if lacking:
        raise InputError(f"{folder}: {CONFIG} lacks the field {lacking[0]!r}; fit the model again.")
    return config


def read_weights(path: str | Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, in float32 where they are half precision.

    Args:
        path: of the file.
        prefixes: only names that begin with one of these are read.
    """
    path = Path(path)
    if not path.is_file():
        found = "it is a folder; name the file in it" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: expected a safetensors file, but {found}.")
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefixes)]  # noqa: SIM118 - no dictionary
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        with path.open("rb") as raw:
            pickled = raw.read(4).startswith(PICKLED)
        if pickled:
            raise InputError(
                f"{path}: expected a safetensors file, but it is a pickle, which can run code; save its "
                "tensors with safetensors.torch.save_file, or let 'mendiff convert' read a published one."
            ) from error
        raise InputError(
            f"{path}: expected a safetensors file, but it is damaged or of another kind ({error}); fetch it "
            "again."
        ) from error
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a full disk in the block into a sentence that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors hides the number in its message.
        number = getattr(error, "errno", None) or re.search(r"os error (\d+)", str(error))
        if (int(number[1]) if isinstance(number, re.Match) else number) not in FULL:
            raise
        free = shutil.disk_usage(folder.parent).free / 1e9
        raise FullDiskError(
            f"{folder}: expected room on the disk, but it is full ({free:.1f} GB left); make room or choose "
            "another place."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    try:
        data = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, but it is damaged ({error}).") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(data).__name__}.")
    return data
