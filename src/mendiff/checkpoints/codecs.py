"""Codec folders: config.json and codec.safetensors, written by `mendiff fit-codec` or `convert`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from mendiff.checkpoints.files import SEAL, is_whole, read_json, sealed, sha256_of, write_json
from mendiff.checkpoints.names import check_finite, load_exactly
from mendiff.checkpoints.weights import read_weights, write_weights
from mendiff.errors import InputError
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.nets.codec import Codec, make_codec
from mendiff.nets.codec_config import CodecConfig

FORMAT, VERSION = "mendiff codec", 2
CONFIG, WEIGHTS = "config.json", "codec.safetensors"
CODEC = "its config's codec"
"""Name in messages of load_exactly."""
TUNED = {"before", "held_back"}
"""Info fields of codecs that were trained with mendiff; converted codecs do not have them."""


def save_codec(folder: Path, config: CodecConfig, weights: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write a codec to an empty folder.

    Args:
        folder: existing, empty folder.
        config: config of the codec.
        weights: state dict of the codec.
        info: additional information; JSON-serialisable.
    """
    check_finite(weights, "the codec")
    write_weights(weights, folder / WEIGHTS)
    content = {"format": FORMAT, "version": VERSION, "config": config_to_dict(config), "info": info}
    content["files"] = {WEIGHTS: sha256_of(folder / WEIGHTS)}
    write_json(folder / CONFIG, sealed(content, CONFIG))


def read_codec(folder: str | Path) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Config and weights of a codec folder; an incomplete, damaged or unrelated folder is an error."""
    config, file = read_codec_config(folder), Path(folder) / WEIGHTS
    files = _content(Path(folder)).get("files", {})
    if files and sha256_of(file) != files.get(WEIGHTS):
        raise InputError(
            f"{file}: expected the file that was written with this codec, but it is damaged or belongs to "
            "another codec; copy the codec folder again, or fit it again."
        )
    return config, read_weights(file)


def read_codec_config(folder: str | Path) -> CodecConfig:
    """The config of a codec folder, without reading the weights."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder}: expected a codec folder with {CONFIG} and {WEIGHTS}, as 'mendiff fit-codec -o' "
            "writes it."
        )
    content = _content(folder)
    stored = content.get("config")
    if isinstance(stored, dict):
        stored.pop("train", None)  # folders of earlier versions have this option
    config = config_from_dict(CodecConfig, stored, f"{folder / CONFIG}: config")
    info = content.get("info")
    if isinstance(info, dict) and not config.pixels and TUNED & info.keys():
        # Older folders do not state the normalisation; their codecs were tuned on [-1,1].
        config = dataclasses.replace(config, pixels="symmetric")
    return config


def _content(folder: Path) -> dict[str, Any]:
    """A codec folder's config.json, checked for format, version and damage."""
    content = read_json(folder / CONFIG)
    version = content.get("version")
    if content.get("format") != FORMAT or type(version) is not int or not 1 <= version <= VERSION:
        raise InputError(
            f"{folder}: expected a codec folder of version {VERSION} or older, got format "
            f"{content.get('format')!r} of version {version!r}."
        )
    known = isinstance(content.get("files"), dict) and is_whole(content)
    if known != (version == VERSION) or (version == 1 and SEAL in content):  # version 1 has no hashes
        raise InputError(
            f"{folder / CONFIG}: expected an unchanged file, but it was changed or is damaged; copy the "
            "codec folder again, or fit it again."
        )
    return content


def open_codec(folder: str | Path) -> Codec:
    """Load the codec of a folder, frozen."""
    config, weights = read_codec(folder)
    codec = make_codec(config)
    load_exactly(codec, weights, str(folder), CODEC)
    return codec.requires_grad_(False).eval()
