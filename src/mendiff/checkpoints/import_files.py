"""Published checkpoint files, pickles among them: read as tensors by name and nothing else."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mendiff.checkpoints.weights import ZIPPED, read_weights
from mendiff.errors import InputError


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors, .ckpt, .pth or .bin file; objects other than tensors don't load."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a checkpoint, but there is no such file.")
    zipped = zipfile.is_zipfile(path)  # reads its end alone
    if not zipped and _begins(path, ZIPPED):
        raise InputError(
            f"{path}: expected a whole checkpoint, but the file ends early, after {path.stat().st_size:,} "
            "bytes; fetch it again."
        )
    try:
        # Mapped where it can be: names are checked before gigabytes of numbers are read.
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # of whatever kind a damaged file or a forbidden object brings up
        # torch's own words would advise to run whatever code the file holds.
        raise InputError(
            f"{path}: expected a checkpoint of tensors, but it is damaged, of another kind, or holds other "
            "objects; save its state_dict alone."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # as Lightning writes it
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors by name, got a {type(content).__name__}.")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start
