"""A codec is a folder, config.json and codec.safetensors, written by `mendiff fit-codec` or `convert`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mendiff.checkpoints.names import load_exactly
from mendiff.checkpoints.store import read_json, read_weights, write_weights
from mendiff.errors import InputError
from mendiff.methods.config import config_from_dict, config_to_dict
from mendiff.nets.codec import Codec, CodecConfig, make_codec

FORMAT, VERSION = "mendiff codec", 1
CONFIG, WEIGHTS = "config.json", "codec.safetensors"
CODEC = "its config's codec"
"""For the messages of load_exactly."""
TUNED = {"before", "held_back"}
"""What only the info of codecs that were trained with mendiff has, and not that of converted ones."""


def save_codec(folder: Path, config: CodecConfig, weights: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Fill an empty folder with a codec.

    Args:
        folder: exists and is empty.
        config: of the codec.
        weights: its state dict.
        info: what a person wants to know later; JSON-able.
    """
    content = {"format": FORMAT, "version": VERSION, "config": config_to_dict(config), "info": info}
    write_weights(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")


def read_codec(folder: str | Path) -> tuple[CodecConfig, dict[str, Tensor]]:
    """Config and weights of a codec folder; strangers and incomplete ones are an error."""
    return read_codec_config(folder), read_weights(Path(folder) / WEIGHTS)


def read_codec_config(folder: str | Path) -> CodecConfig:
    """The same without the weights, which may be large."""
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder}: expected a codec folder with {CONFIG} and {WEIGHTS}, as 'mendiff fit-codec -o' "
            "writes it."
        )
    content = read_json(folder / CONFIG)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise InputError(
            f"{folder}: expected a codec folder of version {VERSION}, got format {content.get('format')!r} "
            f"of version {content.get('version')!r}."
        )
    config = config_from_dict(CodecConfig, content.get("config"), f"{folder / CONFIG}: config")
    info = content.get("info")
    if isinstance(info, dict) and not config.pixels and TUNED & info.keys():
        # Folders of a time when what was tuned here was tuned on [-1,1], and nobody said so.
        config = dataclasses.replace(config, pixels="symmetric")
    return config


def open_codec(folder: str | Path) -> Codec:
    """The codec of a folder, frozen."""
    config, weights = read_codec(folder)
    codec = make_codec(config)
    load_exactly(codec, weights, str(folder), CODEC)
    return codec.requires_grad_(False).eval()
