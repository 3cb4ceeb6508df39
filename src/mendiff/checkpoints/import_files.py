"""Reads published checkpoint files, including pickles, as state dicts of tensors only."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mendiff.checkpoints.weights import ZIPPED, read_weights
from mendiff.errors import InputError


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """State dict of a .safetensors, .ckpt, .pth or .bin file; objects other than tensors are refused."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, but there is no such file.")
    zipped = zipfile.is_zipfile(path)  # reads only the end of the file
    if not zipped and _begins(path, ZIPPED):
        raise InputError(
            f"{path}: expected a complete checkpoint, but the file ends after {path.stat().st_size:,} bytes; "
            "download it again."
        )
    try:
        # Memory-mapped if possible, so that names are checked before the values are read.
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damaged files and forbidden objects raise many types
        # torch's own message advises loading arbitrary code.
        raise InputError(
            f"{path}: expected a checkpoint of tensors, but it is damaged, of another format, or has other "
            "objects; save only its state_dict."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # as Lightning writes it
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors by name, got a {type(content).__name__}.")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start
